"""The results of a batch that runs: two files that lines are appended to, and what is known of them.

They are the truth about what has been executed. Lines are handed to the operating system before
they count, so a kill loses none; they are synced to the disk from time to time, so a power cut may lose
the last few, which then are executed again. A torn tail is cut off when the files are opened.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from batch_assets.local_api.batches.usage import Usage, add_usage, no_usage, read_usage
from batch_assets.local_api.wire import ids, strict_json

# Lines that were never executed, for these reasons, are in the error file but count as neither
# completed nor failed [recorded: litellm #36034, warmbly #333].
UNEXECUTED = {
    # [docs]
    "batch_expired": "This request could not be executed before the completion window expired.",
    # The code is what clients look for; OpenAI's message is not known, this one is ours.
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}
# Of the statuses that are no success, only a 0 was ever seen in an output file, counted as completed [users].
OUTPUT = (200, 0)


class Answer(NamedTuple):
    """An answer that is ready to be recorded.

    Many are held until a turn ends, and Python's garbage collector walks over all objects that are held:
    with whole bodies instead of their bytes, it took a quarter of the time.
    """

    line: bytes
    status: int
    usage: Usage


def make_answer(custom_id: str, status: int, request_id: str, body: dict[str, Any]) -> Answer:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return Answer(_line(custom_id, response, None), status, read_usage(body) if status in OUTPUT else Usage())


class Results:
    """Output and error lines of one batch; not safe for threads, its run holds a lock."""

    def __init__(self, directory: Path) -> None:
        self.output_path = directory / "output.jsonl"
        self.error_path = directory / "errors.jsonl"
        self.completed = 0
        self.failed = 0
        self.usage = no_usage()
        self.recorded: set[str] = set()
        """custom_ids found when the files were opened; the caller takes and empties it."""
        self._output = self._open(self.output_path)
        self._error = self._open(self.error_path)
        self._dirty = False

    @property
    def executed(self) -> int:
        return self.completed + self.failed

    def append(self, answers: Iterable[Answer]) -> None:
        """Record answers: in the output file when their status is in OUTPUT, otherwise in the error file."""
        by_file: dict[BinaryIO, list[Answer]] = {self._output: [], self._error: []}
        for answer in answers:
            by_file[self._output if answer.status in OUTPUT else self._error].append(answer)
        for file, kept in by_file.items():
            self._write(file, b"".join(answer.line for answer in kept))
            for answer in kept:
                self._count(answer.status, answer.usage)

    def append_unexecuted(self, custom_ids: Iterable[str], code: str) -> None:
        """Record that lines were not executed, with a code of UNEXECUTED."""
        error = {"code": code, "message": UNEXECUTED[code]}
        self._write(self._error, b"".join(_line(custom_id, None, error) for custom_id in custom_ids))

    def sync(self) -> None:
        if self._dirty:
            self._dirty = False
            os.fsync(self._output.fileno())
            os.fsync(self._error.fileno())

    def close(self) -> None:
        self._output.close()
        self._error.close()

    def _write(self, file: BinaryIO, data: bytes) -> None:
        if not data:
            return
        self._dirty = True
        # Unbuffered: one call to the operating system, which a kill of this process can't undo.
        # A disk that is full takes part of it; the torn line goes when the files are opened again.
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "Could not write a result: is the disk full?", file.name)

    def _open(self, path: Path) -> BinaryIO:
        """Open for appending, after cutting off everything from the first line that isn't whole."""
        path.touch()
        good = 0
        for line, end in _whole_lines(path):
            self._recover(line)
            good = end
        file = path.open("r+b", buffering=0)
        file.truncate(good)
        file.seek(good)
        return file

    def _recover(self, line: dict[str, Any]) -> None:
        self.recorded.add(line["custom_id"])
        response = line["response"]
        if response is not None:
            self._count(response["status_code"], read_usage(response["body"]))

    def _count(self, status: int, usage: Usage) -> None:
        if status in OUTPUT:
            self.completed += 1
            add_usage(self.usage, usage)
        else:
            self.failed += 1


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {"id": ids.new_batch_request_id(), "custom_id": custom_id, "response": response, "error": error}
    return strict_json.dumps(line) + b"\n"


def _whole_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The lines up to the first that is torn (or zeroes, after a power cut), each with the offset of its end."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                value = strict_json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield value, end
