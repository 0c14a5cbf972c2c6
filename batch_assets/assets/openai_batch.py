"""The stage `openai_batch`: the day's batches at OpenAI. Only this stage spends money."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any

import dagster as dg

from batch_assets.asset_keys import BATCH_REQUEST_FILE, GROUP, OPENAI_BATCH
from batch_assets.assets.day_run import DayRun, KnownDays, known_days
from batch_assets.assets.missing_key import stop_until_there_is_a_key
from batch_assets.assets.unfinished_days import Outage, next_pause, report_to_sensor
from batch_assets.batching.counting import counted
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
from batch_assets.day_events import DEDUP_TAG, ERROR, Origin, submission_metadata
from batch_assets.partitions import daily_partitions
from batch_assets.resources import IDENTIFY_SECONDS, SummaryTask, Warehouse
from batch_assets.runless_events import announce_days_without_event
from batch_assets.same_warehouse import stop_if_of_another_warehouse, unknown_batches

PAUSE_AFTER_A_REFUSAL = timedelta(hours=1)
PAUSE_WHILE_OVER_BUDGET = timedelta(days=1)
PAUSE_AFTER_TERMINATION = timedelta(seconds=30)  # then a run searches for a batch whose creation was interrupted

openai_batch = dg.AssetSpec(
    OPENAI_BATCH,
    deps=[BATCH_REQUEST_FILE],
    description="One batch at OpenAI for each request file. Each materialization submits only the files without a "
    "batch.\n\nFiles for which OpenAI's limits have no capacity are deferred, and submitted when other batches end. "
    "The sensor `openai_batch_sensor` polls the batches and materializes `summaries` when they have ended.",
    partitions_def=daily_partitions,
    group_name=GROUP,
    kinds={"openai"},
    skippable=True,
)


@dataclass
class Submission:
    """What the days of a run share that submits.

    submitter: raises SubmissionError if the API does not answer, and dagster.Failure if there is none.
    preparation: of `submit_day`. known: the days as the run found them.
    begun: the days that the run has begun to submit, and that have no event of this run.
    """

    run: DayRun
    submitter: Once[Submitter]
    preparation: Once[Preparation]
    known: Once[KnownDays]
    outage: Outage = field(default_factory=Outage)
    begun: set[str] = field(default_factory=set)


@contextmanager
def submission(run: DayRun) -> Iterator[Submission]:
    """The submission of the run's days. It connects with the API when the first day needs it, and disconnects last.

    At the end, also after an error, it reports days of which it entered batches and that no event names.
    """
    with ExitStack() as stack:

        def connect() -> Submitter:
            return make_submitter(
                run.warehouse.tables,
                stack.enter_context(run.openai.get_client(run.context)),
                run.warehouse.files,
                run.context.run.run_id,
                limits=run.task.limits,
                timing=run.openai.timing,
                identify_timeout_seconds=IDENTIFY_SECONDS,
                stop=run.stop,
            )

        submitter = Once(connect)
        preparation = Once(lambda: Preparation(submitter(), _is_run_alive(run.instance)))
        shared = Submission(run, submitter, preparation, Once(lambda: known_days(run)))
        try:
            yield shared
        except dg.DagsterExecutionInterruptedError:
            raise _terminated(shared) from None
        finally:
            if submitter.has_succeeded:
                announce_days_without_event(
                    run.instance,
                    OPENAI_BATCH,
                    run.warehouse.tables,
                    run.warehouse.files,
                    run.origin(submitter().api.name),
                    run.days,
                )


def submit(shared: Submission, day: str, refusal: BudgetRefusal | None) -> None:
    """Submit the day. Raises dagster.Failure and any other error: the sensor then knows what the day waits for.

    refusal: why a budget does not allow the day. The run then finishes only what an earlier one has begun.
    """
    run, known = shared.run, shared.known()
    stop_if_of_another_warehouse(day, known.events.get(day), known.warehouse_id)
    shared.begun.add(day)
    with _reported_to_sensor(shared, day):
        shared.outage.check()
        submitter = shared.submitter()
        stop_until_there_is_a_key(run, day)
        _recover_unknown_batches(shared, submitter, day)
        if DEDUP_TAG not in run.context.run.tags:  # the user's run tries at once; the sensor's runs wait
            end_account_pauses(run.warehouse.tables, day)
        refusal = refusal or why_over_budget(run.warehouse, run.task, day, submitter.api.name)
        submitted = submit_day(submitter, day, only_begun=refusal is not None, preparation=shared.preparation())
        shared.outage.is_over()
        if refusal is not None:
            raise OverBudgetError(refusal.message)
    run.info(day, f"Sent to {submitted.api}.")
    error = why_deferred(run.warehouse.tables, day) if submitted.deferred else None
    if submitted.deferred:
        waiting = counted(submitted.deferred, "request file")
        cause = error or "OpenAI's limits have no capacity."
        run.info(day, f"{waiting} deferred: {as_message(cause)} The sensor requests another run.")
    origin = Origin(run.location, known.warehouse_id, submitter.api.name)
    run.report(dg.AssetMaterialization(OPENAI_BATCH, partition=day, metadata=_metadata(origin, submitted, error)))
    shared.begun.discard(day)


class OverBudgetError(Exception):
    """A budget does not allow the day."""


def _is_run_alive(instance: dg.DagsterInstance) -> Callable[[str], bool]:
    def is_run_alive(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished

    return is_run_alive


@contextmanager
def _reported_to_sensor(shared: Submission, day: str) -> Iterator[None]:
    """Raise an error of the submission as dagster.Failure, and report it to the sensor, which tries again later.

    Whatever ends the submission, batches may have been created before. The sensor polls only batches that an event
    names, so each error leaves one.
    """
    try:
        yield
    except SubmissionError as error:
        pause = PAUSE_AFTER_A_REFUSAL if error.is_final else _pause_of_an_outage(shared, day)
        if not error.is_final:
            shared.outage.count(error)
        _report(shared, day, pause, str(error))
        raise dg.Failure(str(error), allow_retries=False) from error
    except OverBudgetError as error:  # the sensor names the day, and collects batches of an earlier run
        _report(shared, day, PAUSE_WHILE_OVER_BUDGET, str(error))
        raise dg.Failure(str(error), allow_retries=False) from None
    except RunStoppedError:
        raise  # `_terminated` reports the day
    except dg.Failure:
        shared.begun.discard(day)
        raise  # before anything was submitted: the user has to do something first
    except Exception as error:
        _report(shared, day, _pause_of_an_outage(shared, day), error_message(error))
        raise


def _report(shared: Submission, day: str, pause: timedelta, reason: str) -> None:
    report_to_sensor(shared.run, _origin(shared), day, pause, reason)
    shared.begun.discard(day)


def _origin(shared: Submission) -> Origin:
    api = shared.submitter().api.name if shared.submitter.has_succeeded else None
    return Origin(shared.run.location, shared.known().warehouse_id, api)


def _pause_of_an_outage(shared: Submission, day: str) -> timedelta:
    return next_pause(shared.known().events.get(day))


def _terminated(shared: Submission) -> BaseException:
    """The error of a run that was terminated. The user's run sends nothing more of the days that it has begun."""
    run = shared.run
    record = run.instance.get_run_by_id(run.context.run.run_id)
    if record is None or record.status is not dg.DagsterRunStatus.CANCELING:
        return dg.DagsterExecutionInterruptedError()  # its host shuts down, and Dagster retries the run
    for day in sorted(shared.begun):
        stop_submitting(run.warehouse.tables, day=day, data_folder=run.warehouse.files)
        _report(shared, day, PAUSE_AFTER_TERMINATION, "The run was terminated.")
    return dg.Failure("The run was terminated. It submits nothing more.", allow_retries=False)


