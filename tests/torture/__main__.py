"""`scripts/torture NAME`: one campaign, or a list of them."""

from __future__ import annotations

import argparse
import importlib
import itertools
import pkgutil
import signal
import sys
from collections.abc import Iterable

from tests import torture
from tests.torture.campaign import Campaign, Impossible, run


def campaigns() -> dict[str, Campaign]:
    """Every campaign of every module of this package, by name."""
    found: dict[str, Campaign] = {}
    for module in pkgutil.iter_modules(torture.__path__):
        if module.name != "__main__":
            loaded = importlib.import_module(f"{torture.__name__}.{module.name}")
            own = (each for each in vars(loaded).values() if isinstance(each, Campaign))
            found |= {campaign.name: campaign for campaign in own}
    return found


def _numbers(rounds: int | None, only: int | None) -> Iterable[int]:
    if only is not None:
        return [only]
    return itertools.count() if rounds is None else range(rounds)


def main() -> int:
    known = campaigns()
    listed = "\n".join(f"  {c.name:<14} {c.about} [{c.rounds or 'all'}]" for c in known.values())
    parser = argparse.ArgumentParser(
        prog="scripts/torture", description=__doc__, epilog=f"campaigns [rounds]:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", choices=known, metavar="NAME")
    parser.add_argument("-n", type=int, metavar="ROUNDS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="ROUND", help="that round alone")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a round has set up is undone
    campaign = known[given.name]
    numbers = _numbers(given.n or campaign.rounds, given.only)
    try:
        outcome = run(campaign, numbers, given.seed)
    except Impossible as reason:
        print(f"{campaign.name}: not here: {reason}", file=sys.stderr)
        return 3
    for line in outcome.lines():
        print(line)
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
