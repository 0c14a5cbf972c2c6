"""Request lines into JSONL shards that OpenAI accepts: at most 50,000 lines and 200 MB each.

They are written into a hidden folder and synced; whoever plans them then gives them their names.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# https://developers.openai.com/api/docs/guides/batch: 50,000 requests, 200 MB. OpenAI's own message counts
# 209,715,200 bytes; the smaller reading of "200 MB" is right under either.
MAX_REQUESTS_PER_FILE = 50_000
MAX_BYTES_PER_FILE = 200_000_000


@dataclass(frozen=True)
class Shard:
    """A request file. `position` counts from 0 in its folder; `bytes` are UTF-8."""

    position: int
    path: Path
    sha256: str
    requests: int
    bytes: int


class ShardWriter:
    """Fills shards greedily, line by line, in a folder; nothing but the open shard's counters is in memory.

    `fill_bytes` is where a shard is full although it might hold more; only a single larger line goes beyond it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_requests: int = MAX_REQUESTS_PER_FILE,
        max_bytes: int = MAX_BYTES_PER_FILE,
        fill_bytes: int | None = None,
    ) -> None:
        self._folder = folder
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._fill_bytes = min(max_bytes, fill_bytes or max_bytes)
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._requests = 0
        self._bytes = 0
        self.finished: list[Shard] = []

    def fits_anywhere(self, line: bytes) -> bool:
        """Whether the line, without its newline, fits into a file of its own."""
        return len(line) + 1 <= self._max_bytes

    def add(self, line: bytes) -> int:
        """Append a line (without its newline); returns the position of the shard that it went to."""
        size = len(line) + 1
        if self._file is not None and (self._requests >= self._max_requests or self._bytes + size > self._fill_bytes):
            self._finish()
        if self._file is None:
            self._file = self._path.open("wb", buffering=1 << 20)
        self._file.write(line)
        self._file.write(b"\n")
        self._digest.update(line)
        self._digest.update(b"\n")
        self._requests += 1
        self._bytes += size
        return len(self.finished)

    def close(self) -> list[Shard]:
        """Finish the last shard; returns all of them."""
        self._finish()
        return self.finished

    @property
    def _path(self) -> Path:
        return self._folder / f"shard-{len(self.finished):04d}.jsonl"

    def _finish(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.finished.append(
            Shard(len(self.finished), self._path, self._digest.hexdigest(), self._requests, self._bytes)
        )
        self._file = None
        self._digest = hashlib.sha256()
        self._requests = self._bytes = 0
