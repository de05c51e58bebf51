"""What time it is at the servers, as far as their answers have told: links end by their clocks.

This machine's clock may be off, so nothing is refused by it. A server whose clock showed so much
when it refused a link as ended has proved that its clock is past that end, and from then on past
every end that comes before: those links need not be asked for again.

Clocks are kept as what they show at monotonic 0: they may be believed to run alike.
"""

from __future__ import annotations

from math import inf

MARGIN = 60.0  # seconds that a `Date` may be ahead of the clock by which a link is judged
_OFTEN = 10.0  # seconds between two dates that are taken note of


class Clocks:
    """The clocks of the hosts. `now` is always monotonic seconds, a date is unix seconds."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, float]] = {}  # what it shows at 0; heard when
        self._proved: dict[str, float] = {}  # what it shows at 0 at least, as a refusal proved

    def wants(self, host: str, now: float) -> bool:
        """Whether the date of a host's answer would tell something new."""
        return now - self._shown.get(host, (0.0, -inf))[1] >= _OFTEN

    def told(self, host: str, date: float, now: float) -> None:
        """An answer had this date."""
        self._shown[host] = (date - now, now)

    def refused(self, host: str, end: float, date: float, now: float) -> None:
        """An answer of this date refused a link of this end, as one that has ended."""
        self.told(host, date, now)
        if date >= end:  # else it was something else that ended: the credentials
            least = max(end, date - MARGIN) - now
            self._proved[host] = max(least, self._proved.get(host, -inf))

    def over(self, host: str, end: float | None, now: float) -> bool:
        """Whether a host is known to refuse a link of this end."""
        return end is not None and end - now <= self._proved.get(host, -inf)

    def there(self, here: float, now: float) -> float:
        """The date at the servers, by the clock that is furthest ahead; `here` if none is known."""
        return max((shown + now for shown, _ in self._shown.values()), default=here)
