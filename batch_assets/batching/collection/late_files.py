"""Result files that contradict their batch are late, not final: a later run downloads them again.

Users saw output files of 0 bytes for a while after `completed`, and pages of HTML with status 200 in place of a file. A
run that took such a file for the results would buy all missing requests again.
"""

from collections.abc import Mapping
from pathlib import Path

from batch_assets.batching.counting import counted
from batch_assets.batching.provider.batches import RemoteBatch

BLOCK_BYTES = 1 << 20


def contradiction(batch: RemoteBatch, requests: int, files: Mapping[str, Path]) -> str | None:
    """Why these files ("output", "errors") cannot be all results of the batch; None if they may be.

    `requests`: how many the request file has. A batch that completed has a line for each of them.
    """
    lines = {kind: _count_lines(path) for kind, path in files.items()}
    for kind, path in files.items():
        if not _may_be_json_lines(path):
            return f"the file {kind} is not a file of JSON lines"
    for kind, expected in (("output", batch.completed or 0), ("errors", batch.failed or 0)):
        if kind in lines and lines[kind] < expected:
            return f"the file {kind} has {counted(lines[kind], 'line')}, and the batch counts {expected:,}"
    total = sum(lines.values())
    if batch.status == "completed" and total < requests:
        return f"the files have {counted(total, 'line')}, and the batch has {counted(requests, 'request')}"
    return None


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _may_be_json_lines(path: Path) -> bool:
    """Whether the first character is that of a JSON object. An empty file may be one."""
    with path.open("rb") as file:
        start = file.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    return not start or start.startswith(b"{")
