"""`batch-assets estimate`: what days would cost, for the model of a task and for others, before anything is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from batch_assets.batching.counting import usd
from batch_assets.cli.common import check_day, checked_settings, errors_in_one_sentence, find_task, task_option
from batch_assets.cli.day_articles import check_stand_in, known_api, read_missing_articles
from batch_assets.cli.day_range import as_json_text, day_range, days_between, json_option
from batch_assets.cli.terminal import wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.planning.day_costs import Cost
    from batch_assets.batching.provider.identity import ApiIdentity
    from batch_assets.task_set import DeclaredTask, TaskSet


@dataclass(frozen=True)
class ModelEstimate:
    """What the days would cost with a model. states: of the day's distinct requests, by day.

    why_not_allowed: by the budgets; None if they allow it.
    """

    model: str
    days: "dict[str, Cost]"
    states: dict[str, dict[str, int]]
    total: "Cost"
    why_not_allowed: str | None


@click.command(epilog="\b\nExample: batch-assets estimate 2026-01-05..2026-01-09 --model gpt-6-sol")
@click.argument("days", metavar="DAY[..DAY]")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Also with this model; may be repeated.")
@task_option
@json_option
def estimate(days: str, models: tuple[str, ...], task: str, as_json: bool) -> None:
    """Say what the pending requests of these days would cost: as a batch, and at the standard price.

    With another model, every request is new. Sends no request. It reads the source for a day without articles.
    """
    settings = checked_settings()
    between = days_between(*day_range(days))
    from batch_assets.batching.ledger.database import Database
    from batch_assets.project_tasks import read_tasks
    from batch_assets.settings import make_data_folder

    for day in (between[0], between[-1]):
        check_day(day)
    tasks = read_tasks(settings)
    declared = find_task(tasks, task)
    database = Database(settings.database)
    make_data_folder(settings)
    with errors_in_one_sentence():
        check_stand_in(settings, database)
        read_missing_articles(database, tasks, declared, between)
        api = known_api(settings, database)
        names = dict.fromkeys((declared.task.model, *models))
        estimates = [_estimate(database, tasks, declared, between, api, model) for model in names]
    if as_json:
        click.echo(as_json_text(_as_object(declared, api, between, estimates)))
        return
    from rich.text import Text

    console = wide_console()
    console.print(_table(declared, between, estimates))
    for line in _notes(tasks, declared, api, estimates):
        console.print(Text(line), soft_wrap=True)


def _estimate(
    database: "Database",
    tasks: "TaskSet",
    declared: "DeclaredTask",
    days: Sequence[str],
    api: "ApiIdentity",
    model: str,
) -> ModelEstimate:
    from dataclasses import replace

    from batch_assets.batching.planning.day_costs import cost_of, total, why_not_allowed
    from batch_assets.batching.planning.plan_options import PlanOptions
    from batch_assets.batching.synchronous.pending import first_pending

    task, own_prices = replace(declared.task, model=model), tasks.limits.own_prices
    options = PlanOptions(declared.max_rounds, declared.feed.name, api.name, image_folder=declared.image_folder)
    pending = {day: first_pending(database, task, day, options, 0, with_unsent=True) for day in days}
    with database.reading() as connection:
        costs = {day: cost_of(connection, found.pending, api.name, own_prices) for day, found in pending.items()}
        why = why_not_allowed(
            connection, tasks.limits.budget, [(task.on(day), cost) for day, cost in costs.items()], api=api.name,
            model=model, moment=api.now(), own_prices=own_prices,
        )  # fmt: skip
    states = {day: found.counts for day, found in pending.items()}
    return ModelEstimate(model, costs, states, total(list(costs.values())), why)


def _as_object(
    declared: "DeclaredTask", api: "ApiIdentity", days: Sequence[str], estimates: Sequence[ModelEstimate]
) -> dict[str, Any]:
    return {
        "task": declared.name,
        "days": list(days),
        "api": api.name,
        "is_simulated": api.is_built_in_engine,
        "models": [
            {
                "model": one.model,
                **_figures(one.total),
                "why_not_allowed": one.why_not_allowed,
                "days": [{"day": day, **_figures(cost), "states": one.states[day]} for day, cost in one.days.items()],
            }
            for one in estimates
        ],
    }


def _figures(cost: "Cost") -> dict[str, Any]:
    return {**vars(cost), "saving_usd": cost.saving_usd}


def _table(declared: "DeclaredTask", days: Sequence[str], estimates: Sequence[ModelEstimate]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from batch_assets.batching.safety.outside_text import as_shown

    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    table = Table(title=Text(f"Pending requests of {declared.name}, {period}"), title_justify="left")
    table.add_column("model")
    if len(days) > 1:
        table.add_column("day")
    for name in ("requests", "input tokens", "as a batch", "at most", "standard price", "saving", "estimated by"):
        table.add_column(name, justify="left" if name == "estimated by" else "right")
    for one in estimates:
        model = Text(as_shown(one.model))
        if len(days) > 1:
            for day, cost in one.days.items():
                if cost.requests:
                    table.add_row(model, day, *_cells(cost))
            table.add_row(Text(as_shown(one.model), style="bold"), "all", *_cells(one.total), end_section=True)
        else:
            table.add_row(model, *_cells(one.total))
    return table


def _cells(cost: "Cost") -> list[str]:
    amounts = (cost.batch_usd, cost.batch_max_usd, cost.standard_usd, cost.saving_usd)
    how = "earlier requests" if cost.is_calibrated else "size and limit" if cost.requests else ""
    return [f"{cost.requests:,}", f"{cost.estimated_input_tokens:,}", *map(_usd, amounts), how]


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else usd(amount)


def _notes(
    tasks: "TaskSet", declared: "DeclaredTask", api: "ApiIdentity", estimates: Sequence[ModelEstimate]
) -> list[str]:
    from batch_assets.batching.safety.outside_text import as_message

    notes = []
    if api.is_built_in_engine:
        notes.append("The local Batch API is configured: it bills nothing. The prices are OpenAI's.")
    elif api.is_assumed:
        notes.append(f"{as_message(api.name)} did not answer: its address says which prices count.")
    if any(one.total.batch_usd is None for one in estimates):
        notes.append("An unknown price can be set in `prices` of the task.")
    if not tasks.limits.budget.limits(declared.name):
        return [*notes, "No budget is set."]
    for one in estimates:
        verdict = "the budgets allow it" if one.why_not_allowed is None else as_message(one.why_not_allowed)
        notes.append(f"{as_message(one.model)}: {verdict}{'.' if one.why_not_allowed is None else ''}")
    return notes
