"""Loads result files of a batch again: only what is not in the tables is added, and nothing is taken away.

An answer that the tables have stays, whichever is better. The one exception: an answer of a model replaces one of the
built-in engine, which does not count beside it. So no request that is answered becomes pending. A request without a
line in the files stays as it is: a file may be one of two. The state of the batch does not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from batch_assets.batching.collection.ended_batches import EndedBatch, enter_batches
from batch_assets.batching.collection.failures import load_failures
from batch_assets.batching.collection.given_files import FileFacts, ReloadError, facts_of, unpacked
from batch_assets.batching.collection.judged_answers import judge_answers, judge_vectors
from batch_assets.batching.collection.load import (
    BILLED_LINES,
    CHOOSE_LINES,
    DELETE_REPLACED,
    FIND_ANSWERED_BEFORE,
    INSERT_COMPLETIONS,
)
from batch_assets.batching.collection.result_lines import ResultFile, read_result_files
from batch_assets.batching.collection.stored_results import ended_batch
from batch_assets.batching.ledger import reloading, submissions
from batch_assets.batching.ledger.billing import record_spending
from batch_assets.batching.ledger.database import Database, fixed_join_order, transaction
from batch_assets.batching.ledger.states import State
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.ledger.withdrawal import withdraw_unsent_with_requests
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.task_day import TaskDay

ANSWERED_ELSEWHERE = """
    SELECT any_value(completion.batch_id)
    FROM result_line JOIN completion ON completion.custom_id = result_line.custom_id
        AND completion.request_id = result_line.request_id
    WHERE completion.batch_id <> $batch_id
"""
FIND_REPLACED = """
    CREATE OR REPLACE TEMP TABLE replaced AS
    SELECT custom_id FROM answered_before AS before JOIN outcome USING (custom_id) JOIN ended_batch USING (batch)
    WHERE is_answer AND before.api = $built_in_engine AND NOT is_simulated
"""
FIND_NEW_ANSWERS = """
    CREATE OR REPLACE TEMP TABLE reloaded_answer AS
    SELECT custom_id FROM outcome ANTI JOIN answered_before USING (custom_id) WHERE is_answer
"""
# A failure is added only if the batch has none for the request, and if no answer makes it unimportant.
KEEP_NEW_FAILURES = """
    DELETE FROM outcome WHERE chosen IS NULL OR is_answer OR NOT $is_collected
        OR custom_id IN (SELECT custom_id FROM completion)
        OR custom_id IN (SELECT custom_id FROM failed_request WHERE batch_id = $batch_id)
"""
LAST_QUARANTINED = "SELECT coalesce(max(rowid), -1) FROM quarantined_line"
# Those of the files that the batch had not in quarantine before, under the path that the user gave.
KEEP_NEW_QUARANTINED = """
    DELETE FROM quarantined_line WHERE batch_id = $batch_id AND rowid > $last AND line IN (
        SELECT line FROM quarantined_line WHERE batch_id = $batch_id AND rowid <= $last
    )
