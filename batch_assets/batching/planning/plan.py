"""Which requests a day needs, which of them are to be sent, and the request files that hold these.

A request's `custom_id` is made from what is asked: a prefix of the sha256 of endpoint and question. So an
answer found under it is *the* answer, whichever day, file or batch it came from; a request that has one is
never sent again, and equal articles share one.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from batch_assets.batching.ledger import submissions, transitions
from batch_assets.batching.ledger.aliases import (
    has_aliases,
    old_names_of_pending,
    refused_options,
    use_old_names,
)
from batch_assets.batching.ledger.database import Database, fixed_join_order, transaction
from batch_assets.batching.ledger.in_flight import enter_requests
from batch_assets.batching.ledger.requests import Question, find_states, state_counts
from batch_assets.batching.planning.old_names import keep_old_names
from batch_assets.batching.planning.request_lines import (
    FETCH_ROWS,
    RequestLineBuilder,
    article_messages,
    article_rowid_ranges,
    name_requests,
)
from batch_assets.batching.planning.shards import Shard, ShardWriter, lines_without
from batch_assets.batching.planning.task import ENDPOINT, Task
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import BYTES_PER_TOKEN, ModelPrice, max_cost_usd
from batch_assets.batching.safety.private_folder import make_private_folder

TOO_LARGE = "request_too_large"
REQUESTS_FOLDER = "requests"
UNFINISHED = ".unfinished-"
REPLANNED = "The day was planned anew."

READ_REQUEST_INDEX = """
    CREATE OR REPLACE TEMP TABLE request_index AS
    SELECT * FROM read_csv(
        ?, auto_detect = false, delim = ',', header = false,
        columns = {'row': 'BIGINT', 'line': 'BIGINT', 'custom_id': 'VARCHAR'}
    )
"""
REQUESTS_TO_SEND = """
    CREATE OR REPLACE TEMP VIEW request_to_send AS
    SELECT custom_id FROM unanswered_request WHERE state IN (SELECT unnest(getvariable('sent_states')))
"""
# A refresh asks for everything, answered or failed, that is not on its way already.
REQUESTS_TO_REFRESH = """
    CREATE OR REPLACE TEMP VIEW request_to_send AS
    SELECT DISTINCT custom_id FROM day_request ANTI JOIN in_flight USING (custom_id)
"""
ENTER_REQUEST_INDEX = """
    INSERT INTO batch_request (partition_date, article_id, custom_id)
    SELECT partition_date, article_id, custom_id FROM request_index JOIN raw_articles ON raw_articles.rowid = row
    WHERE row BETWEEN $1 AND $2 AND raw_articles.rowid BETWEEN $1 AND $2
"""
# Each request to be sent has an article at least. So where these are as many, each article has a request of its own.
IS_EACH_LINE_WANTED = """
    SELECT
        (SELECT count(*) FROM request_index) = (SELECT count(line) FROM request_index)
        AND (SELECT count(*) FROM request_index) = (SELECT count(*) FROM request_to_send)
"""
# Otherwise not to be sent: what is known, and a second line of a kind.
FIND_WANTED_LINES = """
    CREATE OR REPLACE TEMP TABLE wanted_line AS
    SELECT min(line) AS line, custom_id FROM request_index JOIN request_to_send USING (custom_id)
    WHERE line IS NOT NULL GROUP BY custom_id
"""
UNWANTED_LINES = (
    "SELECT line FROM request_index ANTI JOIN wanted_line USING (line) WHERE line IS NOT NULL ORDER BY line"
)
# What is on which line of all shards together, from 0.
LINE_POSITIONS = "CREATE OR REPLACE TEMP VIEW line_positions AS SELECT custom_id, line AS place FROM request_index"
LINE_POSITIONS_OF_WANTED_LINES = """
    CREATE OR REPLACE TEMP VIEW line_positions AS
    SELECT custom_id, row_number() OVER (ORDER BY line) - 1 AS place FROM wanted_line
