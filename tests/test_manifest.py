"""core.manifest: every syntax, every fault with its line, no secret, and no end to bad input."""

from __future__ import annotations

import gc
import json
import random
import re
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segdl.core.errors import ExitCode, Fault, ManifestError
from segdl.core.manifest import Manifest, Pieces, Slice, manifest_of_url, parse_manifest, schema
from segdl.core.manifest.document import FullError, Log
from segdl.core.manifest.fields import Fields
from segdl.core.manifest.json_window import Window
from segdl.core.manifest.ordinary import ordinary
from segdl.core.urls import parse_url

settings.register_profile("patient", deadline=None)  # a busy machine is no fault
settings.load_profile("patient")

TOP = Path(__file__).parent.parent
SAMPLES = {path.name: path.read_bytes() for path in sorted((TOP / "manifests").iterdir())}
ENVIRONMENT = {"SEGDL_VAR_TOKEN": "t0ken", "HOME": "/root"}
MD5, SHA1 = "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709"


def parse(text: str | bytes, source: str = "m", **more: Any) -> Manifest:
    data = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
    return parse_manifest(data, source, environment=ENVIRONMENT, **more)


def faults(text: str | bytes, source: str = "m", **more: Any) -> tuple[Fault, ...]:
    with pytest.raises(ManifestError) as raised:
        parse(text, source, **more)
    assert raised.value.exit_code is ExitCode.USAGE
    return raised.value.faults


def one(text: str | bytes, **more: Any) -> str:
    """The only fault of a manifest."""
    (fault,) = faults(text, **more)
    return str(fault)


def order(*files: str) -> str:
    """A YAML manifest of these files, each in flow style, on lines from 3 on."""
    return "\n".join(["segdl: 1", "files:", *(f"  - {file}" for file in files)])


def test_samples() -> None:
    """Every form that the contract names; the first three say the same."""
    made = {name: parse(data, name) for name, data in SAMPLES.items()}
    assert {"full.yaml", "order.json", "order.meta4", "order.yaml", "urls.txt"} <= set(made)
    assert made["order.yaml"] == made["order.json"]
    assert made["order.yaml"].order == "SO-20231213-042"
    for target, linked in zip(made["order.yaml"].targets, made["order.meta4"].targets, strict=True):
        assert (target.path, target.size) == (linked.path, linked.size)
        assert (target.digests, target.urls[0]) == (linked.digests, linked.urls[0])
    listed = [target.urls[0] for target in made["urls.txt"].targets]
    assert listed == [target.urls[0] for target in made["order.yaml"].targets]
    assert made["urls.txt"].targets[0].path == "318677224273.7z"


def test_every_key_of_the_full_sample() -> None:
    full = parse(SAMPLES["full.yaml"])
    first, mirrored, part, unnamed = full.targets
    assert full.order == "SO-20231213-042" and full.segment_size == 16 * 2**20
    assert full.headers == {"https://files.example": {"Authorization": "Bearer t0ken"}}
    assert full.refresh == parse_url("https://vendor.example/orders/42/manifest")
    assert first.path == "chips/318677224273.7z" and first.size == 100 * 2**20
    assert [name for name, _ in first.digests] == ["sha256", "md5"]
    assert first.pieces is not None and first.pieces.algorithm == "xxh3_64"
    assert first.pieces.size == 8 * 2**20 and len(first.pieces.values) == 13
    assert [url.host for url in mirrored.urls] == ["minio.example", "files.example"]
    assert mirrored.size is None
    assert part.slice == Slice(1048576, 4 * 2**20) and part.size == 4 * 2**20
    assert unnamed.path == "318677224275.7z"


def test_the_documentation_names_every_key() -> None:
    text = (TOP / "docs" / "manifest.md").read_text()
    named = set(re.findall(r"^\| \**`([a-z_.\[\]]+)`", text, re.MULTILINE))
    expected = set(schema.ORDER_KEYS)
    for prefix, keys in (
        ("files[]", schema.FILE_KEYS),
        ("files[].pieces", schema.PIECES_KEYS),
        ("files[].slice", schema.SLICE_KEYS),
    ):
        expected |= {f"{prefix}.{key}" for key in keys}
    assert named == expected


def test_values_stay_what_they_look_like() -> None:
    """YAML 1.1 would make these false, 83 and a date."""
    text = order("{path: no, url: http://h/a}", "{path: 0123, url: http://h/b}")
    text += "\n  - {path: 2023-12-13, url: http://h/c, size: 010}"
    made = parse(text)
    assert [target.path for target in made.targets] == ["no", "0123", "2023-12-13"]
    assert made.targets[2].size == 10


@pytest.mark.parametrize(
    ("size", "value"),
    [("0", 0), ("10MiB", 10 * 2**20), ("10485760", 10485760), (str(2**63 - 1), 2**63 - 1)],
)
def test_sizes(size: str, value: int) -> None:
    """FAULTS.md, M05: 0 is valid."""
    assert parse(order(f"{{url: http://h/a, size: {size}}}")).targets[0].size == value
    number = size if size.isdigit() else json.dumps(size)
    text = f'{{"segdl": 1, "files": [{{"url": "http://h/a", "size": {number}}}]}}'
    assert parse(text).targets[0].size == value


@pytest.mark.parametrize("size", ["-1", "1.5", "true", "null", str(2**63), "1e3", "[]", "{}"])
def test_no_size(size: str) -> None:
    text = f'{{"segdl": 1, "files": [{{"url": "http://h/a",\n"size": {size}}}]}}'
    fault = one(text)
    assert fault.startswith("m:2: files[0].size: expected a size below 8 EiB")
    shown = {"[]": "a list", "{}": "a mapping"}.get(size, size)
    assert fault.endswith(f"found {shown}")