def _recover_unknown_batches(shared: Submission, submitter: Submitter, day: str) -> None:
    """Enter the batches that the event log names and that the ledger, restored from a backup, does not know.

    Raises dagster.Failure, before the run buys anything, if one of them cannot be entered.
    """
    event = shared.known().events.get(day)
    if not unknown_batches(event, shared.known().batches):
        return
    shared.preparation().search()
    unknown = unknown_batches(event, known_batches(shared.run.warehouse.tables))
    if unknown:
        raise dg.Failure(
            f"Dagster's event log names {', '.join(unknown)} of {day}. The ledger does not know them, and the run "
            f"could not enter them from {submitter.api.name}. The run sent nothing. Materialize `raw_articles` and "
            "`batch_request_file` of the day, then this one. Adopt a batch that you created yourself with "
            "`batch-assets adopt`. If they no longer exist, wipe the materializations of "
            f"`{OPENAI_BATCH.to_user_string()}` for {day}.",
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
        **({} if error is None else {ERROR: as_message(error)}),
        "batches": len(submitted.batch_ids),
        "batches_created": submitted.created,
        "batches_adopted": submitted.adopted,
        "batches_recovered": submitted.recovered,
        "batches_rejected_token_limit": submitted.requeued,
    }


def why_over_budget(warehouse: Warehouse, task: SummaryTask, day: str, api: str) -> BudgetRefusal | None:
    """Why the run may begin no new submission; None if the budget allows it."""
    if not task.limits.budget.is_set:
        return None
    with warehouse.tables.reading() as connection:
        estimate = estimate_day(connection, day, api=api, own_prices=task.prices)
    return estimate.why_not_within(task.limits.budget)
