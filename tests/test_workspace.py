"""The output directory on a real file system: links planted everywhere, files in the way, modes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from segdl.core.errors import DiskError, OccupiedError, SegdlError, UsageError
from segdl.edges.workspace import HIDDEN, Depot, Workspace, is_file, work_name

PATH = "chips/rev2/a.7z"
GOOD = b"the target"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not segdl's, with things in it."""
    folder = tmp_path / "elsewhere"
    (folder / "rev2").mkdir(parents=True)
    (folder / "work").mkdir()
    for name in ("a.7z", "front", "order.json", "rev2/a.7z"):
        (folder / name).write_bytes(b"precious")
    return folder


@pytest.fixture
def workspace(out: Path) -> Iterator[Workspace]:
    with closing(Workspace(out)) as made:
        yield made


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: modes, contents, where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = str(path.readlink()).encode() if path.is_symlink() else b""
        found[str(path)] = (mode, path.read_bytes() if stat.S_ISREG(mode) else content)
    return found


def merged(workspace: Workspace, path: str = PATH, content: bytes = GOOD) -> int:
    """The folder of a target under way, with its merged file complete."""
    work = workspace.open_work(path)
    file = os.open("front", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=work)
    os.write(file, content)
    os.close(file)
    return work


def deliver(workspace: Workspace, path: str = PATH, *, overwrite: bool = False) -> None:
    work = merged(workspace, path)
    try:
        workspace.deliver(work, "front", path, overwrite=overwrite)
    finally:
        os.close(work)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- the folder itself -----------------------------------------------------------------------------


def test_a_delivery(workspace: Workspace, out: Path) -> None:
    assert workspace.find(PATH) is None
    deliver(workspace)
    assert (out / PATH).read_bytes() == GOOD
    found = workspace.find(PATH)
    assert found is not None and is_file(found) and found.st_size == len(GOOD)
    with os.fdopen(workspace.open_final(PATH), "rb") as file:
        assert file.read() == GOOD
    assert workspace.under_way() == {work_name(PATH)}
    workspace.remove_work(PATH)
    assert workspace.under_way() == set()
    workspace.remove_work(PATH)  # gone already
    assert workspace.free() > 0


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes(out: Path, mask: int) -> None:
    """What is segdl's own is its owner's alone; folders for targets are as the umask says."""
    with umask(mask), closing(Workspace(out)) as workspace:
        assert workspace.file_mode == 0o666 & ~mask
        workspace.write_order({"order": "x"})
        deliver(workspace)
        private = [out / HIDDEN, out / HIDDEN / "work", *(out / HIDDEN / "work").iterdir()]
        assert {mode(path) for path in private} == {0o700}
        assert mode(out / HIDDEN / "order.json") == 0o600
        assert {mode(out / "chips"), mode(out / "chips/rev2")} == {0o777 & ~mask}


