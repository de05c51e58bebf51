"""What is wrong with a refused link: the kinds, who must act, and a sentence for each."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from segdl.core.dataclass import dataclass

SKEW = 300.0  # seconds: clocks that differ by more are worth a word


class Kind(StrEnum):
    """Why a link is refused."""

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    CLOCK = "clock"  # a clock is off: the server's, or that of whoever signed
    CREDENTIALS_ENDED = "credentials_ended"  # temporary ones, before the link's own end
    KEY_REVOKED = "key_revoked"
    ACCOUNT = "account"  # blocked at the store
    POLICY = "policy"
    ALTERED = "altered"  # host, path or query are not those that were signed
    MALFORMED = "malformed"  # the link itself: cut, copied wrongly, or signed wrongly
    MISSING = "missing"  # wrong bucket, key or version
    ARCHIVED = "archived"
    ENCRYPTED = "encrypted"
    RATE_LIMIT = "rate_limit"
    LOGIN = "login"  # credentials are wanted
    GATEWAY = "gateway"  # something before the store refuses
    UNKNOWN = "unknown"


class Who(StrEnum):
    """Who must act."""

    PUBLISHER = "publisher"  # whoever made the links
    CUSTOMER = "customer"  # whoever runs segdl, or their network's administrators
    OPERATOR = "operator"  # of the server
    NOBODY = "nobody"  # segdl does


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a link is refused, who must act, and both in words."""

    kind: Kind
    who: Who
    finding: str
    advice: str
    guessed: bool = False  # the server does not say why
    skew: float | None = None  # seconds that this machine's clock is ahead of the server's

    def sentence(self, said: str) -> str:
        """For people, with what the server said of it."""
        return f"{self.finding} ({said}): {self.advice}{self._clocks()}"

    def _clocks(self) -> str:
        """A word on the clocks, where they can explain a refusal."""
        if self.skew is None or abs(self.skew) < SKEW or self.kind not in _CLOCKED:
            return ""
        way = "ahead of" if self.skew > 0 else "behind"
        return f" (this machine's clock is {abs(self.skew) / 60:.0f} minutes {way} the server's)"


FRESH = "get a fresh manifest"
_CLOCKED = {
    Kind.EXPIRED, Kind.NOT_YET_VALID, Kind.CLOCK, Kind.CREDENTIALS_ENDED, Kind.ALTERED,
    Kind.POLICY, Kind.UNKNOWN,
}  # fmt: skip

_PUBLISHER, _CUSTOMER, _OPERATOR = Who.PUBLISHER, Who.CUSTOMER, Who.OPERATOR
EXPIRED = Diagnosis(Kind.EXPIRED, _PUBLISHER, "the link has expired", FRESH)
ENDED = Diagnosis(
    Kind.CREDENTIALS_ENDED, _PUBLISHER,
    "the temporary credentials that signed the link have ended, and the link with them",
    f"{FRESH}, signed with a key that lasts",
)  # fmt: skip
CLOCK = Diagnosis(
    Kind.CLOCK, _OPERATOR, "the server's clock and the link's do not agree",
    f"let the server's operator look at its clock, or {FRESH}",
)  # fmt: skip
REVOKED = Diagnosis(
    Kind.KEY_REVOKED, _PUBLISHER,
    "the store does not know the key that signed the link, or no more",
    f"{FRESH}, signed with a key that is good",
)  # fmt: skip
ACCOUNT = Diagnosis(
    Kind.ACCOUNT, _PUBLISHER, "the publisher's account or bucket is blocked at the store",
    f"tell the publisher, and {FRESH} then",
)  # fmt: skip
POLICY = Diagnosis(
    Kind.POLICY, _PUBLISHER, "the store does not let the link's key read this",
    f"tell the publisher, whose policy it is, and {FRESH}",
)  # fmt: skip
ALTERED = Diagnosis(
    Kind.ALTERED, _PUBLISHER,
    "the link was signed for another host, path or query, or with another secret",
    f"{FRESH}; if that is refused too, a proxy or NAT on the way changes the host: --connect-to",
)  # fmt: skip
LOST = replace(
    ALTERED, who=_CUSTOMER, finding="the link's signature did not reach the server",
    advice="let nothing on the way change the query, or go around it with --connect-to",
)  # fmt: skip
MALFORMED = Diagnosis(
    Kind.MALFORMED, _PUBLISHER, "the link is not signed as the server wants it",
    f"tell the publisher, and {FRESH}",
)  # fmt: skip
MISSING = Diagnosis(Kind.MISSING, _PUBLISHER, "nothing is there", FRESH)
ARCHIVED = Diagnosis(
    Kind.ARCHIVED, _PUBLISHER, "the object is archived",
    "let the publisher restore it, and run again",
)  # fmt: skip
ENCRYPTED = Diagnosis(
    Kind.ENCRYPTED, _PUBLISHER, "the object is encrypted with a key that the link cannot give",
    f"tell the publisher, and {FRESH}",
)  # fmt: skip
LIMITED = Diagnosis(
    Kind.RATE_LIMIT, Who.NOBODY, "the server is asked for too much at once", "it is asked for less"
)
WORKED = replace(LIMITED, finding="the server refuses a link that worked")
LOGIN = Diagnosis(
    Kind.LOGIN, _CUSTOMER, "the server wants credentials that the link does not have",
    f"give them in the manifest's `headers` or with --header, or {FRESH} of share URLs",
)  # fmt: skip
FILTER = Diagnosis(
    Kind.GATEWAY, _CUSTOMER, "a web filter on the way refuses it, and not the store",
    "ask your network's administrators to let it pass",
)  # fmt: skip
GATEWAY = Diagnosis(
    Kind.GATEWAY, _OPERATOR, "a web server or gateway before the store refuses it",
    f"tell the server's operator; if the link is old, {FRESH}",
)  # fmt: skip
UNKNOWN = Diagnosis(Kind.UNKNOWN, _PUBLISHER, "the server refuses the link", FRESH)
