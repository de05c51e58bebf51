"""Whose process this is: segdl's own, or that of a program that uses the library.

In its own process segdl may do what would be felt everywhere else in it.
"""

_ours = [False]


def claim() -> None:
    """Say that the process is segdl's own: it does nothing else."""
    _ours[0] = True


def is_ours() -> bool:
    """Whether `claim` was called."""
    return _ours[0]
