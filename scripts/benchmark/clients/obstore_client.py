"""obstore: `LIST CONNECTIONS`, ranges of 8 MiB by so many threads."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.store import HTTPStore

SEGMENT = 8 * 2**20
listed = json.loads(Path(sys.argv[1]).read_text())
base = urlsplit(listed[0][0])
store = HTTPStore.from_url(f"{base.scheme}://{base.netloc}", client_options={"allow_http": True})


def fetch(piece: tuple[str, int, int, int]) -> None:
    """One range into its place."""
    path, descriptor, start, stop = piece
    os.pwrite(descriptor, obstore.get_range(store, path, start=start, end=stop), start)


pieces = []
for url, path, size in listed:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    for start in range(0, size, SEGMENT):
        stop = min(start + SEGMENT, size)
        pieces.append((urlsplit(url).path.lstrip("/"), descriptor, start, stop))
with ThreadPoolExecutor(int(sys.argv[2])) as pool:
    list(pool.map(fetch, pieces))
