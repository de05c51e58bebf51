"""A secret blotted out of a text, in whatever spelling a server has put it there.

An echo seldom comes as it was sent: JSON has `\\/`, HTML `&#43;`, a web server decodes or encodes
percents once more, or writes them in lower case. Letters and digits stay what they are in all of
them, so a secret is looked for by its longest run of those, and only then by every spelling.
"""

from __future__ import annotations

import re
from dataclasses import field

from segdl.core.dataclass import dataclass

SHORTEST = 8  # characters: less is in too many texts
_RUN = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What nobody is to read, as it is meant: without percents or escapes."""

    text: str
    _run: str = field(compare=False)  # its longest run of letters and digits, in lower case

    @classmethod
    def of(cls, text: str) -> Secret | None:
        """None where it is too short to be told from other texts."""
        runs = _RUN.findall(text.lower())
        return cls(text, max(runs, key=len, default="")) if len(text) >= SHORTEST else None

    def blot(self, text: str) -> str:
        """`text` without it."""
        if self._run not in text.lower():
            return text
        return re.sub("".join(map(_spelled, self.text)), "***", text, flags=re.IGNORECASE)


def _spelled(character: str) -> str:
    """A pattern of all the ways in which a character of a secret may be written."""
    if character.isascii() and character.isalnum():
        return character
    if character in " +":
        return rf"(?:[ +]|{_escaped('+')}|{_escaped(' ')})"
    return rf"(?:\\?{re.escape(character)}|{_escaped(character)})"


def _escaped(character: str) -> str:
    number = ord(character)
    octets = character.encode("latin-1" if number < 256 else "utf-8", "replace")
    percents = "".join(f"%(?:25)*{byte:02x}" for byte in octets)
    named = {"&": "|&amp;", "<": "|&lt;", ">": "|&gt;", '"': "|&quot;"}.get(character, "")
    return rf"{percents}|\\u{number:04x}|&#(?:0*{number}|x0*{number:x});{named}"
