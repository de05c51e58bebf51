"""A fixed share of `scripts/torture ctrl-c` (FAULTS.md, X05)."""

from __future__ import annotations

from tests.torture.campaign import run
from tests.torture.ctrlc import CAMPAIGN


def test_ctrl_c_at_random_moments() -> None:
    outcome = run(CAMPAIGN, range(6), seed=5)
    assert not outcome.failed, "\n".join(outcome.lines())
    print(*outcome.lines(), sep="\n")
