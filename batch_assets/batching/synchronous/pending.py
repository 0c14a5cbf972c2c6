"""The requests of a day that a plan would put into request files now, with the body that their lines would have."""

import io
from dataclasses import dataclass
from typing import NamedTuple

import duckdb

from batch_assets.batching.ledger.aliases import old_names_of_pending
from batch_assets.batching.ledger.database import Database, rolled_back
from batch_assets.batching.ledger.expected_cost import FileSize
from batch_assets.batching.ledger.withdrawal import withdraw_unsent
from batch_assets.batching.planning.escalation import escalate
from batch_assets.batching.planning.images import estimated_tokens, find_images
from batch_assets.batching.planning.pending_requests import (
    accepted_options,
    find_requests_to_send,
    replace_names,
)
from batch_assets.batching.planning.plan import REPLANNED, check_columns
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.request_lines import (
    RequestLineBuilder,
    article_messages,
    join_of_image,
    user_message_sql,
)
from batch_assets.batching.planning.shards import MAX_BYTES_PER_FILE
from batch_assets.batching.planning.steps import Step, steps_of
from batch_assets.batching.planning.task import Task

ARTICLES = "SELECT rowid, article_id, title FROM raw_articles WHERE list_contains($rows::BIGINT[], rowid)"


@dataclass(frozen=True)
class PendingRequest:
    """A request without a valid answer that is not in flight. body: the JSON that the endpoint gets.

    estimated_input_tokens: by the size of its line.
    """

    custom_id: str
    article_id: str
    title: str
    task: Task
    body: bytes
    estimated_input_tokens: int


class PendingDay(NamedTuple):
    """The first pending requests of a day, and what is left.

    counts: the distinct requests of the day by state.
    all, pending: the size of all distinct requests, and of all pending ones, as one request file.
    """

    requests: list[PendingRequest]
    counts: dict[str, int]
    all: FileSize
    pending: FileSize


def first_pending(
    database: Database, task: Task, day: str, options: PlanOptions, limit: int, *, with_unsent: bool = False
) -> PendingDay:
    """The first `limit` pending requests in the order of the articles. Changes nothing: the day is not planned.

    with_unsent: also those of the day's request files that no run has sent, as a plan of the day would have them.
    Requests that cannot be sent, for example without their image, are left out. Raises TaskError.
    """
    with database.writing() as connection, rolled_back(connection):
        check_columns(connection, task, options.source, day)
        if with_unsent:
            withdraw_unsent(connection, day=task.on(day), message=REPLANNED)
        find_images(connection, task, options.source, day, options.image_folder)
        replace_names(connection, task, day, options)
        escalate(connection, task, options.source, day, options.api, has_images=True)
        states = find_requests_to_send(connection, day, task, options)
        requests: list[PendingRequest] = []
        for step in steps_of(task):
            requests += _requests(connection, step, day, options, limit - len(requests))
        sizes = _sizes(connection, steps_of(task)[0], day, options)
        return PendingDay(requests, states.counts(connection), *sizes)


def _requests(
    connection: duckdb.DuckDBPyConnection, step: Step, day: str, options: PlanOptions, limit: int
) -> list[PendingRequest]:
    """The first `limit` requests of the step in `request_to_send`."""
    builder, task = _builder(connection, step, options), step.task
    lines: dict[int, bytes] = {}
    messages = article_messages(
        connection, task, options.source, day, only_pending=True, rows_at_once=options.rows_at_once, step=step.number
    )
    for block in messages:
        for message in block:
            if len(lines) == limit:
                break
            for line in builder.lines([message]):
                lines[message[0]] = line
        if len(lines) == limit:
            break
    found = connection.execute(ARTICLES, {"rows": list(lines)}).fetchall()
    articles = {row: (article_id, title or "") for row, article_id, title in found}
    return [_request(task, line, *articles[row]) for row, line in lines.items()]


def _builder(connection: duckdb.DuckDBPyConnection, step: Step, options: PlanOptions) -> RequestLineBuilder:
    return RequestLineBuilder(
        step.task,
        io.StringIO(),
        MAX_BYTES_PER_FILE,
        options=accepted_options(connection, step, options),
        old_names=old_names_of_pending(connection),
    )


def _request(task: Task, line: bytes, article_id: str, title: str) -> PendingRequest:
    """The request on a line: `{"custom_id":"…","method":"POST","url":"…","body":{…}}`."""
    custom_id = line.split(b'"', 4)[3].decode()
    body = line[line.index(b'"body":') + len(b'"body":') : -len(b"}\n")]
    return PendingRequest(custom_id, article_id, title, task, body, estimated_tokens(task, len(line), 1))


def _sizes(
    connection: duckdb.DuckDBPyConnection, step: Step, day: str, options: PlanOptions
) -> tuple[FileSize, FileSize]:
    """The sizes of all distinct requests of the day in a request file of this step, and of the pending ones."""
    task = step.task
    message, parameters = user_message_sql(task)
    row = connection.execute(
        f"""
        SELECT
            count(*), sum(bytes)::BIGINT, count(*) FILTER (is_pending),
            coalesce(sum(bytes) FILTER (is_pending), 0)::BIGINT
        FROM (
            SELECT any_value(octet_length(encode(to_json({message})))) AS bytes,
                custom_id IN (SELECT custom_id FROM request_to_send) AS is_pending
            FROM raw_articles {join_of_image(task)}
            JOIN batch_request USING (partition_date, article_id)
            WHERE source = ? AND task = ? AND partition_date = CAST(? AS DATE) GROUP BY custom_id
        )
        """,
        [*parameters, options.source, *task.on(day)],
    ).fetchone()
    requests, total, pending, of_pending = (count or 0 for count in row or (0, 0, 0, 0))
    around = _builder(connection, step, options).bytes_around_message
    return _size(task, requests, total + requests * around), _size(task, pending, of_pending + pending * around)


def _size(task: Task, requests: int, line_bytes: int) -> FileSize:
    tokens = estimated_tokens(task, line_bytes, requests)
    limit = task.max_output_tokens
    return FileSize(task.name, task.model, tokens, requests, requests * limit, limit)
