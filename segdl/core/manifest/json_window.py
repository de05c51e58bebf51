"""A JSON text value by value, with a small window of it in memory.

The scanner of `json` is fast but wants a whole text, and gives a whole tree: four times the bytes
of a long order. Here it is given one file of the order at a time. Where the window ends within a
value, the scan fails, the window grows, and the scan begins again.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder

_SPACE = re.compile(r"[ \t\n\r]*")
STEP = 256 * 1024


class Window:
    """Where reading has come to in a text that is UTF-8. Raises JSONDecodeError, of the window."""

    def __init__(self, data: bytes, decoder: JSONDecoder, step: int = STEP) -> None:
        """`step` is by how many bytes the window grows."""
        self.line = 1  # on which the window begins
        self._step = step
        self._text = ""
        self._at = 0
        self._data = memoryview(data)
        self._scan = decoder.raw_decode
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or not self._grow(self._step):
                return self._text[self._at : self._at + 1]

    def take(self, wanted: str, problem: str) -> str:
        """The next character, if it is one of those that are wanted."""
        char = self.peek()
        if not char or char not in wanted:
            raise self.error(problem)
        self._at += 1
        return char

    def value(self) -> object:
        """The next value, whole."""
        self.peek()
        step = self._step
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except JSONDecodeError:
                if not self._grow(step):
                    raise
            else:
                # A number may go on behind the window, where it looks ended: `1e+` is read as 1.
                if end + 2 < len(self._text) or not self._grow(step):
                    self._at = end
                    return value
            step *= 2

    def key(self) -> str:
        """The next key, and past its colon."""
        if self.peek() != '"':
            raise self.error("Expecting property name enclosed in double quotes")
        key = self.value()
        self.take(":", "Expecting ':' delimiter")
        return str(key)

    def members(self, brackets: str) -> Iterator[int]:
        """Stops before each member of the list or the mapping that begins here, and counts them."""
        opening, closing = brackets[0], brackets[1]
        self.take(opening, "Expecting value")
        if self.peek() == closing:
            self.take(closing, "")
            return
        number = 0
        while True:
            yield number
            number += 1
            if self.take(closing + ",", "Expecting ',' delimiter") == closing:
                return

    def error(self, problem: str) -> JSONDecodeError:
        return JSONDecodeError(problem, self._text, self._at)

    def _grow(self, step: int) -> bool:
        """Take in more of the text, let go of what was read. False at the end."""
        if not self._data:
            return False
        chunk, self._data = self._data[:step], self._data[step:]
        self.line += self._text.count("\n", 0, self._at)
        self._text = self._text[self._at :] + self._decode(chunk)
        self._at = 0
        return True
