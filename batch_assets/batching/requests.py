"""Which requests a day needs, which of them are owed, and the request files that hold these.

A request's `custom_id` is made from what is asked: a prefix of the sha256 of endpoint and body. So an
answer found under it is *the* answer, whichever day, file or batch it came from; a request that has one is
never sent again, and equal articles share one.
"""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import duckdb

from batch_assets.batching.database import Database, transaction
from batch_assets.batching.prices import BYTES_PER_TOKEN, max_cost_usd
from batch_assets.batching.remote import now_utc
from batch_assets.batching.results import CANCELLED_BY_USER
from batch_assets.batching.shards import Shard, ShardWriter
from batch_assets.batching.task import ENDPOINT, Task

CUSTOM_ID_CHARACTERS = 40  # of 64 hexadecimal ones: 160 bits; some servers allow no more than 64
TOO_LARGE = "request_too_large"
REQUESTS_FOLDER = "requests"
UNFINISHED = ".unfinished-"
FETCH_ROWS = 2_000

# The state of each request of the day, from what is known of it anywhere. `failed`: for good; `cancelled`: by hand.
REQUEST_STATE = """
    CREATE OR REPLACE TEMP TABLE request_state AS
    WITH needed AS (
        SELECT custom_id, any_value(article_id) AS article_id
        FROM batch_request WHERE partition_date = getvariable('day') GROUP BY custom_id
    ),
    failure AS (
        SELECT
            custom_id, count(*) FILTER (code <> 'cancelled_by_user') AS attempts, bool_and(retryable) AS retryable,
            arg_max(code, failed_at) AS code, string_agg(DISTINCT concat_ws(': ', code, message), '; ') AS reasons,
            -- an equal article of another day, whose batch somebody cancelled, holds nothing up on this one
            arg_max(
                code = 'cancelled_by_user' AND coalesce(partition_date = getvariable('day'), true), failed_at
            ) AS is_held
        FROM failed_request SEMI JOIN needed USING (custom_id) LEFT JOIN openai_batch USING (batch_id)
        GROUP BY custom_id
    )
    SELECT
        custom_id, article_id, attempts, code, reasons,
        CASE
            WHEN custom_id IN (SELECT custom_id FROM completion) THEN 'answered'
            WHEN custom_id IN (SELECT custom_id FROM pending_request) THEN 'in_flight'
            WHEN attempts >= getvariable('max_rounds') OR NOT retryable THEN 'failed'
            WHEN is_held THEN 'cancelled'
            ELSE 'owed'
        END AS state
    FROM needed LEFT JOIN failure USING (custom_id)
"""


@dataclass(frozen=True)
class Plan:
    """What a day needs. The counts are of distinct requests, but for `articles`.

    `max_cost_usd` is an upper estimate for the shards written now, None if the model's price is unknown.
    """

    articles: int
    requests: dict[str, int]
    shards: list[Shard]
    round: int
    estimated_input_tokens: int = 0
    max_cost_usd: float | None = 0.0


def plan_day(
    database: Database,
    *,
    day: str,
    task: Task,
    data_folder: Path,
    max_rounds: int,
    max_enqueued_tokens: int | None = None,
    refresh: bool = False,
    resume_cancelled: bool = True,
) -> Plan:
    """Write request files for what the day still owes, and nothing else.

    The files go to `requests/<day>/` in the data folder. Requests that are answered or in flight are left out.
    Files that nobody has begun to submit are planned again, so a changed prompt never pays for the old one.
    `max_enqueued_tokens` keeps files so small that two of them fit into that budget. With `refresh`, what is answered
    or failed is owed again, and so paid for again. `resume_cancelled`: whether to send what somebody has cancelled.

    The database is held for the whole of it, so that two runs of one day cannot plan the same request twice.
    """
    with database.writing() as connection:
        connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
        connection.execute("SET VARIABLE max_rounds = ?", [max_rounds])
        with transaction(connection):
            abandoned = {data_folder / path for path in _withdraw_unsubmitted(connection)}
            _replace_requests(connection, task)
            if refresh:
                _forget_answers(connection)
            connection.execute(REQUEST_STATE)
            connection.execute(
                "SET VARIABLE sent_states = ?", [["owed", "cancelled"] if resume_cancelled else ["owed"]]
            )
            round_number = _next_round(connection)
            target = data_folder / REQUESTS_FOLDER / day
            for leftover in target.glob(f"{UNFINISHED}*"):  # of a run that was killed: nobody else is writing now
                shutil.rmtree(leftover, ignore_errors=True)
            hidden = target / f"{UNFINISHED}{uuid.uuid4().hex[:8]}"
            hidden.mkdir(parents=True)
            try:
                shards = [
                    _settled(shard, target, round_number)
                    for shard in _write_owed(connection, task, hidden, max_enqueued_tokens)
                ]
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            _record(connection, task, shards, day, round_number)
            plan = _plan(connection, task, shards, round_number)
        # still in turn, so that nobody plans these files again meanwhile
        for path in abandoned - {shard.path for shard in plan.shards}:
            path.unlink(missing_ok=True)
    return plan


