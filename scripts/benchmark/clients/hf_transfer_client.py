"""hf_transfer: `LIST CONNECTIONS`, a file at a time."""

import json
import sys
from pathlib import Path

import hf_transfer  # type: ignore[import-untyped, import-not-found, unused-ignore]

for url, path, size in json.loads(Path(sys.argv[1]).read_text()):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    hf_transfer.download(url, path, int(sys.argv[2]), 10 * 2**20 if size > 2**20 else size)
