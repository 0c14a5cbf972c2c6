"""The results of a batch that runs: an output file and an error file, and the counts of their lines.

The files decide which lines have been executed. The server counts a line after the operating system has taken it, so a
kill loses none. It syncs the files to the disk from time to time: a power cut may lose the last lines, which the server
then executes again. When it opens the files, it cuts off an incomplete end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from batch_assets.local_api.batches.usage import Usage, add_usage, no_usage, read_usage
from batch_assets.local_api.wire import ids, strict_json

# Lines that were not executed, with the reason. They are in the error file but count as neither completed nor failed
# [recorded: litellm #36034, warmbly #333].
UNEXECUTED = {
    # [docs]
    "batch_expired": "This request could not be executed before the completion window expired.",
    # Clients compare the code. The message is ours, since OpenAI's is not known.
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}
# Statuses of lines in the output file, which count as completed. Users report the 0.
OUTPUT_STATUSES = (200, 0)


class Result(NamedTuple):
    """An executed line, ready to be recorded.

    A worker holds many until its time slice ends, and Python's garbage collector visits all objects that are held.
    With whole bodies instead of their bytes, it took a quarter of the time.
    """

    line: bytes
    status: int
    usage: Usage


def make_result(custom_id: str, status: int, request_id: str, body: dict[str, Any]) -> Result:
    response = {"status_code": status, "request_id": request_id, "body": body}
    usage = read_usage(body) if status in OUTPUT_STATUSES else Usage()
    return Result(_line(custom_id, response, None), status, usage)


class Results:
    """Output and error lines of one batch. Not safe for threads: the caller holds the run's lock."""

    def __init__(self, directory: Path) -> None:
        self.output_path = directory / "output.jsonl"
        self.error_path = directory / "errors.jsonl"
        self.completed = 0
        self.failed = 0
        self.usage = no_usage()
        self.recorded: set[str] = set()
        """custom_ids found when the files were opened. The caller takes them, and leaves an empty set."""
        self._output = self._open(self.output_path)
        self._error = self._open(self.error_path)
        self._dirty = False

    @property
    def executed(self) -> int:
        return self.completed + self.failed

    def append(self, results: Iterable[Result]) -> None:
        """Record results: in the output file when their status is in OUTPUT_STATUSES, otherwise in the error file."""
        by_file: dict[BinaryIO, list[Result]] = {self._output: [], self._error: []}
        for result in results:
            by_file[self._output if result.status in OUTPUT_STATUSES else self._error].append(result)
        for file, of_file in by_file.items():
            self._write(file, b"".join(result.line for result in of_file))
            for result in of_file:
                self._count(result.status, result.usage)

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
        # Unbuffered: one call to the operating system, which a kill of this process can't undo. A full disk takes a
        # part of the data. The incomplete line is cut off when the files are opened again.
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "Could not write a result: is the disk full?", file.name)

    def _open(self, path: Path) -> BinaryIO:
        """Open for appending, after cutting off everything from the first incomplete line."""
        path.touch()
        end = 0
        for line in _complete_lines(path):
            self._recover(line.value)
            end = line.end
        file = path.open("r+b", buffering=0)
        file.truncate(end)
        file.seek(end)
        return file

    def _recover(self, line: dict[str, Any]) -> None:
        self.recorded.add(line["custom_id"])
        response = line["response"]
        if response is not None:
            self._count(response["status_code"], read_usage(response["body"]))

    def _count(self, status: int, usage: Usage) -> None:
        if status in OUTPUT_STATUSES:
            self.completed += 1
            add_usage(self.usage, usage)
        else:
            self.failed += 1


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {"id": ids.new_batch_request_id(), "custom_id": custom_id, "response": response, "error": error}
    return strict_json.dumps(line) + b"\n"


class _CompleteLine(NamedTuple):
    """A line of a result file, and the offset of its end."""

    value: dict[str, Any]
    end: int


def _complete_lines(path: Path) -> Iterator[_CompleteLine]:
    """The lines up to the first that is incomplete (or consists of zeroes, after a power cut)."""
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
            yield _CompleteLine(value, end)
