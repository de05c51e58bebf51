"""pypdl: `LIST FILES CONNECTIONS`, so many files at once with so many connections each."""

import json
import sys
from pathlib import Path

import pypdl  # type: ignore[import-untyped, import-not-found, unused-ignore]

tasks = []
for url, path, _ in json.loads(Path(sys.argv[1]).read_text()):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tasks.append({"url": url, "file_path": path})

if __name__ == "__main__":
    files, segments = int(sys.argv[2]), int(sys.argv[3])
    client = pypdl.Pypdl(max_concurrent=files)
    client.start(tasks=tasks, segments=segments, multisegment=segments > 1, display=False)
    sys.exit(1 if client.failed else 0)
