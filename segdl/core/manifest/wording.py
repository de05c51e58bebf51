"""How outside text may stand in a fault: escaped, cut, without secrets.

A manifest that is not valid can hold a share URL anywhere: as a path, as a size, as a key (YAML
takes an unquoted URL in `{…}` apart at its commas). So whatever is shown ends at the first
character behind which a secret could begin, in whatever place it stood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from segdl.core.dataclass import dataclass

_LONGEST = 80
_SECRET = re.compile(r"(?<=://)|[?&=]")


@dataclass(frozen=True, slots=True)
class Literal:
    """A JSON literal that no key takes, as it was written: `1.5`, `NaN`, 5,000 digits."""

    text: str


def shown(text: str) -> str:
    """`text` in quotes: nothing unprintable, at most 80 characters, no query and no user name."""
    if "@" in text:
        return "'…'"
    cut = _SECRET.search(text[: _LONGEST + 1])
    end = cut.end() if cut else _LONGEST
    return repr(text[:end] + "…" if end < len(text) else text)


def printable(text: str) -> str:
    """`text` without quotes, with everything escaped that a terminal would act on."""
    return text if text.isprintable() else repr(text)[1:-1]


def found(value: object) -> str:
    """What stands where something else was expected; containers by their kind."""
    if isinstance(value, Literal):
        return shown(value.text)[1:-1]
    if isinstance(value, str):
        return shown(value) if value else "nothing"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return kind(value)


def kind(value: object) -> str:
    """What sort of thing `value` is, in the words of a manifest."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "a number" if isinstance(value, int | Literal) else "text"


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known word that looks most like this one, else nothing."""
    from difflib import get_close_matches

    like = {each.replace("_", ""): each for each in known}
    plain = re.sub("[-_ ]", "", word[:40].lower())
    match = get_close_matches(plain, like, n=1)
    return f"; did you mean {like[match[0]]}?" if match else ""
