"""How servers are reached: trust, a client certificate, a proxy, other ways than the URL's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from typing import TYPE_CHECKING

from segdl.core.dataclass import dataclass
from segdl.core.errors import UsageError
from segdl.core.options import Endpoint
from segdl.core.urls import ShareURL

if TYPE_CHECKING:
    import ssl
    from ipaddress import IPv4Network, IPv6Network


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
            from segdl.edges.transport.proxied import check_proxy

            check_proxy(self.proxy)

    def tls(self, *, own: bool) -> ssl.SSLContext:
        """The TLS context; only with `own` it shows the client certificate."""
        from segdl.edges.transport.trust import trust  # with OpenSSL, which takes time

        return trust(self.ca_file, self.cert, self.key) if own else trust(self.ca_file)


def system_proxies() -> Mapping[str, str]:
    """The proxies that the system names, by scheme."""
    variables = {name.lower() for name in os.environ}
    named = any(name.endswith("_proxy") for name in variables - {"no_proxy"})
    if not named and sys.platform not in ("darwin", "win32"):
        return {}  # elsewhere only variables name one
    import urllib.request

    return urllib.request.getproxies()


def system_proxy(url: ShareURL, proxies: Mapping[str, str]) -> str | None:
    """The one of `system_proxies` for a URL; http where it names no scheme, as curl has it."""
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or _needs_none(url, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _needs_none(url: ShareURL, exempt: str) -> bool:
    """Whether `no_proxy` names the host, by itself, with the port, or as of a network."""
    import urllib.request

    names = (url.host, f"{url.host}:{url.port}")
    return any(map(urllib.request.proxy_bypass, names)) or _in_networks(url.host, exempt)


def _in_networks(host: str, exempt: str) -> bool:
    """Whether a host is an address in one of the networks, such as 10.0.0.0/8, as curl has it."""
    import ipaddress

    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return any(address in network for network in _networks(exempt))
    return False


def _networks(exempt: str) -> Iterator[IPv4Network | IPv6Network]:
    import ipaddress

    for name in exempt.split(","):
        if "/" in name:
            with suppress(ValueError):
                yield ipaddress.ip_network(name.strip(), strict=False)
