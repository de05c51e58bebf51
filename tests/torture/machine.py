"""The state machine of tests/test_machine.py at length: other stories for each seed and round."""

from __future__ import annotations

from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.test_machine import Machine, TestMachine
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.fuzz import told

BATCH = 25  # stories of a round


def run(turn: Round) -> Figures:
    """Every story ends well; one that does not is told as it was, and not made shorter."""
    at_length = settings(
        TestMachine.settings, max_examples=BATCH, derandomize=False, phases=[Phase.generate]
    )
    run_state_machine_as_test(seed(turn.chance.getrandbits(64))(Machine), settings=at_length)
    return {"stories": BATCH}


CAMPAIGN = Campaign("machine", "one order and everything that happens to it", 40, run, told)
