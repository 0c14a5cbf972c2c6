"""`batch-assets status`: the days that wait and the newest finished ones, with progress, age and cost."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence, find_task
from batch_assets.cli.day_range import ALL_DAYS, as_json_text, day_range, json_option
from batch_assets.cli.terminal import wide_console
from batch_assets.settings import Settings

if TYPE_CHECKING:
    import duckdb

    from batch_assets.batching.ledger.day_figures import DayFigures
    from batch_assets.days_in_flight import WaitingDay

FINISHED_DAYS = 7


@click.command()
@click.argument("days", required=False, metavar="[DAY[..DAY]]")
@click.option("--task", metavar="NAME", help="Only this task.  [default: all]")
@click.option("--watch", is_flag=True, help="Show it again and again, until no shown day waits or you press Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(min=1), default=5.0, show_default=True, metavar="SECONDS", help="With --watch."
)
@json_option
def status(days: str | None, task: str | None, watch: bool, every: float, as_json: bool) -> None:
    """Show the days that wait, and the last finished ones: progress, age, cost and what each waits for.

    Asks the API how far the batches are. Changes nothing, and sends nothing.
    """
    settings = checked_settings()
    between = None if days is None else day_range(days)
    from rich.live import Live

    from batch_assets.cli.status_table import status_table

    console = wide_console()
    with errors_in_one_sentence():
        found = read_status(settings, between, task)
        if watch and console.is_terminal and not as_json:
            with Live(status_table(found), console=console, auto_refresh=False) as live:
                while _is_waiting(found):
                    time.sleep(every)
                    found = read_status(settings, between, task)
                    live.update(status_table(found), refresh=True)
            return
        while True:  # a document of JSON, or a table, for each look
            click.echo(as_json_text(found)) if as_json else console.print(status_table(found))
            if not watch or not _is_waiting(found):
                return
            time.sleep(every)
            found = read_status(settings, between, task)


def _is_waiting(found: dict[str, Any]) -> bool:
    return any(not day["is_finished"] for day in found["days"])


def read_status(settings: Settings, between: tuple[str, str] | None, task: str | None) -> dict[str, Any]:
    """What the command shows, as plain values; `days` in the order of day and task.

    Raises DatabaseBusyError, and click.ClickException if there is no such task.
    """
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.ledger.day_figures import DayFigures
    from batch_assets.project_tasks import read_tasks

    now = datetime.now(UTC).replace(tzinfo=None)
    database = Database(settings.database)
    first, last = between or ALL_DAYS
    waiting, problem = _waiting(settings)
    of_day = {(day.task, day.day): day for day in waiting if task in (None, day.task) and first <= day.day <= last}
    figures: list[DayFigures] = []
    if database.exists:
        with database.reading() as connection:
            figures = _figures(connection, between, task, [day for _, day in of_day])
    known = {(day.task, day.day) for day in figures}
    figures += [DayFigures(*key) for key in of_day if key not in known]  # no run could plan it yet
    waits = [day for day in figures if not day.is_finished or (day.task, day.day) in of_day]
    finished = [day for day in figures if day.is_finished and (day.task, day.day) not in of_day]
    days = sorted([*waits, *(finished if between else _newest(finished))], key=lambda day: (day.day, day.task))
    if not days and task is not None:
        find_task(read_tasks(settings), task)  # a misspelt name; a task that `defs/` no longer has may have days
    return {"at": now, "api_problem": problem or None, "days": [_day(day, of_day, now) for day in days]}


def _figures(
    connection: "duckdb.DuckDBPyConnection", between: tuple[str, str] | None, task: str | None, waiting: list[str]
) -> "list[DayFigures]":
    """Those of the days that the user asked for; by default only of those that may be shown."""
    from batch_assets.batching.ledger.day_figures import figures_of_days, last_days, unfinished_days

    if between:
        return figures_of_days(connection, *between, task)
    waits = {*waiting, *unfinished_days(connection)}
    only = sorted(waits | {*last_days(connection, FINISHED_DAYS + len(waits), task)})
    return figures_of_days(connection, only[0], only[-1], task, only=only) if only else []


def _newest(finished: "list[DayFigures]") -> "list[DayFigures]":
    newest = sorted({day.day for day in finished})[-FINISHED_DAYS:]
    return [day for day in finished if day.day in newest]


def _day(figures: "DayFigures", waiting: "dict[tuple[str, str], WaitingDay]", now: datetime) -> dict[str, Any]:
    waits = waiting.get((figures.task, figures.day))
    age = None if figures.submitted_at is None else max((now - figures.submitted_at).total_seconds(), 0.0)
    return {
        **vars(figures),
        "is_finished": figures.is_finished and waits is None,
        "age_seconds": None if figures.is_finished or age is None else round(age),
        "requests_done": None if waits is None else waits.requests_done,
        "requests_total": None if waits is None else waits.requests_total,
        "waits_for": None if waits is None else waits.why,
        "problem": None if waits is None else waits.problem,
    }


def _waiting(settings: Settings) -> "tuple[list[WaitingDay], str]":
    """The days that wait, by Dagster's event log; none where there is no Dagster home."""
    import dagster as dg

    from batch_assets.cli.dagster_home.home import NoDagsterHomeError, find_dagster_home
    from batch_assets.days_in_flight import waiting_days
    from batch_assets.project_tasks import read_tasks

    try:
        home = find_dagster_home(settings)
    except NoDagsterHomeError:
        return [], ""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return waiting_days(instance, read_tasks(settings), settings)
