"""Result files into tables: every line ends up as an answer, a failure with its reason, or in quarantine.

DuckDB reads the files. Only where it meets a line that it cannot read, or one that nobody asked for, the file
is gone through again line by line: some of these lines can be repaired, the others are kept as they are.
"""

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import duckdb

from batch_assets.batching.prices import batch_rates

MISSING = "missing_from_results"
CANCELLED_BY_USER = "cancelled_by_user"
BATCH_STATUS_CODES = {"expired": "batch_expired", "cancelled": "batch_cancelled", "failed": "batch_failed"}
# Client errors that are worth another try: time-out, conflict, too early, rate limit.
RETRYABLE_CLIENT_ERRORS = (408, 409, 425, 429)
# DuckDB stops at a longer line, whatever is in it. It is given more, to be on the safe side.
LONGEST_LINE_BYTES = 32_000_000
KEPT_OF_A_LONGER_LINE_BYTES = 1_000_000

# A result line as far as we understand it. What has another type than we expect reads as NULL. `response` of a chat
# completion (choices, message.refusal, finish_reason, usage): https://developers.openai.com/api/reference/resources/chat
READ_LINES = """
    INSERT INTO result_line
    WITH line AS (
        SELECT
            filename, custom_id, error, response.body AS body, response.body.usage AS usage,
            try_cast(response.status_code AS INTEGER) AS status_code, response.request_id AS request_id,
            response.body.choices[1] AS choice,
            response.body.choices[1].message.content AS content,
            -- trimmed only where there is need: that takes longer than reading the line
            nullif(CASE
                WHEN ascii(content) <= 32 OR suffix(content, ' ') OR suffix(content, E'\\n')
                    OR suffix(content, E'\\r') OR suffix(content, E'\\t')
                THEN trim(content, E' \\t\\r\\n') ELSE content
            END, '') AS text,
            nullif(response.body.choices[1].message.refusal, '') AS refusal  -- some servers send "" for none
        FROM read_json(
            $path, format = 'newline_delimited', records = true, ignore_errors = true, filename = true,
            maximum_object_size = 33554432,
            columns = {
                custom_id: 'VARCHAR',
                error: 'STRUCT(code VARCHAR, message VARCHAR)',
                response: 'STRUCT(status_code VARCHAR, request_id VARCHAR, body STRUCT(
                    model VARCHAR,
                    choices STRUCT(finish_reason VARCHAR, message STRUCT(content VARCHAR, refusal VARCHAR))[],
                    usage STRUCT(
                        prompt_tokens VARCHAR, completion_tokens VARCHAR,
                        prompt_tokens_details STRUCT(cached_tokens VARCHAR),
                        completion_tokens_details STRUCT(reasoning_tokens VARCHAR)
                    ),
                    error STRUCT(code VARCHAR, "type" VARCHAR, message VARCHAR)
                ))'
            }
        )
    )
    SELECT
        filename, custom_id, status_code, request_id, body.model, choice.finish_reason, text,
        try_cast(usage.prompt_tokens AS BIGINT), try_cast(usage.prompt_tokens_details.cached_tokens AS BIGINT),
        try_cast(usage.completion_tokens AS BIGINT),
        try_cast(usage.completion_tokens_details.reasoning_tokens AS BIGINT),
        CASE
            WHEN status_code = 200 AND refusal IS NULL AND text IS NOT NULL THEN NULL
            WHEN status_code = 200 AND (refusal IS NOT NULL OR choice.finish_reason = 'content_filter')
                THEN 'content_refused'
            WHEN status_code = 200 AND choice.finish_reason = 'length' THEN 'max_output_tokens'
            WHEN status_code = 200 THEN 'empty_answer'
            ELSE coalesce(error.code, body.error.code, body.error.type, 'http_' || status_code, 'no_response')
        END AS code,
        CASE code
            WHEN 'content_refused' THEN coalesce(refusal, 'The answer was withheld by the content filter.')
            WHEN 'max_output_tokens'
                THEN 'The output tokens were used up before an answer began. Raise max_output_tokens.'
            WHEN 'empty_answer' THEN 'The model answered with nothing.'
            ELSE coalesce(error.message, body.error.message)
        END,
        status_code IS NOT NULL AND coalesce(body.choices IS NULL AND body.error.message IS NULL, true)
    FROM line
"""
# Of several lines for one request the better one counts.
BEST_LINES = """
    CREATE OR REPLACE TEMP TABLE outcome AS
    SELECT
        custom_id,
        arg_min(rowid, CASE WHEN code IS NULL THEN 0 WHEN status_code IS NOT NULL THEN 1 ELSE 2 END) AS line
    FROM result_line SEMI JOIN known USING (custom_id)
    GROUP BY custom_id
"""


