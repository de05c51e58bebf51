"""What every campaign is: rounds made up from a seed, figures of each, and a verdict on all."""

from __future__ import annotations

import random
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Figures = Mapping[str, float]


class Impossible(Exception):
    """This machine cannot run a campaign; the message says what it lacks."""


class Over(Exception):
    """There is no round of that number: the campaign has come to its end."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round: all that is random in it comes from `chance`."""

    number: int
    seed: int
    folder: Path  # empty, and gone afterwards

    @property
    def chance(self) -> random.Random:
        """The same every time for a seed and a number."""
        return random.Random(f"{self.seed}/{self.number}")


@dataclass(frozen=True, slots=True)
class Campaign:
    """`run` raises AssertionError where a promise breaks, Impossible before the first round, and
    Over after the last; `told` makes a line of the figures of all rounds."""

    name: str
    about: str
    rounds: int | None  # by default; None: until it is over
    run: Callable[[Round], Figures]
    told: Callable[[Sequence[Figures]], str]


@dataclass(slots=True)
class Outcome:
    """What came of a campaign."""

    campaign: Campaign
    seed: int
    figures: list[Figures] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # by round: the traceback
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """For people; the last line is the verdict."""
        name = self.campaign.name
        for number, trace in self.failed.items():
            alone = f"scripts/torture {name} --seed {self.seed} --only {number}"
            yield f"round {number} failed; alone: {alone}"
            yield trace
        count = len(self.figures) + len(self.failed)
        yield f"{name}: {count} rounds, seed {self.seed}, {self.seconds:.0f} s: " + (
            self.campaign.told(self.figures) if self.figures else "nothing"
        )
        yield f"{len(self.figures)} passed, {len(self.failed)} failed"


def run(campaign: Campaign, numbers: Iterable[int], seed: int) -> Outcome:
    """Run rounds one after another; those that fail do not stop the others. Raises Impossible."""
    outcome, began = Outcome(campaign, seed), time.monotonic()
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix=f"segdl-{campaign.name}-") as folder:
            try:
                outcome.figures.append(campaign.run(Round(number, seed, Path(folder))))
            except Impossible:
                raise
            except Over:
                break
            except Exception:
                outcome.failed[number] = traceback.format_exc()
    outcome.seconds = time.monotonic() - began
    return outcome
