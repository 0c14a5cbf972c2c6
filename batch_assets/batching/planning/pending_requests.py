"""Writes the day's pending requests to request files in a hidden folder.

If the day was never planned, Python writes a line for each article and computes its custom_id from the same bytes. It
then removes the lines of requests that are answered, in flight or equal to another: mostly there are few. If the day
was planned before, DuckDB computes the custom_ids first, and only the pending requests are written: these are few, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from batch_assets.batching.ledger.aliases import has_aliases, old_names_of_pending, refused_options, use_old_names
from batch_assets.batching.ledger.requests import BlockedBy, DayStates, RequestStateRules, find_states
from batch_assets.batching.ledger.retries import supersede_failures
from batch_assets.batching.planning.escalation import escalate
from batch_assets.batching.planning.images import TOKENS_PER_IMAGE, find_images
from batch_assets.batching.planning.old_names import keep_old_names
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.request_lines import (
    FETCH_ROWS,
    RequestLineBuilder,
    article_messages,
    article_rowid_ranges,
    name_requests,
)
from batch_assets.batching.planning.shards import FileLimits, Shard, ShardWriter, lines_without
from batch_assets.batching.planning.steps import Step, steps_of
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.model_options import known_options
from batch_assets.batching.provider.prices import BYTES_PER_TOKEN
from batch_assets.batching.task_day import TaskDay

READ_REQUEST_INDEX = """
    CREATE OR REPLACE TEMP TABLE request_index AS
    SELECT * FROM read_csv(
        ?, auto_detect = false, delim = ',', header = false,
        columns = {'row': 'BIGINT', 'line': 'BIGINT', 'custom_id': 'VARCHAR', 'code': 'VARCHAR'}
    )
"""
# A view: a table of a million ids would need much memory. The conditions are constants of this file.
IS_PENDING = "state = 'pending'"
IS_PENDING_OR_CANCELLED = "state IN ('pending', 'cancelled')"
IS_IN_PAUSE = f"blocked_by = '{BlockedBy.ACCOUNT}'"
# A refresh sends all requests, answered or failed, except those in flight.
REQUESTS_TO_REFRESH = "CREATE OR REPLACE TEMP VIEW request_to_send AS SELECT custom_id FROM request_to_refresh"
FIND_REQUESTS_TO_REFRESH = """
    CREATE OR REPLACE TEMP TABLE request_to_refresh AS
    SELECT DISTINCT custom_id FROM day_request($task, $day) ANTI JOIN in_flight USING (custom_id)
"""
ENTER_REQUEST_INDEX = """
    INSERT INTO batch_request (task, partition_date, article_id, custom_id)
    SELECT $3, partition_date, article_id, custom_id FROM request_index JOIN raw_articles ON raw_articles.rowid = row
    -- twice: each table is then read in this range only
    WHERE row BETWEEN $1 AND $2 AND raw_articles.rowid BETWEEN $1 AND $2
"""
# Each request to send has at least one article. If there are as many articles as requests, each has its own.
IS_EACH_LINE_WANTED = """
    SELECT
        (SELECT count(*) FROM request_index) = (SELECT count(line) FROM request_index)
        AND (SELECT count(*) FROM request_index) = (SELECT count(*) FROM request_to_send)
"""
FIND_WANTED_LINES = """
    CREATE OR REPLACE TEMP TABLE wanted_line AS
    SELECT min(line) AS line, custom_id FROM request_index JOIN request_to_send USING (custom_id)
    WHERE line IS NOT NULL GROUP BY custom_id
"""
UNWANTED_LINES = """
    SELECT line FROM request_index ANTI JOIN wanted_line USING (line) WHERE line IS NOT NULL ORDER BY line
"""
# Which request is on which line, counted from 0 through all shards.
LINE_POSITIONS = """
    CREATE OR REPLACE TEMP VIEW line_positions AS
    SELECT custom_id, line AS place FROM request_index WHERE line IS NOT NULL
"""
LINE_POSITIONS_OF_WANTED_LINES = """
    CREATE OR REPLACE TEMP VIEW line_positions AS
    SELECT custom_id, row_number() OVER (ORDER BY line) - 1 AS place FROM wanted_line
"""


def write_pending(
    connection: duckdb.DuckDBPyConnection, task: Task, folder: Path, day: str, options: PlanOptions
) -> tuple[list[Shard], DayStates]:
    """Name the day's requests in `batch_request`, derive their states, and write the pending ones to shards.

    Fills the temp tables and views `request_to_send` (custom_id), `request_index` (row, line, custom_id, code) and
    `line_positions` (custom_id, place).
    """
    find_images(connection, task, options.source, day, options.image_folder)
    if _must_name_first(connection, task, day):
        replace_names(connection, task, day, options)
        if not options.refresh:  # which begins again with the first step
            escalate(connection, task, options.source, day, options.api, has_images=True)
        states = find_requests_to_send(connection, day, task, options)
        old_names = old_names_of_pending(connection)
        shards = _write_lines(connection, task, folder, day, options, old_names, only_pending=True)
        connection.execute(LINE_POSITIONS)
        return shards, states
    shards = _write_lines(connection, task, folder, day, options, {}, only_pending=False)
    for first, last in article_rowid_ranges(connection, options.source, day, options.rows_at_once):
        connection.execute(ENTER_REQUEST_INDEX, [first, last, task.name])
    states = find_requests_to_send(connection, day, task, options)
    return _only_wanted_lines(connection, shards, task, folder, options), states


def _must_name_first(connection: duckdb.DuckDBPyConnection, task: Task, day: str) -> bool:
    """Whether the day has requests, or may have old custom_ids, which `replace_names` looks for, or requests of a
    later step, since another day or task has sent those of the first one.
    """
    return bool(task.escalation) or has_aliases(connection) or has_requests(connection, task.on(day))


def has_requests(connection: duckdb.DuckDBPyConnection, day: TaskDay) -> bool:
    """Whether the day has requests: a run has planned it."""
    statement = "SELECT 1 FROM batch_request WHERE task = ? AND partition_date = CAST(? AS DATE) LIMIT 1"
    return connection.execute(statement, day).fetchone() is not None


def replace_names(connection: duckdb.DuckDBPyConnection, task: Task, day: str, options: PlanOptions) -> None:
    """Enter the requests of the day's present articles; requests of an earlier version keep their custom_ids."""
    keep_old_names(connection, task, day)
    connection.execute("DELETE FROM batch_request WHERE task = ? AND partition_date = CAST(? AS DATE)", task.on(day))
    name_requests(connection, task, options.source, day)
    use_old_names(connection, task.on(day))


