"""Whom TLS trusts, and who we are to it."""

from __future__ import annotations

import functools
import ssl
import threading

from segdl.core.errors import DiskError, UsageError

_loading = threading.Lock()


def trust(ca_file: str | None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """A TLS context: the system's trust store, or `ca_file`; with a client certificate, or none.

    There is one of each: workers that begin together load the store once. Raises UsageError for
    what cannot be used.
    """
    with _loading:
        return _trust(ca_file, cert, key)


@functools.cache
def _trust(ca_file: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        pem = isinstance(error, ssl.SSLError)
        reason = "it holds no certificate in PEM" if pem else error.strerror or "it cannot be read"
        if ca_file is None:
            raise DiskError(f"the system's certificates cannot be used: {reason}") from None
        raise UsageError(f"--ca-file {ca_file} cannot be used: {reason}") from None
    if cert is not None:
        _identify(context, cert, key)
    return context


class _Locked(Exception):
    """A key asks for a password, and nobody is there to be asked."""


def _identify(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    def never_ask() -> str:
        raise _Locked

    try:
        context.load_cert_chain(cert, key, password=never_ask)
    except _Locked:
        raise UsageError(
            f"the key in {key or cert} is locked by a password, which segdl never asks for: "
            "give --key a copy that is not (openssl pkey -in KEY -out COPY)"
        ) from None
    except (OSError, ssl.SSLError) as error:
        named = f"--cert {cert}" + (f" with --key {key}" if key else "")
        raise UsageError(f"{named} cannot be used: {_unusable(error)}") from None


def _unusable(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or "it cannot be read"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is another certificate's"
    return "it has no certificate, or no key, in PEM"
