"""The results of a batch that runs: two files that lines are appended to, and what is known of them.

They are the truth about what has been executed. Lines are handed to the operating system before
they count, so a kill loses none; they are synced to the disk from time to time, so a power cut may lose
the last few, which then are executed again. A torn tail is cut off when the files are opened.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from batch_assets.local_api import ids, strict_json
from batch_assets.local_api.usage import add_usage, no_usage

# Lines that were never executed, for these reasons, are in the error file but count as neither
# completed nor failed [recorded: litellm #36034, warmbly #333].
UNEXECUTED = {
    # [docs]
    "batch_expired": "This request could not be executed before the completion window expired.",
    # The code is what clients look for; OpenAI's message is not known, this one is ours.
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
}


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
        self._pending: dict[BinaryIO, list[bytes]] = {self._output: [], self._error: []}
        self._uncounted: list[tuple[int, dict[str, Any]]] = []
        self._dirty = False

    @property
    def executed(self) -> int:
        return self.completed + self.failed

    def append(self, custom_id: str, status: int, request_id: str, body: dict[str, Any]) -> None:
        """Record an answer: in the output file when it is a 200, otherwise in the error file."""
        response = {"status_code": status, "request_id": request_id, "body": body}
        self._add(self._output if status == 200 else self._error, custom_id, response, None)
        self._uncounted.append((status, body))

    def append_unexecuted(self, custom_id: str, code: str) -> None:
        """Record that a line was not executed, with a code of UNEXECUTED."""
        self._add(self._error, custom_id, None, {"code": code, "message": UNEXECUTED[code]})

    def flush(self) -> None:
        """Write out what was recorded since the last time; only then it counts."""
        for file, lines in self._pending.items():
            if lines:
                data = b"".join(lines)
                lines.clear()
                self._write(file, data)
        for status, body in self._uncounted:
            self._count(status, body)
        self._uncounted.clear()

    def sync(self) -> None:
        if self._dirty:
            self._dirty = False
            os.fsync(self._output.fileno())
            os.fsync(self._error.fileno())

    def close(self) -> None:
        self._output.close()
        self._error.close()

    def _add(
        self,
        file: BinaryIO,
        custom_id: str,
        response: dict[str, Any] | None,
        error: dict[str, Any] | None,
    ) -> None:
        line = {
            "id": ids.new_batch_request_id(),
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        self._pending[file].append(strict_json.dumps(line) + b"\n")

    def _write(self, file: BinaryIO, data: bytes) -> None:
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
            self._count(response["status_code"], response["body"])

    def _count(self, status: int, body: dict[str, Any]) -> None:
        if status == 200:
            self.completed += 1
            add_usage(self.usage, body)
        else:
            self.failed += 1


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
