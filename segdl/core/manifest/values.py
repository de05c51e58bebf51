"""What a single value of the manifest may be: one reader for each kind.

A reader takes what the syntax found, text from YAML and more from JSON, and gives the typed value,
or raises `WrongError` with what was expected and what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from segdl.core import digests
from segdl.core.manifest.names import component_problem, path_problem
from segdl.core.manifest.wording import found, nearest, shown
from segdl.core.options import LARGEST_SEGMENT, LARGEST_SIZE, SMALLEST_SEGMENT, parse_size
from segdl.core.urls import ShareURL, URLProblem, parse_url

VERSION = 1
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f]+", re.ASCII)


class WrongError(ValueError):
    """A value that the schema does not take; the message is ready to be shown."""


def version(value: object) -> int:
    """The version of the manifest's format."""
    if value == str(VERSION) or (value == VERSION and not isinstance(value, bool)):
        return VERSION
    raise WrongError(f"expected {VERSION} (this segdl reads version 1), found {found(value)}")


def text(value: object) -> str:
    if not isinstance(value, str):
        raise WrongError(f"expected text, found {found(value)}")
    return value


def listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise WrongError(f"expected a list, found {found(value)}")
    return value


def items(value: object) -> list[object]:
    """A list with something in it."""
    if value == []:
        raise WrongError("expected at least one item, found an empty list")
    return listed(value)


def size(value: object) -> int:
    """Bytes, from 0 to 2**63-1: a number, or text such as 8MiB."""
    if type(value) is int and 0 <= value <= LARGEST_SIZE:
        return value
    try:
        number = parse_size(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= LARGEST_SIZE:
        what = "a size below 8 EiB such as 8MiB, 10MB or 1024"
        raise WrongError(f"expected {what}, found {found(value)}")
    return number


def slice_size(value: object) -> int:
    """Bytes, at least one: no range request can ask for none."""
    number = size(value)
    if not number:
        raise WrongError("expected a size of at least 1 byte, found 0")
    return number


def segment_size(value: object) -> int:
    """Bytes, within the bounds of a segment."""
    number = size(value)
    if not SMALLEST_SEGMENT <= number <= LARGEST_SEGMENT:
        raise WrongError(f"expected a size from 64KiB to 1GiB, found {found(value)}")
    return number


def component(value: object) -> str:
    """A name that one file or folder can have on every system."""
    name = text(value)
    if problem := component_problem(name):
        raise WrongError(
            f"expected a name that every system can store, found {_why(name, problem)}"
        )
    return name


def path(value: object) -> str:
    """A relative path that stays in the output directory, on every system."""
    name = text(value)
    if problem := path_problem(name):
        what = "a relative path that every system can store"
        raise WrongError(f"expected {what}, found {_why(name, problem)}")
    return name


def _why(name: str, problem: str) -> str:
    return f"{shown(name)}, which {problem}" if name else "nothing"


def url(value: object) -> ShareURL:
    """A share URL. Nothing of it is ever shown."""
    if value == "":
        raise WrongError("expected a URL, found nothing")
    try:
        return parse_url(text(value))
    except URLProblem as problem:
        raise WrongError(f"expected a URL, found one that {problem}") from None


def algorithm(value: object) -> str:
    """The name of a digest."""
    name = text(value)
    if name not in digests.ALGORITHMS:
        known = ", ".join(sorted(digests.ALGORITHMS))
        guess = nearest(name, digests.ALGORITHMS)
        raise WrongError(f"expected one of {known}, found {found(name)}{guess}")
    return name


@cache
def digest_value(of: str) -> Callable[[object], str]:
    """A reader of this algorithm's values: hexadecimal, given back in lower case."""
    digits = digests.hex_digits(of)

    def read(value: object) -> str:
        if isinstance(value, str) and len(value) == digits and _HEXADECIMAL.fullmatch(value):
            return value.lower()
        what = f"{digits} hexadecimal digits ({of})"
        count = f", {len(value)} characters" if isinstance(value, str) and value else ""
        raise WrongError(f"expected {what}, found {found(value)}{count}")

    return read
