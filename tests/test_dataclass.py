"""core.dataclass: what the standard one does, segdl's does too."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import sys
import types
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import pytest

import segdl
from segdl.core import dataclass as ours

ROOT = Path(segdl.__file__).parent
Decorator = Callable[..., Any]
FROZEN = {"frozen": True, "slots": True}


def plain() -> type:
    class Some:
        """Fields with and without a default, a class variable, a method."""

        first: int
        second: str = "two"
        third: list[int] = field(default_factory=list)
        kind: ClassVar[str] = "some"

        @property
        def double(self) -> int:
            return 2 * self.first

    return Some


def choosy() -> type:
    class Choosy:
        """Fields that are not shown, or not compared; one begins with a line."""

        _run: str
        run: str = field(default_factory=lambda: "r", repr=False)
        _default_run: int = field(default=3, compare=False)

    return Choosy


def checked() -> type:
    class Checked:
        """It looks at what it is given."""

        least: int
        most: int

        def __post_init__(self) -> None:
            if self.least > self.most:
                raise ValueError("upside down")

    return Checked


def single() -> type:
    class Single:
        """One field."""

        only: tuple[int, ...]

    return Single


def empty() -> type:
    class Empty:
        """None at all."""

    return Empty


def outspoken() -> type:
    class Outspoken:
        """It has methods of its own."""

        one: int
        other: int = 0

        def __repr__(self) -> str:
            return "outspoken"

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and self.one == vars_of(other)["one"]

    return Outspoken


GIVEN: list[tuple[Callable[[], type], list[tuple[tuple[Any, ...], dict[str, Any]]]]] = [
    (plain, [((1,), {}), ((1, "x"), {}), ((1,), {"third": [2]}), ((2,), {"second": "two"})]),
    (choosy, [(("a",), {}), (("a", "b"), {}), (("a",), {"_default_run": 4}), (("c",), {})]),
    (checked, [((1, 2), {}), ((1,), {"most": 2}), ((0, 0), {})]),
    (single, [((()), {"only": ()}), (((1, 2),), {})]),
    (empty, [((), {})]),
    (outspoken, [((1,), {}), ((1, 2), {}), ((2,), {})]),
]
HOW: list[dict[str, bool]] = [
    FROZEN, {"slots": True}, {**FROZEN, "kw_only": True}, {**FROZEN, "repr": False},
]  # fmt: skip


def vars_of(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def both(make: Callable[[], type], **how: bool) -> tuple[Any, Any]:
    """The same class, decorated by the standard library and by segdl."""
    decorators: tuple[Decorator, Decorator] = (dataclasses.dataclass, ours.dataclass)
    standard, own = (decorate(**how)(make()) for decorate in decorators)
    return standard, own


def told(value: Any) -> str:
    return re.sub(r" at 0x\w+", "", repr(value))


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(("make", "calls"), GIVEN, ids=lambda g: getattr(g, "__name__", ""))
def test_it_is_what_the_standard_one_is(
    make: Callable[[], type],
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
    how: dict[str, bool],
) -> None:
    standard, own = both(make, **how)
    assert own.__match_args__ == standard.__match_args__
    assert own.__slots__ == standard.__slots__
    assert list(inspect.signature(own).parameters) == list(inspect.signature(standard).parameters)
    assert (own.__hash__ is None) == (standard.__hash__ is None)
    made: tuple[list[Any], list[Any]] = ([], [])
    for args, named in calls:
        names = [f.name for f in dataclasses.fields(own)]
        given = dict(zip(names, args, strict=False)) | named if how.get("kw_only") else named
        places = () if how.get("kw_only") else args
        for kind, values in zip((standard, own), made, strict=True):
            values.append(kind(*places, **given))
        theirs, mine = made[0][-1], made[1][-1]
        assert vars_of(mine) == vars_of(theirs) == dataclasses.asdict(mine)
        assert told(mine) == told(theirs)
        for again in (copy.copy(mine), copy.deepcopy(mine), dataclasses.replace(mine)):
            assert type(again) is own and vars_of(again) == vars_of(mine)
        assert not hasattr(mine, "__dict__")
    same = [[one == other for one in values for other in values] for values in made]
    assert same[0] == same[1]
    hashed = [
        [hash(one) == hash(other) for one in values for other in values]
        for values in made
        if own.__hash__ is not None and make is not plain  # which has a list
    ]
    assert not hashed or hashed[0] == hashed[1]
    assert made[1][0] != made[0][0] and made[1][0] != 5


@pytest.mark.parametrize("call", [((), {}), ((1, 2, 3, 4), {}), ((1,), {"unknown": 1}),
                                  ((1,), {"first": 1})])  # fmt: skip
def test_a_wrong_call_is_refused_in_the_same_words(call: tuple[Any, dict[str, Any]]) -> None:
    words = []
    for kind in both(plain, **FROZEN):
        with pytest.raises(TypeError) as refused:
            kind(*call[0], **call[1])
        words.append(str(refused.value))
    assert words[0] == words[1]


def test_each_object_has_a_default_of_its_own() -> None:
    _, kind = both(plain, slots=True)
    one, other = kind(1), kind(1)
    one.third.append(3)
    assert other.third == []


def test_what_is_frozen_stays() -> None:
    _, kind = both(plain, **FROZEN)
    value = kind(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.first = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.second
    with pytest.raises(AttributeError):
        value.new = 1
    assert vars_of(value) == {"first": 1, "second": "two", "third": []}


def test_what_is_not_frozen_changes() -> None:
    _, kind = both(plain, slots=True)
    value = kind(1)
    value.first = 2
    assert value == kind(2)


def test_what_it_is_given_is_checked() -> None:
    _, kind = both(checked, **FROZEN)
    with pytest.raises(ValueError, match="upside down"):
        kind(2, 1)


def test_one_is_made_of_another_with_a_change() -> None:
    _, kind = both(plain, **FROZEN)
    assert dataclasses.replace(kind(1, "x"), first=3) == kind(3, "x")
    match kind(4, "y"):
        case kind(first, "y"):
            assert first == 4
        case _:
            raise AssertionError("no match")


def test_classes_inherit_fields() -> None:
    @ours.dataclass(frozen=True, slots=True, kw_only=True)
    class Above:
        time: float

    @ours.dataclass(frozen=True, slots=True, kw_only=True)
    class Below(Above):
        name: str
        time: float = 2.0

    assert vars_of(Below(name="b")) == {"time": 2.0, "name": "b"}
    assert Below(name="b") != Above(time=2.0)
    assert told(Below(name="b")).endswith("Below(time=2.0, name='b')")


def test_its_objects_are_pickled() -> None:
    module = types.ModuleType("pickled")
    for make, value in ((plain, (1, "x", [3])), (single, ((1, 2),)), (empty, ())):
        _, kind = both(make, **FROZEN)
        kind.__module__, kind.__qualname__ = "pickled", kind.__name__
        setattr(module, kind.__name__, kind)
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(sys.modules, "pickled", module)
            assert pickle.loads(pickle.dumps(kind(*value))) == kind(*value)


def test_all_of_segdl_takes_it() -> None:
    for path in ROOT.rglob("*.py"):
        if path.name != "dataclass.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"^from dataclasses import .*\bdataclass\b", text, re.M), path
            assert "dataclasses.dataclass" not in text, path
