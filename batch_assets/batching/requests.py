"""Which requests a day needs, which of them are owed, and the request files that hold these.

A request's `custom_id` is made from what is asked: a prefix of the sha256 of endpoint and body. So an
answer found under it is *the* answer, whichever day, file or batch it came from; a request that has one is
never sent again, and equal articles share one.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import duckdb

from batch_assets.batching.database import Database, joins_as_written, transaction
from batch_assets.batching.prices import BYTES_PER_TOKEN, max_cost_usd
from batch_assets.batching.private_folder import make_private_folder
from batch_assets.batching.remote import now_utc
from batch_assets.batching.request_lines import (
    FETCH_ROWS,
    LineMaker,
    article_messages,
    article_stretches,
    name_requests,
)
from batch_assets.batching.request_state import find_states, state_counts
from batch_assets.batching.shards import Shard, ShardWriter, lines_without
from batch_assets.batching.task import ENDPOINT, Task

TOO_LARGE = "request_too_large"
REQUESTS_FOLDER = "requests"
UNFINISHED = ".unfinished-"

READ_NOTES = """
    CREATE OR REPLACE TEMP TABLE noted AS
    SELECT * FROM read_csv(
        ?, auto_detect = false, delim = ',', header = false,
        columns = {'row': 'BIGINT', 'line': 'BIGINT', 'custom_id': 'VARCHAR'}
    )
"""
REQUESTS_TO_SEND = """
    CREATE OR REPLACE TEMP VIEW request_to_send AS
    SELECT custom_id FROM unanswered_request WHERE state IN (SELECT unnest(getvariable('sent_states')))
"""
ENTER_NOTED = """
    INSERT INTO batch_request
    SELECT partition_date, article_id, custom_id FROM noted JOIN raw_articles ON raw_articles.rowid = row
    WHERE row BETWEEN $1 AND $2 AND raw_articles.rowid BETWEEN $1 AND $2
"""
# Each request to be sent has an article at least. So where these are as many, each article has a request of its own.
IS_EACH_LINE_WANTED = """
    SELECT
        (SELECT count(*) FROM noted) = (SELECT count(line) FROM noted)
        AND (SELECT count(*) FROM noted) = (SELECT count(*) FROM request_to_send)
"""
# Otherwise not to be sent: what is known, and a second line of a kind.
FIND_WANTED_LINES = """
    CREATE OR REPLACE TEMP TABLE wanted_line AS
    SELECT min(line) AS line, custom_id FROM noted JOIN request_to_send USING (custom_id)
    WHERE line IS NOT NULL GROUP BY custom_id
"""
UNWANTED_LINES = "SELECT line FROM noted ANTI JOIN wanted_line USING (line) WHERE line IS NOT NULL ORDER BY line"
# What is on which line of all shards together, from 0.
PLACES = "CREATE OR REPLACE TEMP VIEW placed AS SELECT custom_id, line AS place FROM noted"
PLACES_OF_WANTED_LINES = """
    CREATE OR REPLACE TEMP VIEW placed AS
    SELECT custom_id, row_number() OVER (ORDER BY line) - 1 AS place FROM wanted_line
"""
ENTER_PENDING = """
    INSERT INTO pending_request
    WITH shard AS (
        SELECT
            submission_key,
            (sum(requests) OVER (ORDER BY shard))::BIGINT AS stop,
            stop - requests AS start
        FROM batch_request_file WHERE partition_date = getvariable('day') AND round = ?
    )
    SELECT custom_id, submission_key FROM placed JOIN shard ON place >= start AND place < stop
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
        connection.execute("SET VARIABLE sent_states = ?", [["owed", "cancelled"] if resume_cancelled else ["owed"]])
        with transaction(connection):
            abandoned = {data_folder / path for path in _withdraw_unsubmitted(connection)}
            target = data_folder / REQUESTS_FOLDER / day
            for leftover in target.glob(f"{UNFINISHED}*"):  # of a run that was killed: nobody else is writing now
                shutil.rmtree(leftover, ignore_errors=True)
            hidden = target / f"{UNFINISHED}{uuid.uuid4().hex[:8]}"
            make_private_folder(hidden)
            try:
                written = _write_owed(connection, task, hidden, day, max_rounds, max_enqueued_tokens, refresh=refresh)
                round_number = _next_round(connection)
                shards = [_settled(shard, target, round_number) for shard in written]
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            _record(connection, task, shards, day, round_number)
            _record_task(connection, task)
            plan = _plan(connection, task, shards, round_number)
        # still in turn, so that nobody plans these files again meanwhile
        for path in abandoned - {shard.path for shard in plan.shards}:
            path.unlink(missing_ok=True)
    return plan


