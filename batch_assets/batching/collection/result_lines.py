"""Reads result files into the temp table `result_line`. Lines that cannot be used go to the table `quarantined_line`.

DuckDB reads the files. If a file has a line that DuckDB cannot read, or that no request of the batch has, Python reads
the file again line by line. It repairs some of these lines, and keeps the others unchanged in quarantine.
"""

import csv
import json
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from batch_assets.batching.ledger.database import fixed_join_order
from batch_assets.batching.safety.secrets import bytes_without_known_secrets

# DuckDB fails at a line that is longer than its buffer. A small buffer is faster, and few lines need a larger one.
USUAL_LINE_BYTES, USUAL_BUFFER_BYTES = 4_000_000, 1 << 22
LONGEST_LINE_BYTES, LARGEST_BUFFER_BYTES = 32_000_000, 1 << 25
KEPT_OF_A_LONGER_LINE_BYTES = 1_000_000

CREATE_TABLES = """
    -- trims only if there is white space: to trim takes longer than to read the line
    CREATE OR REPLACE TEMP MACRO trimmed(content) AS CASE
        WHEN ascii(content) <= 32 OR suffix(content, ' ') OR suffix(content, E'\\n')
            OR suffix(content, E'\\r') OR suffix(content, E'\\t')
        THEN trim(content, E' \\t\\r\\n') ELSE content
    END;
    -- a result file that is being read, and the number of its batch
    CREATE OR REPLACE TEMP TABLE result_file (path VARCHAR, batch INTEGER);
    CREATE OR REPLACE TEMP TABLE result_line (
        batch INTEGER, path VARCHAR, custom_id VARCHAR, status_code INTEGER, request_id VARCHAR, model VARCHAR,
        finish_reason VARCHAR, text VARCHAR, input_tokens BIGINT, cached_input_tokens BIGINT,
        cache_write_tokens BIGINT, output_tokens BIGINT, reasoning_tokens BIGINT, code VARCHAR, message VARCHAR,
        has_other_body BOOLEAN  -- the body has neither choices nor an error message
    );
"""
# The known fields of a result line. A value of another type than expected becomes NULL. `response` of a chat
# completion (choices, message.refusal, finish_reason, usage): https://developers.openai.com/api/reference/resources/chat
READ_LINES = """
    INSERT INTO result_line (
        batch, path, custom_id, status_code, request_id, model, finish_reason, text, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, code, message, has_other_body
    )
    WITH line AS (
        SELECT batch, path, custom_id, error, response, response.body AS body, response.body.choices[1] AS choice
        FROM read_json(
            $paths, format = 'newline_delimited', records = true, ignore_errors = true, filename = true,
            maximum_object_size = $buffer_bytes,
            columns = {
                custom_id: 'VARCHAR',
                error: 'STRUCT(code VARCHAR, message VARCHAR)',
                response: 'STRUCT(status_code VARCHAR, request_id VARCHAR, body STRUCT(
                    model VARCHAR,
                    choices STRUCT(finish_reason VARCHAR, message STRUCT(content VARCHAR, refusal VARCHAR))[],
                    usage STRUCT(
                        prompt_tokens VARCHAR, completion_tokens VARCHAR,
                        prompt_tokens_details STRUCT(cached_tokens VARCHAR, cache_write_tokens VARCHAR),
                        completion_tokens_details STRUCT(reasoning_tokens VARCHAR)
                    ),
                    error STRUCT(code VARCHAR, "type" VARCHAR, message VARCHAR)
                ))'
            }
        ) AS line JOIN result_file ON result_file.path = line.filename
    ),
    result AS (
        SELECT
            *, try_cast(response.status_code AS INTEGER) AS status_code, body.usage AS usage,
            nullif(trimmed(choice.message.content), '') AS text,
            nullif(choice.message.refusal, '') AS refusal  -- some servers send "" for none
        FROM line
    ),
    classified AS (
        SELECT
            *,
            CASE
                WHEN status_code = 200 AND refusal IS NULL AND text IS NOT NULL THEN NULL
                WHEN status_code = 200 AND (refusal IS NOT NULL OR choice.finish_reason = 'content_filter')
                    THEN 'content_refused'
                WHEN status_code = 200 AND choice.finish_reason = 'length' THEN 'max_output_tokens'
                WHEN status_code = 200 THEN 'empty_answer'
                ELSE coalesce(error.code, body.error.code, body.error.type, 'http_' || status_code, 'no_response')
            END AS code
        FROM result
    )
    SELECT
        batch, path, custom_id, status_code, response.request_id, body.model, choice.finish_reason, text,
        try_cast(usage.prompt_tokens AS BIGINT), try_cast(usage.prompt_tokens_details.cached_tokens AS BIGINT),
        try_cast(usage.prompt_tokens_details.cache_write_tokens AS BIGINT),
        try_cast(usage.completion_tokens AS BIGINT),
        try_cast(usage.completion_tokens_details.reasoning_tokens AS BIGINT),
        code,
        CASE code
            WHEN 'content_refused' THEN coalesce(refusal, 'The content filter withheld the answer.')
            WHEN 'max_output_tokens'
                THEN 'The model used all output tokens before an answer began. Raise max_output_tokens.'
            WHEN 'empty_answer' THEN 'The model returned an empty answer.'
            ELSE coalesce(error.message, body.error.message)
        END,
        status_code IS NOT NULL AND coalesce(body.choices IS NULL AND body.error.message IS NULL, true)
    FROM classified
"""
FILES_TO_READ_AGAIN = """
    SELECT DISTINCT path FROM result_line LEFT JOIN requested USING (batch, custom_id)
    WHERE requested.custom_id IS NULL OR has_other_body
"""

