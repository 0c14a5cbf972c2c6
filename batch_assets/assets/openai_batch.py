"""The stage `openai_batch`: the day's batches at OpenAI. Only this stage spends money."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import partial
from typing import Any

import dagster as dg
import openai as openai_client

from batch_assets.asset_tables import table_metadata
from batch_assets.assets.day_metadata import batches_metadata
from batch_assets.assets.day_run import DayRun, KnownDays, TaskRun, known_days
from batch_assets.assets.missing_key import stop_until_there_is_a_key
from batch_assets.assets.unfinished_days import Outage, next_pause, report_to_sensor
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.batch_figures import batches_of_days
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.known_batches import known_batches
from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets.batching.ledger.retries import end_account_pauses
from batch_assets.batching.ledger.submissions import why_deferred
from batch_assets.batching.once import Once
from batch_assets.batching.operations.cancel import stop_submitting
from batch_assets.batching.planning.estimate import estimate_day
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.submission.errors import RunStoppedError, SubmissionError
from batch_assets.batching.submission.submit import Preparation, Submitted, submit_day
from batch_assets.batching.submission.submitter import Submitter, make_submitter
from batch_assets.batching.task_day import TaskDay
from batch_assets.day_events import BACKFILL_TAG, DEDUP_TAG, Cause, Origin, error_metadata, submission_metadata
from batch_assets.resources import IDENTIFY_SECONDS, Warehouse
from batch_assets.runless_events import announce_days_without_event
from batch_assets.same_warehouse import stop_if_of_another_warehouse, unknown_batches
from batch_assets.task_set import DeclaredTask

PAUSE_AFTER_A_REFUSAL = timedelta(hours=1)
PAUSE_WHILE_OVER_BUDGET = timedelta(days=1)
PAUSE_AFTER_TERMINATION = timedelta(seconds=30)  # then a run searches for a batch whose creation was interrupted


def batch_spec(declared: DeclaredTask) -> dg.AssetSpec:
    return dg.AssetSpec(
        declared.keys.openai_batch,
        deps=[declared.keys.batch_request_file],
        description="One batch at OpenAI for each request file. Each materialization submits only the files without a "
        "batch.\n\nFiles for which OpenAI's limits have no capacity are deferred, and submitted when other batches "
        "end. The sensor `openai_batch_sensor` polls the batches and materializes "
        f"`{declared.keys.results.to_user_string()}` when they have ended.",
        partitions_def=declared.partitions_def,
        group_name=declared.group_name,
        owners=list(declared.owners),
        tags=declared.tags,
        kinds={"openai"},
        metadata=table_metadata("openai_batch"),
        skippable=True,
    )


@dataclass
class Submission:
    """What the tasks and days of a run share that submits.

    submitter: raises SubmissionError if the API does not answer, or the local Batch API that stands in does not run.
    preparation: of `submit_day`. end_pauses: of all days, after an error of the account.
    known: by task, the days as the run found them.
    begun: the days that the run has begun to submit, and that have no event of this run.
    """

    run: DayRun
    submitter: Once[Submitter]
    preparation: Once[Preparation]
    end_pauses: Once[None]
    known: Mapping[str, Once[KnownDays]]
    outage: Outage = field(default_factory=Outage)
    begun: dict[TaskDay, TaskRun] = field(default_factory=dict)


@contextmanager
def submission(run: DayRun, tasks: Sequence[TaskRun]) -> Iterator[Submission]:
    """The submission of these tasks for the run's days. It connects with the API when the first day needs it, and
    disconnects last.

    At the end, also after an error, it reports days of which it entered batches and that no event names.
    """
    with ExitStack() as stack:

        def connect() -> Submitter:
            return make_submitter(
                run.warehouse.tables,
                stack.enter_context(_client(run)),
                run.warehouse.files,
                run.context.run.run_id,
                limits=run.tasks.limits,
                timing=run.openai.timing,
                identify_timeout_seconds=IDENTIFY_SECONDS,
                stop=run.stop,
            )

        submitter = Once(connect)
        preparation = Once(lambda: Preparation(submitter(), _is_run_alive(run.instance)))
        of_tasks = [task.on(day) for task in tasks for day in run.days]
        end_pauses = Once(lambda: end_account_pauses(run.warehouse.tables, of_tasks))
        known = {task.task.name: Once(partial(known_days, task)) for task in tasks}
        shared = Submission(run, submitter, preparation, end_pauses, known)
        try:
            yield shared
        except dg.DagsterExecutionInterruptedError:
            raise _terminated(shared) from None
        finally:
            if submitter.has_succeeded:
                announce_days_without_event(
                    run.instance,
                    run.tasks.keys,
                    run.warehouse.tables,
                    run.warehouse.files,
                    run.origin(submitter().api.name),
                    of_tasks,
                )


@contextmanager
def _client(run: DayRun) -> Iterator[openai_client.OpenAI]:
    """Raises SubmissionError if there is no API: the sensor tries again, since the user may start it at any time."""
    with ExitStack() as stack:
        try:
            client = stack.enter_context(run.openai.get_client(run.context))
        except dg.Failure as failure:
            raise SubmissionError(f"{failure.description or failure} The sensor tries again by itself.") from failure
        yield client


def submit(shared: Submission, task: TaskRun, day: str, refusal: BudgetRefusal | None) -> None:
    """Submit the day of the task. Raises dagster.Failure and any other error: the sensor then knows what the day waits
    for.

    refusal: why a budget does not allow the day. The run then finishes only what an earlier one has begun.
    """
    run, known, of_task, key = shared.run, shared.known[task.task.name](), task.on(day), task.keys.openai_batch
    stop_if_of_another_warehouse(key, day, known.events.get(day), known.warehouse_id)
    shared.begun[of_task] = task
    with _reported_to_sensor(shared, task, day):
        shared.outage.check()
        submitter = shared.submitter()
        stop_until_there_is_a_key(task, day)
        _recover_unknown_batches(shared, task, submitter, day)
        if DEDUP_TAG not in run.context.run.tags:  # the user's run tries at once; the sensor's runs wait
            shared.end_pauses()
        refusal = refusal or why_over_budget(run.warehouse, task.limits, of_task, submitter.api.name)
        submitted = submit_day(submitter, of_task, only_begun=refusal is not None, preparation=shared.preparation())
        shared.outage.is_over()
        if refusal is not None:
            raise OverBudgetError(refusal.message)
    task.info(day, f"Sent to {submitted.api}.")
    error = why_deferred(run.warehouse.tables, of_task) if submitted.deferred else None
    if submitted.deferred:
        waiting = counted(submitted.deferred, "request file")
        cause = error or "OpenAI's limits have no capacity."
        task.info(day, f"{waiting} deferred: {as_message(cause)} The sensor requests another run.")
    origin = _origin(shared, task, day)
    with run.warehouse.tables.reading() as connection:
        batches = batches_of_days(connection, day, day, task.task.name)
    metadata = {**_metadata(origin, submitted, error), **batches_metadata(batches)}
    run.report(dg.AssetMaterialization(key, partition=day, metadata=metadata))
    shared.begun.pop(of_task, None)


class OverBudgetError(Exception):
    """A budget does not allow the day."""


def _is_run_alive(instance: dg.DagsterInstance) -> Callable[[str], bool]:
    def is_run_alive(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished

    return is_run_alive


@contextmanager
def _reported_to_sensor(shared: Submission, task: TaskRun, day: str) -> Iterator[None]:
    """Raise an error of the submission as dagster.Failure, and report it to the sensor, which tries again later.

    Whatever ends the submission, batches may have been created before. The sensor polls only batches that an event
    names, so each error leaves one.
    """
    try:
        yield
    except SubmissionError as error:
        pause = PAUSE_AFTER_A_REFUSAL if error.is_final else _pause_of_an_outage(shared, task, day)
        if not error.is_final:
            shared.outage.count(error)
        _report(shared, task, day, pause, str(error), _cause_of(error))
        raise dg.Failure(str(error), allow_retries=False) from error
    except OverBudgetError as error:  # the sensor names the day, and collects batches of an earlier run
        _report(shared, task, day, PAUSE_WHILE_OVER_BUDGET, str(error), Cause.BUDGET)
        raise dg.Failure(str(error), allow_retries=False) from None
    except RunStoppedError:
        raise  # `_terminated` reports the day
    except dg.Failure:
        shared.begun.pop(task.on(day), None)
        raise  # before anything was submitted: the user has to do something first
    except Exception as error:
        _report(shared, task, day, _pause_of_an_outage(shared, task, day), error_message(error))
        raise


def _report(
    shared: Submission, task: TaskRun, day: str, pause: timedelta, reason: str, cause: Cause | None = None
) -> None:
    report_to_sensor(task, _origin(shared, task, day), day, pause, reason, cause)
    shared.begun.pop(task.on(day), None)


def _cause_of(error: SubmissionError) -> Cause | None:
    if error.is_of_account:
        return Cause.ACCOUNT
    return Cause.REFUSED if error.is_final else None


def _origin(shared: Submission, task: TaskRun, day: str) -> Origin:
    """Where the event of the day is from. The sensor's runs go on with the backfill that the day's last event names."""
    known, tags = shared.known[task.task.name](), shared.run.context.run.tags
    api = shared.submitter().api.name if shared.submitter.has_succeeded else None
    before = known.events.get(day) if DEDUP_TAG in tags else None
    backfill = tags.get(BACKFILL_TAG) or (None if before is None else before.origin.backfill)
    return Origin(shared.run.location, known.warehouse_id, api, backfill)


def _pause_of_an_outage(shared: Submission, task: TaskRun, day: str) -> timedelta:
    return next_pause(shared.known[task.task.name]().events.get(day))


def _terminated(shared: Submission) -> BaseException:
    """The error of a run that was terminated. The user's run sends nothing more of the days that it has begun."""
    run = shared.run
    record = run.instance.get_run_by_id(run.context.run.run_id)
    if record is None or record.status is not dg.DagsterRunStatus.CANCELING:
        return dg.DagsterExecutionInterruptedError()  # its host shuts down, and Dagster retries the run
    for of_task, task in sorted(shared.begun.items(), key=lambda entry: entry[0]):
        stop_submitting(run.warehouse.tables, day=of_task, data_folder=run.warehouse.files)
        _report(shared, task, of_task.day, PAUSE_AFTER_TERMINATION, "The run was terminated.")
    return dg.Failure("The run was terminated. It submits nothing more.", allow_retries=False)