def find_requests_to_send(
    connection: duckdb.DuckDBPyConnection, day: str, task: Task, options: PlanOptions
) -> DayStates:
    rules = RequestStateRules(options.api, task.max_output_tokens, options.max_rounds)
    if options.retry_failed:
        supersede_failures(connection, task.on(day), rules)
    states = find_states(connection, task.on(day), rules)
    if options.refresh:
        connection.execute(FIND_REQUESTS_TO_REFRESH, task.on(day)._asdict())
        connection.execute(REQUESTS_TO_REFRESH)
    else:
        is_sent = IS_PENDING_OR_CANCELLED if options.resume_cancelled else IS_PENDING
        condition = is_sent if options.respect_pauses else f"({is_sent} OR {IS_IN_PAUSE})"
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP VIEW request_to_send AS
            SELECT custom_id FROM unanswered_request WHERE {condition}
            """
        )
    return states


def _write_lines(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    folder: Path,
    day: str,
    options: PlanOptions,
    old_names: Mapping[str, str],
    *,
    only_pending: bool,
) -> list[Shard]:
    """Write a line for each article, and read the index of these lines. Each step has files of its own.

    `only_pending`: a line for each request of the view `request_to_send`, which must exist.
    """
    writer = ShardWriter(folder / "all", _file_limits(options, has_images=task.image is not None))
    index_path = folder / "index.csv"  # on disk, beside the shards: a million ids would need much memory
    step_of_file: list[int] = []
    next_line = 0
    with index_path.open("w", encoding="ascii") as index:
        for step in steps_of(task):
            sent_options = accepted_options(connection, step, options)
            builder = RequestLineBuilder(
                step.task, index, writer.max_bytes, options=sent_options, old_names=old_names, first_line=next_line
            )
            messages = article_messages(
                connection, step.task, options.source, day, only_pending=only_pending,
                rows_at_once=options.rows_at_once, step=step.number,
            )  # fmt: skip
            for block in messages:
                writer.add(builder.lines(block))
            next_line = builder.next_line
            step_of_file += [step.number] * (writer.files - len(step_of_file))
            writer.finish_file()
    shards = writer.close()
    connection.execute(READ_REQUEST_INDEX, [str(index_path)])
    return [replace(shard, step=step_of_file[shard.position]) for shard in shards]


def accepted_options(connection: duckdb.DuckDBPyConnection, step: Step, options: PlanOptions) -> dict[str, Any]:
    """The optional parameters without those that this API has refused for the model."""
    given = options.optional_parameters
    if given is None or step.number:
        given = known_options(step.task.model, options.api, step.task.endpoint)
    refused = refused_options(connection, options.api, step.task.model)
    return {name: value for name, value in given.items() if name not in refused}


def _only_wanted_lines(
    connection: duckdb.DuckDBPyConnection, shards: list[Shard], task: Task, folder: Path, options: PlanOptions
) -> list[Shard]:
    """The shards with one line for each request to send, and no other line."""
    if connection.execute(IS_EACH_LINE_WANTED).fetchone() == (True,):
        connection.execute(LINE_POSITIONS)
        return shards
    connection.execute(FIND_WANTED_LINES)
    connection.execute(LINE_POSITIONS_OF_WANTED_LINES)
    unwanted = _column(connection.execute(UNWANTED_LINES))
    writer = ShardWriter(folder / "wanted", _file_limits(options, has_images=task.image is not None))
    for lines in lines_without(shards, unwanted):
        writer.add(lines)
    return writer.close()


def _file_limits(options: PlanOptions, *, has_images: bool) -> FileLimits:
    """The limits of a file; two files together fit into the limit of enqueued tokens."""
    limits, limit = options.file_limits, options.max_enqueued_tokens
    if limit is None:
        return limits
    if has_images:  # whose bytes are no measure of their tokens
        return replace(limits, max_requests=min(limits.max_requests, max(1, limit // 2 // TOKENS_PER_IMAGE)))
    return replace(limits, fill_bytes=limit // 2 * BYTES_PER_TOKEN)


def _column(rows: duckdb.DuckDBPyConnection) -> Iterator[int]:
    while block := rows.fetchmany(FETCH_ROWS):
        yield from (value for (value,) in block)