@dataclass(frozen=True)
class EndedBatch:
    """A batch that has ended, with its result files on disk.

    `reasons` names requests that OpenAI refused before it ran anything: custom_id → (code, message).
    `reason` is what it said of the batch as a whole. `cancelled_by_user`: what has no answer isn't to go out again
    by itself.
    """

    submission_key: str
    batch_id: str
    model: str
    status: str
    ended_at: datetime
    files: list[Path]
    reasons: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reason: tuple[str, str] | None = None
    cancelled_by_user: bool = False


@dataclass(frozen=True)
class Loaded:
    """What became of a batch's requests; `quarantined` counts lines."""

    answered: int
    failed: int
    quarantined: int


def load_results(connection: duckdb.DuckDBPyConnection, batch: EndedBatch) -> Loaded:
    """Enter a batch's results into the tables. Call it inside a transaction, and once for a batch."""
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE result_line (
            path VARCHAR, custom_id VARCHAR, status_code INTEGER, request_id VARCHAR, model VARCHAR,
            finish_reason VARCHAR, text VARCHAR, input_tokens BIGINT, cached_input_tokens BIGINT,
            output_tokens BIGINT, reasoning_tokens BIGINT, code VARCHAR, message VARCHAR,
            has_other_body BOOLEAN  -- nothing of what we know is in it
        )
        """
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE known AS SELECT custom_id FROM pending_request WHERE submission_key = ?",
        [batch.submission_key],
    )
    quarantined = sum(_read_file(connection, path, batch.batch_id) for path in batch.files)
    connection.execute(BEST_LINES)
    answered = _insert_completions(connection, batch)
    failed = _insert_failures(connection, batch)
    connection.execute("DELETE FROM pending_request WHERE submission_key = ?", [batch.submission_key])
    connection.execute(
        "UPDATE openai_batch SET collected_at = now() AT TIME ZONE 'UTC' WHERE submission_key = ?",
        [batch.submission_key],
    )
    return Loaded(answered, failed, quarantined)


def _read_file(connection: duckdb.DuckDBPyConnection, path: Path, batch_id: str) -> int:
    """Read a result file into `result_line`; returns how many of its lines went to quarantine."""
    if path.stat().st_size == 0:
        return 0
    if not _has_a_longer_line(path):
        connection.execute(READ_LINES, {"path": str(path)})
        unusable = connection.execute(
            """
            SELECT count(*) FROM result_line LEFT JOIN known USING (custom_id)
            WHERE path = ? AND (known.custom_id IS NULL OR has_other_body)
            """,
            [str(path)],
        ).fetchone()
        if unusable == (0,):
            return 0
    known = {row[0] for row in connection.execute("SELECT custom_id FROM known").fetchall()}
    return _read_again(connection, path, batch_id, known)


def _has_a_longer_line(path: Path) -> bool:
    return path.stat().st_size > LONGEST_LINE_BYTES and any(
        line_bytes > LONGEST_LINE_BYTES for _, _, line_bytes in _lines(path)
    )


def _read_again(connection: duckdb.DuckDBPyConnection, path: Path, batch_id: str, known: set[str]) -> int:
    """Lines that DuckDB could read are entered a second time, which does no harm: one line of a request counts."""
    with tempfile.TemporaryDirectory() as folder:
        repaired, quarantine = Path(folder) / "repaired.jsonl", Path(folder) / "quarantine.csv"
        quarantined = 0
        with repaired.open("w", encoding="ascii") as good, quarantine.open("w", newline="") as bad:
            rows = csv.writer(bad)
            for number, line, line_bytes in _lines(path):
                repaired_line, reason = _usable(line, line_bytes, known)
                if repaired_line is None:
                    rows.writerow([number, reason, line.hex()])
                    quarantined += 1
                else:
                    good.write(repaired_line + "\n")
        if repaired.stat().st_size:
            connection.execute(READ_LINES, {"path": str(repaired)})
        connection.execute(
            """
            INSERT INTO quarantined_line
            SELECT ?, ?, number, reason, unhex(line)
            FROM read_csv(?, header = false, auto_detect = false, delim = ',', quote = '"', max_line_size = 100000000,
                columns = {number: 'BIGINT', reason: 'VARCHAR', line: 'VARCHAR'})
            """,
            [batch_id, str(path), str(quarantine)],
        )
    return quarantined


def _lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Numbered lines, from 1, that aren't blank, and their sizes. A line ends at \\n, and not at U+2028 or the like.

    Of one that is too long, only the beginning.
    """
    with path.open("rb") as file:
        for number in count(1):
            if not (line := file.readline(LONGEST_LINE_BYTES + 1)):
                return
            line_bytes = len(line)
            if line_bytes > LONGEST_LINE_BYTES:
                rest = line
                line = line[:KEPT_OF_A_LONGER_LINE_BYTES]
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(LONGEST_LINE_BYTES)
                    line_bytes += len(rest)
            if line.strip():
                yield number, line.rstrip(b"\r\n"), line_bytes


