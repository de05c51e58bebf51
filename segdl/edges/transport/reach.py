"""How servers are reached: trust, a client certificate, a proxy, other ways than the URL's own."""

from __future__ import annotations

import functools
import importlib.util
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from segdl.core.errors import DiskError, UsageError
from segdl.core.options import Endpoint
from segdl.core.urls import ShareURL


@dataclass(frozen=True, slots=True)
class Reach:
    """How servers are reached: plain values, shared by all connections of a run."""

    timeout: float  # seconds: the stall window
    ca_file: str | None = None
    cert: str | None = None  # a client certificate in PEM, ...
    key: str | None = None  # ... and its key, where that is in a file of its own
    proxy: str | None = field(default=None, repr=False)
    connect_to: Mapping[Endpoint, Endpoint] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # to the first origin
    by_origin: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raises UsageError for what no connection could be made with."""
        if self.key is not None and self.cert is None:
            raise UsageError("--key: there is no --cert that it is the key of")
        if self.ca_file is not None:
            self.tls(own=False)
        if self.cert is not None:
            self.tls(own=True)
        if self.proxy is not None:
            check_proxy(self.proxy)

    def tls(self, *, own: bool) -> ssl.SSLContext:
        """The TLS context; only with `own` it shows the client certificate."""
        return trust(self.ca_file, self.cert, self.key) if own else trust(self.ca_file)


@functools.cache
def trust(ca_file: str | None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """A TLS context: the system's trust store, or `ca_file`; with a client certificate, or none.

    Raises UsageError for what cannot be used.
    """
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


def check_proxy(proxy: str) -> httpx.URL:
    """A proxy's URL. Raises UsageError, whose message never has it: it may hold a password."""
    try:
        url = httpx.URL(proxy)
    except httpx.InvalidURL:
        raise UsageError("the proxy's URL cannot be read") from None
    if url.scheme not in ("http", "https", "socks5", "socks5h"):
        raise UsageError("the proxy's URL begins with none of http, https, socks5 and socks5h")
    if url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UsageError(
            "a socks5 proxy wants a package that is not here: pip install 'segdl[socks]'"
        )
    return url


def system_proxy(url: ShareURL, proxies: Mapping[str, str]) -> str | None:
    """The proxy that the system has for a URL. `proxies` is `urllib.request.getproxies()`."""
    if not proxies or urllib.request.proxy_bypass(url.host):
        return None
    return proxies.get(url.scheme) or proxies.get("all")
