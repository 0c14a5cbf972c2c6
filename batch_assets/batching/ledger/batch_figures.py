"""The batches of days, for users: also those of earlier rounds, and attempts that failed as a whole."""

from dataclasses import dataclass, replace
from datetime import date, datetime

import duckdb

from batch_assets.batching.ledger.database import parsed
from batch_assets.batching.ledger.day_spending import IS_UNPRICED
from batch_assets.batching.ledger.states import State

BATCHES = f"""
    WITH cost AS (
        SELECT
            submission_id, batch_id, sum(cost_usd) AS cost_usd, sum(simulated_cost_usd) AS simulated_cost_usd,
            bool_or({IS_UNPRICED}) AS is_unpriced
        FROM spending WHERE partition_date BETWEEN $first AND $last GROUP BY ALL
    )
    SELECT
        batch.task, batch.partition_date::VARCHAR, batch.batch_id, api, file.model, state, status, batch.plan,
        batch.round, file.step, submitted_at, in_progress_at, ended_at, coalesce(requests_total, file.requests),
        requests_completed, requests_failed, CASE WHEN NOT is_unpriced THEN cost_usd END, simulated_cost_usd,
        expected_cost_usd, max_cost_usd, message,
        batch.submission_id, earlier_batch_ids
    FROM openai_batch AS batch JOIN batch_request_file AS file USING (submission_id)
    LEFT JOIN cost ON cost.submission_id = batch.submission_id AND cost.batch_id = batch.batch_id
    WHERE batch.partition_date BETWEEN $first AND $last AND ($task IS NULL OR batch.task = $task)
        AND (batch.batch_id IS NOT NULL OR len(earlier_batch_ids) > 0)
    ORDER BY batch.partition_date, batch.task, submitted_at NULLS LAST, batch.shard
"""
# The ledger keeps of an earlier attempt its id, and the events by which it began and ended.
EARLIER = """
    SELECT min(moved_at), max(moved_at), arg_max(message, moved_at) FROM submission_event
    WHERE submission_id = $submission_id AND batch_id = $batch_id
"""
REQUEUED = "requeued"  # the state of an attempt that failed as a whole
WITHOUT_STATUS = (REQUEUED, State.LOST, State.ABANDONED, State.MISSING)


@dataclass(frozen=True)
class BatchFigures:
    """A batch as the ledger knows it. Times are UTC without zone; a figure that the API did not return is None.

    plan: counts those of the day; 0: an adopted batch.
    state: of its submission; `requeued` of an attempt that failed as a whole and was sent again. status: of the API.
    cost_usd: None if it is not collected yet or the price is not known. expected_cost_usd:
    when it was submitted; max_cost_usd: an upper estimate of its request file. message: the API's last one about it.
    """

    task: str
    day: str
    batch_id: str
    api: str | None
    model: str
    state: str
    status: str | None
    plan: int
    round: int
    step: int
    submitted_at: datetime | None
    in_progress_at: datetime | None
    ended_at: datetime | None
    requests_total: int
    requests_completed: int | None
    requests_failed: int | None
    cost_usd: float | None
    simulated_cost_usd: float | None
    expected_cost_usd: float | None
    max_cost_usd: float | None
    message: str | None

    @property
    def outcome(self) -> str | None:
        """What became of the batch: as the API says, unless the API no longer has it, or it was sent again."""
        return self.state if self.state in WITHOUT_STATUS else self.status


def batches_of_days(
    connection: duckdb.DuckDBPyConnection, first: str, last: str, task: str | None = None
) -> list[BatchFigures]:
    """All batches of the days from `first` to `last`, of this task or of all, in the order of their submission."""
    parameters = {"first": date.fromisoformat(first), "last": date.fromisoformat(last), "task": task}
    found = []
    for *figures, submission_id, earlier_ids in connection.execute(parsed(BATCHES), parameters).fetchall():
        batch = BatchFigures(*figures)
        found += [_earlier_attempt(connection, batch, submission_id, earlier_id) for earlier_id in earlier_ids or ()]
        found += [batch] if batch.batch_id is not None else []
    return found


def _earlier_attempt(
    connection: duckdb.DuckDBPyConnection, batch: BatchFigures, submission_id: str, earlier_id: str
) -> BatchFigures:
    """An attempt of the same request file that failed as a whole, before the API ran a request."""
    of_attempt = {"submission_id": submission_id, "batch_id": earlier_id}
    began_at, ended_at, message = connection.execute(parsed(EARLIER), of_attempt).fetchall()[0]
    return replace(
        batch,
        batch_id=earlier_id,
        state=REQUEUED,
        status="failed",
        submitted_at=began_at,
        in_progress_at=None,
        ended_at=ended_at,
        requests_completed=None,
        requests_failed=None,
        cost_usd=None,
        simulated_cost_usd=None,
        message=message,
    )
