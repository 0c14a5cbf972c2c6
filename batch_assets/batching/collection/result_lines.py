"""Reads result files into the temp table `result_line`. Lines that cannot be used go to the table `quarantined_line`.

DuckDB reads the files. If a file has a line that DuckDB cannot read, that no request of the batch has, or that has
neither an answer nor an error where OpenAI writes them, Python reads the file again line by line (`line_repair`). It
repairs some of these lines, and keeps the others unchanged in quarantine.
"""

import csv
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.collection.answer_bodies import ANSWER_BODIES, body_of_parts
from batch_assets.batching.collection.line_repair import LONGEST_LINE_BYTES, lines_of, repair_line
from batch_assets.batching.ledger.database import fixed_join_order, parsed
from batch_assets.batching.provider.endpoint import CHAT_COMPLETIONS
from batch_assets.batching.safety.secrets import bytes_without_known_secrets

# DuckDB fails at a line that is longer than its buffer. A small buffer is faster, and few lines need a larger one.
USUAL_LINE_BYTES, USUAL_BUFFER_BYTES = 4_000_000, 1 << 22
LARGEST_BUFFER_BYTES = 1 << 25  # for LONGEST_LINE_BYTES

CREATE_TABLES = """
    -- trims only if there is white space: to trim takes longer than to read the line
    CREATE OR REPLACE TEMP MACRO trimmed(content) AS CASE
        WHEN ascii(content) <= 32 OR suffix(content, ' ') OR suffix(content, E'\\n')
            OR suffix(content, E'\\r') OR suffix(content, E'\\t')
        THEN trim(content, E' \\t\\r\\n') ELSE content
    END;
    -- models without a parser for it write their thinking before the text; a cut answer has no end of it
    CREATE OR REPLACE TEMP MACRO without_thinking(content) AS CASE
        WHEN starts_with(content, '<think>')
        THEN regexp_replace(content, '^(<think>.*?(</think>|\\z)\\s*)+', '', 's') ELSE content
    END;
    -- the texts of a list of parts, or of one part, without those of other types (thinking, reasoning)
    CREATE OR REPLACE TEMP MACRO text_of_parts(content) AS CASE json_type(content)
        WHEN 'ARRAY' THEN array_to_string(list_transform(
            list_filter(
                from_json(content, '["JSON"]'),
                lambda part: json_type(part) = 'VARCHAR'
                    OR json_type(part, '$.text') = 'VARCHAR'
                        AND coalesce(part ->> '$.type', 'text') IN ('text', 'output_text')
            ),
            lambda part: CASE json_type(part) WHEN 'VARCHAR' THEN part ->> '$' ELSE part ->> '$.text' END
        ), '')
        WHEN 'OBJECT' THEN CASE WHEN json_type(content, '$.text') = 'VARCHAR' THEN content ->> '$.text' END
        ELSE content ->> '$'
    END;
    CREATE OR REPLACE TEMP MACRO refusal_of_parts(content) AS CASE
        WHEN json_type(content) = 'ARRAY' THEN array_to_string(content ->> '$[*].refusal', '')
    END;
    -- a result file that is being read, and the number of its batch
    CREATE OR REPLACE TEMP TABLE result_file (path VARCHAR, batch INTEGER);
    CREATE OR REPLACE TEMP TABLE result_line (
        batch INTEGER, path VARCHAR, custom_id VARCHAR, status_code INTEGER, request_id VARCHAR, model VARCHAR,
        finish_reason VARCHAR, text VARCHAR, vector FLOAT[], input_tokens BIGINT, cached_input_tokens BIGINT,
        cache_write_tokens BIGINT, output_tokens BIGINT, reasoning_tokens BIGINT, code VARCHAR, message VARCHAR,
        is_unclear BOOLEAN  -- it has neither an answer nor an error where OpenAI writes them
    );
"""
# The known fields of a result line. A value of another type than expected becomes NULL. The names in braces are those
# of an `AnswerBody`.
READ_LINES = """
    INSERT INTO result_line (
        batch, path, custom_id, status_code, request_id, model, finish_reason, text, vector, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, code, message, is_unclear
    )
    WITH line AS (
        SELECT batch, path, custom_id, error, response, response.body AS body, response.body.{first} AS first
        FROM read_json(
            $paths, format = 'newline_delimited', records = true, ignore_errors = true, filename = true,
            maximum_object_size = $buffer_bytes,
            columns = {{
                custom_id: 'VARCHAR',
                error: 'STRUCT(code VARCHAR, message VARCHAR)',
                response: 'STRUCT(status_code VARCHAR, request_id VARCHAR, body STRUCT(
                    model VARCHAR, {fields},
                    error STRUCT(code VARCHAR, "type" VARCHAR, message VARCHAR)
                ))'
            }}
        ) AS line JOIN result_file ON result_file.path = line.filename
    ),
    content AS (
        SELECT
            *, try_cast(response.status_code AS INTEGER) AS status_code, body.usage AS usage,
            trimmed({content}) AS content, {refusal} AS refusal, {finish_reason} AS finish_reason,
            {has_answer} AS has_answer, {vector} AS vector,
            coalesce(error.code, body.error.code, body.error.type) AS error_code,
            coalesce(error.message, body.error.message) AS error_message
        FROM line
    ),
    result AS (SELECT *, nullif(without_thinking(content), '') AS text FROM content),
    classified AS (
        SELECT
            *,
            CASE
                WHEN status_code = 200 AND refusal IS NULL AND text IS NOT NULL THEN NULL
                WHEN status_code = 200 AND (refusal IS NOT NULL OR finish_reason = 'content_filter')
                    THEN 'content_refused'
                WHEN status_code = 200 AND (error_code IS NOT NULL OR error_message IS NOT NULL)
                    THEN coalesce(error_code, 'error_in_answer')
                WHEN status_code = 200 AND finish_reason = 'length' THEN 'max_output_tokens'
                WHEN status_code = 200 AND NOT has_answer THEN 'no_answer'
                WHEN status_code = 200 THEN 'empty_answer'
                ELSE coalesce(error_code, 'http_' || status_code, 'no_response')
            END AS code
        FROM result
    )
    SELECT
        batch, path, custom_id, status_code, response.request_id, body.model, finish_reason, text, vector,
        {usage}, code,
        CASE
            WHEN code = 'content_refused' THEN coalesce(refusal, 'The content filter withheld the answer.')
            WHEN error_message IS NOT NULL THEN error_message
            WHEN code = 'max_output_tokens'
                THEN 'The model used all output tokens before an answer began. Raise max_output_tokens.'
            WHEN code = 'empty_answer' THEN 'The model returned an empty answer.'
            WHEN code = 'no_answer' THEN 'The status is 200, but the body is no {noun}.'
        END,
        error_message IS NULL AND (
            NOT has_answer AND error.code IS NULL
            OR code = 'empty_answer' AND finish_reason IS DISTINCT FROM 'stop'
        )
    FROM classified
"""
# The files whose contents may be in parts. DuckDB writes a list or an object as its JSON text into a VARCHAR.
FILES_WITH_PARTS = """
    SELECT DISTINCT path FROM result_line
    WHERE list_contains($paths, path) AND (
        starts_with(text, '[')
        OR starts_with(text, '{"') AND contains(text, '"type"') AND contains(text, '"text"')
    )
"""
FILES_TO_READ_AGAIN = """
    SELECT DISTINCT path FROM result_line LEFT JOIN requested USING (batch, custom_id)
    WHERE requested.custom_id IS NULL OR is_unclear
"""

