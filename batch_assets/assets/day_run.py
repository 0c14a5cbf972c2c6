"""A run for some days: what its stages share, and how it works on several days side by side."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import dagster as dg

from batch_assets.asset_keys import TaskKeys
from batch_assets.batching.counting import counted
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.known_batches import known_batches
from batch_assets.batching.once import Once
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.submission.errors import RunStoppedError
from batch_assets.batching.task_day import FIRST_TASK, TaskDay
from batch_assets.day_events import DayEvent, Origin, location_of_run, newest_events
from batch_assets.resources import BatchApi, Warehouse
from batch_assets.same_warehouse import stop_if_the_stand_in_was_not_chosen
from batch_assets.task_set import DeclaredTask, TaskSet

DAYS_AT_ONCE = 4  # they wait for the API side by side, and take turns with the database
CONTINUES_TAGS = ("dagster/retry_number", "dagster/is_resume_retry")  # of a run that goes on where another ended
MAX_MESSAGE, MAX_NAMED_DAYS, MAX_ERRORS = 300, 10, 5
FAILED_DAYS = dg.TableSchema([dg.TableColumn("day", "string"), dg.TableColumn("error", "string")])


@dataclass
class DayRun:
    """A run of some of our assets for some days. Its threads may log and report at any time.

    tasks: all tasks of the code location. openai: the API of those of the run.
    stop: set when the run is terminated.
    days: the partitions of the run.
    api: the API that answers, or the configured address.
    stand_in: raises dagster.Failure if the local API stands in, and the key is only missing.
    """

    context: dg.AssetExecutionContext
    warehouse: Warehouse
    openai: BatchApi
    tasks: TaskSet
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.days: Sequence[str] = list(self.context.partition_keys)
        self.api = Once(lambda: self.openai.identify(self.context, self.warehouse))
        self.stand_in = Once(self._check_stand_in)

    def _check_stand_in(self) -> None:
        if self.openai.is_stand_in:
            stop_if_the_stand_in_was_not_chosen(self.warehouse, self.openai, self.api())

    def of(self, declared: DeclaredTask) -> "TaskRun":
        """The part of the run that is about this task."""
        return TaskRun(self, declared)

    @property
    def instance(self) -> dg.DagsterInstance:
        instance: dg.DagsterInstance = self.context.instance
        return instance

    @property
    def location(self) -> str:
        return location_of_run(self.context.run)

    @property
    def first_run_id(self) -> str:
        """The id of this run or, if Dagster or the user goes on with an ended run, of the first one."""
        run = self.context.run
        continues = any(tag in run.tags for tag in CONTINUES_TAGS)
        return (run.root_run_id if continues else None) or run.run_id

    def origin(self, api: str | None = None) -> Origin:
        return Origin(self.location, self.warehouse.tables.warehouse_id(), api)

    def makes(self, key: dg.AssetKey) -> bool:
        """Whether the run materializes this asset."""
        return key in self.context.selected_asset_keys

    def checks(self, key: dg.AssetKey, check: str) -> bool:
        """Whether the run evaluates this check of the asset."""
        return dg.AssetCheckKey(key, check) in self.context.selected_asset_check_keys

    def report(self, event: dg.AssetMaterialization | dg.AssetCheckEvaluation) -> None:
        """Write an event of a day to the event log, at once: the sensor sees it, and a killed run has left it."""
        with self.lock:
            self.context.log_event(event)

    def report_runless(self, event: dg.AssetMaterialization) -> None:
        with self.lock:
            self.instance.report_runless_asset_event(event)

    def info(self, day: str, text: str) -> None:
        with self.lock:
            self.context.log.info(self._of_day(day, text))

    def warning(self, day: str, text: str) -> None:
        with self.lock:
            self.context.log.warning(self._of_day(day, text))

    def _of_day(self, day: str, text: str) -> str:
        return text if len(self.days) == 1 else f"{day}: {text}"


@dataclass(frozen=True)
class TaskRun:
    """The part of a run that is about one of its tasks."""

    run: DayRun
    declared: DeclaredTask

    @property
    def task(self) -> Task:
        """As it is configured now."""
        return self.declared.task

    @property
    def keys(self) -> TaskKeys:
        return self.declared.keys

    @property
    def limits(self) -> Limits:
        return self.run.tasks.limits

    @property
    def warehouse(self) -> Warehouse:
        return self.run.warehouse

    @property
    def instance(self) -> dg.DagsterInstance:
        return self.run.instance

    def on(self, day: str) -> TaskDay:
        return self.task.on(day)

    def info(self, day: str, text: str) -> None:
        self.run.info(day, self._of_task(text))

    def warning(self, day: str, text: str) -> None:
        self.run.warning(day, self._of_task(text))

    def _of_task(self, text: str) -> str:
        return text if self.task.name == FIRST_TASK else f"{self.task.name}: {text}"


class TasksFailedError(Exception):
    """Several tasks of a day failed. errors: by the name of the task."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        super().__init__(" ".join(f"{task}: {_sentence(error)}" for task, error in errors.items()))
        self.errors = errors