def _recover_unknown_batches(shared: Submission, task: TaskRun, submitter: Submitter, day: str) -> None:
    """Enter the batches that the event log names and that the ledger, restored from a backup, does not know.

    Raises dagster.Failure, before the run buys anything, if one of them cannot be entered.
    """
    known = shared.known[task.task.name]()
    event = known.events.get(day)
    if not unknown_batches(event, known.batches):
        return
    shared.preparation().search()
    unknown = unknown_batches(event, known_batches(shared.run.warehouse.tables))
    if unknown:
        raise dg.Failure(
            f"Dagster's event log names {', '.join(unknown)} of {day}. The ledger does not know them, and the run "
            f"could not enter them from {submitter.api.name}. The run sent nothing. Materialize `raw_articles` and "
            "`batch_request_file` of the day, then this one. Adopt a batch that you created yourself with "
            "`batch-assets adopt`. If they no longer exist, wipe the materializations of "
            f"`{task.keys.openai_batch.to_user_string()}` for {day}.",
            allow_retries=False,
        )


def _metadata(origin: Origin, submitted: Submitted, error: str | None) -> dict[str, Any]:
    next_attempt = submitted.next_attempt_at
    return {
        **submission_metadata(
            origin,
            submitted.batch_ids,
            submitted.deferred,
            None if next_attempt is None else next_attempt.replace(tzinfo=UTC),
        ),
        # `error` is that of the account, if there is one
        **error_metadata(None if error is None else as_message(error), None if error is None else Cause.ACCOUNT),
        "batches": len(submitted.batch_ids),
        "batches_created": submitted.created,
        "batches_adopted": submitted.adopted,
        "batches_recovered": submitted.recovered,
        "batches_rejected_token_limit": submitted.requeued,
    }


def why_over_budget(warehouse: Warehouse, limits: Limits, day: TaskDay, api: str) -> BudgetRefusal | None:
    """Why the run may begin no new submission; None if the budgets allow it."""
    if not limits.budget.limits(day.task):
        return None
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, day, api=api, own_prices=limits.own_prices)
    return estimate.why_not_within(limits.budget)
