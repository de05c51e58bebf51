"""The manifest's `headers`: by origin, with variables of the environment put in.

A manifest comes from outside, so it must not be able to send any variable anywhere: only those that
are meant for it (`SEGDL_VAR_…`) or that the user allowed by name. No value is ever shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial

from segdl.core.dataclass import dataclass
from segdl.core.manifest.fields import Fields
from segdl.core.manifest.values import WrongError
from segdl.core.manifest.wording import kind
from segdl.core.options import parse_header
from segdl.core.urls import URLProblem, parse_url

_OPEN_PREFIX = "SEGDL_VAR_"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
_ORIGIN = re.compile(r"[A-Za-z]+://[^/?#@]+")


@dataclass(frozen=True, slots=True)
class Variables:
    """The environment, and which of it a manifest may use beside `SEGDL_VAR_…`."""

    environment: Mapping[str, str]
    allowed: Collection[str]

    def expand(self, text: str) -> str:
        """`text` with each `${NAME}` replaced. Raises WrongError for one that is not to be had."""
        return _VARIABLE.sub(lambda found: self._value(found[1]), text)

    def _value(self, name: str) -> str:
        shown = name if len(name) <= 80 else name[:80] + "…"
        if not name.startswith(_OPEN_PREFIX) and name not in self.allowed:
            raise WrongError(
                f"uses the variable {shown}: allow it with --allow-env {shown},"
                f" or give it a name that begins with {_OPEN_PREFIX}"
            )
        if name not in self.environment:
            raise WrongError(f"uses the variable {shown}, which is not set in the environment")
        return self.environment[name]


def read_headers(origins: Fields, variables: Variables) -> dict[str, dict[str, str]]:
    """Header values by name, by canonical origin."""
    headers: dict[str, dict[str, str]] = {}
    for key, names in origins.mappings():
        origin = origins.read(_origin, key, key)
        values = _of_one_origin(names, variables)
        if origin in headers:
            origins.wrong("is the same origin as another key", key)
        if origin is not None:
            headers[origin] = values
    return headers


def _of_one_origin(names: Fields, variables: Variables) -> dict[str, str]:
    values: dict[str, str] = {}
    for key in names:
        header = names.take(key, partial(_header, variables, key))
        if header is None:
            continue
        if header[0].lower() in map(str.lower, values):
            names.wrong("is the same header as another key", key)
        values[header[0]] = header[1]
    return values


def _origin(key: object) -> str:
    """The canonical form of an origin."""
    what = "an origin such as https://files.example, without path, query and user"
    if not isinstance(key, str) or not _ORIGIN.fullmatch(key):
        raise WrongError(f"expected {what}")
    try:
        return parse_url(key).origin
    except URLProblem as problem:
        raise WrongError(f"expected {what}, found one that {problem}") from None


def _header(variables: Variables, name: str, value: object) -> tuple[str, str]:
    """Name and value as they are sent."""
    if not isinstance(value, str):
        raise WrongError(f"expected text, found {kind(value)}")
    if ":" in name:
        raise WrongError("expected a header's name as the key")
    text = variables.expand(value)
    try:
        return parse_header(f"{name}:{text}")
    except ValueError as problem:
        raise WrongError(str(problem)) from None
