"""How long a wait may last, cut into ticks."""

import time
from collections.abc import Callable

from segdl.core.dataclass import dataclass
from segdl.edges.transport.faults import ConnectFailed


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for a whole wait, seconds between two looks at `interrupted`, and `interrupted`."""

    timeout: float
    tick: float
    interrupted: Callable[[], bool]

    def deadline(self) -> float:
        """The moment, on the monotonic clock, at which a wait that begins now is over."""
        return time.monotonic() + self.timeout

    def go_on(self, end: float) -> None:
        """Whoever connects asks this between two ticks. Raises ConnectFailed when interrupted,
        TimeoutError at `end` (monotonic)."""
        if self.interrupted():
            raise ConnectFailed("interrupted")
        if time.monotonic() >= end:
            raise TimeoutError("deadline")
