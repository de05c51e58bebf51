"""The command lines: segdl's, its peers', the floor's."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from origin import File

HERE = Path(__file__).resolve().parent
BARE = (sys.executable, "-I", "-S")
ARIA = ("aria2c", "--no-conf", "-q", "--file-allocation=none")
EIGHT = "8"
PYTHON = "sh"  # what needs nothing but the interpreter that is running


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be fetched, from where, to where; `work` takes the lists that tools read."""

    files: tuple[File, ...]
    base: str
    out: Path
    work: Path
    ca: Path | None = None
    sha256: bool = False

    def url(self, file: File) -> str:
        return f"{self.base}/{file.path}"

    def listed(self, name: str, lines: Sequence[str]) -> str:
        """A list for a tool to read, stored."""
        path = self.work / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    def triples(self) -> str:
        """[[url, path, size], …] as JSON, stored."""
        found = [(self.url(file), str(self.out / file.path), file.size) for file in self.files]
        return self.listed("LIST.json", [json.dumps(found)])


Make = Callable[[Job], list[str]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A row: its name, what must be here for it, its command line, and the one that goes on.

    `note` is said wherever it runs, `again` where it goes on.
    """

    name: str
    needs: str
    make: Make
    resume: Make | None = None
    note: str = ""
    again: str = ""


def present(needs: str) -> bool:
    """Whether a program, or the module of `module:NAME`, is here."""
    kind, _, module = needs.rpartition(":")
    if kind:
        return importlib.util.find_spec(module) is not None
    return shutil.which(needs) is not None


def manifest(job: Job, files: Sequence[Mapping[str, object]]) -> str:
    """An order's manifest in JSON."""
    return job.listed("LIST.json", [json.dumps({"segdl": 1, "order": "bench", "files": files})])


def segdl(job: Job, *more: str) -> list[str]:
    """`segdl get` over a manifest in JSON, which programs write and which is read fastest."""
    files: list[dict[str, object]] = []
    for file in job.files:
        digest = {"hash": {"sha256": file.sha256}} if job.sha256 else {}
        files.append({"path": file.path, "url": job.url(file), "size": file.size, **digest})
    trust = ["--ca-file", str(job.ca)] if job.ca else []
    get = [sys.executable, "-m", "segdl", "get", manifest(job, files), "-o", str(job.out)]
    return [*get, "--progress", "none", *trust, *more]


def floor(job: Job, threads: int = 4) -> list[str]:
    trust = [str(job.ca)] if job.ca else []
    return [*BARE, str(HERE / "floor.py"), str(threads), job.triples(), *trust]


def aria2c(job: Job, *more: str) -> list[str]:
    lines = []
    for file in job.files:
        lines += [job.url(file), f"  out={file.path}"]
        if job.sha256:
            lines.append(f"  checksum=sha-256={file.sha256}")
    trust = [f"--ca-certificate={job.ca}"] if job.ca else []
    listed = job.listed("LIST", lines)
    return [*ARIA, "-i", listed, "-d", str(job.out), *trust, *more]


def curl(job: Job, *more: str) -> list[str]:
    lines = []
    for file in job.files:
        lines += [f'url = "{job.url(file)}"', f'output = "{job.out / file.path}"']
    trust = ["--cacert", str(job.ca)] if job.ca else []
    base = ["curl", "-q", "-sS", "-f", "--create-dirs", *trust, *more]
    return [*base, "-K", job.listed("LIST", lines)]


def wget(job: Job, *more: str) -> list[str]:
    listed = job.listed("LIST", [job.url(file) for file in job.files])
    trust = [f"--ca-certificate={job.ca}"] if job.ca else []
    return [
        "wget",
        "--no-config",
        "-q",
        "-x",
        "-nH",
        "-P",
        str(job.out),
        *trust,
        *more,
        "-i",
        listed,
    ]


def wget2(job: Job, *more: str) -> list[str]:
    listed = job.listed("LIST", [job.url(file) for file in job.files])
    trust = [f"--ca-certificate={job.ca}"] if job.ca else []
    base = ["wget2", "-q", "-x", "-nH", "-P", str(job.out), *trust]
    return [*base, *more, "-i", listed]


def axel(job: Job, connections: int = 8) -> list[str]:
    """A file at a time: axel knows no orders."""
    lines = [f"set -e; cd '{job.out}'"]
    lines += [f"axel -q -N -n {connections} -o {file.path} {job.url(file)}" for file in job.files]
    return ["sh", job.listed("LIST", lines)]


def rclone(job: Job, *more: str) -> list[str]:
    listed = job.listed("LIST", [f"{job.url(file)},{file.path}" for file in job.files])
    trust = ["--ca-cert", str(job.ca)] if job.ca else []
    base = ["rclone", "copyurl", "-q", "--config", "", "--urls", listed, str(job.out)]
    return [*base, "--transfers", EIGHT, *trust, *more]


def library(job: Job, client: str, *arguments: int) -> list[str]:
    """A few lines of Python around a library."""
    script = str(HERE / "clients" / f"{client}_client.py")
    return [sys.executable, script, job.triples(), *map(str, arguments)]


def _aria(*options: str) -> Make:
    return lambda job: aria2c(job, *options)


def _curl(*options: str) -> Make:
    return lambda job: curl(job, *options)


def _wget2(*options: str) -> Make:
    return lambda job: wget2(job, *options)


def _segdl(*options: str) -> Make:
    return lambda job: segdl(job, *options)


PARALLEL = ("--parallel", "--parallel-immediate", "--parallel-max", EIGHT)
ORDER_ARIA = ("-j8", "-x4", "-s4", "-k8M")
SEGDL = Peer("segdl", PYTHON, segdl, segdl)
SEGDL_8 = Peer("segdl", PYTHON, _segdl("-c", EIGHT))
FLOOR = Peer("floor", PYTHON, floor)
FLOOR_8 = Peer("floor", PYTHON, partial(floor, threads=8))
AGAIN = "cannot resume: starts again"

ARIA_ORDER = Peer(
    "aria2c",
    "aria2c",
    _aria(*ORDER_ARIA),
    _aria(*ORDER_ARIA, "-c"),
)
CURL_ORDER = Peer("curl", "curl", _curl(*PARALLEL), _curl(*PARALLEL, "--no-fail", "-C", "-"))
WGET = Peer("wget", "wget", wget, lambda job: wget(job, "-c"))
WGET2 = Peer("wget2", "wget2", _wget2("--max-threads=8"), _wget2("--max-threads=8", "-c"))
AXEL = Peer("axel", "axel", axel, note="LIST: `axel -q -N -n 8 -o PATH URL` for each file")
RCLONE = Peer("rclone", "rclone", rclone, rclone, again=AGAIN)


def _library(name: str, *arguments: int) -> Peer:
    return Peer(name, f"module:{name}", lambda job: library(job, name, *arguments))


ORDER = (
    SEGDL, ARIA_ORDER, CURL_ORDER, WGET, WGET2, AXEL, RCLONE,
    _library("hf_transfer", 8), _library("pypdl", 4, 4), _library("parfive", 8, 4),
    _library("obstore", 8), FLOOR,
)  # fmt: skip
BIG = (
    SEGDL, Peer("aria2c", "aria2c", _aria("-x16", "-s16", "-k1M")), Peer("curl", "curl", _curl()),
    WGET, Peer("wget2", "wget2", _wget2("--max-threads=8", "--chunk-size=64M")),
    Peer("wget2 whole", "wget2", _wget2()), AXEL, RCLONE, _library("hf_transfer", 8),
    _library("pypdl", 1, 8), _library("parfive", 1, 8), _library("obstore", 8), FLOOR,
)  # fmt: skip
TLS = (
    SEGDL, ARIA_ORDER, CURL_ORDER, WGET, WGET2, RCLONE, _library("pypdl", 4, 4),
    _library("parfive", 8, 4), FLOOR,
)  # fmt: skip
SMALL = (
    SEGDL,
    *(
        Peer(f"aria2c {' '.join(options)}", "aria2c", _aria(*options))
        for options in (("-j4", "-x1"), ("-j8", "-x1"), ("-j16", "-x1"))
    ),
    CURL_ORDER, WGET, WGET2, RCLONE, _library("parfive", 8, 1), _library("obstore", 8), FLOOR,
)  # fmt: skip
THROTTLED = (
    SEGDL_8, Peer("aria2c", "aria2c", _aria("-j8", "-x1", "-s1")),
    Peer("aria2c -j2 -x4", "aria2c", _aria("-j2", "-x4", "-s4", "-k1M")), CURL_ORDER, WGET2, AXEL,
    RCLONE, _library("hf_transfer", 8), _library("pypdl", 2, 4), _library("parfive", 8, 1),
    _library("obstore", 8), FLOOR_8,
)  # fmt: skip
RESUME = (SEGDL, ARIA_ORDER, CURL_ORDER, WGET, WGET2, RCLONE)

LEFT_OUT: Mapping[str, str] = {
    "tls": "axel, hf_transfer and obstore: they take no certificate authority of one's own",
    "small": "axel, hf_transfer and pypdl: a file at a time, or made for big ones",
    "throttled": "wget: it has one connection",
    "trickle": "wget: it has one connection",
    "resume": "axel, hf_transfer, pypdl, parfive, obstore: they keep no state over a kill -9",
}


def shown(command: Sequence[str], job: Job) -> str:
    """A command line with this machine's paths, ports and Python taken out."""
    text = shlex.join(command).replace(str(job.out), "OUT").replace(f"{job.work}/", "")
    if job.ca:
        text = text.replace(str(job.ca), "CA")
    text = text.replace(f"{sys.executable} -m segdl", "segdl").replace(sys.executable, "python")
    return text.replace(f"{HERE}/", "")
