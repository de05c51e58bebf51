"""Many records of TLS in one call, without the interpreter's lock.

Python's `ssl` hands out one record, 16 KiB at most, and takes the interpreter's lock after each: a
few connections at full speed wait for that lock more than for bytes. OpenSSL has the loop that is
missing: a buffering BIO (BIO_f_buffer(3)) above a connection's SSL asks for record after record
until a large view is full, and ctypes lets go of the lock for as long as the call lasts. With its
read-ahead (SSL_CTX_set_read_ahead(3)) a record no longer costs two reads of the socket.

Python keeps the connection: it shakes hands, checks the certificate, waits, tells errors, closes.
It never shows its SSL, so OpenSSL's own callback for new ones (CRYPTO_get_ex_new_index(3)) tells
which one a thread has just made, and SSL_get_fd(3) must agree. Of OpenSSL only what it documents is
called, in the library that Python's `ssl` itself runs on; of Python one private name is read,
`_sslobj`, to keep the SSL alive. Where that cannot be called (built into the interpreter, a
relative of OpenSSL, Windows, a system that forbids callbacks), records come one at a time.

Only in segdl's own process: the callback stays for as long as that, and would be called for every
SSL of a program that uses the library, in its sub-interpreters and its native threads too.
"""

from __future__ import annotations

import ctypes
import functools
import ssl
import threading
from collections.abc import Callable
from ctypes import c_char, c_int, c_long, c_size_t, c_void_p
from typing import Any

_CRYPTO_EX_INDEX_SSL = 0  # openssl/crypto.h
_BIO_C_SET_SSL, _BIO_NOCLOSE = 109, 0  # openssl/bio.h
_AHEAD = 128 * 1024  # bytes that may be held in front of the decryption
_LEAST = 4096  # the BIO's own buffer: only what is asked for beyond it goes straight to the view

_NEW = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int, c_long, c_void_p)
_CALLS: dict[str, tuple[Any, ...]] = {  # name: what comes back, then the arguments
    "BIO_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "BIO_f_buffer": (c_void_p,),
    "BIO_f_ssl": (c_void_p,),
    "BIO_free_all": (None, c_void_p),
    "BIO_new": (c_void_p, c_void_p),
    "BIO_push": (c_void_p, c_void_p, c_void_p),
    "BIO_read": (c_int, c_void_p, c_void_p, c_int),
    "CRYPTO_get_ex_new_index": (c_int, c_int, c_long, c_void_p, _NEW, c_void_p, c_void_p),
    "ERR_clear_error": (None,),
    "SSL_get_fd": (c_int, c_void_p),
    "SSL_set_default_read_buffer_len": (None, c_void_p, c_size_t),
    "SSL_set_quiet_shutdown": (None, c_void_p, c_int),
    "SSL_set_read_ahead": (None, c_void_p, c_int),
}

_new = threading.local()  # .made: the addresses of the SSLs that this thread has made


def wrapped(wrap: Callable[[], ssl.SSLSocket]) -> tuple[ssl.SSLSocket, Records | None]:
    """What `wrap` makes, with its records, or None where they cannot be had."""
    openssl, _new.made = _openssl(), set()
    secured = wrap()
    inner, made = getattr(secured, "_sslobj", None), _new.made
    if openssl is None or inner is None or len(made) != 1:
        return secured, None
    if openssl.SSL_get_fd(*made) != secured.fileno():
        return secured, None
    return secured, Records(openssl, made.pop(), inner)


class Records:
    """The records of one connection. The thread that reads the connection reads them.

    Its socket must be one that does not block.
    """

    def __init__(self, openssl: ctypes.CDLL, made: int, owner: object) -> None:
        """`made` is the SSL's address; `owner` is what Python frees it with."""
        self._openssl = openssl
        self._owner = owner  # the SSL must outlive what reads from it
        openssl.SSL_set_default_read_buffer_len(made, _AHEAD)
        openssl.SSL_set_read_ahead(made, 1)
        # OpenSSL 1.1.1 writes a close_notify when the BIO is freed: to a descriptor that may be
        # another file's by then.
        openssl.SSL_set_quiet_shutdown(made, 1)
        reader = openssl.BIO_new(openssl.BIO_f_ssl())
        openssl.BIO_ctrl(reader, _BIO_C_SET_SSL, _BIO_NOCLOSE, made)
        self._bio = openssl.BIO_push(openssl.BIO_new(openssl.BIO_f_buffer()), reader)

    def read(self, view: memoryview) -> int:
        """Bytes placed in `view`: what has come, 0 where nothing has, or where the connection has
        ended or broken, which its own read then meets."""
        if len(view) <= _LEAST:
            return 0
        count: int = self._openssl.BIO_read(
            self._bio, ctypes.addressof(c_char.from_buffer(view)), len(view)
        )
        self._openssl.ERR_clear_error()  # else Python takes what is left there for its own
        return max(count, 0)

    def __del__(self) -> None:
        self._openssl.BIO_free_all(self._bio)
        self._openssl.ERR_clear_error()


@functools.cache
def _openssl() -> ctypes.CDLL | None:
    """The library, told to note new SSLs; None where it cannot be called."""
    import _ssl

    if ssl.OPENSSL_VERSION.split()[0] != "OpenSSL" or ssl.OPENSSL_VERSION_INFO < (1, 1, 1):
        return None
    try:
        openssl = ctypes.CDLL(_ssl.__file__)
        for name, (result, *arguments) in _CALLS.items():
            call = getattr(openssl, name)
            call.restype, call.argtypes = result, arguments
        return openssl if _noting(openssl) else None
    except (AttributeError, OSError, MemoryError):
        return None


def _noting(openssl: ctypes.CDLL) -> bool:
    def note(made: int, *_: object) -> None:
        if hasattr(_new, "made"):
            _new.made.add(made)

    noted = _NEW(note)
    # OpenSSL calls it until the process ends: what it calls must be there as long.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(noted))
    index: int = openssl.CRYPTO_get_ex_new_index(_CRYPTO_EX_INDEX_SSL, 0, None, noted, None, None)
    return index >= 0
