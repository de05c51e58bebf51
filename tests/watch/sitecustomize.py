"""In every segdl that a test starts: no child of it may be given a secret.

Python imports this by itself where the folder is on PYTHONPATH (tests.commands puts it there).
"""

import os
import sys

_CANARY = "CANARY7d41c09be5f26a83"
_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system"}


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in _STARTS and _CANARY in repr(arguments[:2]):  # program and arguments
        os.write(2, b"a child was given CANARY7d41c09be5f26a83\n")
        os._exit(99)


if "SEGDL_WATCHED" in os.environ:
    sys.addaudithook(_watch)
