"""Sizes, times, counts, names and messages as people read them."""

from __future__ import annotations

from segdl.core.complaint import printable

ELLIPSIS = "\u2026"


def size(count: float) -> str:
    """Bytes, as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1023.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def rate(count: float) -> str:
    """Bytes a second, as `12.3 MiB/s`."""
    return f"{size(count)}/s"


def span(seconds: float) -> str:
    """Seconds, as `4.2 s`, `3 min 20 s` or `2 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Seconds, as `0:12` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def percent(part: int, whole: int | None) -> str:
    """`42 %`, or the bytes where the whole is not known."""
    return f"{part * 100 // whole} %" if whole else size(part)


def shorten(name: str, width: int, mark: str = ELLIPSIS) -> str:
    """A name cut in its middle to `width` characters: its end tells files apart."""
    if len(name) <= width:
        return name
    left = max(width - len(mark), 0)
    return name[: left // 2] + mark[:width] + name[len(name) - (left - left // 2) :]


def quoting(message: str, request_id: str | None) -> str:
    """A message on one line, with the request id to quote to the server's operator."""
    quoted = request_id and request_id not in message
    return printable(message, 400) + (f" (request id {printable(request_id or '')})" * bool(quoted))