def test_digests_are_lower_case_and_the_strongest_comes_first() -> None:
    target = parse(order(f"{{url: http://h/a, hash: {{md5: {MD5.upper()}, sha1: {SHA1}}}}}"))
    assert target.targets[0].digests == (("sha1", SHA1), ("md5", MD5))


@pytest.mark.parametrize(
    ("size", "count"), [("65536", 1), ("65537", 2), ("0", 0), ("0", 1), ("131072", 2)]
)
def test_pieces(size: str, count: int) -> None:
    values = ", ".join([MD5.upper()] * count)
    pieces = f"{{size: 64KiB, algorithm: md5, values: [{values}]}}"
    made = parse(order(f"{{url: http://h/a, size: {size}, pieces: {pieces}}}"))
    assert made.targets[0].pieces == Pieces(65536, "md5", (MD5,) * count)


FILE_FAULTS = {
    # a file, and the field and the beginning of each fault that it has
    "{path: a}": ["files[0].url: expected a share URL, or mirrors under `urls`, found nothing"],
    "{url: ''}": ["files[0].url: expected a URL, found nothing"],
    "{url: ftp://h/a}": ["files[0].url: expected a URL, found one that is not an http"],
    "{url: [http://h/a]}": ["files[0].url: expected text, found a list"],
    "{url: http://h/a, urls: [http://h/b]}": ["files[0].urls: expected either `url` or `urls`"],
    "{url: x, urls: [http://h/b]}": [
        "files[0].url: expected a URL, found one that is not an http",
        "files[0].urls: expected either `url` or `urls`, found both",
    ],
    "{path: a, urls: []}": ["files[0].urls: expected at least one item, found an empty list"],
    "{path: a, urls: http://h/a}": ["files[0].urls: expected a list, found 'http://…'"],
    "{path: a, urls: [http://h/a, http://h/b, http://h/a]}": [
        "files[0].urls[2]: is the same URL as urls[0]"
    ],
    "{path: a, urls: [http://h/a, x, []]}": [
        "files[0].urls[1]: expected a URL",
        "files[0].urls[2]: expected text, found a list",
    ],
    "{url: http://h/}": ["files[0].path: give a `path`: the last component of the URL is empty"],
    "{url: http://h/%FF}": ["files[0].path: give a `path`: the last component of the URL is '�'"],
    "{url: http://h/a%2Fb}": [
        "files[0].path: give a `path`: the last component of the URL is 'a/b'"
    ],
    "{url: http://h/nul}": ["files[0].path: give a `path`: the last component of the URL is 'nul'"],
    "{url: http://h/a, path: ../a}": ["files[0].path: expected a relative path that every system"],
    "{url: http://h/a, path: ''}": ["files[0].path: expected a relative path that every system"],
    "{url: http://h/a, path: [a]}": ["files[0].path: expected text, found a list"],
    "{url: http://h/a, szie: 1}": ["files[0].szie: unknown key; did you mean size?"],
    "{url: http://h/a, Size: 1}": ["files[0].Size: unknown key; did you mean size?"],
    "{url: http://h/a, x: 1}": [
        "files[0].x: unknown key; expected one of hash, path, pieces, size,"
    ],
    "{url: http://h/a, <<: {size: 1}}": ["files[0]['<<']: merge keys are not read"],
    "{url: http://h/a, hash: md5}": ["files[0].hash: expected a mapping, found text"],
    "{url: http://h/a, hash: {md6: a}}": [
        "files[0].hash.md6: expected one of blake2b, crc32, md5,"
    ],
    "{url: http://h/a, hash: {md5: a, sha1: zz}}": [
        "files[0].hash.md5: expected 32 hexadecimal digits (md5), found 'a', 1 characters",
        "files[0].hash.sha1: expected 40 hexadecimal digits (sha1), found 'zz', 2 characters",
    ],
    "{url: http://h/a, pieces: {}}": [
        "files[0].pieces.size: expected the size of a piece, found nothing",
        "files[0].pieces.algorithm: expected the name of a digest, found nothing",
        "files[0].pieces.values: expected a list of digests, found nothing",
    ],
    "{url: http://h/a, pieces: {size: 65535, algorithm: md5, values: x}}": [
        "files[0].pieces.size: expected a size from 64KiB to 1GiB, found '65535'",
        "files[0].pieces.values: expected a list, found 'x'",
    ],
    f"{{url: http://h/a, size: 65537, pieces: {{size: 64KiB, algorithm: md5, values: [{MD5}]}}}}": [
        "files[0].pieces.values: expected 2 digests, one for each 65536 bytes of 65537, found 1"
    ],
    f"{{url: http://h/a, pieces: {{size: 64KiB, algorithm: md5, values: [{MD5}, {SHA1}]}}}}": [
        "files[0].pieces.values[1]: expected 32 hexadecimal digits (md5)"
    ],
    "{url: http://h/a, pieces: {size: 64KiB, algorithm: md5, values: []}}": [
        "files[0].pieces.values: expected at least one digest, found an empty list"
    ],
    "{url: http://h/a, slice: {offset: -1}}": [
        "files[0].slice.offset: expected a size below 8 EiB",
        "files[0].slice.size: expected a number of bytes, found nothing",
    ],
    "{url: http://h/a, slice: {offset: 0, size: 0}}": [
        "files[0].slice.size: expected a size of at least 1 byte, found 0"
    ],
    "{url: http://h/a, size: 2, slice: {offset: 5, size: 3}}": [
        "files[0].size: expected 3, the size of the slice, found 2"
    ],
    "{url: http://h/a, slice: {offset: 9223372036854775807, size: 1}}": [
        "files[0].slice: expected a slice that ends below 8 EiB"
    ],
    "text": ["files[0]: expected a mapping, found text"],
    "": ["files[0]: expected a mapping, found text"],
    "[a]": ["files[0]: expected a mapping, found a list"],
}