def _usable(line: bytes, line_bytes: int, known: set[str]) -> tuple[str | None, str]:
    """The result on this line as JSON that DuckDB can read, or None and the reason why it can't be used."""
    if line_bytes > LONGEST_LINE_BYTES:
        kept = f"its first {len(line):,} are kept here, all of it in the result file"
        return None, f"a line of {line_bytes:,} bytes, more than {LONGEST_LINE_BYTES:,}: {kept}"
    result, reason = _repair(line, known)
    if result is None:
        return None, reason
    repaired = json.dumps(result)
    if len(repaired) > LONGEST_LINE_BYTES:
        return None, f"more than {LONGEST_LINE_BYTES:,} bytes in ASCII"
    return repaired, reason


def _repair(line: bytes, known: set[str]) -> tuple[dict[str, Any] | None, str]:
    """The result on this line, or None and the reason why it can't be used."""
    text = line.decode("utf-8-sig", errors="replace")
    try:
        result = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        return None, f"malformed JSON: {error}"
    if not isinstance(result, dict):
        return None, "not a JSON object"
    custom_id = result.get("custom_id")
    if not isinstance(custom_id, str):
        return None, "no custom_id"
    if custom_id not in known:
        return None, "unknown custom_id: no request of this batch has it"
    # a lone half of a surrogate pair is legal in JSON, but no text; DuckDB refuses it
    whole = json.dumps(result, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return _with_body(json.loads(whole.decode("utf-16", "replace"))), ""


def _with_body(result: dict[str, Any]) -> dict[str, Any]:
    """Some servers send the body as a string that holds JSON."""
    response = result.get("response")
    if isinstance(response, dict) and isinstance(response.get("body"), str):
        with suppress(ValueError, RecursionError):
            return {**result, "response": {**response, "body": json.loads(response["body"])}}
    return result


def _insert_completions(connection: duckdb.DuckDBPyConnection, batch: EndedBatch) -> int:
    rates = batch_rates(batch.model)
    inserted = connection.execute(
        """
        INSERT INTO completion
        SELECT
            custom_id, text, finish_reason, coalesce(model, $model),
            input_tokens, cached_input_tokens, output_tokens, reasoning_tokens,
            (input_tokens - coalesce(cached_input_tokens, 0)) * $input_usd::DOUBLE
                + coalesce(cached_input_tokens, 0) * $cached_input_usd::DOUBLE
                + output_tokens * $output_usd::DOUBLE,
            $batch_id, request_id, $ended_at
        FROM result_line ANTI JOIN completion USING (custom_id)
        WHERE code IS NULL AND result_line.rowid IN (SELECT line FROM outcome)
        """,
        {
            "model": batch.model,
            "input_usd": rates and rates.input_usd,
            "cached_input_usd": rates and rates.cached_input_usd,
            "output_usd": rates and rates.output_usd,
            "batch_id": batch.batch_id,
            "ended_at": batch.ended_at,
        },
    ).fetchone()
    return int(inserted[0]) if inserted else 0


def _insert_failures(connection: duckdb.DuckDBPyConnection, batch: EndedBatch) -> int:
    connection.execute("CREATE OR REPLACE TEMP TABLE refused (custom_id VARCHAR, code VARCHAR, message VARCHAR)")
    if batch.reasons:
        rows = [(custom_id, code, message) for custom_id, (code, message) in batch.reasons.items()]
        connection.executemany("INSERT INTO refused VALUES (?, ?, ?)", rows)
    code, message = batch.reason or (
        BATCH_STATUS_CODES.get(batch.status, MISSING),
        f"The batch ended as {batch.status}, and neither of its result files has a line for this request.",
    )
    inserted = connection.execute(
        """
        INSERT INTO failed_request
        SELECT custom_id, $batch_id, code, message, status_code,
            code NOT IN ('content_refused', 'max_output_tokens') AND NOT coalesce(
                status_code BETWEEN 400 AND 499 AND NOT list_contains($retryable, status_code), false
            ),
            $ended_at
        FROM result_line WHERE code IS NOT NULL AND rowid IN (SELECT line FROM outcome)
        UNION ALL
        SELECT custom_id, $batch_id, code, message, NULL, false, $ended_at
        FROM refused SEMI JOIN known USING (custom_id) ANTI JOIN outcome USING (custom_id)
        UNION ALL
        SELECT custom_id, $batch_id, $code, $message, NULL, true, $ended_at
        FROM known ANTI JOIN outcome USING (custom_id) ANTI JOIN refused USING (custom_id)
        """,
        {
            "batch_id": batch.batch_id,
            "code": code,
            "message": message,
            "ended_at": batch.ended_at,
            "retryable": list(RETRYABLE_CLIENT_ERRORS),
        },
    ).fetchone()
    if batch.cancelled_by_user:
        connection.execute(
            "UPDATE failed_request SET code = ? WHERE batch_id = ? AND retryable", [CANCELLED_BY_USER, batch.batch_id]
        )
    return int(inserted[0]) if inserted else 0