"""


@dataclass(frozen=True)
class Plan:
    """What a day needs. The counts are of distinct requests, but for `articles`.

    `plan` counts the plans of the day that wrote files, `round` how often these requests have been asked.
    `max_cost_usd` is an upper estimate for the shards written now, None if the model's price is unknown.
    """

    articles: int
    requests: dict[str, int]
    shards: list[Shard]
    plan: int
    round: int
    estimated_input_tokens: int = 0
    max_cost_usd: float | None = 0.0


@dataclass(frozen=True)
class PlanOptions:
    """How a day is planned.

    api: the name of the API that is configured; answers of the built-in engine count only for itself.
    max_enqueued_tokens: keeps files so small that two of them fit into that budget.
    refresh: ask for everything anew, answered or not; the old answers stay until the new ones are loaded.
    resume_cancelled: whether to send what the user has cancelled.
    optional_parameters: parameters that this API takes for this model, beside what is asked.
    own_prices: the user's, which win over those that are published.
    """

    max_rounds: int
    api: str = BUILT_IN_ENGINE
    max_enqueued_tokens: int | None = None
    refresh: bool = False
    resume_cancelled: bool = True
    optional_parameters: Mapping[str, Any] | None = None
    own_prices: tuple[ModelPrice, ...] = ()


def plan_day(database: Database, *, day: str, task: Task, data_folder: Path, options: PlanOptions) -> Plan:
    """Write request files for the day's pending requests, and nothing else.

    The files go to `requests/<day>/` in the data folder. Requests that are answered or in flight are left out.
    Files that no run has begun to submit are planned again, so a changed prompt never pays for the old one.

    The database is held for the whole of it, so that two runs of one day cannot plan the same request twice.
    """
    with database.writing() as connection:
        connection.execute("SET VARIABLE day = CAST(? AS DATE)", [day])
        sent_states = ["pending", "cancelled"] if options.resume_cancelled else ["pending"]
        connection.execute("SET VARIABLE sent_states = ?", [sent_states])
        with _published_or_nothing() as published, transaction(connection):
            transitions.withdraw_unsent(connection, day=day, message=REPLANNED)
            target = data_folder / REQUESTS_FOLDER / day
            for leftover in target.glob(f"{UNFINISHED}*"):  # of a run that was killed: no other run is writing now
                shutil.rmtree(leftover, ignore_errors=True)
            hidden = target / f"{UNFINISHED}{uuid.uuid4().hex[:8]}"
            make_private_folder(hidden)
            try:
                written = _write_pending(connection, task, hidden, day, options)
                number = transitions.next_plan(connection)
                shards = [_publish(shard, target, number, published) for shard in written]
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
            round_number = _round(connection)
            _record(connection, task, shards, day, number, round_number, options)
            _record_task(connection, task)
            plan = _plan(connection, task, options, shards, number, round_number)
        # also the files of a run that was killed. This run holds the lock, so no other run plans these files meanwhile
        for path in submissions.withdrawn_files(connection, day):
            (data_folder / path).unlink(missing_ok=True)
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


def _find_what_to_send(connection: duckdb.DuckDBPyConnection, day: str, task: Task, options: PlanOptions) -> None:
    find_states(connection, day, Question(options.api, task.max_output_tokens, options.max_rounds))
    connection.execute(REQUESTS_TO_REFRESH if options.refresh else REQUESTS_TO_SEND)


def _write_pending(
    connection: duckdb.DuckDBPyConnection, task: Task, folder: Path, day: str, options: PlanOptions
) -> list[Shard]:
    """Enter the day's requests, find their states, and write those to be sent. Fills `line_positions`.

    Of a day that was never planned, everything is written while it is named, and what turns out to be known already,
    or twice there, is taken out again: mostly there is little or nothing of it. Of any other day, little is pending.
    """
    limit = options.max_enqueued_tokens
    fill_bytes = None if limit is None else limit // 2 * BYTES_PER_TOKEN
    is_renamed = has_aliases(connection)
    is_new = not is_renamed and (
        connection.execute("SELECT 1 FROM batch_request WHERE partition_date = getvariable('day') LIMIT 1").fetchone()
        is None
    )
    if not is_new:
        keep_old_names(connection, task, day)
        connection.execute("DELETE FROM batch_request WHERE partition_date = getvariable('day')")
        name_requests(connection, task)
        use_old_names(connection)
        _find_what_to_send(connection, day, task, options)
    writer = ShardWriter(folder / "all", fill_bytes=fill_bytes)
    index_path = folder / "index.csv"  # beside the shards, on disk: a million ids are not for our memory
    refused = refused_options(connection, options.api, task.model)
    sent = {name: value for name, value in (options.optional_parameters or {}).items() if name not in refused}
    old_names = {} if is_new else old_names_of_pending(connection)
    with index_path.open("w", encoding="ascii") as index:
        maker = RequestLineBuilder(task, index, writer.max_bytes, options=sent, old_names=old_names)
        for block in article_messages(connection, task, only_pending=not is_new):
            writer.add(maker.lines(block))
    shards = writer.close()
    connection.execute(READ_REQUEST_INDEX, [str(index_path)])
    if is_new:
        for rowid_range in article_rowid_ranges(connection):
            connection.execute(ENTER_REQUEST_INDEX, rowid_range)
        _find_what_to_send(connection, day, task, options)
    if connection.execute(IS_EACH_LINE_WANTED).fetchone() == (True,):
        connection.execute(LINE_POSITIONS)
        return shards
    connection.execute(FIND_WANTED_LINES)
    connection.execute(LINE_POSITIONS_OF_WANTED_LINES)
    unwanted = _column(connection.execute(UNWANTED_LINES))
    writer = ShardWriter(folder / "kept", fill_bytes=fill_bytes)
    for lines in lines_without(shards, unwanted):
        writer.add(lines)
    return writer.close()


@contextmanager
def _published_or_nothing() -> Iterator[list[Path]]:
    """A list of the files that are put in place; if the plan fails after that, they go again."""
    published: list[Path] = []
    try:
        yield published
    except BaseException:
        for path in published:
            path.unlink(missing_ok=True)
        raise


def _publish(shard: Shard, folder: Path, plan_number: int, published: list[Path]) -> Shard:
    """The shard at its final path, which bears the id of its submission: a file never changes under its name."""
    submission_id = transitions.new_submission_id()
    path = folder / f"plan-{plan_number:03d}-shard-{shard.position:04d}-{submission_id}.jsonl"
    published.append(path)
    shard.path.replace(path)
    return replace(shard, path=path, submission_id=submission_id)


def estimated_input_tokens(byte_count: int) -> int:
    return -(-byte_count // BYTES_PER_TOKEN)


def _round(connection: duckdb.DuckDBPyConnection) -> int:
    """1 + how often one of the requests to be sent has come back without an answer."""
    row = connection.execute(
        "SELECT coalesce(max(attempts), 0) + 1 FROM failure SEMI JOIN request_to_send USING (custom_id)"
    ).fetchone()
    return int(row[0]) if row else 1


def _record(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    shards: list[Shard],
    day: str,
    plan_number: int,
    round_number: int,
    options: PlanOptions,
) -> None:
    now = now_utc()
    for shard in shards:
        input_tokens = estimated_input_tokens(shard.bytes)
        output_tokens = shard.requests * task.max_output_tokens
        cost = _max_cost_usd(task, options, input_tokens, output_tokens)
        connection.execute(
            """
            INSERT INTO batch_request_file (
                submission_id, partition_date, plan, round, shard, path, sha256, endpoint, model, requests, bytes,
                estimated_input_tokens, request_max_output_tokens, max_output_tokens, max_cost_usd, is_refresh,
                created_at
            )
            VALUES (?, getvariable('day'), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                shard.submission_id, plan_number, round_number, shard.position,
                f"{REQUESTS_FOLDER}/{day}/{shard.path.name}", shard.sha256, ENDPOINT, task.model, shard.requests,
                shard.bytes, input_tokens, task.max_output_tokens, output_tokens, cost, options.refresh, now,
            ],
        )  # fmt: skip
        transitions.plan(connection, shard.submission_id, day, plan_number, round_number, shard.position)
    with fixed_join_order(connection):
        enter_requests(connection, plan_number)
        connection.execute(
            """
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
            SELECT
                custom_id, '', ?, 'The request is larger than a batch file may be (200 MB). Shorten the article.',
                false, false, ?
            FROM request_to_send SEMI JOIN (SELECT custom_id FROM request_index WHERE line IS NULL) USING (custom_id)
            """,
            [TOO_LARGE, now],
        )


def _max_cost_usd(task: Task, options: PlanOptions, input_tokens: int, output_tokens: int) -> float | None:
    return max_cost_usd(
        task.model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        api=options.api,
        own_prices=options.own_prices,
    )


def _column(rows: duckdb.DuckDBPyConnection) -> Iterator[int]:
    while block := rows.fetchmany(FETCH_ROWS):
        yield from (row[0] for row in block)


def _plan(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    options: PlanOptions,
    shards: list[Shard],
    plan_number: int,
    round_number: int,
) -> Plan:
    row = connection.execute("SELECT count(*) FROM batch_request WHERE partition_date = getvariable('day')").fetchone()
    input_tokens = sum(estimated_input_tokens(shard.bytes) for shard in shards)
    output_tokens = sum(shard.requests for shard in shards) * task.max_output_tokens
    return Plan(
        articles=int(row[0]) if row else 0,
        requests=state_counts(connection),
        shards=shards,
        plan=plan_number if shards else plan_number - 1,
        round=round_number,
        estimated_input_tokens=input_tokens,
        max_cost_usd=_max_cost_usd(task, options, input_tokens, output_tokens),
    )