@pytest.mark.parametrize(("file", "expected"), FILE_FAULTS.items())
def test_a_file_that_is_wrong(file: str, expected: list[str]) -> None:
    found = [str(fault) for fault in faults(order(file))]
    assert len(found) == len(expected), found
    for fault, start in zip(found, expected, strict=True):
        assert fault.startswith(f"m:3: {start}")


ORDER_FAULTS = {
    "files: [{url: http://h/a}]": ["segdl: expected `segdl: 1`, found nothing"],
    "segdl: 2\nfiles: [{url: http://h/a}]": ["segdl: expected 1 (this segdl reads version 1), f"],
    "segdl: 1": ["files: expected a list of files, found nothing"],
    "segdl: 1\nfiles: []": ["files: expected at least one item, found an empty list"],
    "segdl: 1\nfiles: {a: b}": ["files: expected a list, found a mapping"],
    "segdl: 1\nfiles:": ["files: expected a list, found nothing"],
    "segdl: 1\nfile: []": ["file: unknown key; did you mean files?", "files: expected"],
    "segdl: 1\norder: a/b\nfiles: [{url: http://h/a}]": ["order: expected a name that every"],
    "segdl: 1\norder: .segdl\nfiles: [{url: http://h/a}]": ["order: expected a name that every"],
    "segdl: 1\nrefresh: x\nfiles: [{url: http://h/a}]": ["refresh: expected a URL"],
    "segdl: 1\nsegment_size: 1\nfiles: [{url: http://h/a}]": ["segment_size: expected a size from"],
    "segdl: 1\nsegment_size: 2GiB\nfiles: [{url: http://h/a}]": ["segment_size: expected a size"],
    "hello": ["expected a mapping with `segdl: 1` and `files`, found text"],
    "- a": ["expected a mapping with `segdl: 1` and `files`, found a list"],
    "[]": ["expected a mapping with `segdl: 1` and `files`, found a list"],
    "{}": ["segdl: expected", "files: expected"],
    '{"segdl": true, "files": [{"url": "http://h/a"}]}': ["segdl: expected 1", ],
    '{"segdl": 1.0, "files": [{"url": "http://h/a"}]}': ["segdl: expected 1", ],
    '{"segdl": 1, "order": 5, "files": [{"url": "http://h/a"}]}': ["order: expected text, found 5"],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ORDER_FAULTS.items())
def test_an_order_that_is_wrong(text: str, expected: list[str]) -> None:
    found = [str(fault).partition(": ")[2] for fault in faults(text)]
    assert len(found) == len(expected), found
    for fault, start in zip(sorted(found), sorted(expected), strict=True):
        assert fault.startswith(start)


EVERY_FAULT = """\
    # Lines are counted from here.
    segdl: 2
    order: a/b

    files:
      - path: ../x            # 6
        url: http://h/a
        size: many
        hash:
          md5: 12
          sha265: abc
      - path: A.7z            # 12
        urls:
          - http://h/a

          - ftp://h/a
        pieces:
          algorithm: md5
          values: [
            d41d8cd98f00b204e9800998ecf8427e,
            zz ]
      -
        path: a.7z            # 23
        slice: {offset: 1,
          size: 0}
    refrehs: x
"""


def test_every_fault_at_once_with_its_line() -> None:
    """What is missing stands where its mapping begins."""
    found = [(fault.where, fault.field) for fault in faults(EVERY_FAULT, "order.yaml")]
    assert found == [
        ("order.yaml:2", "segdl"),
        ("order.yaml:3", "order"),
        ("order.yaml:6", "files[0].path"),
        ("order.yaml:8", "files[0].size"),
        ("order.yaml:10", "files[0].hash.md5"),
        ("order.yaml:11", "files[0].hash.sha265"),
        ("order.yaml:16", "files[1].urls[1]"),
        ("order.yaml:17", "files[1].pieces.size"),
        ("order.yaml:23", "files[2].url"),
        ("order.yaml:23", "files[2].path"),
        ("order.yaml:25", "files[2].slice.size"),
        ("order.yaml:26", "refrehs"),
    ]


def test_both_lines_of_a_collision_are_named() -> None:
    """FAULTS.md, M02."""
    files = ["{path: a/b.7z, url: http://h/1}", "{path: A/B.7z, url: http://h/2}"]
    assert one(order(*files)) == (
        "m:4: files[1].path: 'A/B.7z' is the same file as 'a/b.7z' where case or Unicode form"
        " is ignored (line 3)"
    )
    files = [
        "{path: a/b, url: http://h/1}",
        "{path: c, url: http://h/2}",
        "{path: a, url: http://h/3}",
    ]
    assert one(order(*files)) == (
        "m:3: files[0].path: 'a/b' would lie in 'a', which is a file of the order (line 5)"
    )
    text = "http://h/x/a\n\n# b\nhttp://h/y/a\n"
    assert one(text) == "m:4: 'a' is the path of another file of the order (line 1)"


def test_one_anchor_is_one_fault() -> None:
    text = "segdl: 1\norder: &a x\nfiles: [{url: http://h/a}]"
    assert one(text) == "m:2: order: has an anchor; a manifest has none"


def test_a_wrong_file_still_collides() -> None:
    files = ["{path: a, url: x}", "{path: a, url: http://h/a}"]
    assert [f.field for f in faults(order(*files))] == ["files[0].url", "files[1].path"]


