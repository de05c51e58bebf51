"""Secrets blotted out of a server's words, which may echo what it was sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from segdl.core.errors import SegdlError
from segdl.core.secrets import Secret
from segdl.core.urls import ShareURL


class Blotter:
    """What a connection sends, and nobody is to read: header values, a proxy's password, and the
    queries of the share URLs on the way to an answer."""

    def __init__(self, values: Iterable[str]) -> None:
        self._secrets = _pieces(values)

    def __bool__(self) -> bool:
        """Whether there is anything to blot out beside the URLs' queries."""
        return bool(self._secrets)

    def learn(self, values: Iterable[str]) -> None:
        """More that is sent and not to be read."""
        self._secrets += _pieces(values)

    def clean(self, way: Sequence[ShareURL], text: str) -> str:
        """`text` without what it echoes of any of it."""
        return self.without_values(masked(way, text))

    def without_values(self, text: str) -> str:
        """`text`, in which no share URL is echoed, without the rest."""
        for secret in self._secrets:
            text = secret.blot(text)
        return text

    @contextmanager
    def cleaning(self, way: Sequence[ShareURL]) -> Iterator[None]:
        """No error that leaves this tells any of it."""
        try:
            yield
        except SegdlError as error:
            error.message = self.clean(way, error.message)
            error.args = (error.message,)
            error.code = self.clean(way, error.code) if error.code else None
            error.request_id = self.clean(way, error.request_id) if error.request_id else None
            raise


def _pieces(values: Iterable[str]) -> tuple[Secret, ...]:
    """Whole values before the words in them."""
    found = {piece for value in values for piece in (value, *value.split())}
    return tuple(filter(None, map(Secret.of, sorted(found, key=len, reverse=True))))


def masked(way: Sequence[ShareURL], text: str) -> str:
    """`text` without what it echoes of these URLs' queries."""
    for url in way:
        text = url.mask(text)
    return text
