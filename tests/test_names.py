"""core.manifest.names: what every system can store (FAULTS.md, M01 and M02)."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segdl.core.manifest import names
from segdl.core.manifest.names import Collision, collisions, component_problem, path_problem

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

REFUSED = {
    "is absolute": ["/x", "//x", "/", "/../x"],
    "`..`": ["..", ".", "../x", "a/../../x", "a/./b", "a/..", "./a"],
    "empty component": ["", "a//b", "a/", "a//"],
    "backslash": ["a\\b", "a\\..\\b", "\\\\srv\\s", "\\", "..\\x"],
    "one of < > :": ["C:x", "C:/x", "a:b", "a?", "a*", 'a"b', "<a>", "a|b", "x/a:stream"],
    "control, zero-width or direction": [
        *("a\nb", "a\x00b", "\x7f", "a\tb", "\x1b[2J", "a\u0085b", "a\u009bb"),
        *("a\u202egpj.exe", "\u200b", "a\u200db", "a\u2066b", "\ufeffa", "a\u2028b", "a\u00adb"),
        *("\ud800", "a\udcffb", "a\u3164b", "a\u034fb", "\U000e0041", "\uffff"),
    ],
    "ends in a dot or a space": ["a.", "a ", "a./b", "dir /b", "...", "a. ."],
    "device": [
        *("CON", "con", "nul.txt", "NUL .txt", "a/aux/b", "com1", "LPT9.7z", "COM¹", "prn.tar.gz"),
        *("conin$", "CONOUT$"),
    ],
    "segdl's own": [".segdl", ".SEGDL/x", "a/.Segdl", "SEGDL~1", ".\u017fegdl"],
    "255 bytes": ["a" * 256, "é" * 128, "x/" + "a" * 256 + "/y"],
    "1024 bytes": ["a/" * 512 + "b", "x" * 5000],
}


@pytest.mark.parametrize(
    ("problem", "path"), [(problem, path) for problem, paths in REFUSED.items() for path in paths]
)
def test_refused(problem: str, path: str) -> None:
    assert problem in (path_problem(path) or "legal")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a",
            "chips/318677224273.7z",
            ".hidden",
            "a.b.c",
            "-rf",
            "~",
            "a b",
            " a",
            "é",
            "日本語",
            "😀",
        ),
        *(
            "console",
            "nul-1",
            "com0",
            "com10",
            "lpt",
            "auxiliary.txt",
            "segdl",
            ".segdl2",
            "segdl~x",
        ),
        *("a" * 255, "é" * 127, "a=b&c", "(1) [2] {3} #4 %20 $x 'y' !", "e\u0301", "a,b;c@d"),
    ],
)
def test_legal(path: str) -> None:
    assert path_problem(path) is None


def test_a_component_has_no_separator() -> None:
    assert "holds a `/`" in (component_problem("a/b") or "legal")


@given(st.text(st.sampled_from("aZ0_-. ~+conulptx1\u00b9:\x00"), max_size=8) | st.text(max_size=20))
@example("con")
@example("LPT1.x")
@example("a.")
def test_the_shortcut_takes_nothing_that_a_rule_refuses(name: str) -> None:
    if names._PLAIN.fullmatch(name):
        assert not any(wrong(name) for wrong, _ in names._RULES)


@given(st.text(st.characters(), max_size=40))
def test_any_text_is_judged(path: str) -> None:
    problem = path_problem(path)
    if problem is None:
        assert not path.startswith("/") and ".." not in path.split("/")
        assert path.isprintable() or any(c.isspace() or ord(c) > 0x7F for c in path)
        path.encode()  # no lone surrogate
    else:
        assert problem.isprintable()


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["a", "b"], []),
        (["a", "a"], [(1, 0, False)]),
        (["a", "A", "a"], [(1, 0, False), (2, 0, False)]),
        (["stra\u00dfe", "STRASSE"], [(1, 0, False)]),
        (["caf\u00e9", "cafe\u0301"], [(1, 0, False)]),
        (["\u212b", "\u00e5"], [(1, 0, False)]),  # the Angstrom sign and the letter
        (["d/a", "D/A"], [(1, 0, False)]),
        (["a", "a/b"], [(1, 0, True)]),
        (["A/b/c", "a"], [(0, 1, True)]),
        (["a", "a/b", "a/b", "a/c"], [(1, 0, True), (2, 1, False), (3, 0, True)]),
        (["a b", "a", "a.7z", "a/x", "a-b"], [(3, 1, True)]),  # what sorts between a and a/x
        (["a/b", "a/bc", "ab"], []),
        ([None, "a", None, "A"], [(3, 1, False)]),
        ([], []),
    ],
)
def test_collisions(paths: list[str | None], found: list[tuple[int, int, bool]]) -> None:
    assert {Collision(*each) for each in found} == set(collisions(paths))


LETTERS = st.text(st.sampled_from("aAbß\u00e9\u0301e."), min_size=1, max_size=2)
PATHS = st.lists(st.lists(LETTERS, min_size=1, max_size=3).map("/".join), max_size=8)


def _folded(path: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


@given(PATHS)
def test_collisions_are_those_of_every_pair(paths: list[str]) -> None:
    """The one walk over sorted paths finds what a look at every pair finds."""
    hit = set()
    for (m, one), (n, other) in itertools.permutations(enumerate(map(_folded, paths)), 2):
        if (one == other and m > n) or one.startswith(other + "/"):
            hit.add(m)
    found = list(collisions(paths))
    assert {each.number for each in found} == hit
    for each in found:
        one, other = _folded(paths[each.number]), _folded(paths[each.other])
        assert one.startswith(other + "/") if each.inside else one == other
