"""Files of up to hundreds of megabytes, written past the system's cache of files, where it lets us.

A day's request files are read once, to be sent, and are no use to anybody in the cache: to copy them into it takes
longer than the disk does, and pushes out what others have there.
"""

import errno
import mmap
import os
from io import FileIO
from pathlib import Path

BUFFER_BYTES = 1 << 22  # what is smaller is written as usual


class LargeFile:
    """A new file; it replaces what has its name. It is on the disk once it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # begins where a page does, as writing directly demands
        self._filled = 0
        self._written = 0
        self._file: FileIO | None = None

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = min(len(rest), BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == BUFFER_BYTES:
                self._write_buffer()

    def close(self) -> None:
        """Write what is left, and sync all of it."""
        if self._file is not None:
            self._file.close()
        with _open_at(self.path, self._written) as file:
            _write_all(file, memoryview(self._buffer)[: self._filled])
            os.fsync(file.fileno())

    def _write_buffer(self) -> None:
        if self._file is None:
            self._file = _open_directly(self.path)
        try:
            _write_all(self._file, memoryview(self._buffer))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._file.close()  # this file system has rules that we don't know
            self._file = _open_at(self.path, self._written)
            _write_all(self._file, memoryview(self._buffer))
        self._written += BUFFER_BYTES
        self._filled = 0


def _open_directly(path: Path) -> FileIO:
    """For whole pages only. As usual, where the system or the file system knows no such thing."""
    direct = getattr(os, "O_DIRECT", 0)  # Linux: https://man7.org/linux/man-pages/man2/open.2.html
    try:
        return FileIO(path, "wb", opener=lambda name, flags: os.open(name, flags | direct, 0o666))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return FileIO(path, "wb")


def _open_at(path: Path, position: int) -> FileIO:
    file = FileIO(path, "r+b" if position else "wb")
    file.seek(position)
    return file


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:  # an unbuffered file may take less than all
        data = data[file.write(data) :]
