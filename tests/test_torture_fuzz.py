"""A fixed share of the fuzzing campaigns; `scripts/torture` runs them in full."""

from __future__ import annotations

import pytest

from tests.torture import fuzz_answers, fuzz_index, fuzz_manifest, fuzz_names
from tests.torture.campaign import Campaign, run

SHARES: list[tuple[Campaign, int]] = [
    (fuzz_index.CAMPAIGN, 1),
    (fuzz_manifest.CAMPAIGN, 3),
    (fuzz_answers.CAMPAIGN, 5),
    (fuzz_names.CAMPAIGN, 1),
]


@pytest.mark.parametrize(("campaign", "rounds"), SHARES, ids=lambda each: getattr(each, "name", ""))
def test_a_share_of_each(campaign: Campaign, rounds: int) -> None:
    outcome = run(campaign, range(rounds), seed=7)
    assert not outcome.failed, "\n".join(outcome.lines())
    print(*outcome.lines(), sep="\n")