def planned_task(database: Database, day: str) -> Task | None:
    """The task that the day was last planned with, as the ledger recorded it; None for a day without a plan."""
    statement = "SELECT task FROM day_plan WHERE partition_date = CAST(? AS DATE)"
    with database.reading() as connection:
        row = connection.execute(statement, [day]).fetchone()
    return None if row is None else Task(**json.loads(row[0]))


def _record_task(connection: duckdb.DuckDBPyConnection, task: Task) -> None:
    connection.execute("DELETE FROM day_plan WHERE partition_date = getvariable('day')")
    connection.execute(
        "INSERT INTO day_plan (partition_date, task, planned_at) VALUES (getvariable('day'), ?, ?)",
        [json.dumps(asdict(task)), now_utc()],
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


def _find_what_to_send(connection: duckdb.DuckDBPyConnection, day: str, max_rounds: int, *, refresh: bool) -> None:
    if refresh:
        _forget_answers(connection)
    find_states(connection, day, max_rounds)
    connection.execute(REQUESTS_TO_SEND)


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


def _write_owed(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    folder: Path,
    day: str,
    max_rounds: int,
    max_enqueued_tokens: int | None,
    *,
    refresh: bool,
) -> list[Shard]:
    """Enter the day's requests, find their states, and write those to be sent; `placed` says what is on which line.

    Of a day that was never planned, everything is written while it is named, and what turns out to be known already,
    or twice there, is taken out again: mostly there is little or nothing of it. Of any other day, little is owed.
    """
    fill_bytes = None if max_enqueued_tokens is None else max_enqueued_tokens // 2 * BYTES_PER_TOKEN
    is_new = (
        connection.execute("SELECT 1 FROM batch_request WHERE partition_date = getvariable('day') LIMIT 1").fetchone()
        is None
    )
    if not is_new:
        connection.execute("DELETE FROM batch_request WHERE partition_date = getvariable('day')")
        name_requests(connection, task)
        _find_what_to_send(connection, day, max_rounds, refresh=refresh)
    writer = ShardWriter(folder / "all", fill_bytes=fill_bytes)
    index = folder / "index.csv"  # beside the shards, on disk: a million ids are not for our memory
    with index.open("w", encoding="ascii") as notes:
        maker = LineMaker(task, notes, writer.max_bytes)
        for block in article_messages(connection, task, only_owed=not is_new):
            writer.add(maker.lines(block))
    shards = writer.close()
    connection.execute(READ_NOTES, [str(index)])
    if is_new:
        for stretch in article_stretches(connection):
            connection.execute(ENTER_NOTED, stretch)
        _find_what_to_send(connection, day, max_rounds, refresh=refresh)
    if connection.execute(IS_EACH_LINE_WANTED).fetchone() == (True,):
        connection.execute(PLACES)
        return shards
    connection.execute(FIND_WANTED_LINES)
    connection.execute(PLACES_OF_WANTED_LINES)
    unwanted = _column(connection.execute(UNWANTED_LINES))
    writer = ShardWriter(folder / "kept", fill_bytes=fill_bytes)
    for lines in lines_without(shards, unwanted):
        writer.add(lines)
    return writer.close()


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
    with joins_as_written(connection):
        connection.execute(ENTER_PENDING, [round_number])
        connection.execute(
            """
            INSERT INTO failed_request
            SELECT
                custom_id, '', ?, 'The request is larger than a batch file may be (200 MB). Shorten the article.',
                NULL, false, ?
            FROM request_to_send SEMI JOIN (SELECT custom_id FROM noted WHERE line IS NULL) USING (custom_id)
            """,
            [TOO_LARGE, now],
        )


def _column(rows: duckdb.DuckDBPyConnection) -> Iterator[int]:
    while block := rows.fetchmany(FETCH_ROWS):
        yield from (row[0] for row in block)


def _plan(connection: duckdb.DuckDBPyConnection, task: Task, shards: list[Shard], round_number: int) -> Plan:
    row = connection.execute("SELECT count(*) FROM batch_request WHERE partition_date = getvariable('day')").fetchone()
    input_tokens = sum(estimated_input_tokens(shard.bytes) for shard in shards)
    output_tokens = sum(shard.requests for shard in shards) * task.max_output_tokens
    return Plan(
        articles=int(row[0]) if row else 0,
        requests=state_counts(connection),
        shards=shards,
        round=round_number if shards else round_number - 1,
        estimated_input_tokens=input_tokens,
        max_cost_usd=max_cost_usd(task.model, input_tokens=input_tokens, output_tokens=output_tokens),
    )