def hold_owed(database: Database, day: str) -> None:
    """Let what the day owes wait until somebody plans it by hand, that is with `resume_cancelled`."""
    with database.writing() as connection, transaction(connection):
        connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
        connection.execute("SET VARIABLE max_rounds = ?", [2**31 - 1])
        connection.execute(REQUEST_STATE)
        connection.execute(
            """
            INSERT INTO failed_request
            SELECT custom_id, '', ?, 'Cancelled before it was sent again.', NULL, true, ?
            FROM request_state WHERE state = 'owed'
            """,
            [CANCELLED_BY_USER, now_utc()],
        )


def submission_key(file_sha256: str, day: str, round_number: int) -> str:
    """The name of a submission: the same bytes in the same round of a day are one submission, for ever."""
    return sha256(f"{file_sha256}/{day}/{round_number}".encode()).hexdigest()


def _withdraw_unsubmitted(connection: duckdb.DuckDBPyConnection) -> set[str]:
    rows = connection.execute(
        """
        SELECT submission_key, path FROM batch_request_file
        WHERE partition_date = getvariable('day')
            AND submission_key NOT IN (SELECT submission_key FROM openai_batch WHERE intended_at IS NOT NULL)
        """
    ).fetchall()
    keys = [key for key, _ in rows]
    connection.execute("DELETE FROM batch_request_file WHERE submission_key IN (SELECT unnest(?))", [keys])
    connection.execute("DELETE FROM pending_request WHERE submission_key IN (SELECT unnest(?))", [keys])
    connection.execute("DELETE FROM openai_batch WHERE submission_key IN (SELECT unnest(?))", [keys])
    return {path for _, path in rows}


def user_message_sql(task: Task) -> tuple[str, list[str]]:
    """SQL for the user's message of an article, and its parameters: literal pieces are bound, never pasted."""
    pieces, parameters = [], []
    for text, is_field in task.template_parts:
        if is_field:
            pieces.append(f"coalesce(CAST({text} AS VARCHAR), '')")
        else:
            pieces.append("CAST(? AS VARCHAR)")
            parameters.append(text)
    return " || ".join(pieces), parameters


def _replace_requests(connection: duckdb.DuckDBPyConnection, task: Task) -> None:
    message, parameters = user_message_sql(task)
    connection.execute("DELETE FROM batch_request WHERE partition_date = getvariable('day')")
    connection.execute(
        f"""
        INSERT INTO batch_request
        SELECT partition_date, article_id, left(sha256(? || to_json({message}) || ?), {CUSTOM_ID_CHARACTERS})
        FROM raw_articles WHERE partition_date = getvariable('day')
        """,
        [f"POST {ENDPOINT}\n{task.body_head}", *parameters, task.body_tail],
    )