# Syntax


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: holds nothing"),
        ("\n# only this\n", "1: holds nothing"),
        ("segdl: &a 1", "1: segdl: has an anchor"),
        ("segdl: 1\nfiles: *a", "2: files: is an alias"),
        ("segdl: !!int 1", "1: segdl: has a tag"),
        ("segdl: 1\nfiles: !x [a]", "2: files: has a tag"),
        ("!!map {segdl: 1}", "1: has a tag"),
        ("segdl: 1\nsegdl: 1", "2: segdl: is given twice; the first one stands above (line 1)"),
        ("a: 1\n---\nb: 2", "2: begins a second document"),
        ("? [a]\n: b", "1: expected a key that is text"),
        ("a:\n  {{b}}: c", "2: expected a key that is text"),
        (
            "a: 'x\n\n",
            "3: is not valid YAML: while scanning a quoted scalar, found unexpected end of",
        ),
        (
            "- [a,\nb: c",
            "3: is not valid YAML: while parsing a flow sequence, did not find expected ','",
        ),
        ("a: b: c", "1: is not valid YAML: mapping values are not allowed"),
        ("a: 1\n\tb: 2", "2: is not valid YAML"),
        ("a: \x01", "1: holds the character U+0001"),
        ("a: b\nc: \u2028", "2: holds U+2028"),
        ("a: \u0085b", "1: holds U+0085"),
        ("a: [\n" * 40, "17: is nested more than 32 deep"),
        ("- " * 100_000, "1: is nested more than 32 deep"),
    ],
)
def test_yaml_that_is_refused(text: str, expected: str) -> None:
    """FAULTS.md, M03."""
    assert any(str(fault).startswith(f"m:{expected}") for fault in faults(text)), faults(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"segdl": 1,\n"segdl": 1}', "2: segdl: is given twice; the first one stands above (line"),
        ('{"files": [{\n"a\\u0062": 1,\n"ab": 2}]}', "3: files[0].ab: is given twice"),
        ('{"a": 1,\n}', "2: is not valid JSON: Expecting property name"),
        ("{'a': 1}", "1: is not valid JSON: Expecting property name"),
        ('{"a" 1}', "1: is not valid JSON: Expecting ':' delimiter"),
        ('{"files": [1\n\n2]}', "3: is not valid JSON: Expecting ',' delimiter"),
        ('{"files": [1,]}', "1: is not valid JSON: Expecting value"),
        ('{"files": [1', "1: is not valid JSON: Expecting ',' delimiter"),
        ('{"a": 1}\n{', "2: is not valid JSON: Extra data"),
        ('{"a": "\n"}', "1: is not valid JSON: Invalid control character"),
        ('{"a": "\\x"}', "1: is not valid JSON: Invalid \\escape"),
        ("{", "1: is not valid JSON"),
        ('{"a": ' + "\n[" * 100_000, "33: is nested more than 32 deep"),
        ('{"files": [' + '{"a":' * 100_000, "1: is nested more than 32 deep"),
        ('{"segdl": NaN}', "1: segdl: expected 1 (this segdl reads version 1), found NaN"),
        ('{"segdl": -Infinity}', "1: segdl: expected 1 (this segdl reads version 1), found -In"),
        ('{"segdl": 1e400}', "1: segdl: expected 1 (this segdl reads version 1), found 1e400"),
        ('{"segdl": ' + "9" * 5000 + "}", "1: segdl: expected 1 (this segdl reads version 1), f"),
        ('{"order":\n"\\ud800"}', "1: order: expected a name that every system can store"),
        ('{"refresh": "http://h/\\ud800"}', "1: refresh: expected a URL, found one that holds ha"),
        ('{"\\ud800": 1}', "1: ['\\ud800']: unknown key"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text: str, expected: str) -> None:
    """FAULTS.md, M04."""
    assert any(str(fault).startswith(f"m:{expected}") for fault in faults(text)), faults(text)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfsegdl: 1", "1: begins with the byte order mark of UTF-8; save it as UTF-8"),
        (
            "segdl: 1".encode("utf-16"),
            "1: begins with the byte order mark of UTF-16 or UTF-32; save",
        ),
        ("segdl: 1".encode("utf-16-le"), "1: holds a NUL, as binary files and UTF-16 do; save it"),
        (b"segdl: 1\nx: \xc3\xa9 \xff", "2: is not UTF-8 (byte 7 of the line, 0xff); save it"),
        (b'{"a": "\xed\xa0\x80"}', "1: is not UTF-8 (byte 8 of the line, 0xed)"),
        (b"http://h/a\nhttp://h/\xe9", "2: is not UTF-8 (byte 10 of the line, 0xe9)"),
        (b"\n\n\x00", "3: holds a NUL"),
        (b" " * (128 * 2**20 + 1), "1: is larger than 128 MiB"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, expected: str) -> None:
    assert one(data).startswith(f"m:{expected}")


@pytest.mark.parametrize("before", range(2**20 - 4, 2**20 + 2))
def test_utf8_is_checked_in_pieces_that_split_no_character(before: int) -> None:
    """A character that stands across two pieces is whole; a broken one is found in either."""
    comment = b"#" * before
    assert parse(comment + "\U0001f600\n".encode() + order("{url: http://h/a}").encode())
    assert one(comment + b"\xf0\x9f\x98\n").startswith(f"m:1: is not UTF-8 (byte {before + 1} of")
    assert one(comment + b"\xf0\x9f\x98").startswith(f"m:1: is not UTF-8 (byte {before + 1} of")


META = '<metalink xmlns="urn:ietf:params:xml:ns:metalink">'


