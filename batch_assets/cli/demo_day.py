"""The day of `batch-assets demo`: materialize the assets, follow the sensor, print the summaries."""

import os
import re
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batch_assets.batching.collection.report import DayReport, day_report
from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.day_figures import figures_of_collected_day
from batch_assets.batching.safety.outside_text import as_message, printable
from batch_assets.batching.task_day import TaskDay
from batch_assets.checks import BUDGET
from batch_assets.cli.local_daemon import Sensor, failure_message, is_done, materialize, open_instance
from batch_assets.cli.terminal import as_rich_text
from batch_assets.settings import Settings
from batch_assets.task_set import DeclaredTask

POLL_SECONDS = 0.5  # between two evaluations of the sensor
REMOTE_POLL_SECONDS = 15.0
SECONDS_UNTIL_TOLD = 5.0  # what a day waits for, if nothing changes
MAX_ROWS = 50

Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Materialized:
    """What a run of this process did. metadata: of each asset that it materialized."""

    metadata: Mapping[dg.AssetKey, Metadata]
    is_over_budget: bool


@dataclass(frozen=True)
class DemoDay:
    """A day of a task, and the terminal that shows what happens to it."""

    instance: dg.DagsterInstance
    settings: Settings
    declared: DeclaredTask
    day: str
    console: Console

    @property
    def of_task(self) -> TaskDay:
        return self.declared.task.on(self.day)

    @property
    def command(self) -> str:
        return f"batch-assets demo --day {self.of_task.arguments}"


def run_day(
    settings: Settings, dagster_home: Path, day: str, declared: DeclaredTask, api_url: str | None, *, confirm: bool
) -> None:
    """Materialize the day of the task until it is done, and print its results. Raises click.ClickException.

    api_url: of the local Batch API; None where another API is configured. confirm: ask before that one is paid.
    """
    keys = declared.keys
    console = Console()
    warnings.filterwarnings("ignore", module="dagster")
    os.environ["BATCH_ASSETS_DAYS_PER_RUN"] = "1"  # the sensor requests no run of this day together with others
    with open_instance(dagster_home) as instance:
        demo = DemoDay(instance, settings, declared, day, console)
        console.print(Text.assemble((day, "bold"), " from ", _shown_source(declared)))
        console.print(Text(f"sent to {'the local Batch API at ' + api_url if api_url else api_name()}\n"))
        run = _materialize(demo, [declared.feed.key, keys.batch_request_file])
        plan = run.metadata[keys.batch_request_file]
        if nothing := why_nothing_to_send(day, settings.first_day, plan):
            console.print(Text(nothing), soft_wrap=True)
            _materialize(demo, [keys.results])
        else:
            if api_url is None and confirm and not run.is_over_budget:
                _confirm_cost(plan)
            _materialize(demo, [keys.openai_batch])
        with _progress_bar(console) as progress_bar:
            _follow_sensor(demo, progress_bar)
    with Database(settings.database).reading() as connection:
        figures = figures_of_collected_day(connection, declared.task.on(day))
        report = day_report(connection, declared.results, figures, preview_rows=MAX_ROWS)
    _print_report(console, report, settings, declared.name)


def why_nothing_to_send(day: str, first_day: str, plan: Metadata) -> str | None:
    """The sentence, if the API has nothing to do for the day; None if requests wait or are in flight."""
    if not plan["articles"]:
        return (
            f"The source has no article for {day}. Name a day that it has with --day, from BATCH_ASSETS_START_DATE "
            f"({first_day}) on."
        )
    requests, answered, failed = plan["requests"], plan["requests_answered"], plan["requests_failed"]
    if answered + failed < requests:
        return None
    others = f", {failed:,} failed" if failed else ""
    return f"{answered:,} of {requests:,} already answered{others}, nothing sent."


def _shown_source(declared: DeclaredTask) -> str:
    """The source of the task; a file in the working directory without the path of that."""
    return as_message(declared.feed.source.source.removeprefix(f"{Path.cwd()}{os.sep}"))


def api_name() -> str:
    """OpenAI, or the host of another API that the environment names; without a path, in which there may be a secret."""
    url = as_message(os.environ.get("OPENAI_BASE_URL", "").strip())
    return re.split("[/?#]", url.rpartition("://")[2].rpartition("@")[2])[0] or "OpenAI"


