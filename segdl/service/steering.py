"""What a run can be asked for through its control socket, and the asking."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import Any

from segdl.core.errors import LockedError, UsageError
from segdl.core.manifest import parse_manifest
from segdl.core.options import Options
from segdl.core.renewal import Renewed
from segdl.engine import Beside
from segdl.engine.control import Control
from segdl.service.control_socket import Act, Refused, Request, ask, served

_SHOWN = "<fresh manifest>"


def acts(control: Control, options: Options) -> dict[str, Act]:
    """What a run of `control` does when it is asked."""

    def refresh(request: Request) -> dict[str, Any]:
        text = request.get("manifest")
        if not isinstance(text, str):
            raise UsageError("expected a manifest")
        data = text.encode("utf-8", "surrogatepass")
        manifest = parse_manifest(data, _SHOWN, allow_env=options.allow_env, environment=os.environ)
        renewed = control.renew(manifest)
        if renewed is None:
            raise LockedError("the run there is only starting, or ending: ask again in a moment")
        if renewed.foreign:
            raise UsageError("the order under way there is another: no file of it is in this one")
        return asdict(renewed)

    return {"refresh": refresh}


def steered(control: Control, options: Options) -> Beside:
    """What lets a run of `control` be steered from outside, beside it."""
    return partial(served, acts=acts(control, options))


def hand_over(output: str | os.PathLike[str], manifest: bytes) -> Renewed | Refused | None:
    """Give a valid manifest to the run in a directory; None if there is none that takes it."""
    answer = ask(output, "refresh", manifest=manifest.decode("utf-8", "replace"))
    if not isinstance(answer, dict):
        return answer
    counts = (int(answer.get(name, 0)) for name in Renewed.__dataclass_fields__)
    return Renewed(*counts)