def test_metalink() -> None:
    made = parse(f"""\
        <?xml version="1.0" encoding="ISO-8859-1"?>
        {META}
          <published>2023-12-13T08:00:00Z</published>
          <file name="d/é.iso">
            <size> 70000 </size>
            <hash type="tiger">zz</hash><hash type="sha-1">{SHA1.upper()}</hash>
            <hash type="md5">{MD5}</hash>
            <pieces length="65536" type="tiger"><hash>zz</hash></pieces>
            <pieces length="65536" type="md5"><hash>{MD5}</hash><hash>{MD5}</hash></pieces>
            <pieces length="65536" type="sha-1"><hash>{SHA1}</hash></pieces>
            <url>https://last/a</url>
            <url priority="2">ftp://h/a</url>
            <url priority="3" location="de">http://second/a?a=1&amp;b=2</url>
            <url priority="1">
              http://first/a</url>
            <metaurl mediatype="torrent">http://h/a.torrent</metaurl>
            <other:url xmlns:other="urn:x">http://other/</other:url>
          </file>
        </metalink>""")
    (target,) = made.targets
    assert (target.path, target.size) == ("d/é.iso", 70000)
    assert target.digests == (("sha1", SHA1), ("md5", MD5))
    assert target.pieces == Pieces(65536, "md5", (MD5, MD5))
    assert [url.host for url in target.urls] == ["first", "second", "last"]
    assert target.urls[1].query == "a=1&b=2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a/>", ["1: expected <metalink"]),
        ('<metalink version="3.0" xmlns="http://www.metalinker.org/"/>', ["1: expected <metalink"]),
        ('<!DOCTYPE a [<!ENTITY b "c">]>\n<a/>', ["1: has a DOCTYPE"]),
        (META, ["1: is not valid XML: no element found"]),
        (META + "\n<a></b>", ["2: is not valid XML: mismatched tag"]),
        (META + "&nbsp;</metalink>", ["1: is not valid XML: undefined entity"]),
        (META + "<a>" * 100_000, ["1: is nested more than 32 deep"]),
        (META + "</metalink>", ["1: files: expected at least one item, found an empty list"]),
        (
            META + '\n<file name="../a">\n<url>http://h/a</url></file></metalink>',
            ["2: files[0].path: expected a relative path"],
        ),
        (
            META + '\n<file name="a">\n<url>\nftp://h/a</url></file></metalink>',
            ["3: files[0].urls[0]: expected a URL"],
        ),
        (
            META + '<file name="a">\n<metaurl>http://h/</metaurl></file></metalink>',
            ["1: files[0].url: expected a share URL"],
        ),
        (
            META + '<file name="a"><url>http://h/a</url>\n<size>1</size>\n<size>2</size>\n'
            f'<hash type="md5">{MD5}</hash>\n<hash type="md5">x</hash></file></metalink>',
            [
                "3: files[0].size: is given twice; the first one stands above (line 2)",
                "4: files[0].hash.md5: expected 32",
                "5: files[0].hash.md5: is given twice",
            ],
        ),
        (
            META + '<file name="a"><url>http://h/a</url>\n<size>1</size>\n<size>2</size></file>'
            '<file name="b"><url>http://h/b</url></file></metalink>',
            ["3: files[0].size: is given twice; the first one stands above (line 2)"],
        ),
        (
            META + '<file name="a"><url>http://h/a</url>\n<pieces length="9" type="md5">\n'
            "<hash>x</hash></pieces></file></metalink>",
            ["2: files[0].pieces.size: expected a size from 64KiB"],
        ),
    ],
)
def test_metalink_that_is_refused(text: str, expected: list[str]) -> None:
    found = [str(fault) for fault in faults(text)]
    assert len(found) == len(expected), found
    for fault, start in zip(found, expected, strict=True):
        assert fault.startswith(f"m:{start}")


def test_a_list() -> None:
    made = parse("# an order\r\n\r\n http://h/a?x=1 \r\n#http://h/b\r\nHTTPS://h/c%20d")
    assert [target.path for target in made.targets] == ["a", "c d"]
    assert made.targets[0].urls[0].target == b"/a?x=1"


def test_a_list_that_is_refused() -> None:
    text = f"http://h/a?{SECRET}\n\n  out={SECRET}\nftp://h/{SECRET}\nhttp://h/?{SECRET}\n"
    found = [str(fault) for fault in faults(text)]
    assert [fault[:4] for fault in found] == ["m:3:", "m:4:", "m:5:"]
    assert found[2] == "m:5: give a `path`: the last component of the URL is empty"
    assert SECRET not in "".join(found)


@pytest.mark.parametrize("data", [b"\n \n# c\n\t http://h/a", b"s3://b/k\nhttp://h/a"])
def test_a_list_is_told_by_its_first_url(data: bytes) -> None:
    try:
        assert len(parse(data).targets) == 1
    except ManifestError as error:
        assert len(error.faults) == 1 and "is not an http" in str(error)


def test_a_bare_url() -> None:
    (target,) = manifest_of_url("https://h/a/b.7z?sig=x").targets
    assert target.path == "b.7z" and target.urls[0].presigned


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "URL: expected a URL, found nothing"),
        ("order.yaml", "URL: expected a URL, found one that is not an http:// or https:// URL"),
        ("http://h/", "URL: give a `path`: the last component of the URL is empty"),
        ("http://h/..", "URL: give a `path`: the last component of the URL is '..', which"),
    ],
)
def test_no_bare_url(text: str, problem: str) -> None:
    with pytest.raises(ManifestError) as raised:
        manifest_of_url(text)
    assert str(raised.value).startswith(problem)


# Headers


def with_headers(headers: str) -> str:
    return f"segdl: 1\nfiles: [{{url: http://h/a}}]\nheaders:\n  {headers}\n"


def test_headers() -> None:
    made = parse(
        with_headers(
            "'HTTPS://Files.example:443': {A: 'x ${SEGDL_VAR_TOKEN}${HOME} $HOME ${} $${'}"
        ),
        allow_env=["HOME"],
    )
    assert made.headers == {"https://files.example": {"A": "x t0ken/root $HOME ${} $${"}}
    assert "t0ken" not in repr(made)


