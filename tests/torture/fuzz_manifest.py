# ruff: noqa: E501 -- tables
"""Manifests made worse: valid, or a ManifestError says what is wrong, at once."""

from __future__ import annotations

import random
import re
import resource
import string
from pathlib import Path

from segdl.core.errors import ManifestError
from segdl.core.manifest import Manifest, parse_manifest
from tests.torture.campaign import Campaign, Figures, Round
from tests.torture.fuzz import BATCH, SLOWEST, Watch, mutated, told

ROOT = Path(__file__).parents[2]
SAMPLES = [path.read_bytes() for path in sorted((ROOT / "manifests").iterdir())]
TOKENS = [
    *(b"&a ", b"*a", b"!!python/object:os.system ", b"!", b"<<: *a\n", b"---\n", b"...\n", b"%YAML 9\n"),
    *(b"{", b"}", b"[", b"]", b"[" * 40, b"{a: " * 40, b'{"a":' * 40, b'"', b"'", b"|\n", b">\n", b"? "),
    *(b"- ", b": ", b", ", b"#", b"\t", b"\r", b"\n", b"\0", b"\x1b[2J", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\xe2\x80\xae", b"\xc2\x85", b"\xe2\x80\xa8", b"\\"),
    *(b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b"-1", b"1.5", b"true", b"null", b"2**63", b"0x10"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"&#xD800;", b"<![CDATA[", b"]]>", b"<!--"),
    *(b"<?xml version='1.0' encoding='utf-16'?>", b"</file>", b"<file>", b"<a xmlns='urn:x'>", b"<a:b>"),
    *(b"../", b"/", b"..", b"CON", b"a:b", b"file:///etc/passwd\n", b"http://", b"ftp://x/y\n", b"://"),
    *(b"http://[::1", b"http://a:99999/", b"http://u:p@h/", b"${SEGDL_VAR_TOKEN}", b"${HOME}", b"${"),
    *(b"segdl: 2\n", b"files:\n", b"path: ", b"size: ", b"slice: {", b"pieces: {", b"hash: {sha256: "),
]  # fmt: skip
WORD = re.compile(rb'"[^"\n]*"|[^\s{}\[\],:<>"]+')
MOST_MEMORY = 128 * 1024  # KiB, of a thousand
LARGEST_REPEAT = 300_000  # bytes


def fuzz_manifest(given: Round) -> Figures:
    """Whatever is in a manifest, it is valid or a ManifestError says what is wrong, at once."""
    chance, watch, valid = given.chance, Watch(), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(BATCH):
        data = chance.choice(SAMPLES)
        if chance.random() < 0.5:
            data = _revalued(chance, data)
        if chance.random() < 0.8:
            data = mutated(chance, data, chance.choice(SAMPLES), TOKENS)
        if chance.random() < 0.01:
            data = _repeated(chance, data)
        try:
            with watch:
                manifest = parse_manifest(data, "order", environment={"SEGDL_VAR_TOKEN": "t"})
        except ManifestError as error:
            assert error.faults and all(str(fault).isprintable() for fault in error.faults), data
        else:
            valid += 1
            _check_manifest(manifest)
        assert watch.slowest < SLOWEST, data[:2000]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < MOST_MEMORY
    return {"mutations": BATCH, "valid": valid, "most seconds": watch.slowest,
            "most MiB grown": grown / 1024}  # fmt: skip


def _revalued(chance: random.Random, data: bytes) -> bytes:
    """A word, a number or a quoted text in it is another one, so that all around it holds."""
    found = chance.choice(list(WORD.finditer(data)))
    return data[: found.start()] + chance.choice(TOKENS) + data[found.end() :]


def _repeated(chance: random.Random, data: bytes) -> bytes:
    """A piece of it many times over."""
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 2, 5, 30))] or b"["
    return data[:start] + piece * (LARGEST_REPEAT // len(piece)) + data[start:]


def _check_manifest(manifest: Manifest) -> None:
    """What is valid leads nowhere, and holds nothing that segdl could not store."""
    assert manifest.targets
    folded = [target.path.casefold() for target in manifest.targets]
    assert len(set(folded)) == len(folded)
    for target in manifest.targets:
        check_path(target.path)
        assert target.urls and all(url.scheme in ("http", "https") for url in target.urls)
        assert target.size is None or 0 <= target.size < 2**63
        assert all(set(value) <= set(string.hexdigits) for _, value in target.digests)


def check_path(path: str) -> None:
    """Stays inside, whatever system it is on; an opinion of its own, without segdl's rules."""
    names = path.split("/")
    assert len(path.encode()) <= 1024 and not path.startswith("/"), path
    assert not {"", ".", "..", ".segdl"} & {name.casefold() for name in names}, path
    assert not set(path) & set('\\:*?"<>|'), path
    assert all(c >= " " and c != "\x7f" for c in path), path
    assert all(name[-1] not in ". " and len(name.encode()) <= 255 for name in names), path


CAMPAIGN = Campaign(
    "fuzz-manifest", "manifests made worse, in four syntaxes", 100, fuzz_manifest, told
)