def _materialize(demo: DemoDay, assets: Collection[dg.AssetKey], request: dg.RunRequest | None = None) -> Materialized:
    """Materialize the assets, and print their names.

    Raises click.ClickException with the reasons of a failure, and the command to run next.
    """
    names = ", ".join(key.to_user_string() for key in assets)
    with demo.console.status(Text(f"materializing {printable(names)}")):
        result = materialize(
            demo.instance,
            assets,
            demo.day,
            tags=request.tags if request else None,
            run_config=request.run_config if request else None,
        )
    made = {
        event.asset_key: {
            name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    if not result.success:
        order = [demo.declared.feed.key, *demo.declared.keys]
        broken = next((key for key in order if key in assets and key not in made), order[-1])
        raise click.ClickException(
            f"{demo.day}: {printable(broken.to_user_string())} failed. {failure_message(result)}\n"
            f"Next:    {demo.command}\n"
            f"The log: batch-assets dev, run {result.run_id}"
        )
    for key, metadata in made.items():
        demo.console.print(Text.assemble(("✓", "green"), " ", printable(key.to_user_string())))
        if undated := metadata.get("undated_rows"):
            rows = counted(int(str(undated)), "row")
            demo.console.print(Text(f"  {rows} of the source without a day: see `published_at`", "yellow"))
    checks = result.get_asset_check_evaluations()
    return Materialized(made, any(check.check_name == BUDGET and not check.passed for check in checks))


def _confirm_cost(plan: Metadata) -> None:
    """Print what the day will cost, and ask the user whether to go on. Raises click.Abort."""
    requests, most = plan["requests_in_new_files"], plan.get("max_cost_usd")
    if not requests:
        return
    cost = "an unknown amount" if most is None else f"at most {usd(most)}"
    question = (
        f"{counted(requests, 'request')} to {printable(str(plan['model']))} will cost {cost} (estimated). "
        f"Send to {api_name()}?"
    )
    click.confirm(question, abort=True)


def _follow_sensor(demo: DemoDay, progress_bar: "ProgressBar") -> None:
    """Evaluate the sensor, and execute the runs that it requests, until the day is done. Raises click.ClickException.

    It prints what the day waits for if that has not changed for some seconds.
    """
    keys = demo.declared.keys
    sensor = Sensor(demo.instance, demo.settings)
    waits_for, since, is_printed = "", time.monotonic(), False
    try:
        while not is_done(demo.instance, demo.day, demo.declared.name, keys):
            requests, observations = sensor.tick()
            for observation in observations:
                if observation.partition == demo.day and observation.asset_key == keys.openai_batch:
                    progress_bar.show(observation)
            requests_of_day = [
                request
                for request in requests
                if request.partition_key == demo.day and set(request.asset_selection or ()) <= set(keys)
            ]
            for request in requests_of_day:
                _materialize(demo, list(request.asset_selection or ()), request)
            if requests_of_day:
                continue
            if sensor.waits_for != waits_for:
                waits_for, since, is_printed = sensor.waits_for or "", time.monotonic(), False
            elif waits_for and not is_printed and time.monotonic() - since >= SECONDS_UNTIL_TOLD:
                demo.console.print(Text(as_message(waits_for), "yellow"))
                is_printed = True
            time.sleep(REMOTE_POLL_SECONDS if demo.settings.has_remote_api else POLL_SECONDS)
    except KeyboardInterrupt:
        raise click.ClickException(
            f"{demo.day}: the command no longer waits, and its batches are not cancelled.\n"
            f"Next:    {demo.command}, or batch-assets cancel {demo.of_task.arguments}"
        ) from None


class ProgressBar:
    """Shows observations of a day's batches."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for the batches", total=None)

    def show(self, observation: dg.AssetObservation) -> None:
        metadata = observation.metadata
        total, done = metadata["requests_total"].value, metadata["requests_done"].value
        self._progress.update(
            self._task,
            description=as_message(str(metadata["status"].value)),
            total=float(str(total)) or None,
            completed=float(str(done)),
        )


@contextmanager
def _progress_bar(console: Console) -> Iterator[ProgressBar]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield ProgressBar(progress)


def _print_report(console: Console, report: DayReport, settings: Settings, task: str) -> None:
    table = Table(show_lines=True, title=f"{task.capitalize()} of {report.day}", title_justify="left", expand=True)
    table.add_column("article", ratio=1, overflow="fold")  # some scripts have no spaces to break a line at
    table.add_column("answer", ratio=3, overflow="fold")
    for article_id, title, status, text in report.preview:
        answer = as_rich_text(text)
        summary = answer if status == "answered" else Text.assemble((status, "red"), ": ", answer)
        table.add_row(as_rich_text(title or article_id), summary)
    if report.preview:
        console.print(table)
    counts = ", ".join(f"{count} {status}" for status, count in report.figures.by_status.items()) or "none"
    set_aside = f"{counted(report.rejected, 'row')} of the source {'was' if report.rejected == 1 else 'were'}"
    spent = report.figures
    cost = "unknown" if spent.cost_usd is None else usd(spent.cost_usd)
    simulated = f", and at OpenAI's batch prices {usd(spent.simulated_cost_usd)} simulated by the built-in engine"
    billed = cost + (simulated if spent.simulated_cost_usd else "")
    for line in (
        f"{counted(spent.articles, 'article')}: {counts}. {set_aside} set aside.",
        *_next_commands(report, task),
        f"Answered by {', '.join(report.apis) or 'nothing yet'}.",
        f"{spent.input_tokens:,} input and {spent.output_tokens:,} output tokens. Billed: {billed}.",
        "",
        f"The tables:  {as_message(settings.database)}  (`{task}`, `rejected_article`, …)",
        "The runs:    make dev, or batch-assets dev",
    ):
        console.print(Text(line), soft_wrap=True)


def _next_commands(report: DayReport, task: str) -> Iterator[str]:
    """How to send what has no answer again."""
    day = TaskDay(task, report.day).arguments
    if report.figures.by_status.keys() & {"failed", "blocked"}:
        yield f"To send what failed again: batch-assets retry {day}"
    if "cancelled" in report.figures.by_status:
        yield f"To send what was cancelled: batch-assets demo --day {day}"
