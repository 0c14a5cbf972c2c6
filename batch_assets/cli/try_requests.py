"""`batch-assets try`: ask a few requests of a day at once, before the whole day is bought as a batch."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from batch_assets.batching.counting import counted, usd
from batch_assets.cli.common import (
    checked_settings,
    chosen_day,
    day_option,
    errors_in_one_sentence,
    find_task,
    open_client,
)
from batch_assets.cli.day_articles import check_stand_in, read_missing_articles
from batch_assets.settings import Settings

if TYPE_CHECKING:
    import openai

    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.provider.identity import ApiIdentity
    from batch_assets.batching.synchronous.ask import Asked, Asker
    from batch_assets.batching.synchronous.pending import PendingRequest
    from batch_assets.cli.trial_report import Trial
    from batch_assets.task_set import DeclaredTask, TaskSet


@click.command("try")
@click.argument("task")
@click.option("--limit", type=click.IntRange(min=1), default=5, show_default=True, help="How many requests to ask.")
@day_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
@click.option("--yes", is_flag=True, help="Don't ask before an API is paid.")
def try_requests(task: str, limit: int, day: str | None, as_json: bool, yes: bool) -> None:
    """Ask the first pending requests of TASK at once, at the standard price. Their answers count: no batch buys them
    again.

    Ends with 1 if a request has no answer.
    """
    settings = checked_settings()
    from rich.console import Console

    from batch_assets.batching.ledger.database import Database
    from batch_assets.cli.trial_report import print_json, print_trial
    from batch_assets.project_tasks import read_tasks
    from batch_assets.settings import make_data_folder

    tasks = read_tasks(settings)
    declared = find_task(tasks, task)
    day = chosen_day(day, settings, declared)
    database = Database(settings.database)
    make_data_folder(settings)
    with errors_in_one_sentence():
        check_stand_in(settings, database)
        read_missing_articles(database, tasks, declared, [day])
        with open_client(settings) as client:
            trial = _try(settings, database, client, tasks, declared, day, limit, confirm=not yes)
    (print_json if as_json else print_trial)(Console(), trial)
    if trial.unanswered:
        click.get_current_context().exit(1)


def _try(
    settings: Settings,
    database: "Database",
    client: "openai.OpenAI",
    tasks: "TaskSet",
    declared: "DeclaredTask",
    day: str,
    limit: int,
    *,
    confirm: bool,
) -> "Trial":
    from batch_assets.batching.planning.plan_options import PlanOptions
    from batch_assets.batching.provider.identity import identify
    from batch_assets.batching.synchronous.ask import Asker, settle, why_not_within_budget
    from batch_assets.batching.synchronous.callers import registered_caller
    from batch_assets.batching.synchronous.pending import first_pending
    from batch_assets.cli.trial_report import make_trial

    api = identify(client, database.warehouse_id())
    own_prices, of_task = tasks.limits.own_prices, declared.task.on(day)
    options = PlanOptions(
        declared.max_rounds, declared.feed.name, api.name, resume_cancelled=False, image_folder=declared.image_folder
    )
    with registered_caller(settings.data_folder) as caller:
        asker = Asker(database, client, settings.data_folder, api, caller, tasks.limits.budget, own_prices)
        settled = settle(asker)
        pending = first_pending(database, declared.task, day, options, limit)
        over_budget = why_not_within_budget(asker, of_task, pending.requests)
        if over_budget is not None:
            raise click.ClickException(over_budget)
        if confirm and pending.requests and not api.is_built_in_engine:
            _confirm_cost(pending.requests, api)
        asked = _ask_all(asker, declared, day, pending.requests)
    left = first_pending(database, declared.task, day, options, 0)
    return make_trial(database, declared, day, api, asked, pending, left, settled, own_prices)


def _confirm_cost(requests: "list[PendingRequest]", api: "ApiIdentity") -> None:
    """Print what the calls cost at most, and ask the user whether to go on. Raises click.Abort."""
    from batch_assets.batching.safety.outside_text import printable
    from batch_assets.batching.synchronous.ask import max_cost_usd
    from batch_assets.cli.demo_day import api_name

    most = max_cost_usd(requests, api.name)
    cost = "an unknown amount: its standard price is not known" if most is None else f"at most {usd(most)} (estimated)"
    model = printable(requests[0].task.model)
    question = f"{counted(len(requests), 'request')} to {model} will cost {cost}. Send to {api_name()}?"
    click.confirm(question, abort=True, err=True)


def _ask_all(asker: "Asker", declared: "DeclaredTask", day: str, requests: "list[PendingRequest]") -> "list[Asked]":
    """Ask one after the other, until the API refuses for a reason that is not the request's."""
    from rich.console import Console

    from batch_assets.batching.synchronous.ask import ask

    console = Console(stderr=True)
    asked = []
    for number, request in enumerate(requests, start=1):
        with console.status(f"asking {number} of {len(requests)}") if console.is_terminal else nullcontext():
            asked.append(ask(asker, declared.task.on(day), request))
        if asked[-1].refuses_all:
            break
    return asked
