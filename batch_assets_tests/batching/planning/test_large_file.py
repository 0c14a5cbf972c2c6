"""Files written with direct I/O, or without it if the file system refuses: the same bytes."""

import errno
import fcntl
import os
import sys
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.planning import large_file
from batch_assets.batching.planning.large_file import BUFFER_BYTES, DIRECT, LargeFile

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no O_DIRECT")
SIZES = (0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 4097)


def written(path: Path, size: int) -> bytes:
    """So many bytes, given to a new file in pieces of all sizes."""
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    file = LargeFile(path)
    start, piece = 0, 1
    while start < size:
        file.write(content[start : start + piece])
        start, piece = start + piece, piece * 3
    file.close()
    return content


class Refuses(FileIO):
    """A file system that accepts one block with direct I/O, and refuses the next."""

    def write(self, data: Any) -> int:
        if self.tell() and fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().write(data)


class IsFull(FileIO):
    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


class WritesAPart(FileIO):
    """A system that writes a part of each block. The next part is not aligned, so that direct I/O refuses it."""

    def write(self, data: Any) -> int:
        return super().write(memoryview(data)[: BUFFER_BYTES // 2 + 1])


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_in_the_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"what was there before, and longer" * 200_000)
    assert written(path, size) == path.read_bytes()


@linux_only
def test_a_file_is_written_with_direct_io_but_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct: list[bool] = []

    class Watched(FileIO):
        def write(self, data: Any) -> int:
            direct.append(bool(fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & DIRECT))
            return super().write(data)

    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | DIRECT))
    except OSError:
        pytest.skip("this file system has no direct I/O")
    monkeypatch.setattr(large_file, "FileIO", Watched)
    written(tmp_path / "file", 2 * BUFFER_BYTES + 1)
    assert direct == [True, True, False]


@linux_only
def test_a_file_system_without_direct_io_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = fcntl.fcntl

    def refuse(descriptor: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really(descriptor, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert written(tmp_path / "file", SIZES[-1]) == (tmp_path / "file").read_bytes()


@linux_only
@pytest.mark.parametrize("file", [Refuses, WritesAPart])
def test_a_block_that_direct_io_refuses_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: type[FileIO]
) -> None:
    monkeypatch.setattr(large_file, "FileIO", file)
    assert written(tmp_path / "file", SIZES[-1]) == (tmp_path / "file").read_bytes()


def test_a_full_disk_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_file, "FileIO", IsFull)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", SIZES[-1])