def test_variables_stay_out_of_everything_else() -> None:
    made = parse(order("{path: '${SEGDL_VAR_TOKEN}', url: 'http://h/${SEGDL_VAR_TOKEN}'}"))
    assert made.targets[0].path == "${SEGDL_VAR_TOKEN}"
    assert made.targets[0].urls[0].path == "/${SEGDL_VAR_TOKEN}"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("https://h: {A: '${HOME}'}", "['https://h']['A']: uses the variable HOME: allow it wit"),
        ("https://h: {A: '${SEGDL_VAR_NO}'}", "['https://h']['A']: uses the variable SEGDL_VAR_N"),
        ("https://h: {Range: SECRET}", "['https://h']['Range']: the header Range is segdl's own"),
        ('https://h: {A: "SEC\\r\\nRET"}', "['https://h']['A']: the value of header A holds a con"),
        ("https://h: {A: [SECRET]}", "['https://h']['A']: expected text, found a list"),
        ("https://h: {'A: SECRET': x}", "['https://h']['…']: expected a header's name as the key"),
        ("https://h: {'A SECRET': x}", "['https://h']['…']: expected a header such as"),
        ("https://h: {A: x, a: y}", "['https://h']['a']: is the same header as another key"),
        ("https://h: SECRET", "['https://h']: expected a mapping, found text"),
        ("https://h/: {A: SECRET}", "['…']: expected an origin such as https://files.example"),
        ("https://h?SECRET: {A: SECRET}", "['…']: expected an origin"),
        ("https://u:SECRET@h: {A: SECRET}", "['…']: expected an origin"),
        ("ftp://h: {A: SECRET}", "['…']: expected an origin"),
        ("SECRET: {A: x}", "['SECRET']: expected an origin"),
        ("https://h:0: {A: SECRET}", "['https://h:0']: expected an origin such as"),
        ("{https://h: {A: x}, 'https://h:443': {A: x}}", "['https://h:443']: is the same origin"),
        ("- SECRET", ": expected a mapping, found a list"),
    ],
)  # fmt: skip
def test_headers_that_are_wrong(headers: str, expected: str) -> None:
    fault = one(with_headers(headers))
    line = 3 if headers.startswith("-") else 4
    assert fault.startswith(f"m:{line}: headers{expected}")
    assert "SEC" not in fault.removeprefix(f"m:{line}: headers['SECRET']")


def test_a_wrong_origin_hides_no_other_fault() -> None:
    found = faults(with_headers("'https://h/x': {A: [b], Range: c}"))
    assert {f.field for f in found} == {
        f"headers['…']{name}" for name in ("", "['A']", "['Range']")
    }


def test_a_json_header_is_not_shown_either() -> None:
    text = '{"segdl": 1, "files": [{"url": "http://h/a"}], "headers": {"http://h": {"A": 5318008}}}'
    assert one(text) == "m:1: headers['http://h']['A']: expected text, found a number"


# Secrets and outside text

SECRET = "5ecre7"


@pytest.mark.parametrize(
    "text",
    [
        order(f"{{url: http://h/?sig={SECRET}}}"),
        order(f"{{path: 'http://h/?sig={SECRET}', url: x}}"),
        order(f"{{http://h/?sig={SECRET}}}"),
        order(f"{{url: 'http://u:{SECRET}@h/'}}"),
        order(f"{{url: http://h/a, size: 'http://h/?sig={SECRET}'}}"),
        order(f"{{url: http://h/a, size: 'X-Amz-Signature={SECRET}'}}"),
        order(f"{{url: http://h/a, hash: 'http://h/?sig={SECRET}'}}"),
        order(f"{{url: http://h/a, hash: {{'http://h/?sig={SECRET}': x}}}}"),
        order(f"{{url: http://h/a, hash: {{md5: 'u:{SECRET}@h'}}}}"),
        order(f"{{url: http://h/a?b=c,{SECRET * 5}: d}}"),
        order("{path: a, urls: [http://h/a, http://h/a]}", f"{{url: 'http://h:0/?sig={SECRET}'}}"),
        f"http://h/a?sig={SECRET}\nhttp://h/a?sig={SECRET}",
        f"segdl: 1\n'http://h/?sig={SECRET}",
        f'{{"http://h/?sig={SECRET}": 1, "order": "http://h/?sig={SECRET}"}}',
        f'{{"a": "http://h/?sig={SECRET}\n"}}',
        f"{META}<file name='http://h/?sig={SECRET}'><url>x?{SECRET}</url></file></metalink>",
        f"{META}<url>http://h/?sig={SECRET}",
    ],
)
def test_no_fault_shows_a_secret(text: str) -> None:
    with pytest.raises(ManifestError) as raised:
        parse(text)
    assert SECRET not in str(raised.value)


@given(
    st.sampled_from(sorted(SAMPLES)), st.integers(0, 10**6), st.sampled_from("\n\"': ,{}[]<>&?#@/x")
)
def test_no_fault_shows_a_signature_wherever_the_text_is_damaged(
    name: str, at: int, to: str
) -> None:
    text = SAMPLES[name].decode()
    at %= len(text)
    signatures = re.findall(r"X-Amz-Signature=([0-9a-f]{64})", text)
    try:
        parse((text[:at] + to + text[at + 1 :]).encode())
    except ManifestError as error:
        assert not any(signature[32:] in str(error) for signature in signatures)


def test_outside_text_is_escaped_and_cut() -> None:
    path = '"\\e[31m\\u202e' + "x" * 5000 + '\\\\"'
    (fault,) = faults(order(f"{{url: http://h/a, path: {path}}}"), "a\nb\x1b.yaml")
    assert str(fault).isprintable() and len(str(fault)) < 300
    assert fault.where == "a\\nb\\x1b.yaml:3" and "'\\x1b[31m\\u202exx" in fault.problem


def test_a_thousand_faults_are_listed() -> None:
    found = faults(order(*["{}"] * 1500))
    assert len(found) == 1001
    assert str(found[999]).startswith("m:1002: files[999].url: ")
    assert str(found[1000]) == "m: 500 more faults are not listed"


def test_reading_stops_at_ten_thousand_faults() -> None:
    text = '{"segdl": 1, "files": [' + "0," * 5_000_000 + "0]}"
    assert str(faults(text)[-1]) == "m: at least 9,000 more faults are not listed"


