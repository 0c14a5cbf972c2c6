"""Files written with direct I/O, or without it if the file system refuses: the same bytes."""

import errno
import os
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.planning import large_file
from batch_assets.batching.planning.large_file import BUFFER_BYTES, LargeFile

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
    """A file system that accepts one block, and refuses the next."""

    code = errno.EINVAL

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(self.code, os.strerror(self.code))
        return super().write(data)


class IsFull(Refuses):
    code = errno.ENOSPC


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_in_the_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"what was there before, and longer" * 200_000)
    assert written(path, size) == path.read_bytes()


def test_a_file_system_without_direct_io_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, really_open = getattr(os, "O_DIRECT", 0), os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_open(path, flags, mode)

    monkeypatch.setattr("os.open", refuse)
    assert written(tmp_path / "file", SIZES[-1]) == (tmp_path / "file").read_bytes()


def test_a_block_that_direct_io_refuses_is_written_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_file, "_open_directly", lambda path: Refuses(path, "wb"))
    assert written(tmp_path / "file", SIZES[-1]) == (tmp_path / "file").read_bytes()


def test_a_full_disk_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_file, "_open_directly", lambda path: IsFull(path, "wb"))
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "file", SIZES[-1])
