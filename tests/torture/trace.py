"""What a program does to the files below a folder, recorded by strace, as a list of operations.

The folder is followed as it grows: a small file system in memory, whose nodes are told apart by
identity, as inodes are. A flush covers what had ended when it was called, and counts from its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "openat,close,dup,dup2,dup3,fcntl,write,pwrite64,ftruncate,fsync,fdatasync,syncfs,rename,"
    "renameat,renameat2,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range"
)
STRACE = ("strace", "-f", "--seccomp-bpf", "-qq", "-xx", "-s", "16000000", "-e", "signal=none")
_COMES, _GOES = {"openat", "mkdirat", "linkat"}, {"unlinkat", "renameat", "renameat2"}
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>,? ?")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_CLOSED = re.compile(r"close\((\d+)")
_NUMBER = re.compile(r"\d+")
_SELF = re.compile(r"/proc/self/fd/(\d+)")


@dataclass(eq=False, slots=True)
class Node:
    """A file, or a folder with its entries, as a program sees it."""

    entries: dict[str, Node] | None = None
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Written:
    node: Node
    at: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Resized:
    node: Node
    size: int


@dataclass(frozen=True, slots=True)
class Named:
    """Names that change together: (folder, name, what it now is of, or None)."""

    changes: tuple[tuple[Node, str, Node | None], ...]


@dataclass(frozen=True, slots=True)
class Flushed:
    """What the first `before` operations did to a node is durable; to all nodes if it is None."""

    node: Node | None
    before: int


@dataclass(frozen=True, slots=True)
class Said:
    """Promised to whoever listens: this target is delivered."""

    target: str


Operation = Written | Resized | Named | Flushed | Said


@dataclass(slots=True)
class _Open:
    node: Node
    appends: bool = False
    at: int = 0


class Recording:
    """The operations below one folder; of several programs, one after another."""

    def __init__(self, folder: Path) -> None:
        self.root = Node({})
        self.operations: list[Operation] = []
        self._folder = str(folder)
        self._open: dict[int, _Open] = {}
        self._said = b""
        self._begun: dict[str, tuple[str, int]] = {}  # by thread: a call without its end

    def program(self, log: Path) -> None:
        """Follow one program that began in the folder, from its beginning to its end."""
        self._open.clear()
        self._begun.clear()
        self._said = b""
        with log.open(encoding="ascii") as lines:
            for line in lines:
                if found := _LINE.match(line):
                    self._line(found[1], found[2])
        self._settle()

    def _settle(self) -> None:
        """A program that was killed may have ended calls that strace did not see to their end:
        what came of them is looked up. Then what was followed must be what is there."""
        for begun, before in self._begun.values():
            call = _CALL.match(f"{begun}) = -1")
            if call and self._has_happened(call[1], _arguments(call[2])):
                self._act(call[1], _arguments(call[2]), -1, before)
        self._settle_folder(self.root, Path(self._folder))

    def _has_happened(self, call: str, given: list[str]) -> bool:
        """Whether a name has come, or gone, that ours does not know of."""
        at = 2 if call == "linkat" else 0
        if (
            call not in _COMES | _GOES
            or (found := self._find(given[at], _text(given[at + 1]))) is None
        ):
            return False
        folder, name = found
        comes = call in _COMES
        there, known = (self._path(folder) / name).exists(), name in (folder.entries or {})
        return there is comes and known is not comes

    def _path(self, wanted: Node) -> Path:
        places = [(self.root, Path(self._folder))]
        while places:
            node, path = places.pop()
            if node is wanted:
                return path
            places += [(n, path / name) for name, n in (node.entries or {}).items()]
        return Path("/nowhere")

    def _settle_folder(self, node: Node, path: Path) -> None:
        entries = node.entries or {}
        there = {entry.name for entry in path.iterdir() if not entry.is_socket()}
        assert set(entries) == there, path
        for name, inner in entries.items():
            if inner.entries is not None:
                self._settle_folder(inner, path / name)
            elif (data := (path / name).read_bytes()) != inner.data:
                assert self._begun, f"{path / name} was not followed"
                self._resize(inner, len(data))
                self._put(inner, 0, data)

    def _line(self, thread: str, text: str) -> None:
        if text.endswith("<unfinished ...>"):
            if closed := _CLOSED.match(text):  # the number is free from now on
                self._open.pop(int(closed[1]), None)
                return
            begun = text.removesuffix("<unfinished ...>").rstrip()
            self._begun[thread] = begun, len(self.operations)
            return
        before = len(self.operations)
        if resumed := _RESUMED.match(text):
            if thread not in self._begun:
                return
            begun, before = self._begun.pop(thread)
            comma = ", " if not begun.endswith(("(", ",")) and text[resumed.end()] != ")" else ""
            text = begun + comma + text[resumed.end() :]
        call = _CALL.match(text)
        if call and int(call[3]) >= 0:
            self._act(call[1], _arguments(call[2]), int(call[3]), before)

    def _act(self, call: str, given: list[str], result: int, before: int) -> None:
        act: Callable[[list[str], int, int], None] = getattr(self, f"_on_{call}")
        act(given, result, before)

    # -- names -----------------------------------------------------------------------------------

    def _find(self, start: str, path: str) -> tuple[Node, str] | None:
        """The folder that a path ends in, and the name there; None if it is not below ours."""
        if path.startswith("/"):
            if path == self._folder:
                return self.root, ""
            if not path.startswith(self._folder + "/"):
                return None
            here, path = self.root, path.removeprefix(self._folder + "/")
        elif start == "AT_FDCWD":
            here = self.root
        elif (opened := self._open.get(int(start))) is not None:
            here = opened.node
        else:
            return None
        *folders, name = path.split("/")
        for folder in folders:
            if folder not in ("", "."):
                inner = (here.entries or {}).get(folder)
                if inner is None:
                    return None
                here = inner
        return here, "" if name == "." else name

    def _name(self, *changes: tuple[Node, str, Node | None]) -> None:
        for folder, name, node in changes:
            assert folder.entries is not None
            if node is None:
                folder.entries.pop(name, None)
            else:
                folder.entries[name] = node
        self.operations.append(Named(changes))

    def _on_openat(self, given: list[str], file: int, before: int) -> None:
        found = self._find(given[0], _text(given[1]))
        flags = given[2].split("|")
        self._open.pop(file, None)
        if found is None:
            return
        folder, name = found
        if any(flag.endswith("O_TMPFILE") for flag in flags):
            node = Node()
        else:
            there = (folder.entries or {}).get(name) if name else folder
            node = there or Node()
            if there is None:
                assert "O_CREAT" in flags, given
                self._name((folder, name, node))
            elif "O_TRUNC" in flags:
                self._resize(node, 0)
        self._open[file] = _Open(node, "O_APPEND" in flags)

    def _on_mkdirat(self, given: list[str], result: int, before: int) -> None:
        if found := self._find(given[0], _text(given[1])):
            self._name((*found, Node({})))

    def _on_mkdir(self, given: list[str], result: int, before: int) -> None:
        self._on_mkdirat(["AT_FDCWD", *given], result, before)

    def _on_unlinkat(self, given: list[str], result: int, before: int) -> None:
        if found := self._find(given[0], _text(given[1])):
            self._name((*found, None))

    def _on_unlink(self, given: list[str], result: int, before: int) -> None:
        self._on_unlinkat(["AT_FDCWD", *given], result, before)

    _on_rmdir = _on_unlink

    def _on_renameat2(self, given: list[str], result: int, before: int) -> None:
        source = self._find(given[0], _text(given[1]))
        sink = self._find(given[2], _text(given[3]))
        if source and sink:
            node = (source[0].entries or {})[source[1]]
            self._name((*source, None), (*sink, node))

    _on_renameat = _on_renameat2

    def _on_rename(self, given: list[str], result: int, before: int) -> None:
        self._on_renameat2(["AT_FDCWD", given[0], "AT_FDCWD", given[1]], result, before)

    def _on_linkat(self, given: list[str], result: int, before: int) -> None:
        sink = self._find(given[2], _text(given[3]))
        draft = _SELF.fullmatch(_text(given[1]))
        assert draft is not None, given
        if sink:
            self._name((*sink, self._open[int(draft[1])].node))

    # -- descriptors -----------------------------------------------------------------------------

    def _on_close(self, given: list[str], result: int, before: int) -> None:
        self._open.pop(int(given[0]), None)

    def _on_dup(self, given: list[str], result: int, before: int) -> None:
        self._open.pop(result, None)
        if (opened := self._open.get(int(given[0]))) is not None:
            self._open[result] = opened

    _on_dup2 = _on_dup3 = _on_dup

    def _on_fcntl(self, given: list[str], result: int, before: int) -> None:
        if given[1].startswith("F_DUPFD"):
            self._on_dup(given, result, before)

    # -- bytes -----------------------------------------------------------------------------------

    def _on_write(self, given: list[str], count: int, before: int) -> None:
        if given[0] == "1":
            self._hear(_bytes(given[1])[:count])
        elif (opened := self._open.get(int(given[0]))) is not None:
            at = len(opened.node.data) if opened.appends else opened.at
            self._put(opened.node, at, _bytes(given[1])[:count])
            opened.at = at + count

    def _on_pwrite64(self, given: list[str], count: int, before: int) -> None:
        if (opened := self._open.get(int(given[0]))) is not None:
            self._put(opened.node, int(given[3]), _bytes(given[1])[:count])

    def _on_copy_file_range(self, given: list[str], count: int, before: int) -> None:
        source, sink = self._open[int(given[0])].node, self._open.get(int(given[2]))
        if sink is not None:
            at, to = (int(_NUMBER.findall(given[n])[0]) for n in (1, 3))
            self._put(sink.node, to, bytes(source.data[at : at + count]))

    def _on_ftruncate(self, given: list[str], result: int, before: int) -> None:
        if (opened := self._open.get(int(given[0]))) is not None:
            self._resize(opened.node, int(given[1]))

    def _put(self, node: Node, at: int, data: bytes) -> None:
        if data:
            put(node.data, at, data)
            self.operations.append(Written(node, at, data))

    def _resize(self, node: Node, size: int) -> None:
        resize(node.data, size)
        self.operations.append(Resized(node, size))

    def _on_fsync(self, given: list[str], result: int, before: int) -> None:
        if (opened := self._open.get(int(given[0]))) is not None:
            self.operations.append(Flushed(opened.node, before))

    _on_fdatasync = _on_fsync

    def _on_syncfs(self, given: list[str], result: int, before: int) -> None:
        self.operations.append(Flushed(None, before))

    def _hear(self, data: bytes) -> None:
        *lines, self._said = (self._said + data).split(b"\n")
        self.operations.extend(_promises(lines))


def _promises(lines: list[bytes]) -> Iterator[Said]:
    for line in lines:
        event = json.loads(line)
        if event["event"] == "target_done":
            yield Said(event["target"])


def put(data: bytearray, at: int, more: bytes) -> None:
    """Write as pwrite(2) does."""
    if at > len(data):
        resize(data, at)
    data[at : at + len(more)] = more


def resize(data: bytearray, size: int) -> None:
    """Cut off, or lengthen with zeros."""
    del data[size:]
    data.extend(bytes(size - len(data)))


def _arguments(text: str) -> list[str]:
    """No text has a comma in it: they are all in hexadecimal."""
    return [argument.strip() for argument in text.split(",")]


def _bytes(text: str) -> bytes:
    assert text.startswith('"') and text.endswith('"'), text[-80:]
    return bytes.fromhex(text[1:-1].replace("\\x", ""))


def _text(text: str) -> str:
    return _bytes(text).decode()
