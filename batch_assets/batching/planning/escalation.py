"""Requests that go to the next step of their task: they get the custom_id of that step in `batch_request`."""

from itertools import pairwise
from pathlib import Path

import duckdb

from batch_assets.batching.ledger.ended_in_step import find_ended_in_step
from batch_assets.batching.planning.images import find_images
from batch_assets.batching.planning.request_lines import custom_id_sql, join_of_image
from batch_assets.batching.planning.steps import Step, steps_of
from batch_assets.batching.planning.task import Task


def escalate(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    source: str,
    day: str,
    api: str,
    image_folder: Path | None = None,
    *,
    has_images: bool = False,
) -> int:
    """Give each request of the day that its step could not answer the custom_id of the next step, in the present
    transaction; returns how many went on.

    api: whose answers and failures count. has_images: whether the temp table `article_image` has the day's images.
    """
    steps = steps_of(task)
    if len(steps) == 1:
        return 0
    moved = 0
    for step, following in pairwise(steps):
        ended = find_ended_in_step(
            connection,
            task.on(day),
            step.number,
            following.codes,
            takes_cut_answers=following.takes_cut_answers,
            max_output_tokens=step.task.max_output_tokens,
            api=api,
        )
        if ended:
            if not has_images:
                find_images(connection, task, source, day, image_folder)
                has_images = True
            _rename(connection, following, source, day)
            moved += ended
    return moved


def _rename(connection: duckdb.DuckDBPyConnection, step: Step, source: str, day: str) -> None:
    """Give the requests in the temp table `ended_in_step` the custom_ids and the number of this step."""
    custom_id, parameters = custom_id_sql(step.task, step.task.question_tail)
    of_day = step.task.on(day)
    connection.execute(
        f"""
        UPDATE batch_request SET custom_id = next.custom_id, step = ?
        FROM (
            SELECT article_id, {custom_id} AS custom_id
            FROM raw_articles {join_of_image(step.task)} SEMI JOIN (
                SELECT article_id FROM batch_request SEMI JOIN ended_in_step USING (custom_id)
                WHERE task = ? AND partition_date = CAST(? AS DATE)
            ) USING (article_id)
            WHERE source = ? AND partition_date = CAST(? AS DATE)
        ) AS next
        WHERE batch_request.task = ? AND batch_request.partition_date = CAST(? AS DATE)
            AND batch_request.article_id = next.article_id
        """,
        [step.number, *parameters, *of_day, source, day, *of_day],
    )
