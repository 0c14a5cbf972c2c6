"""Collects a day: loads the results of its ended batches into tables, and writes the result table.

The order matters: result files are stored byte for byte before anything is parsed. So what OpenAI billed is on this
disk even if a line cannot be parsed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import duckdb
import openai

from batch_assets.batching.collection.day_results import Escalate, ResultTable, write_results
from batch_assets.batching.collection.ended_batches import BYTES_AT_ONCE, EndedBatch, in_groups
from batch_assets.batching.collection.fetch import CollectionError, Fetched, Fetcher, fetch_day
from batch_assets.batching.collection.load import Loaded, load_results
from batch_assets.batching.collection.stored_results import ended_batch, stored_of_day
from batch_assets.batching.ledger import submissions
from batch_assets.batching.ledger.batch_transitions import Collectable, check_collectable
from batch_assets.batching.ledger.database import Database, transaction
from batch_assets.batching.ledger.requests import BlockedBy, BudgetRefusal, RequestStateRules
from batch_assets.batching.ledger.states import RequestState
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.identity import ApiIdentity, identify
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.task_day import TaskDay
from batch_assets.batching.timing import Timing


@dataclass
class Collected:
    """What `collect_day` loaded, and which batches have no results.

    requests, blocked, next_attempt_at: see `WrittenDay`.
    """

    batches: dict[str, Loaded] = field(default_factory=dict)
    fetched: Fetched = field(default_factory=Fetched)
    requests: dict[str, int] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    next_attempt_at: datetime | None = None

    @property
    def requests_in_files(self) -> int:
        """The requests in flight, and those in files that no run can send now."""
        return self.requests.get(RequestState.IN_FLIGHT, 0) + self.blocked.get(BlockedBy.SUBMISSION, 0)

    @property
    def in_pause(self) -> int:
        """The requests that a run may send later: after an account error, or after a call outside of a batch."""
        return self.blocked.get(BlockedBy.ACCOUNT, 0) + self.blocked.get(BlockedBy.CALL, 0)


def collect_day(
    database: Database,
    client: openai.OpenAI,
    *,
    day: str,
    results: ResultTable,
    data_folder: Path,
    max_rounds: int,
    max_output_tokens: int = 0,
    own_prices: tuple[ModelPrice, ...] = (),
    refusal: Callable[[str], BudgetRefusal | None] = lambda api: None,
    bytes_at_once: int = BYTES_AT_ONCE,
    timing: Timing | None = None,
    identify_api: Callable[[], ApiIdentity] | None = None,
    escalate: Escalate = lambda connection, api: 0,
) -> Collected:
    """Store and load the results of every ended batch that a task's day waits for, then write its result table.

    May run at any time and any number of times: a batch is loaded once. `bytes_at_once`: how many bytes of result files
    one transaction loads; bounds the memory. `refusal`: why a budget allows no submission of the day to the API of this
    name, for the table. `identify_api`: of a run that collects several days, and asks the API for its name once.
    `escalate`: see `write_results`.
    Raises CollectionError if the API does not answer, or does not return a batch or a file. All other results are then
    loaded, and are in the table.
    """
    collected = Collected()
    of_task = TaskDay(results.task, day)

    def load_all(stored: Sequence[Submission]) -> list[CollectionError]:
        groups = in_groups([ended_batch(submission, data_folder) for submission in stored], bytes_at_once)
        return [failure for group in groups for failure in _load(database, group, collected, own_prices)]

    # first: stored results need no API, which may not answer, be another one, or no longer know the batch
    waited_for = submissions.uncollected(database, of_task, data_folder)
    stored = stored_of_day(waited_for, data_folder)
    failures = load_all(stored)

    def write(api: str) -> None:
        rules = RequestStateRules(api, max_output_tokens, max_rounds, refusal(api))
        written = write_results(database, results, day, rules, escalate)
        collected.requests, collected.blocked, collected.next_attempt_at = written

    try:
        api = identify_api() if identify_api else identify(client, database.warehouse_id())
    except openai.OpenAIError as error:
        if collected.batches and stored[0].api is not None:
            write(stored[0].api)
        raise (failures or [_no_answer(error)])[0] from error
    collected.fetched = fetch_day(Fetcher(database, client, data_folder, api, timing or Timing()), waited_for)
    tried = {submission.id for submission in stored}
    waited_for = submissions.uncollected(database, of_task, data_folder) if waited_for else []
    new = [submission for submission in stored_of_day(waited_for, data_folder) if submission.id not in tried]
    failures += collected.fetched.failures + load_all(new)
    write(api.name)  # also after a failure: one batch that cannot be fetched hides no answer of the others
    if failures:
        raise failures[0]
    return collected


def _no_answer(error: openai.OpenAIError) -> CollectionError:
    return CollectionError(
        f"The API does not answer: {error_message(error)}. It keeps the results for 30 days. Materialize `summaries` "
        "again."
    )


def _load(
    database: Database, ended: list[EndedBatch], collected: Collected, own_prices: tuple[ModelPrice, ...]
) -> list[CollectionError]:
    """Load these batches in one transaction: DuckDB writes a large one directly to its file, and compresses once.

    If that fails, load them one by one, so that one broken batch does not delay the others. Returns an error for each
    that could not be loaded.
    """
    try:
        _load_together(database, ended, collected, own_prices)
    except (duckdb.Error, OSError) as error:
        if len(ended) == 1:
            return [_not_loaded(ended[0], error)]
        return [failure for batch in ended for failure in _load(database, [batch], collected, own_prices)]
    return []


def _not_loaded(batch: EndedBatch, error: Exception) -> CollectionError:
    files = " and ".join(str(path) for path in batch.files.values()) or "it has no files"
    failure = CollectionError(
        f"The results of {batch.batch_id} ({files}) could not be loaded into the tables: {as_message(str(error))}. "
        "The files stay. Fix the cause, then materialize `summaries` again."
    )
    failure.__cause__ = error
    return failure


def _load_together(
    database: Database, ended: list[EndedBatch], collected: Collected, own_prices: tuple[ModelPrice, ...]
) -> None:
    """Load all of these batches or none, except those that another run has loaded meanwhile."""
    with database.writing() as connection, transaction(connection):
        to_load: list[EndedBatch] = []
        for batch in ended:
            state = check_collectable(connection, batch.submission_id, batch.batch_id)
            if state is not Collectable.NO:
                to_load.append(replace(batch, cancelled_by_user=state is Collectable.CANCELLED))
        loaded = load_results(connection, to_load, own_prices) if to_load else {}
    collected.batches |= loaded