def for_each_task(tasks: Sequence[TaskRun], work: Callable[[TaskRun], None]) -> None:
    """Do the work of each task of a day. A task that fails keeps no other one from its work.

    Raises the error of the one that failed, TasksFailedError if several have, and RunStoppedError at once.
    """
    errors: dict[str, Exception] = {}
    for task in tasks:
        try:
            work(task)
        except RunStoppedError:
            raise
        except Exception as error:
            errors[task.task.name] = error
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise TasksFailedError(errors)


@dataclass(frozen=True)
class KnownDays:
    """What event log and ledger had of the days when the run began.

    events: day → the newest materialization of `openai_batch` by this code location.
    batches: the batches that the ledger knows. It was read after the events, so it has the batches of them all.
    """

    warehouse_id: str
    events: Mapping[str, DayEvent]
    batches: frozenset[str]


def known_days(task: TaskRun) -> KnownDays:
    run = task.run
    events = newest_events(run.instance, task.keys.openai_batch, run.days, run.location)
    return KnownDays(run.warehouse.tables.warehouse_id(), events, frozenset(known_batches(run.warehouse.tables)))


def on_each_day(run: DayRun, work: Callable[[str], None]) -> dict[str, Exception]:
    """Do the work of each day of the run, a few days at a time. Returns the errors of the days that failed.

    If the run is terminated, the days that were begun end, no other begins, and the interrupt is raised.
    """
    errors: dict[str, Exception] = {}

    def one_day(day: str) -> None:
        try:
            if run.stop.is_set():
                raise RunStoppedError
            work(day)
        except Exception as error:
            errors[day] = error

    with ThreadPoolExecutor(DAYS_AT_ONCE, "day") as threads:
        try:
            wait([threads.submit(one_day, day) for day in run.days])
        except BaseException:
            run.stop.set()
            raise
    return {day: errors[day] for day in run.days if day in errors}


def raise_failures(run: DayRun, errors: Mapping[str, Exception]) -> None:
    """Raise dagster.Failure with the names and the errors of the failed days; the error itself if the run has one day
    and one of its tasks failed.

    Dagster does not repeat the step: the sensor requests the next run of each day.
    """
    if not errors:
        return
    of_tasks = _of_tasks(errors)
    if len(run.days) == len(of_tasks) == 1:
        [error] = errors.values()
        raise error
    by_sentence: dict[str, list[str]] = {}
    for day, error in of_tasks.items():
        by_sentence.setdefault(_sentence(error), []).append(day)
    parts = [f"{_names(days)}: {sentence[:MAX_MESSAGE]}" for sentence, days in list(by_sentence.items())[:MAX_ERRORS]]
    more = len(by_sentence) - len(parts)
    others = ", and the others did not" if len(errors) < len(run.days) else ""
    raise dg.Failure(
        f"{len(errors)} of {counted(len(run.days), 'day')} failed{others}. "
        + " ".join(parts)
        + (f" And {counted(more, 'other error')}." if more else ""),
        metadata={
            "failed_days": dg.MetadataValue.table(
                [dg.TableRecord({"day": day, "error": _sentence(error)}) for day, error in of_tasks.items()],
                FAILED_DAYS,
            )
        },
        allow_retries=False,
    ) from next(iter(errors.values()))


def _of_tasks(errors: Mapping[str, Exception]) -> dict[str, Exception]:
    """The errors by day or, where several tasks of a day failed, by day and task."""
    found: dict[str, Exception] = {}
    for day, error in errors.items():
        if isinstance(error, TasksFailedError):
            found |= {f"{day} ({task})": of_task for task, of_task in error.errors.items()}
        else:
            found[day] = error
    return found


def _sentence(error: Exception) -> str:
    if isinstance(error, dg.Failure):
        return error.description or ""
    return error_message(error)


def _names(days: Sequence[str]) -> str:
    named = ", ".join(days[:MAX_NAMED_DAYS])
    more = len(days) - MAX_NAMED_DAYS
    return named if more <= 0 else f"{named} and {counted(more, 'other day')}"