def test_staying_opens_each_folder_once(
    workspace: Workspace, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is come back to; all are closed afterwards, and what is missing is missed
    again."""
    (out / "a/b").mkdir(parents=True)
    (out / "a/b/here").write_bytes(GOOD)
    opened: list[str] = []
    real = os.open

    def note(path: str, *args: Any, **kwargs: Any) -> int:
        opened.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", note)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError), workspace.staying():
        for _ in range(3):
            assert workspace.find("a/b/here") is not None
            assert workspace.find("a/b/missing") is None
            assert workspace.find("a/none/missing") is None
            assert workspace.find("missing") is None
            assert workspace.flush_folders(["a/b/here", "x"]) == {}
        assert opened.count("b") == 1
        assert opened.count("none") == 3
        with pytest.raises(UsageError):
            workspace.find("a/b/../here")
        raise KeyError
    assert set(os.listdir("/proc/self/fd")) == before
    assert workspace.find("a/b/here") is not None
    assert opened.count("b") == 2


def test_staying_follows_no_link(workspace: Workspace, out: Path, elsewhere: Path) -> None:
    """Also one that is planted after the folder was opened: the folder itself is stayed in."""
    with workspace.staying():
        (out / "chips").symlink_to(elsewhere)
        with pytest.raises(OSError):
            workspace.find("chips/a.7z")
        (out / "chips").unlink()
        draft = workspace.open_draft()
        assert draft is not None
        workspace.name(draft, "chips/rev2/b.7z")
        (out / "chips").rename(out / "moved")
        (out / "chips").symlink_to(elsewhere)
        workspace.name(draft, "chips/rev2/c.7z")
        os.close(draft)
    assert sorted(os.listdir(out / "moved/rev2")) == ["b.7z", "c.7z"]
    assert os.listdir(elsewhere / "rev2") == ["a.7z"]


def test_the_output_directory_may_be_a_link(tmp_path: Path, out: Path) -> None:
    """The user named it."""
    (tmp_path / "real").mkdir()
    out.symlink_to("real")
    with closing(Workspace(out)) as workspace:
        deliver(workspace)
    assert (tmp_path / "real" / PATH).read_bytes() == GOOD


def test_the_output_directory_is_made_with_all_above_it(tmp_path: Path) -> None:
    with closing(Workspace(tmp_path / "a/b/c")):
        assert (tmp_path / "a/b/c" / HIDDEN / "work").is_dir()


@pytest.mark.parametrize("kind", ["file", "dangling", "below a file", "fifo"])
def test_an_output_directory_that_cannot_be(tmp_path: Path, out: Path, kind: str) -> None:
    match kind:
        case "file":
            out.write_bytes(b"precious")
        case "dangling":
            out.symlink_to(tmp_path / "nowhere")
        case "below a file":
            out.write_bytes(b"precious")
            out = out / "below"
        case "fifo":
            os.mkfifo(out)
    before = snapshot(tmp_path)
    with pytest.raises((DiskError, OSError)):
        Workspace(out)
    assert snapshot(tmp_path) == before


def test_a_failure_leaves_no_descriptor_open(out: Path, elsewhere: Path) -> None:
    (out / HIDDEN).mkdir(parents=True)
    (out / HIDDEN / "work").symlink_to(elsewhere)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="Not a directory"):
            Workspace(out)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_stays_the_same_directory(workspace: Workspace, out: Path, elsewhere: Path) -> None:
    """D03: replaced by a link while it runs."""
    out.rename(out.with_name("moved"))
    out.symlink_to(elsewhere)
    before = snapshot(elsewhere)
    deliver(workspace)
    workspace.write_order({})
    assert (out.with_name("moved") / PATH).read_bytes() == GOOD
    assert snapshot(elsewhere) == before


@pytest.mark.parametrize("path", ["../a.7z", "chips/../../a.7z", "../elsewhere/a.7z"])
def test_no_path_leads_out(
    workspace: Workspace, tmp_path: Path, elsewhere: Path, path: str
) -> None:
    """The manifest refuses such paths; a target that was made in Python comes as it is."""
    before = snapshot(elsewhere)
    acts: list[Callable[[], object]] = [
        lambda: workspace.find(path),
        lambda: workspace.open_final(path),
        lambda: deliver(workspace, path, overwrite=True),
    ]
    for act in acts:
        with pytest.raises(UsageError, match="out of the output directory"):
            act()
    assert not (tmp_path / "a.7z").exists()
    assert snapshot(elsewhere) == before


# -- links that somebody plants --------------------------------------------------------------------

ACTS: dict[str, Callable[[Workspace], object]] = {
    "open_work": lambda w: os.close(w.open_work(PATH)),
    "remove_work": lambda w: w.remove_work(PATH),
    "find": lambda w: w.find(PATH),
    "open_final": lambda w: os.close(w.open_final(PATH)),
    "deliver": deliver,
    "replace": lambda w: deliver(w, overwrite=True),
    "write_order": lambda w: w.write_order({"files": []}),
    "read_order": lambda w: w.read_order(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    "planted",
    ["chips", "chips/rev2", PATH, f"{HIDDEN}/work/{work_name(PATH)}", f"{HIDDEN}/order.json",
     f"{HIDDEN}/order.new"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["folder", "file", "nowhere"])
def test_a_planted_link_is_not_followed(
    workspace: Workspace, out: Path, elsewhere: Path, planted: str, act: str, where: str
) -> None:
    link = out / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(
        {"folder": elsewhere, "file": elsewhere / "a.7z", "nowhere": elsewhere / "no"}[where]
    )
    before = snapshot(elsewhere)
    try:
        ACTS[act](workspace)
    except (OSError, SegdlError) as error:
        assert "precious" not in str(error)
    assert snapshot(elsewhere) == before


@pytest.mark.parametrize("name", [HIDDEN, f"{HIDDEN}/work"])
def test_segdl_s_own_folders_are_no_links(out: Path, elsewhere: Path, name: str) -> None:
    (out / name).parent.mkdir(parents=True)
    (out / name).symlink_to(elsewhere)
    before = snapshot(elsewhere)
    with pytest.raises(OSError, match="Not a directory"):
        Workspace(out)
    assert snapshot(elsewhere) == before


@pytest.mark.parametrize("name", ["order.json", "order.new"])
def test_a_second_name_of_a_file_elsewhere_is_not_written_to(
    workspace: Workspace, out: Path, elsewhere: Path, name: str
) -> None:
    (out / HIDDEN / name).hardlink_to(elsewhere / "a.7z")
    before = snapshot(elsewhere)
    workspace.write_order({"order": "x"})
    assert workspace.read_order() == {"order": "x"}
    assert snapshot(elsewhere) == before


def test_what_is_taken_away_is_taken_with_all_that_is_in_it(
    workspace: Workspace, out: Path, elsewhere: Path
) -> None:
    """Folders and links that somebody planted too, but not what the links lead to."""
    os.close(merged(workspace, content=b"x" * 100_000))
    folder = out / HIDDEN / "work" / work_name(PATH)
    (folder / "inner" / "deep").mkdir(parents=True)
    (folder / "inner" / "link").symlink_to(elsewhere)
    (folder / "link").symlink_to(elsewhere / "a.7z")
    os.mkfifo(folder / "fifo")
    before = snapshot(elsewhere)
    assert workspace.remove_work_named(work_name(PATH)) >= 100_000
    assert not folder.exists()
    assert snapshot(elsewhere) == before
    assert workspace.remove_work_named(work_name(PATH)) == 0


# -- D04: what stands under the final name ---------------------------------------------------------


def plant(final: Path, kind: str, elsewhere: Path) -> None:
    final.parent.mkdir(parents=True)
    match kind:
        case "file":
            final.write_bytes(b"other")
        case "folder":
            final.mkdir()
            (final / "inner").write_bytes(b"x")
        case "empty folder":
            final.mkdir()
        case "link":
            final.symlink_to(elsewhere / "a.7z")
        case "link to a folder":
            final.symlink_to(elsewhere)
        case "dangling link":
            final.symlink_to(elsewhere / "no")
        case "fifo":
            os.mkfifo(final)
        case "socket":
            with closing(socket.socket(socket.AF_UNIX)) as made:
                here = Path.cwd()
                os.chdir(final.parent)  # a socket's path is short
                try:
                    made.bind(final.name)
                finally:
                    os.chdir(here)


KINDS = [
    "file",
    "folder",
    "empty folder",
    "link",
    "link to a folder",
    "dangling link",
    "fifo",
    "socket",
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_way_stays(
    workspace: Workspace, out: Path, elsewhere: Path, kind: str
) -> None:
    plant(out / PATH, kind, elsewhere)
    before = snapshot(elsewhere), snapshot(out / "chips")
    found = workspace.find(PATH)
    assert found is not None
    assert is_file(found) == (kind == "file")
    with pytest.raises(OccupiedError, match="--overwrite"):
        deliver(workspace)
    assert (snapshot(elsewhere), snapshot(out / "chips")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_way_is_replaced_on_request(
    workspace: Workspace, out: Path, elsewhere: Path, kind: str
) -> None:
    """The thing itself, and not what it leads to; a folder never."""
    plant(out / PATH, kind, elsewhere)
    before = snapshot(elsewhere)
    if "folder" in kind and "link" not in kind:
        with pytest.raises(OccupiedError, match="is a folder"):
            deliver(workspace, overwrite=True)
        assert (out / PATH).is_dir()
    else:
        deliver(workspace, overwrite=True)
        assert not (out / PATH).is_symlink()
        assert (out / PATH).read_bytes() == GOOD
    assert snapshot(elsewhere) == before


def test_a_fifo_blocks_nobody(workspace: Workspace, out: Path, elsewhere: Path) -> None:
    plant(out / PATH, "fifo", elsewhere)
    os.close(workspace.open_final(PATH))
    os.mkfifo(out / HIDDEN / "order.json")
    assert workspace.read_order() == {}


def test_a_file_where_a_folder_should_be(workspace: Workspace, out: Path) -> None:
    (out / "chips").write_bytes(b"other")
    with pytest.raises(NotADirectoryError):
        workspace.find(PATH)
    with pytest.raises(NotADirectoryError):
        deliver(workspace, overwrite=True)
    assert (out / "chips").read_bytes() == b"other"


def test_of_two_deliveries_one_replaces_nothing(workspace: Workspace, out: Path) -> None:
    """The check and the rename are one step: there is no moment between them."""
    for round_ in range(30):
        path, won = f"chips/{round_}", list[int]()
        works = [merged(workspace, f"{path} {n}", b"%d" % n) for n in range(2)]
        start = threading.Barrier(2)

        def race(
            number: int, path: str = path, works: list[int] = works,
            start: threading.Barrier = start, won: list[int] = won,
        ) -> None:  # fmt: skip
            start.wait()
            try:
                workspace.deliver(works[number], "front", path, overwrite=False)
            except OccupiedError:
                return
            won.append(number)

        threads = [threading.Thread(target=race, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for work in works:
            os.close(work)
        assert len(won) == 1
        assert (out / path).read_bytes() == b"%d" % won[0]


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not here: no system call to fail")
@pytest.mark.parametrize("error", ["ENOSYS", "EINVAL"])
def test_a_file_system_that_knows_no_renameat2(out: Path, error: str) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from segdl.core.errors import OccupiedError\n"
        "from tests.test_workspace import Workspace, deliver\n"
        "workspace = Workspace(Path(sys.argv[2]))\n"
        "deliver(workspace)\n"
        "try: deliver(workspace)\n"
        "except OccupiedError: print('refused')\n"
    )
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2",
              "-e", f"inject=renameat2:error={error}"]  # fmt: skip
    root = str(Path(__file__).parents[1])
    run = subprocess.run(
        [*inject, sys.executable, "-c", script, root, str(out)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("refused\n", "")
    assert (out / PATH).read_bytes() == GOOD


# -- drafts ----------------------------------------------------------------------------------------


def test_a_draft_that_replaced_a_file_is_delivered_whatever_the_clean_up_says(out: Path) -> None:
    out.mkdir()
    (out / "a.7z").write_bytes(b"other")
    with closing(Workspace(out)) as workspace, pytest.MonkeyPatch.context() as patched:
        draft = workspace.open_draft()
        if draft is None:
            pytest.skip("no files without a name on this file system")
        os.write(draft, GOOD)

        def full(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patched.setattr(workspace, "remove_work", full)
        workspace.replace(draft, "a.7z", overwrite=True)
        os.close(draft)
    assert (out / "a.7z").read_bytes() == GOOD


def test_drafts_for_two_threads_at_once(out: Path) -> None:
    """Whether there can be drafts is tried once: both are given one."""
    with closing(Workspace(out)) as workspace, pytest.MonkeyPatch.context() as patched:
        meet = threading.Barrier(2)

        real = os.link

        def both() -> None:
            with suppress(threading.BrokenBarrierError):
                meet.wait(0.5)

        def link(*args: Any, **kwargs: Any) -> None:
            both()
            try:
                real(*args, **kwargs)
            finally:
                both()

        patched.setattr(os, "link", link)
        drafts: list[int | None] = []
        threads = [
            threading.Thread(target=lambda: drafts.append(workspace.open_draft())) for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for draft in drafts:
            if draft is not None:
                os.close(draft)
        assert len(drafts) == 2
        assert None not in drafts


# -- what was asked for ----------------------------------------------------------------------------


def test_the_order_is_kept(workspace: Workspace, out: Path) -> None:
    assert workspace.read_order() == {}
    facts = {"order": "größe", "files": [{"path": "a", "size": 2**62}]}
    for _ in range(2):
        workspace.write_order(facts)
        assert workspace.read_order() == facts
    assert sorted(path.name for path in (out / HIDDEN).iterdir()) == ["order.json", "work"]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[1]", b'{"a": ', b"\xff", b"7"])
def test_an_order_that_cannot_be_read_is_none(
    workspace: Workspace, out: Path, content: bytes
) -> None:
    (out / HIDDEN / "order.json").write_bytes(content)
    assert workspace.read_order() == {}


# -- only looked at --------------------------------------------------------------------------------


def test_a_depot_makes_nothing(tmp_path: Path, out: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Depot(out)
    out.mkdir()
    with closing(Depot(out)) as depot:
        assert depot.find(PATH) is None
        assert depot.read_order() == {}
        with depot.look() as hidden, depot.look("work", "x") as folder:
            assert hidden is None and folder is None
    assert snapshot(tmp_path).keys() == {str(out)}


def test_a_depot_looks_where_a_workspace_was(workspace: Workspace, out: Path) -> None:
    workspace.write_order({"order": "x"})
    deliver(workspace)
    with closing(Depot(out)) as depot:
        assert depot.read_order() == {"order": "x"}
        found = depot.find(PATH)
        assert found is not None and found.st_size == len(GOOD)
        with depot.look("work") as folder:
            assert folder is not None
            assert os.listdir(folder) == [work_name(PATH)]


def test_names_under_work_fit_whatever_the_path_is() -> None:
    names = {work_name(path) for path in ("a", "b", "x" * 4000, "größe/ü", "a/b")}
    assert len(names) == 5
    assert all(len(name) == 32 and name.isalnum() for name in names)
