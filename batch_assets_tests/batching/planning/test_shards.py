"""Guards against a file that OpenAI refuses as a whole: too many lines or bytes, or other bytes than the lines."""

from __future__ import annotations

import itertools
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.batching.planning.shards import (
    MAX_BYTES_PER_FILE,
    MAX_REQUESTS_PER_FILE,
    FileLimits,
    ShardWriter,
    lines_without,
)

LINES = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b" ") + b"\n"), max_size=40)


def cut(lines: list[bytes], sizes: list[int]) -> list[list[bytes]]:
    """The lines in blocks of these sizes, in turn."""
    blocks: list[list[bytes]] = []
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(lines):
            return blocks
        blocks.append(lines[start : start + size])
        start += size
    raise AssertionError


@settings(deadline=None)  # the disk may be busy
@given(
    lines=LINES,
    max_requests=st.integers(1, 6),
    max_bytes=st.integers(10, 40),
    fill_bytes=st.none() | st.integers(1, 40),
    block_sizes=st.lists(st.integers(1, 15), min_size=1),
)
def test_shards_hold_all_lines_in_order_and_as_many_as_fit(
    lines: list[bytes], max_requests: int, max_bytes: int, fill_bytes: int | None, block_sizes: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder), FileLimits(max_requests, max_bytes, fill_bytes))
        for block in cut(lines, block_sizes):
            writer.add(block)
        shards = writer.close()
        contents = [shard.path.read_bytes() for shard in shards]
        assert len(list(Path(folder).iterdir())) == len(shards)

    assert b"".join(contents) == b"".join(lines)
    assert [shard.position for shard in shards] == list(range(len(shards)))
    full_bytes = min(max_bytes, fill_bytes or max_bytes)
    for shard, content in zip(shards, contents, strict=True):
        assert (shard.requests, shard.bytes) == (content.count(b"\n"), len(content))
        assert shard.sha256 == sha256(content).hexdigest()
        assert 0 < shard.requests <= max_requests
        assert shard.bytes <= full_bytes or (shard.requests == 1 and shard.bytes <= max_bytes)
    for shard, following in zip(shards, contents[1:], strict=False):
        next_line = following[: following.index(b"\n") + 1]
        assert shard.requests == max_requests or shard.bytes + len(next_line) > full_bytes, "a needless split"


@settings(deadline=None)
@given(lines=LINES, max_requests=st.integers(1, 6), data=st.data())
def test_unwanted_lines_are_removed_and_the_files_deleted(
    lines: list[bytes], max_requests: int, data: st.DataObject
) -> None:
    unwanted = data.draw(st.sets(st.integers(0, max(len(lines) - 1, 0))))
    with TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder), FileLimits(max_requests))
        writer.add(lines)
        kept = [line for block in lines_without(writer.close(), sorted(unwanted)) for line in block]
        assert list(Path(folder).iterdir()) == []
    assert kept == [line for number, line in enumerate(lines) if number not in unwanted]


def test_without_lines_there_is_no_shard(tmp_path: Path) -> None:
    assert ShardWriter(tmp_path).close() == []
    assert list(tmp_path.iterdir()) == []


def test_the_limits_are_openais(tmp_path: Path) -> None:
    assert MAX_REQUESTS_PER_FILE == 50_000
    assert MAX_BYTES_PER_FILE == 200_000_000
    writer = ShardWriter(tmp_path)
    writer.add([b"{}\n"] * 50_001)
    assert [shard.requests for shard in writer.close()] == [50_000, 1]


def test_an_error_of_the_disk_is_raised_at_the_end_at_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    writer = ShardWriter(tmp_path)
    writer.add([b"{}\n"])
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
