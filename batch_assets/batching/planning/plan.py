"""The plan of a day: which requests it needs, which of them are pending, and the request files that hold these.

A request's `custom_id` identifies its content: it is a prefix of the sha256 of endpoint and question. So an answer with
this id answers the request, whichever day, file or batch it is from. No run sends a request that has an answer, and
equal articles share one request.
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import duckdb

from batch_assets.batching.counting import counted
from batch_assets.batching.ledger import submissions, transitions, withdrawal
from batch_assets.batching.ledger.database import Database, fixed_join_order, transaction
from batch_assets.batching.ledger.in_flight import record_requests
from batch_assets.batching.ledger.requests import DayStates
from batch_assets.batching.planning.images import enter_failures, estimated_tokens
from batch_assets.batching.planning.pending_requests import has_requests, write_pending
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.shards import Shard
from batch_assets.batching.planning.steps import steps_of
from batch_assets.batching.planning.task import Task, TaskError
from batch_assets.batching.provider.batches import now_utc
from batch_assets.batching.provider.download import REQUESTS_FOLDER
from batch_assets.batching.provider.prices import max_cost_usd
from batch_assets.batching.safety.private_folder import make_private_folder
from batch_assets.batching.task_day import FIRST_TASK, TaskDay

TOO_LARGE = "request_too_large"
UNFINISHED = ".unfinished-"
REPLANNED = "The day was planned again."


@dataclass(frozen=True)
class Plan:
    """What a day needs. `requests` counts the day's distinct requests, by state.

    `plan` counts the plans of the day that wrote files, `round` how often these requests were sent. `max_cost_usd` is
    an upper bound for the shards of this plan, None if the model's price is unknown.
    """

    articles: int
    requests: dict[str, int]
    shards: list[Shard]
    plan: int
    round: int
    estimated_input_tokens: int = 0
    max_cost_usd: float | None = 0.0


def plan_day(database: Database, *, day: str, task: Task, data_folder: Path, options: PlanOptions) -> Plan:
    """Write request files for the day's pending requests, and for no other ones.

    The files are in a folder of the day in `requests/` of the data folder: see `request_folder`. Files that no run has
    begun to submit are withdrawn, and their requests are planned again: so the user does not pay for an old prompt.

    The run holds the database all the time, so that two runs of one day cannot plan the same request twice. Raises
    TaskError, before anything changes, if the articles were read without a column that the task uses.
    """
    with database.writing() as connection:
        with _unpublished_on_failure() as published, transaction(connection):
            of_task = task.on(day)
            check_columns(connection, task, options.source, day)
            withdrawal.withdraw_unsent(connection, day=of_task, message=REPLANNED)
            target = data_folder / request_folder(of_task)
            with _hidden_folder(target) as hidden:
                written, states = write_pending(connection, task, hidden, day, options)
                number = transitions.next_plan(connection, of_task)
                shards = [_publish_shard(shard, target, number, published) for shard in written]
            round_number = _round(connection)
            _enter_shards(connection, task, shards, of_task, number, round_number, options)
            _record_task(connection, task, day, options)
            plan = _plan(connection, task, options, shards, number, round_number, states)
        # also those of a run that was killed: this run holds the lock, so no other run is planning these files
        for path in submissions.withdrawn_files(connection, of_task):
            (data_folder / path).unlink(missing_ok=True)
    return plan


def check_columns(connection: duckdb.DuckDBPyConnection, task: Task, source: str, day: str) -> None:
    """Raise TaskError if an article of the day lacks a column: its message would be paid for, and lack the text."""
    for column in task.columns:
        row = connection.execute(
            """
            SELECT count(*) FROM raw_articles
            WHERE source = ? AND partition_date = CAST(? AS DATE) AND NOT coalesce(map_contains(extra, ?), false)
            """,
            [source, day, column],
        ).fetchone()
        if row is not None and row[0]:
            raise TaskError(
                f"The column {column}, which the task {task.name} uses, is missing in {counted(row[0], 'article')} of "
                f"{day}: the source was read without it. Materialize the asset with the articles ({source}) of the day "
                "again."
            )


def request_folder(day: TaskDay) -> str:
    """The folder of the day's request files, relative to the data folder. Earlier versions had one task."""
    return f"{REQUESTS_FOLDER}/{day.day}" if day.task == FIRST_TASK else f"{REQUESTS_FOLDER}/{day.task}/{day.day}"


def is_planned(database: Database, day: TaskDay) -> bool:
    """Whether a run has planned the day; also one that found no article. An earlier version recorded only requests."""
    statement = "SELECT 1 FROM day_plan WHERE task = ? AND partition_date = CAST(? AS DATE)"
    with database.reading() as connection:
        return has_requests(connection, day) or connection.execute(statement, day).fetchone() is not None


def planned_task(database: Database, day: TaskDay) -> Task | None:
    """What the task asked in the day's last plan, from the ledger; None for a day without a plan."""
    statement = "SELECT definition FROM day_plan WHERE task = ? AND partition_date = CAST(? AS DATE)"
    with database.reading() as connection:
        row = connection.execute(statement, day).fetchone()
    return None if row is None else Task(**json.loads(row[0]))


def is_planned_by(database: Database, day: TaskDay, run_id: str) -> bool:
    """Whether this run made the day's last plan."""
    statement = "SELECT 1 FROM day_plan WHERE task = ? AND partition_date = CAST(? AS DATE) AND planned_by = ?"
    with database.reading() as connection:
        return connection.execute(statement, [*day, run_id]).fetchone() is not None


