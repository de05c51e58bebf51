"""Share URLs: what they name, when they end, where they may lead.

A share URL is a password. `ShareURL` prints without its query, so that no log, event, error, index
or traceback can hold the secret by accident; the text itself is had only from `target`, by the one
module that puts it on the wire.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin

from segdl.core.dataclass import dataclass
from segdl.core.digests import digest
from segdl.core.secrets import Secret
from segdl.core.signing import SIGNATURES, flaw, name_of, signed_headers, signs, temporary
from segdl.core.term import Term, term

LONGEST = 16 * 1024
_PORTS = {"http": 80, "https": 443}


class URLProblem(ValueError):
    """A URL that segdl does not take; the message says why and never shows the query."""


@dataclass(frozen=True, slots=True, repr=False)
class _Common:
    """What the URLs that were signed together have in common: all but the path and the signature.

    S3, GCS and Azure put the signature last, so this is the query up to its last value. With a
    session token in it, it is most of the text of an order, and here the order holds it once.
    """

    scheme: str
    host: str
    port: int
    netloc: str
    query: str  # ends in `=`, or is empty


@dataclass(frozen=True, slots=True, repr=False)
class ShareURL:
    """One URL of one object, taken apart once. Built by `parse_url`."""

    _common: _Common
    _own: str  # the path, and behind a `?` the last value of the query

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._common.scheme

    @property
    def host(self) -> str:
        """Lower case, IDNA, IPv6 without brackets."""
        return self._common.host

    @property
    def port(self) -> int:
        return self._common.port

    @property
    def path(self) -> str:
        """As it was given: percent-encoded, never normalised (a signature covers it)."""
        return self._own.partition("?")[0]

    @property
    def query(self) -> str:
        """All behind the first `?`. Secret."""
        return self._common.query + self._own.partition("?")[2]

    @property
    def target(self) -> bytes:
        """What goes into the request line, byte for byte as it was signed. Secret."""
        return (self.path + ("?" + self.query if self.query else "")).encode("ascii")

    @property
    def netloc(self) -> str:
        """The `Host` header's value."""
        return self._common.netloc

    @property
    def origin(self) -> str:
        """Scheme, host and port, as the manifest's `headers` name them."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def identity(self) -> str:
        """Which object this is, whatever the signature: host, path and the rest of the query."""
        signed = self.presigned
        kept = [p for p in self.query.split("&") if p and not (signed and signs(name_of(p)))]
        return f"{self.netloc}{self.path}" + ("?" + "&".join(sorted(kept)) if kept else "")

    @property
    def object_name(self) -> str:
        """`identity` for files: the rest of the query, which may be a secret, as its digest."""
        place, question, kept = self.identity.partition("?")
        return place + question + (digest("sha256", kept.encode())[:32] if kept else "")

    @property
    def presigned(self) -> bool:
        """Whether the query holds a signature."""
        return any(name_of(p) in SIGNATURES for p in self.query.split("&"))

    @property
    def signed_headers(self) -> frozenset[str]:
        """The header names that the signature covers, lower case (S3 V4, GCS, OSS V4)."""
        return signed_headers(self.query)

    @property
    def ends_at(self) -> float | None:
        """When the URL ends by its own words, in unix seconds, or None if it does not say."""
        return self._term.ends

    @property
    def begins_at(self) -> float | None:
        """When the URL begins (or was signed), in unix seconds, or None if it does not say."""
        return self._term.begins

    @property
    def temporary(self) -> bool:
        """Whether temporary credentials signed it: it dies with them, before its own end."""
        return temporary(self.query)

    @property
    def flaw(self) -> str | None:
        """What keeps its signature from being whole, by the URL alone; the values are not told."""
        return flaw(self.query)

    @property
    def _term(self) -> Term:
        """URLs that were signed together mostly share theirs: the signature, last, says nothing."""
        common = self._common.query
        last = name_of(common.rpartition("&")[2])
        return term(common if last in SIGNATURES else self.query)

    @property
    def name(self) -> str:
        """The last component of the path, decoded: what a browser would call the file."""
        return unquote(self.path.rsplit("/", 1)[-1])

    def mask(self, text: str) -> str:
        """`text` with every value of this URL's query blotted out, should a server echo it.

        But for the name of an algorithm, which is no secret, and in the advice of servers.
        """
        found = filter(None, map(_secret, self.query.split("&")))
        for secret in sorted(found, key=lambda s: len(s.text), reverse=True):
            text = secret.blot(text)
        return text

    def __str__(self) -> str:
        return f"{self.origin}{self.path}" + ("?…" if self.query else "")

    def __repr__(self) -> str:
        return f"<ShareURL {self}>"


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PLAIN = re.compile(r"[!-~]*")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_URL = re.compile(  # scheme, host and port, path, query up to its last `=`, last value
    r"(https?)://([^/?#]*)([^?#]*)\??([^#]*=)?([^#]*)", re.ASCII | re.IGNORECASE
)
_NETLOC = re.compile(r"(\[[^]]*\]|[^]:[]*)(?::([0-9]{0,9}))?")
_NAME = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse_url(text: str) -> ShareURL:
    """The URL that `text` is; a fragment is dropped. Raises URLProblem, whose message is safe."""
    if len(text) > LONGEST:
        raise URLProblem(f"is {len(text)} characters long; a URL has at most {LONGEST}")
    plain = _PLAIN.fullmatch(text)  # as nearly all are, and quick to say
    if not plain and _UNPRINTABLE.search(text):
        raise URLProblem("holds a space or a control character; percent-encode it")
    found = _URL.match(text)
    if not found:
        raise URLProblem("is not an http:// or https:// URL")
    scheme, netloc, path, query, value = found.groups("")
    if not plain:
        path, query, value = _ascii(path), _ascii(query), _ascii(value)
        if len(path) + len(query) + len(value) > LONGEST:
            raise URLProblem(f"has more than {LONGEST} characters once it is percent-encoded")
    own = f"{path or '/'}?{value}" if query or value else path or "/"
    return ShareURL(_common(scheme, netloc, query), own)


@lru_cache(maxsize=16)  # an order has few, and many URLs
def _common(scheme: str, netloc: str, query: str) -> _Common:
    scheme = "https" if len(scheme) == 5 else "http"
    return _Common(scheme, *_endpoint(scheme, netloc), query)


@lru_cache(maxsize=256)  # a signature that is not last spoils the cache above, but not this one
def _endpoint(scheme: str, netloc: str) -> tuple[str, int, str]:
    """Host, port, and both in their one spelling.

    A netloc that holds a password raises, and so is never in the cache.
    """
    if "@" in netloc:
        raise URLProblem("holds a user name or a password; put credentials into `headers`")
    found = _NETLOC.fullmatch(netloc)
    port = int(found[2] or _PORTS[scheme]) if found else 0
    if not found or port > 65535:
        raise URLProblem("has a host or a port that cannot be read")
    if not found[1] or not port:
        raise URLProblem("has port 0" if found[1] else "has no host")
    host = _host(found[1])
    shown = f"[{host}]" if ":" in host else host
    return host, port, shown if port == _PORTS[scheme] else f"{shown}:{port}"


def _host(text: str) -> str:
    """A host in the one spelling that is compared: lower case, IDNA, no brackets.

    A name whose last label is a number is an address to `getaddrinfo`, in any of the spellings of
    inet_aton (`127.1`, `0x7f000001`, `2130706433`). Only the dotted one is taken, so that nobody
    hides an inner address from `redirect` (the WHATWG's "ends in a number" rule).
    """
    try:
        if text.startswith("["):
            ipaddress.IPv6Address(text[1:-1].replace("%", "no zones"))
            return text[1:-1].lower()
        name = (text if text.isascii() else text[:254].encode("idna").decode("ascii")).lower()
        if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]):
            ipaddress.IPv4Address(name)
    except ValueError:
        raise URLProblem("has a host that is not a valid name or address") from None
    if not _NAME.fullmatch(name):
        raise URLProblem("has a host that is not a valid name or address")
    return name


def redirect(source: ShareURL, location: str) -> ShareURL:
    """Where a `Location` leads from `source`, by promise 13. Raises URLProblem if it may not.

    Never https to http, never another scheme, and never to an address that lies nearer than the
    source: a public host must not aim segdl at what only this machine or its network can reach.
    """
    if not location:
        raise URLProblem("leads nowhere")
    if location.startswith("//"):
        location = f"{source.scheme}:{location}"
    elif location.startswith("/"):
        location = source.origin + location
    elif not _SCHEME.match(location) and not _UNPRINTABLE.search(location):
        location = urljoin(f"{source.origin}{source.path}", location)
    there = parse_url(location)
    if source.scheme == "https" and there.scheme == "http":
        raise URLProblem("leads from https to http")
    if _reach(there.host) < _reach(source.host):
        raise URLProblem(f"leads from {source.netloc} to the inner address {there.netloc}")
    return there


_LINK_LOCAL, _LOOPBACK, _PRIVATE, _PUBLIC = range(4)
_LOCAL_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"}


def _reach(host: str) -> int:
    """How far away a host is by its name alone; a name that is no address counts as public."""
    name = host.rstrip(".")
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return _LOOPBACK
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _PUBLIC
    address = _embedded(address) or address
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        return _LINK_LOCAL
    if address.is_loopback:
        return _LOOPBACK
    return _PUBLIC if address.is_global and not address.is_reserved else _PRIVATE


def _embedded(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to: mapped, 6to4, or by NAT64 (RFC 6052)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if int(address) >> 32 == 0x64FF9B << 64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _ascii(text: str) -> str:
    """Non-ASCII characters as UTF-8 percent escapes; everything else untouched."""
    try:
        return text if text.isascii() else quote(text, safe=_PRINTABLE)
    except UnicodeEncodeError:
        raise URLProblem("holds half of a character (a lone surrogate)") from None


_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@lru_cache(maxsize=64)  # but for the signature, those of an order are the same
def _secret(parameter: str) -> Secret | None:
    """What is not to be told of a parameter, if it is anything."""
    name, _, value = parameter.partition("=")
    if name_of(name).endswith("-algorithm"):
        return None
    return Secret.of(unquote(value or name, "latin-1"))  # a byte a character, as answers are read
