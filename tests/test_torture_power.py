"""Power cuts: a fixed share of the campaigns, and the cuts that once were too much."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests import commands
from tests.faults import FaultServer
from tests.orders import NAME, SEGMENT, Proof, made
from tests.torture import layers, power
from tests.torture.campaign import Campaign, Impossible, run
from tests.torture.image import EXT4, MIB, XFS, Disk, FileSystem

KINDS = pytest.mark.parametrize("kind", [EXT4, XFS], ids=lambda kind: kind.name)


CUTS = (2, 9, 11, 13, 17, 21)  # none at a rate: those take seconds


def passes(campaign: Campaign, numbers: Iterable[int]) -> None:
    try:
        outcome = run(campaign, numbers, seed=1)
    except Impossible as reason:
        pytest.skip(f"{campaign.name}: {reason}")
    assert not outcome.failed, "\n".join(outcome.lines())


@pytest.mark.parametrize(
    "campaign", [power.ON_EXT4, power.ON_XFS], ids=lambda campaign: campaign.name
)
def test_c04_power_cuts(campaign: Campaign) -> None:
    passes(campaign, CUTS)


def test_c04_cuts_that_keep_no_more_than_was_flushed() -> None:
    passes(layers.CAMPAIGN, range(1))


# -- one by one ------------------------------------------------------------------------------------


@pytest.fixture
def disk(kind: FileSystem, tmp_path: Path) -> Iterator[Disk]:
    try:
        with Disk(kind, tmp_path / "image", tmp_path / "disk", "rw") as made_disk:
            yield made_disk
    except Impossible as reason:
        pytest.skip(f"{kind.name}: {reason}")


@KINDS
@pytest.mark.parametrize("proof", [Proof.DIGEST, Proof.ETAG], ids=lambda proof: proof.value)
def test_a_file_that_was_there_survives_once_it_is_said_to_be_delivered(
    kind: FileSystem, proof: Proof, disk: Disk, tmp_path: Path, fault_server: FaultServer
) -> None:
    """Somebody has just copied it there, and nothing has flushed it: segdl has to."""
    order = power.Order(fault_server, tmp_path)
    data = made(MIB)
    order.put(data, proof=proof)
    order.out.mkdir()
    order.final().write_bytes(data)
    ended = commands.segdl("get", order.manifest(), "-o", order.out, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    disk.cut()
    disk.restore()
    assert order.final(NAME).read_bytes() == data


@KINDS
def test_what_is_not_flushed_is_lost(kind: FileSystem, disk: Disk) -> None:
    """The cut is one."""
    disk.folder.joinpath("unflushed").write_bytes(made(MIB))
    disk.cut()
    disk.restore()
    left = disk.folder / "unflushed"
    assert not left.exists() or left.stat().st_size < MIB


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here: nothing is recorded")
def test_what_is_flushed_by_the_end_is_enough(tmp_path: Path, fault_server: FaultServer) -> None:
    """If nothing else is left, all is there, and nothing is fetched again."""
    order = layers.Order(fault_server, tmp_path)
    for name, size in {"large.7z": 5 * SEGMENT, "chips/small.7z": 5_000}.items():
        order.put(made(size), f"/{name}", name=name, proof=Proof.NOTHING)
    order.out.parent.mkdir()
    plan = layers.Plan(connections=2, segment=SEGMENT, rate=None, kills=())
    recording = layers.recorded(order, plan)
    order.place = "left"
    nothing, end = layers.Leaving(0, 0, 0), len(recording.operations)
    counts = layers.try_state(order, plan, recording, end, nothing, random.Random(1))
    assert counts["promised"] == 2