def _record_task(connection: duckdb.DuckDBPyConnection, task: Task, day: str, options: PlanOptions) -> None:
    connection.execute("DELETE FROM day_plan WHERE task = ? AND partition_date = CAST(? AS DATE)", task.on(day))
    connection.execute(
        """
        INSERT INTO day_plan (task, partition_date, source, definition, planned_at, planned_by)
        VALUES (?, CAST(? AS DATE), ?, ?, ?, ?)
        """,
        [*task.on(day), options.source, json.dumps(asdict(task)), now_utc(), options.planned_by],
    )


@contextmanager
def _hidden_folder(target: Path) -> Iterator[Path]:
    """A folder inside `target` for unfinished files; it is deleted at the end."""
    for leftover in target.glob(f"{UNFINISHED}*"):  # of a run that was killed, since this run holds the lock
        shutil.rmtree(leftover, ignore_errors=True)
    hidden = target / f"{UNFINISHED}{uuid.uuid4().hex[:8]}"
    make_private_folder(hidden)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _unpublished_on_failure() -> Iterator[list[Path]]:
    """A list for the files that the plan publishes. If the plan fails, they are deleted."""
    published: list[Path] = []
    try:
        yield published
    except BaseException:
        for path in published:
            path.unlink(missing_ok=True)
        raise


def _publish_shard(shard: Shard, folder: Path, plan_number: int, published: list[Path]) -> Shard:
    """Move the shard to its final path. The path has the id of the submission, so no later file has the same one."""
    submission_id = transitions.new_submission_id()
    path = folder / f"plan-{plan_number:03d}-shard-{shard.position:04d}-{submission_id}.jsonl"
    published.append(path)
    shard.path.replace(path)
    return replace(shard, path=path, submission_id=submission_id)


def _round(connection: duckdb.DuckDBPyConnection) -> int:
    """1 + how often one of the requests to send has failed, at most."""
    row = connection.execute(
        "SELECT coalesce(max(attempts), 0) + 1 FROM failure SEMI JOIN request_to_send USING (custom_id)"
    ).fetchone()
    return int(row[0]) if row else 1


def _enter_shards(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    shards: list[Shard],
    day: TaskDay,
    plan_number: int,
    round_number: int,
    options: PlanOptions,
) -> None:
    now = now_utc()
    schema = None if task.output_schema is None else json.dumps(task.output_schema)
    steps = steps_of(task)
    for shard in shards:
        asked = steps[shard.step].task
        most = _most_of(asked, shard, options)
        connection.execute(
            """
            INSERT INTO batch_request_file (
                submission_id, task, partition_date, plan, round, shard, path, sha256, endpoint, model, requests, bytes,
                estimated_input_tokens, request_max_output_tokens, max_output_tokens, max_cost_usd, is_refresh,
                output_schema, vector_length, step, created_at
            )
            VALUES (?, ?, CAST(? AS DATE), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                shard.submission_id, *day, plan_number, round_number, shard.position,
                f"{request_folder(day)}/{shard.path.name}", shard.sha256, task.endpoint, asked.model, shard.requests,
                shard.bytes, most.input_tokens, asked.max_output_tokens, most.output_tokens, most.cost_usd,
                options.refresh, schema, task.vector_length, shard.step, now,
            ],
        )  # fmt: skip
        transitions.plan(connection, shard.submission_id, day, plan_number, round_number, shard.position)
    with fixed_join_order(connection):
        record_requests(connection, day, plan_number)
        connection.execute(
            """
            INSERT INTO failed_request (custom_id, batch_id, code, message, retryable, superseded, failed_at)
            SELECT
                custom_id, '', ?, 'The request is larger than a batch file may be (200 MB). Shorten the article.',
                false, false, ?
            FROM request_to_send SEMI JOIN (
                SELECT custom_id FROM request_index WHERE line IS NULL AND code IS NULL
            ) USING (custom_id)
            """,
            [TOO_LARGE, now],
        )
        enter_failures(connection, task)


class _Most(NamedTuple):
    """What a shard uses at most. The cost is None if the price of the model is not known."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def _most_of(asked: Task, shard: Shard, options: PlanOptions) -> _Most:
    inputs = estimated_tokens(asked, shard.bytes, shard.requests)
    outputs = shard.requests * asked.max_output_tokens
    cost = max_cost_usd(
        asked.model, input_tokens=inputs, output_tokens=outputs, api=options.api, own_prices=options.own_prices
    )
    return _Most(inputs, outputs, cost)


def _plan(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    options: PlanOptions,
    shards: list[Shard],
    plan_number: int,
    round_number: int,
    states: DayStates,
) -> Plan:
    statement = "SELECT count(*) FROM batch_request WHERE task = ? AND partition_date = CAST(? AS DATE)"
    row = connection.execute(statement, states.day).fetchone()
    steps = steps_of(task)
    most = [_most_of(steps[shard.step].task, shard, options) for shard in shards]
    costs = [one.cost_usd for one in most if one.cost_usd is not None]
    return Plan(
        articles=int(row[0]) if row else 0,
        requests=states.counts(connection),
        shards=shards,
        plan=plan_number if shards else plan_number - 1,
        round=round_number,
        estimated_input_tokens=sum(one.input_tokens for one in most),
        max_cost_usd=sum(costs) if len(costs) == len(most) else None,
    )
