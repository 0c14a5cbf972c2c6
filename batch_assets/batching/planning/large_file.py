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
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux: https://man7.org/linux/man-pages/man2/open.2.html


class LargeFile:
    """A new file; it replaces a file of the same name. `close` syncs it to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = FileIO(path, "wb")
        self._buffer = mmap.mmap(-1, BUFFER_BYTES)  # page-aligned, as O_DIRECT requires
        self._filled = 0

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            taken = min(len(rest), BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == BUFFER_BYTES:
                _write_all(self._file, memoryview(self._buffer), direct=True)
                self._filled = 0

    def close(self) -> None:
        """Write the rest, and sync the file."""
        with self._file:
            _write_all(self._file, memoryview(self._buffer)[: self._filled], direct=False)
            os.fsync(self._file.fileno())


def _write_all(file: FileIO, data: memoryview, *, direct: bool) -> None:
    """Write the data, with O_DIRECT only if the file system supports it. An unbuffered file may write a part only."""
    while data:
        try:
            _set_direct(file.fileno(), direct)
            data = data[file.write(data) :]
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            direct = False


def _set_direct(descriptor: int, direct: bool) -> None:
    if DIRECT:
        import fcntl  # not on Windows, which has no O_DIRECT either

        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | DIRECT if direct else flags & ~DIRECT)
