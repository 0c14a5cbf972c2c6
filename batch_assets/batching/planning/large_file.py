"""Writes files of up to hundreds of megabytes with direct I/O (O_DIRECT), if the file system supports it.

A run reads a request file once, to send it, so a copy in the page cache has no use. The copy takes longer than the
disk, and removes the pages of other processes from the cache.
"""

import errno
import mmap
import os
from io import FileIO
from pathlib import Path

BUFFER_BYTES = 1 << 22  # smaller files are written through the page cache


class LargeFile:
    """A new file; it replaces a file of the same name. `close` syncs it to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # page-aligned, as O_DIRECT requires
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
        """Write the rest, and sync the file."""
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
            self._file.close()  # this file system does not support the write
            self._file = _open_at(self.path, self._written)
            _write_all(self._file, memoryview(self._buffer))
        self._written += BUFFER_BYTES
        self._filled = 0


def _open_directly(path: Path) -> FileIO:
    """For whole pages only. Without O_DIRECT if the system or the file system does not support it."""
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
    while data:  # an unbuffered file may write a part only
        data = data[file.write(data) :]
