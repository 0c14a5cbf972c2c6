"""Request lines → JSONL shards that OpenAI accepts: at most 50,000 lines and 200 MB each.

The shards are written to a hidden folder and synced. The plan then moves them to their final paths.
"""

import hashlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from batch_assets.batching.planning.large_file import LargeFile
from batch_assets.batching.safety.private_folder import make_private_folder

# https://developers.openai.com/api/docs/guides/batch: 50,000 requests, 200 MB. OpenAI's error message says
# 209,715,200 bytes; a file of 200,000,000 bytes is within both.
MAX_REQUESTS_PER_FILE = 50_000
MAX_BYTES_PER_FILE = 200_000_000


@dataclass(frozen=True)
class FileLimits:
    """How much a request file may hold. The defaults are those of OpenAI.

    fill_bytes: the size at which a file is full; a single longer line makes a file of its own, up to `max_bytes`.
    """

    max_requests: int = MAX_REQUESTS_PER_FILE
    max_bytes: int = MAX_BYTES_PER_FILE
    fill_bytes: int | None = None


LINES_AT_ONCE = 256
QUEUED_BLOCKS = 4  # to be written; usually of less than a megabyte each


@dataclass(frozen=True)
class Shard:
    """A request file. `position` counts from 0; `bytes` are UTF-8. `submission_id` is empty until it is published.

    step: of the task that its requests ask.
    """

    position: int
    path: Path
    sha256: str
    requests: int
    bytes: int
    submission_id: str = ""
    step: int = 0


class ShardWriter:
    """Writes lines to shards in a new folder, and fills each shard before the next. Holds a few blocks in memory.

    One thread hashes and writes, and another syncs full shards, while the caller makes the next lines. A later call
    raises the errors of these threads, `close` at the latest.
    """

    def __init__(self, folder: Path, limits: FileLimits | None = None) -> None:
        limits = limits or FileLimits()
        make_private_folder(folder)
        self._folder = folder
        self._max_requests = limits.max_requests
        self.max_bytes = limits.max_bytes
        self._fill_bytes = min(limits.max_bytes, limits.fill_bytes or limits.max_bytes)
        self._file: LargeFile | None = None
        self._digest = hashlib.sha256()
        self._position = 0
        self._requests = 0
        self._bytes = 0
        self._writing = ThreadPoolExecutor(1, "write")
        self._syncing = ThreadPoolExecutor(1, "sync")
        self._queued: deque[Future[None]] = deque()
        self._finished: list[Future[Shard]] = []

    def add(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its newline. None may be longer than `max_bytes`."""
        ends = list(accumulate(map(len, lines)))  # where each line ends, counted from the first
        done, done_bytes = 0, 0
        while done < len(lines):
            free_bytes = self._fill_bytes - self._bytes
            fitting = min(
                bisect_right(ends, done_bytes + free_bytes, lo=done),
                done + self._max_requests - self._requests,
                len(lines),
            )
            if fitting == done and self._requests:
                self._finish()
                continue
            stop = max(fitting, done + 1)
            self._append(b"".join(lines[done:stop]), stop - done)
            done, done_bytes = stop, ends[stop - 1]

    @property
    def files(self) -> int:
        """How many files there are, with the one that is being filled."""
        return self._position + (self._file is not None)

    def finish_file(self) -> None:
        """Let the next line begin a file."""
        self._finish()

    def close(self) -> list[Shard]:
        """Finish the last shard; returns all shards."""
        self._finish()
        self._wait(0)
        shards = [finished.result() for finished in self._finished]
        for threads in (self._writing, self._syncing):
            threads.shutdown()
        return shards

    def _append(self, block: bytes, requests: int) -> None:
        if self._file is None:
            self._file = LargeFile(self._folder / f"shard-{self._position:04d}.jsonl")
        self._requests += requests
        self._bytes += len(block)
        self._queued.append(self._writing.submit(_write, self._file, self._digest, block))
        self._wait(QUEUED_BLOCKS)

    def _finish(self) -> None:
        if self._file is None:
            return
        written = self._queued[-1]
        figures = (self._position, self._requests, self._bytes)
        self._finished.append(self._syncing.submit(_finish_file, written, self._file, self._digest, *figures))
        self._file = None
        self._digest = hashlib.sha256()
        self._position += 1
        self._requests = self._bytes = 0

    def _wait(self, most: int) -> None:
        """Wait until at most so many blocks are queued."""
        while len(self._queued) > most:
            self._queued.popleft().result()


def _write(file: LargeFile, digest: "hashlib._Hash", block: bytes) -> None:
    digest.update(block)
    file.write(block)


def _finish_file(
    written: Future[None], file: LargeFile, digest: "hashlib._Hash", position: int, requests: int, size: int
) -> Shard:
    written.result()  # the last block, so all blocks are written
    file.close()
    return Shard(position, file.path, digest.hexdigest(), requests, size)


def lines_without(shards: Iterable[Shard], unwanted: Iterable[int]) -> Iterator[list[bytes]]:
    """The shards' lines in blocks, without the numbers in `unwanted`. These count from 0 through all shards and rise.

    A shard is deleted once it has been read.
    """
    numbers = iter(unwanted)
    next_unwanted = next(numbers, -1)
    first = 0
    for shard in shards:
        with shard.path.open("rb", buffering=1 << 20) as file:
            while block := list(islice(file, LINES_AT_ONCE)):
                kept = []
                start, end = 0, len(block)
                while first <= next_unwanted < first + end:
                    kept += block[start : next_unwanted - first]
                    start = next_unwanted - first + 1
                    next_unwanted = next(numbers, -1)
                kept += block[start:]
                first += end
                yield kept
        shard.path.unlink()