# By the lines that DuckDB has read again: it may not read each repaired line.
DELETE_READ_AGAIN = """
    DELETE FROM result_line
    WHERE path = $path AND custom_id IN (SELECT custom_id FROM result_line WHERE path = $repaired)
"""


class ResultFile(NamedTuple):
    """A result file of a batch; `batch` is its number in `ended_batch`, `endpoint` the path that answered."""

    path: Path
    batch: int
    batch_id: str
    endpoint: str = CHAT_COMPLETIONS.path


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
        for endpoint in dict.fromkeys(file.endpoint for file in files):
            paths = [str(file.path) for file in files if file.endpoint == endpoint]
            connection.execute(parsed(_read_lines(endpoint)), {"paths": paths, "buffer_bytes": buffer_bytes})
            if endpoint != CHAT_COMPLETIONS.path:
                continue
            with_parts = [path for (path,) in connection.execute(parsed(FILES_WITH_PARTS), {"paths": paths}).fetchall()]
            if with_parts:
                connection.execute("DELETE FROM result_line WHERE list_contains($paths, path)", {"paths": with_parts})
                statement = _read_lines(endpoint, with_parts=True)
                connection.execute(statement, {"paths": with_parts, "buffer_bytes": buffer_bytes})


@cache
def _read_lines(endpoint: str, *, with_parts: bool = False) -> str:
    """`READ_LINES` for the bodies of this endpoint.

    with_parts: for a file of chat completions with content in parts. Each content is then JSON text, so that a list
    differs from a string that looks like one. It takes longer.
    """
    body = body_of_parts() if with_parts else ANSWER_BODIES[endpoint]
    texts = {field.name: getattr(body, field.name) for field in fields(body)}
    usage = ", ".join(f"try_cast({tokens} AS BIGINT)" for tokens in body.usage)
    return READ_LINES.format(**{**texts, "usage": usage})


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
            for number, line, line_bytes in lines_of(file.path):
                repaired_line, reason = repair_line(line, line_bytes, requested, file.endpoint)
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