def _forget_answers(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the day's requests owed again. Their old answers remain in the stored result files."""
    for table in ("completion", "failed_request"):
        connection.execute(
            f"""
            DELETE FROM {table} WHERE custom_id IN (
                SELECT custom_id FROM batch_request WHERE partition_date = getvariable('day')
            )
            """
        )


def _next_round(connection: duckdb.DuckDBPyConnection) -> int:
    statement = """
        SELECT coalesce(max(round), 0) + 1 FROM (
            SELECT round FROM batch_request_file WHERE partition_date = getvariable('day')
            UNION ALL SELECT round FROM openai_batch WHERE partition_date = getvariable('day')
        )
    """
    row = connection.execute(statement).fetchone()
    return int(row[0]) if row else 1


def _owed_lines(connection: duckdb.DuckDBPyConnection, task: Task) -> Iterator[tuple[str, bytes]]:
    """(custom_id, line) of each owed request, as a stream. Only what varies is escaped for each article."""
    message, parameters = user_message_sql(task)
    rows = connection.execute(
        f"""
        SELECT custom_id, encode('{{"custom_id":"' || custom_id || ? || to_json({message}) || ?)
        FROM raw_articles JOIN request_state USING (article_id)
        WHERE partition_date = getvariable('day') AND state IN (SELECT unnest(getvariable('sent_states')))
        """,
        [f'","method":"POST","url":"{ENDPOINT}","body":{task.body_head}', *parameters, task.body_tail + "}"],
    )
    while batch := rows.fetchmany(FETCH_ROWS):
        yield from batch


def _write_owed(
    connection: duckdb.DuckDBPyConnection, task: Task, folder: Path, max_enqueued_tokens: int | None
) -> list[Shard]:
    """Write the shards, and note in a temp table what went where."""
    fill_bytes = None if max_enqueued_tokens is None else max_enqueued_tokens // 2 * BYTES_PER_TOKEN
    writer = ShardWriter(folder, fill_bytes=fill_bytes)
    index = folder / "index.csv"  # beside the shards, on disk: a million ids are not for our memory
    with index.open("w", encoding="ascii") as notes:
        for custom_id, line in _owed_lines(connection, task):
            position = writer.add(line) if writer.fits_anywhere(line) else -1
            notes.write(f"{custom_id},{position}\n")
    shards = writer.close()
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT * FROM read_csv(
            ?, auto_detect = false, delim = ',', header = false,
            columns = {'custom_id': 'VARCHAR', 'position': 'INTEGER'}
        )
        """,
        [str(index)],
    )
    index.unlink()
    return shards


def _settled(shard: Shard, folder: Path, round_number: int) -> Shard:
    """The shard at its final path. The name tells the content, so a file never changes under its name."""
    path = folder / f"round-{round_number:03d}-shard-{shard.position:04d}-{shard.sha256[:12]}.jsonl"
    shard.path.replace(path)
    return replace(shard, path=path)


def estimated_input_tokens(byte_count: int) -> int:
    return -(-byte_count // BYTES_PER_TOKEN)


def _record(
    connection: duckdb.DuckDBPyConnection, task: Task, shards: list[Shard], day: str, round_number: int
) -> None:
    now = now_utc()
    for shard in shards:
        key = submission_key(shard.sha256, day, round_number)
        input_tokens = estimated_input_tokens(shard.bytes)
        output_tokens = shard.requests * task.max_output_tokens
        path = f"{REQUESTS_FOLDER}/{day}/{shard.path.name}"
        cost = max_cost_usd(task.model, input_tokens=input_tokens, output_tokens=output_tokens)
        connection.execute(
            "INSERT INTO batch_request_file VALUES (getvariable('day'), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                round_number, shard.position, key, path, shard.sha256, ENDPOINT, task.model,
                shard.requests, shard.bytes, input_tokens, output_tokens, cost, now,
            ],
        )  # fmt: skip
        connection.execute(
            "INSERT INTO pending_request SELECT custom_id, ? FROM placed WHERE position = ?",
            [key, shard.position],
        )
    connection.execute(
        """
        INSERT INTO failed_request
        SELECT custom_id, '', ?, 'The request is larger than a batch file may be (200 MB). Shorten the article.',
            NULL, false, ?
        FROM placed WHERE position = -1
        """,
        [TOO_LARGE, now],
    )


def _plan(connection: duckdb.DuckDBPyConnection, task: Task, shards: list[Shard], round_number: int) -> Plan:
    counts = dict(
        connection.execute("SELECT state, count(*) FROM request_state GROUP BY state ORDER BY state").fetchall()
    )
    row = connection.execute("SELECT count(*) FROM batch_request WHERE partition_date = getvariable('day')").fetchone()
    input_tokens = sum(estimated_input_tokens(shard.bytes) for shard in shards)
    output_tokens = sum(shard.requests for shard in shards) * task.max_output_tokens
    return Plan(
        articles=int(row[0]) if row else 0,
        requests=counts,
        shards=shards,
        round=round_number if shards else round_number - 1,
        estimated_input_tokens=input_tokens,
        max_cost_usd=max_cost_usd(task.model, input_tokens=input_tokens, output_tokens=output_tokens),
    )