# By the lines that DuckDB has read again: it may not read each repaired line.
DELETE_READ_AGAIN = """
    DELETE FROM result_line
    WHERE path = $path AND custom_id IN (SELECT custom_id FROM result_line WHERE path = $repaired)
"""


class ResultFile(NamedTuple):
    """A result file of a batch; `batch` is its number in `ended_batch`."""

    path: Path
    batch: int
    batch_id: str


def read_result_files(connection: duckdb.DuckDBPyConnection, files: Sequence[ResultFile]) -> dict[str, int]:
    """Fill the temp table `result_line`; returns how many lines of each batch_id went to quarantine.

    The temp table `requested` (batch, custom_id) has the requests of the batches. A line in quarantine may be in
    `result_line`, too: OpenAI may have billed it.
    """
    connection.execute(CREATE_TABLES)
    files = [file for file in files if file.path.stat().st_size]
    too_long = {file.path for file in files if _has_a_longer_line(file.path, LONGEST_LINE_BYTES)}
    _read(connection, [file for file in files if file.path not in too_long])
    again = too_long | {Path(path) for (path,) in connection.execute(FILES_TO_READ_AGAIN).fetchall()}
    quarantined: dict[str, int] = defaultdict(int)
    for file in files:
        if file.path in again:
            quarantined[file.batch_id] += _read_again(connection, file)
    return quarantined


def _read(connection: duckdb.DuckDBPyConnection, files: Sequence[ResultFile]) -> None:
    if not files:
        return
    connection.executemany(
        "INSERT INTO result_file (path, batch) VALUES (?, ?)", [(str(file.path), file.batch) for file in files]
    )
    has_a_long_line = any(_has_a_longer_line(file.path, USUAL_LINE_BYTES) for file in files)
    buffer_bytes = LARGEST_BUFFER_BYTES if has_a_long_line else USUAL_BUFFER_BYTES
    with fixed_join_order(connection):
        connection.execute(READ_LINES, {"paths": [str(file.path) for file in files], "buffer_bytes": buffer_bytes})