"""
NAME_QUARANTINED = "UPDATE quarantined_line SET path = $path WHERE batch_id = $batch_id AND path = $plain"
COUNT_QUARANTINED = "SELECT count(*) FROM quarantined_line WHERE batch_id = $batch_id AND rowid > $last"
WITHDRAWN = "Its requests have answers in a result file that the user has loaded."


@dataclass(frozen=True)
class Reloaded:
    """What changed for one batch.

    answers, failures, quarantined: how many were added. answers_present: how many requests of the files had an answer.
    other_requests: how many requests of the files the batch does not have. is_billing_added: rows of `spending` were
    added. days: those that need one of the new answers. withdrawn_files: unsent request files that held one.
    """

    batch_id: str
    day: TaskDay
    api: str | None
    state: str
    lines: int
    answers: int
    answers_present: int
    failures: int
    quarantined: int
    other_requests: int
    is_billing_added: bool
    days: list[TaskDay]
    withdrawn_files: int


def reload_files(
    database: Database,
    data_folder: Path,
    paths: Sequence[Path],
    batch_id: str | None = None,
    own_prices: tuple[ModelPrice, ...] = (),
) -> list[Reloaded]:
    """Load these result files again, those of one batch together.

    batch_id: of all of them; None: the batch is found by the name of the file, or by its requests. Raises ReloadError
    before anything of its batch changes; the batches before it are loaded.
    """
    with unpacked(paths) as plain:
        facts = {path: facts_of([plain[path]]) for path in paths}
        by_batch: dict[str, list[Path]] = {}
        found: dict[str, Submission] = {}
        for path in paths:
            submission = _batch_of(database, data_folder, path, facts[path], batch_id)
            found[submission.id] = submission
            by_batch.setdefault(submission.id, []).append(path)
        return [
            _reload(database, data_folder, found[key], {path: plain[path] for path in of_batch}, own_prices)
            for key, of_batch in by_batch.items()
        ]


def _batch_of(database: Database, data_folder: Path, path: Path, facts: FileFacts, batch_id: str | None) -> Submission:
    """The one batch that the file is of. Raises ReloadError."""
    if not facts.custom_ids:
        raise ReloadError(f"{path.name} has no line with a custom_id: it is no result file of a batch.")
    is_named = True
    if batch_id is not None:
        candidates = submissions.of_batch_id(database, batch_id, data_folder)
        if not candidates:
            raise ReloadError(f"The ledger knows no batch {batch_id}.")
    else:
        with database.reading() as connection:
            ids = reloading.submissions_named(connection, path.name)
            is_named = bool(ids)
            ids = ids or reloading.submissions_with(connection, facts.custom_ids)
        candidates = submissions.of_ids(database, ids, data_folder)
    fitting: list[tuple[int, Submission]] = []
    reasons = []
    for submission in candidates:
        common = len(facts.custom_ids & _requests_of(database, submission))
        if not common or not (is_named or 2 * common > len(facts.custom_ids)):
            reasons.append(f"{submission.batch_id} has other requests")
            continue
        with database.reading() as connection:
            why_not = facts.why_not_of(submission, *reloading.time_of_batch(connection, submission))
        if why_not is None:
            fitting.append((common, submission))
        else:
            reasons.append(why_not)
    most = max((common for common, _ in fitting), default=0)
    best = [submission for common, submission in fitting if common == most]
    if len(best) == 1:
        return best[0]
    if not best:
        why = "; ".join(reasons[:3]) or "the ledger knows no batch with its requests"
        raise ReloadError(f"{path.name} is of no batch of this database: {why}. Nothing was changed.")
    names = ", ".join(f"{one.batch_id} ({one.api})" for one in best)
    raise ReloadError(f"{path.name} may be of several batches: {names}. Name the batch with --batch.")


def _requests_of(database: Database, submission: Submission) -> set[str]:
    """The custom_ids of the batch: from its request file or, if that was deleted, as far as the tables know them."""
    if submission.path.exists():
        with submission.path.open("rb") as file:  # {"custom_id":"…", as RequestLineBuilder writes it
            return {line.split(b'"', 4)[3].decode() for line in file if line.startswith(b'{"custom_id":"')}
    with database.reading() as connection:
        return reloading.known_requests(connection, submission)


def _reload(
    database: Database,
    data_folder: Path,
    submission: Submission,
    files: Mapping[Path, Path],
    own_prices: tuple[ModelPrice, ...],
) -> Reloaded:
    """files: the given path → the plain file."""
    requests = _requests_of(database, submission)
    facts = facts_of(list(files.values()))
    batch = replace(
        ended_batch(submission, data_folder),
        files={str(number): path for number, path in enumerate(files.values())},
        status=submission.status or "completed",
        is_refresh=False,
        reasons={},
        reason=None,
        reported=None,
    )
    with database.writing() as connection, transaction(connection):
        state = reloading.present_state(connection, submission)
        if state is None:
            raise ReloadError(f"A run has changed {submission.batch_id}. Run the command again.")
        reloaded, withdrawn = _load(connection, submission, batch, state, requests, files, facts, own_prices)
    for path in withdrawn:
        (data_folder / path).unlink(missing_ok=True)
    return reloaded


def _load(
    connection: duckdb.DuckDBPyConnection,
    submission: Submission,
    batch: EndedBatch,
    state: State,
    requests: set[str],
    files: Mapping[Path, Path],
    facts: FileFacts,
    own_prices: tuple[ModelPrice, ...],
) -> tuple[Reloaded, list[str]]:
    of_batch = {"batch_id": batch.batch_id}
    enter_batches(connection, [batch], own_prices)
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE requested AS SELECT 0::INTEGER AS batch, unnest($ids::VARCHAR[]) AS custom_id",
        {"ids": sorted(requests)},
    )
    connection.execute(FIND_ANSWERED_BEFORE)
    (last_quarantined,) = connection.execute(LAST_QUARANTINED).fetchone() or (-1,)
    read_result_files(connection, [ResultFile(path, 0, batch.batch_id, batch.endpoint) for path in files.values()])
    judge_answers(connection, {} if batch.output_schema is None else {0: batch.output_schema})
    judge_vectors(connection, {} if batch.vector_length is None else {0: batch.vector_length})
    connection.execute(CHOOSE_LINES)
    (other,) = connection.execute(ANSWERED_ELSEWHERE, of_batch).fetchone() or (None,)
    if other is not None:
        raise ReloadError(f"The answers are those of {other}, and not of {batch.batch_id}. Nothing was changed.")
    connection.execute(FIND_REPLACED, {"built_in_engine": BUILT_IN_ENGINE})
    connection.execute(DELETE_REPLACED)
    connection.execute(FIND_NEW_ANSWERS)
    (answers, present) = connection.execute(
        "SELECT (SELECT count(*) FROM reloaded_answer), count(*) FILTER (is_answer) FROM outcome"
    ).fetchall()[0]
    with fixed_join_order(connection):
        connection.execute(INSERT_COMPLETIONS)
    connection.execute(BILLED_LINES)
    is_billing_added = _record_spending(connection, submission, state, answers, batch)
    connection.execute(KEEP_NEW_FAILURES, {"is_collected": state is State.COLLECTED, **of_batch})
    (failures,) = connection.execute("SELECT count(*) FROM outcome").fetchone() or (0,)
    load_failures(connection, [batch])
    quarantined = _keep_new_quarantined(connection, batch.batch_id, files, last_quarantined)
    withdrawn = withdraw_unsent_with_requests(connection, "reloaded_answer", message=WITHDRAWN) if answers else []
    days = reloading.days_of_reloaded_answers(connection)
    connection.execute("DROP TABLE result_line")
    return (
        Reloaded(
            batch.batch_id, submission.task_day, submission.api, state, facts.lines, answers, present - answers,
            failures, quarantined, len(facts.custom_ids - requests), is_billing_added, days, len(withdrawn),
        ),
        withdrawn,
    )  # fmt: skip


def _record_spending(
    connection: duckdb.DuckDBPyConnection, submission: Submission, state: State, answers: int, batch: EndedBatch
) -> bool:
    """Record what is not recorded yet. Of a batch that is not collected nothing: its collection records all of it, and
    budgets reserve its expected cost until then.
    """
    if state is not State.COLLECTED:
        return False
    if reloading.has_spending(connection, submission):
        return reloading.record_more_spending(
            connection, submission, answers=answers, is_simulated=batch.api == BUILT_IN_ENGINE
        )
    record_spending(connection)
    return reloading.has_spending(connection, submission)


def _keep_new_quarantined(
    connection: duckdb.DuckDBPyConnection, batch_id: str, files: Mapping[Path, Path], last: int
) -> int:
    """Remove the lines that were in quarantine before; returns how many are new. last: the last rowid before."""
    parameters = {"batch_id": batch_id, "last": last}
    connection.execute(KEEP_NEW_QUARANTINED, parameters)
    (new,) = connection.execute(COUNT_QUARANTINED, parameters).fetchone() or (0,)
    for given, plain in files.items():
        if given != plain:
            connection.execute(NAME_QUARANTINED, {"batch_id": batch_id, "plain": str(plain), "path": str(given)})
    return int(new)
