"""parfive: `LIST FILES CONNECTIONS`, so many files at once with so many connections each."""

import json
import sys
from pathlib import Path

import parfive  # type: ignore[import-untyped, import-not-found, unused-ignore]

session = parfive.SessionConfig(chunksize=2**20, file_progress=False)
client = parfive.Downloader(
    max_conn=int(sys.argv[2]), max_splits=int(sys.argv[3]), progress=False, config=session
)
for url, path, _ in json.loads(Path(sys.argv[1]).read_text()):
    client.enqueue_file(url, path=Path(path).parent, filename=Path(path).name)
sys.exit(1 if client.download().errors else 0)
