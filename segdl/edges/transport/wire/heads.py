"""What the head of a final answer says, whoever has read it."""

from __future__ import annotations

from collections.abc import Sequence

from segdl.core.dataclass import dataclass

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class FinalHead:
    """The head of a final answer, and what follows from it for the body."""

    status: int
    headers: RawHeaders  # as they came
    early: bytes  # what came with the head, and is not of it; whoever parses the body has it too
    length: int | None  # bytes; None where only the body's framing, or the close, will tell
    keeps: bool  # the server takes another request after the body
