"""Guards against a file that OpenAI refuses as a whole: a line or a byte too many, or bytes that aren't the lines."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.batching.shards import MAX_BYTES_PER_FILE, MAX_REQUESTS_PER_FILE, ShardWriter

LINES = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b" ")), max_size=40)


@settings(deadline=None)  # a busy disk is no fault
@given(lines=LINES, max_requests=st.integers(1, 6), max_bytes=st.integers(10, 40))
def test_shards_hold_all_lines_in_order_and_as_many_as_fit(
    lines: list[bytes], max_requests: int, max_bytes: int
) -> None:
    with TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder), max_requests=max_requests, max_bytes=max_bytes)
        positions = [writer.add(line) for line in lines]
        shards = writer.close()
        contents = [shard.path.read_bytes() for shard in shards]
        assert len(list(Path(folder).iterdir())) == len(shards)

    assert b"".join(contents) == b"".join(line + b"\n" for line in lines)
    assert [shard.position for shard in shards] == list(range(len(shards)))
    assert positions == [shard.position for shard in shards for _ in range(shard.requests)]
    for shard, content in zip(shards, contents, strict=True):
        assert (shard.requests, shard.bytes) == (content.count(b"\n"), len(content))
        assert shard.sha256 == sha256(content).hexdigest()
        assert 0 < shard.requests <= max_requests
        assert shard.bytes <= max_bytes
    for shard, following in zip(shards, contents[1:], strict=False):
        next_line = following[: following.index(b"\n") + 1]
        assert shard.requests == max_requests or shard.bytes + len(next_line) > max_bytes, "a needless split"


def test_a_line_fits_anywhere_if_it_fits_with_its_newline(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, max_bytes=10)
    assert writer.fits_anywhere(b"x" * 9)
    assert not writer.fits_anywhere(b"x" * 10)


def test_nothing_makes_no_shard(tmp_path: Path) -> None:
    assert ShardWriter(tmp_path).close() == []
    assert list(tmp_path.iterdir()) == []


def test_the_limits_are_openais(tmp_path: Path) -> None:
    assert MAX_REQUESTS_PER_FILE == 50_000
    assert MAX_BYTES_PER_FILE == 200_000_000
    writer = ShardWriter(tmp_path)
    for _ in range(50_001):
        writer.add(b"{}")
    assert [shard.requests for shard in writer.close()] == [50_000, 1]
