"""Result files that contradict their batch are late, not final: a later run downloads them again, for 25 hours.

Users saw output files of 0 bytes for a while after `completed`, and pages of HTML with status 200 in place of a file. A
run that took such a file for the results would buy all missing requests again. After 25 hours the file is quarantined
as a whole: it stays on this disk, its answers count, and the requests that it lacks are blocked until the user decides.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from batch_assets.batching.collection.ended_batches import EndedBatch, FailureReason
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.outcomes import RESULTS_GONE, RESULTS_QUARANTINED, Scope, outcome_of
from batch_assets.batching.provider.batches import RemoteBatch
from batch_assets.batching.safety.secrets import bytes_without_known_secrets

BLOCK_BYTES = 1 << 20
BEGINNING_BYTES = 1 << 12


def contradiction(batch: RemoteBatch, requests: int, files: Mapping[str, Path]) -> str | None:
    """Why these files ("output", "errors") cannot be all results of the batch; None if they may be.

    `requests`: how many the request file has. A batch that completed has a line for each of them.
    """
    for kind, path in files.items():
        if not may_be_json_lines(path):
            return f"the file {kind} is not a file of JSON lines"
    lines = {kind: _count_lines(path) for kind, path in files.items()}
    for kind, expected in (("output", batch.completed or 0), ("errors", batch.failed or 0)):
        if kind in lines and lines[kind] < expected:
            return f"the file {kind} has {counted(lines[kind], 'line')}, and the batch counts {expected:,}"
    if batch.completed and "output" not in lines:
        return f"there is no output file, and the batch counts {counted(batch.completed, 'completed request')}"
    total = sum(lines.values())
    if batch.status == "completed" and total < requests:
        return f"the files have {counted(total, 'line')}, and the batch has {counted(requests, 'request')}"
    return None


def quarantine_incomplete_files(connection: duckdb.DuckDBPyConnection, batches: Sequence[EndedBatch]) -> None:
    """Block the requests without a line in files that contradict their batch, or that the API has deleted.

    Reads the temp table `outcome`, and changes code, message and scope of `ended_batch`: those of a request without a
    line. Such a request may be answered and billed, so no run buys it again by itself.
    """
    incomplete = connection.execute("SELECT DISTINCT batch FROM outcome WHERE chosen IS NULL ORDER BY batch").fetchall()
    for (number,) in incomplete:
        batch = batches[number]
        reason = _why_incomplete(batch)
        if reason is None:
            continue
        connection.execute(
            "UPDATE ended_batch SET code = ?, message = ?, scope = ? WHERE batch = ?",
            [reason.code, f"{reason.message} {outcome_of(reason.code).remedy}", Scope.FILE, number],
        )
        connection.executemany(
            "INSERT INTO quarantined_line (batch_id, path, line_number, reason, line) VALUES (?, ?, 0, ?, ?)",
            [
                (batch.batch_id, str(path), reason.message, _beginning(path) if path.name else b"")
                for path in batch.files.values() or [Path()]
            ],
        )


def _why_incomplete(batch: EndedBatch) -> FailureReason | None:
    """Why the results of the batch are not all results; None if they may be."""
    reported = batch.reported
    if reported is None:
        return None
    ids = {"output": reported.output_file_id, "errors": reported.error_file_id}
    gone = [kind for kind, file_id in ids.items() if file_id is not None and kind not in batch.files]
    if gone:
        return FailureReason(
            RESULTS_GONE,
            f"The API no longer has the result file ({' and '.join(gone)}) of {batch.batch_id}: it deletes the files "
            "of a batch after 30 days. The requests may be billed.",
        )
    contradicts = contradiction(reported, batch.requests, batch.files)
    if contradicts is None:
        return None
    cause = f" Its error: {batch.reason.message}" if batch.reason else ""
    return FailureReason(
        RESULTS_QUARANTINED,
        f"The results of {batch.batch_id} are incomplete: {contradicts}.{cause} The requests without a line may be "
        "billed.",
    )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return bytes_without_known_secrets(file.read(BEGINNING_BYTES))


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def may_be_json_lines(path: Path) -> bool:
    """Whether the first character is that of a JSON object. An empty file may be one."""
    with path.open("rb") as file:
        start = file.read(BEGINNING_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    return not start or start.startswith(b"{")