def test_an_order_has_at_most_a_million_files() -> None:
    log = Log()
    with pytest.raises(FullError):
        schema.read_file(log, 1_000_000, {"url": "http://h/a"})
    assert [problem.text for problem in log.kept] == [
        "has more than 1,000,000 files; split the order"
    ]
    assert schema.read_file(log, 999_999, {"url": "http://h/a"}).path == "a" and log.count == 1


# Bounds: a second, memory flat, no traceback for any bytes


def bomb() -> str:
    """Aliases that `yaml.safe_load` would make 9 to the power of 9 of."""
    letters = "abcdefghi"
    lines = [f"{new}: &{new} [{','.join(['*' + old] * 9)}]" for old, new in pairwise(letters)]
    return "\n".join(["a: &a [x,x,x,x,x,x,x,x,x]", *lines])


HOSTILE = {
    "alias bomb": bomb(),
    "brackets": "[" * 100_000,
    "JSON brackets": '{"files": [' + "[" * 100_000,
    "YAML mappings": "\n".join(" " * n + "a:" for n in range(1000)),
    "flow mappings": "a: " + "{a: " * 100_000,
    "digits": '{"segdl": ' + "9" * 500_000 + "}",
    "quotes": 'a: "' + "\\\\" * 300_000,
    "entities": "<!DOCTYPE a [" + "".join(f'<!ENTITY a{n + 1} "&a{n};&a{n};">' for n in range(99)),
    "long key": "{" + '"' + "k" * 500_000 + '": 1}',
    "near key": "segdl: 1\n" + "".join(f"segment_siz{n}: 1\n" for n in range(2000)),
    "deep paths": order(*(f"{{path: {'a/' * 500}{n}, url: u}}" for n in range(500))),
    "spaces": "#" + " " * 500_000 + "\n" * 100_000,
    "schemes": "a" * 500_000 + ":",
    "list": "http://h/\n" * 20_000,
    "wrong keys": '{"files": [' + '{"patj": 1, "urll": 2},' * 25_000 + "0]}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_soon_and_in_little_memory(name: str) -> None:
    """FAULTS.md, M03, M04 and M07."""
    data = HOSTILE[name].encode()
    began = time.process_time()
    assert faults(data)
    assert time.process_time() - began < 1.5
    tracemalloc.start()
    try:
        assert faults(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20 + 4 * len(data)
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
@example(b'{"a":')
@example(b"\r")
def test_any_bytes(data: bytes) -> None:
    check_any(data)


STARTS = st.sampled_from(
    [b"{", b"[", b"<", b"http://", b"segdl: 1\n", b'{"files": [', META.encode()]
)
MARKS = st.sampled_from(list(b"{}[]:,\"'\n \t-&*!|>%@`#<\\0123.e/=?x\xc3\xa9\x00\x85"))


@given(STARTS, st.lists(MARKS, max_size=60).map(bytes))
def test_any_bytes_of_a_syntax(start: bytes, rest: bytes) -> None:
    check_any(start + rest)


@given(st.sampled_from(sorted(SAMPLES)), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_any_damage_to_a_sample(name: str, chance: random.Random) -> None:
    data = bytearray(SAMPLES[name])
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(data)), chance.choice([0, 1, 1, 1, 30])
        data[at : at + length] = chance.choice(
            [b"", b"\n", b'"', b"{", b"]", b"\xff", b"9" * 30, b": "]
        )
    check_any(bytes(data))


def check_any(data: bytes) -> None:
    """A manifest, or faults that can be printed; never anything else."""
    try:
        made = parse(data)
    except ManifestError as error:
        assert error.faults and all(str(fault).isprintable() for fault in error.faults)
        assert all(len(str(fault)) < 500 for fault in error.faults)
        assert all(re.match(r"m:\d+$|m$", fault.where) for fault in error.faults)
    else:
        assert made.targets and all(target.path and target.urls for target in made.targets)


# The same in every way

NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["a/b.7z", "A", "a/nul", "../a", "a//b", "é", "", 1, "x" * 256]),
        "url": st.sampled_from(["http://h/a?b=c", "http://h/é", "ftp://h/a", "", None, []]),
        "urls": st.just(["http://h/a"]),
        "size": st.sampled_from([0, 1, "8MiB", -1, True, None, 2**63, 2**63 - 1, "x", []]),
        "hash": st.dictionaries(
            st.sampled_from(["md5", "sha1", "x"]), st.sampled_from([MD5, MD5.upper(), SHA1, 1])
        )
        | st.sampled_from(["", [], None]),
        "slice": st.just({"offset": 0, "size": 1}),
        "x": st.just(1),
    },
)


@given(NEARLY | st.sampled_from([None, [], "path"]))
@example({"path": "a", "url": "http://h/a", "size": 1, "hash": {"md5": MD5.upper()}})
def test_the_shortcut_takes_only_what_the_schema_takes_and_as_the_same(node: object) -> None:
    log = Log()
    slow = schema._any_file(Fields(node, ("files", 0), log, schema.FILE_KEYS))
    quick = ordinary(node)
    assert quick is None or (quick == slow and not log.count)


def test_the_shortcut_takes_an_ordinary_file() -> None:
    node = {"path": "a/b.7z", "url": "http://h/a?b=c", "size": 1, "hash": {"md5": MD5}}
    assert ordinary(node) and ordinary({"path": "a", "url": "http://h/a"})


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled() and parse("http://h/a") and gc.isenabled()
    assert faults("{") and gc.isenabled()


WORDS = st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=6)
URLS = st.sampled_from(["http://h/a", "https://h/b?c", "ftp://h/d", "http://h/%FF"])
FILES = st.fixed_dictionaries(
    {},
    optional={
        "path": WORDS,
        "url": URLS,
        "urls": st.lists(URLS, max_size=3),
        "size": st.sampled_from(["0", "8MiB", "-1", "65537"]),
        "hash": st.dictionaries(
            st.sampled_from(["md5", "sha1", "x"]), st.sampled_from([MD5, SHA1])
        ),
        "slice": st.fixed_dictionaries({}, optional={"offset": st.just("1"), "size": st.just("2")}),
    },
)
ORDERS = st.fixed_dictionaries(
    {"files": st.lists(FILES, max_size=4)},
    optional={"segdl": st.just("1"), "order": WORDS, "x": WORDS},
)