def _has_a_longer_line(path: Path, line_bytes: int) -> bool:
    """Whether a line has more than so many bytes; looks for a newline in each block of this length only."""
    if path.stat().st_size <= line_bytes:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = 0
        while len(content) - start > line_bytes:
            start = content.rfind(b"\n", start, start + line_bytes) + 1
            if start == 0:
                return True
    return False


def _read_again(connection: duckdb.DuckDBPyConnection, file: ResultFile) -> int:
    """Read the file line by line; returns how many lines went to quarantine.

    A line that is read now replaces its earlier row: no usage may count twice.
    """
    rows = connection.execute("SELECT custom_id FROM requested WHERE batch = ?", [file.batch]).fetchall()
    requested = {custom_id for (custom_id,) in rows}
    with tempfile.TemporaryDirectory() as folder:
        repaired, quarantine = Path(folder) / "repaired.jsonl", Path(folder) / "quarantine.csv"
        quarantined = 0
        with repaired.open("w", encoding="ascii") as good, quarantine.open("w", newline="") as bad:
            quarantine_rows = csv.writer(bad)
            for number, line, line_bytes in _lines(file.path):
                repaired_line, reason = _readable(line, line_bytes, requested)
                if reason:
                    quarantine_rows.writerow([number, reason, bytes_without_known_secrets(line).hex()])
                    quarantined += 1
                if repaired_line is not None:
                    good.write(repaired_line + "\n")
        if repaired.stat().st_size:
            _read(connection, [file._replace(path=repaired)])
            connection.execute(DELETE_READ_AGAIN, {"path": str(file.path), "repaired": str(repaired)})
        connection.execute(
            """
            INSERT INTO quarantined_line (batch_id, path, line_number, reason, line)
            SELECT ?, ?, number, reason, unhex(line)
            FROM read_csv(?, header = false, auto_detect = false, delim = ',', quote = '"', max_line_size = 100000000,
                columns = {number: 'BIGINT', reason: 'VARCHAR', line: 'VARCHAR'})
            """,
            [file.batch_id, str(file.path), str(quarantine)],
        )
    return quarantined


def _lines(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, line, its size) of the lines that are not blank. A line ends at \\n, not at U+2028 or similar.

    Of a line that is too long, only the beginning.
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


def _readable(line: bytes, line_bytes: int, requested: set[str]) -> tuple[str | None, str]:
    """The line as JSON that DuckDB can read, None if that is impossible, and why the line cannot be used.

    The reason is empty for a line that can be used. A line that no request of the batch has may still tell its usage.
    """
    if line_bytes > LONGEST_LINE_BYTES:
        kept = f"its first {len(line):,} bytes are kept here, the whole line in the result file"
        return None, f"a line of {line_bytes:,} bytes, more than {LONGEST_LINE_BYTES:,}: {kept}"
    result, reason = _repair(line, requested)
    if result is None:
        return None, reason
    repaired = json.dumps(result)
    if len(repaired) > LONGEST_LINE_BYTES:
        return None, reason or f"more than {LONGEST_LINE_BYTES:,} bytes in ASCII"
    return repaired, reason


def _repair(line: bytes, requested: set[str]) -> tuple[dict[str, Any] | None, str]:
    """The result on this line, None if there is none, and why it cannot be used; the reason is empty if it can."""
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
    reason = "" if custom_id in requested else "unknown custom_id: no request of this batch has it"
    # JSON allows a lone half of a surrogate pair, which is no text; DuckDB refuses it
    whole = json.dumps(result, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return _with_body(json.loads(whole.decode("utf-16", "replace"))), reason


def _with_body(result: dict[str, Any]) -> dict[str, Any]:
    """The result with its body as an object: some servers send the body as a string of JSON."""
    response = result.get("response")
    if isinstance(response, dict) and isinstance(response.get("body"), str):
        with suppress(ValueError, RecursionError):
            return {**result, "response": {**response, "body": json.loads(response["body"])}}
    return result