def outcome(data: bytes) -> Manifest | list[str]:
    try:
        return parse(data)
    except ManifestError as error:
        return [str(fault) for fault in error.faults]


@given(ORDERS, st.sampled_from([None, 1]))
def test_yaml_says_what_json_says(tree: Mapping[str, object], indent: int | None) -> None:
    """JSON is YAML: behind a comment, the same text goes through the other reader."""
    text = json.dumps(tree, ensure_ascii=False, indent=indent).encode()
    assert outcome(b"\n" + text) == outcome(b"#\n" + text)


@pytest.mark.parametrize("name", ["order.yaml", "full.yaml"])
def test_without_libyaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyyaml can be built without it; its own loader is slow, and says the same."""
    quick = parse(SAMPLES[name])
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert parse(SAMPLES[name]) == quick
    for text in (
        "[" * 100_000,
        bomb(),
        "a: [\n" * 100_000,
        'a: "\\U99999999"',
        "a: {{b}}",
        "a: 'b",
    ):
        assert faults("#\n" + text)


DUMPS: list[Callable[[object], str]] = [
    json.dumps,
    lambda tree: json.dumps(tree, indent=1),
    lambda tree: json.dumps(tree, indent="\n\n"),
    yaml.safe_dump,
    lambda tree: yaml.safe_dump(tree, indent=5, width=9),
    lambda tree: "# 1\n\n" + yaml.safe_dump(tree, default_flow_style=True, width=60),
]


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from(DUMPS))
def test_lines_are_exact(wrong: list[bool], dump: Callable[[object], str]) -> None:
    """Each fault stands on the line that holds what is wrong, however the text is laid out."""
    files = [
        {"path": f"a{n}", "url": "http://h/a", ("size", f"wrong{n}")[bad]: "1"}
        for n, bad in enumerate(wrong)
    ]
    text = dump({"segdl": "1", "files": files})
    found = [] if not any(wrong) else faults(text.encode())
    assert [fault.field for fault in found] == [
        f"files[{n}].wrong{n}" for n, bad in enumerate(wrong) if bad
    ]
    for fault in found:
        line = text.split("\n")[int(fault.where.removeprefix("m:")) - 1]
        assert fault.field.rpartition(".")[2] in line


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(ANY_JSON, max_size=4), st.integers(1, 9), st.booleans(), st.sampled_from([None, 1]))
@example([1, -1.5e-30, 1e300, 0.5, True, "é\U0001f600"], 1, False, None)
def test_a_window_of_any_size_shows_the_same(
    items: list[object], step: int, escape: bool, indent: int | None
) -> None:
    text = json.dumps(items, ensure_ascii=escape, indent=indent)
    window = Window(text.encode(), json.JSONDecoder(), step)
    assert [window.value() for _ in window.members("[]")] == items
    assert window.peek() == ""
    assert window.line + window.error("").lineno - 1 == text.count("\n") + 1


@given(st.text('[]{}:,"1e+.-tru\n ', max_size=12), st.integers(1, 4))
def test_a_window_of_any_size_refuses_the_same(text: str, step: int) -> None:
    decoder = json.JSONDecoder()
    window = Window(text.encode(), decoder, step)
    try:
        expected = decoder.decode(text)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            window.value()
            if window.peek():
                raise window.error("Extra data") from None
    else:
        assert window.value() == expected and window.peek() == ""


# What it costs


def long_order(count: int) -> bytes:
    query = "X-Amz-Signature=" + "5" * 430
    files = [
        {
            "path": f"d/{n}.7z",
            "url": f"http://h:9000/b/{n}.7z?{query}",
            "size": n,
            "hash": {"md5": MD5},
        }
        for n in range(count)
    ]
    return json.dumps({"segdl": 1, "files": files}).encode()


def test_a_long_order_never_stands_in_memory_as_a_tree() -> None:
    """FAULTS.md, M07: what remains is the targets, and the way there adds a window."""
    data = long_order(4000)
    tracemalloc.start()
    try:
        made = parse(data)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made.targets) == 4000
    assert now < 2.5 * len(data) and peak - now < 4 * 2**20


def test_a_long_order_is_read_soon() -> None:
    data = long_order(10_000)
    began = time.process_time()
    assert len(parse(data).targets) == 10_000
    assert time.process_time() - began < 2


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, segdl.core.manifest as m;"
        "m.manifest_of_url('http://h/a');"
        "m.parse_manifest(b'http://h/a', 'm', environment={});"
        "print(*({'yaml', 'pyexpat', 'xml', 'difflib'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


FAULTY = '{"path": "a"},\n' * 12_000  # more than are counted, each of a key that is nowhere
BROKEN_LATER = {
    "YAML": "segdl: 1\nfiles:\n" + "  - {path: a}\n" * 12_000 + "broken\n",
    "JSON": '{"segdl": 1, "files": [' + FAULTY + '"\\x", ]]]}',
    "JSON, a key": '{"segdl": 1, "files": [' + FAULTY + '{"\\x": 1}',
    "Metalink": '<metalink xmlns="urn:ietf:params:xml:ns:metalink">'
    + '<file name=".."><url>http://h/a</url></file>\n' * 12_000
    + "<broken",
}


@pytest.mark.parametrize("text", BROKEN_LATER.values(), ids=list(BROKEN_LATER))
def test_what_is_broken_behind_too_many_faults(text: str) -> None:
    """The reading ends at the ten-thousandth: nobody has seen what follows."""
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text.encode(), "order", environment={})
    assert 1 <= len(caught.value.faults) <= 1001
