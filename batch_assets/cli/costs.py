"""`batch-assets costs`: what was billed, by day, month, task, model, kind or API."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from batch_assets.batching.counting import USD_DECIMALS
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, find_task
from batch_assets.cli.day_range import ALL_DAYS, as_json_text, day_range, json_option
from batch_assets.cli.terminal import wide_console

if TYPE_CHECKING:
    from batch_assets.batching.ledger.costs import Cost

GROUPS = ("day", "month", "task", "model", "kind", "api")


@click.command(epilog="\b\nExample: batch-assets costs 2026-01-01..2026-01-31 --by month --by task")
@click.argument("days", required=False, metavar="[DAY[..DAY]]")
@click.option(
    "--by",
    type=click.Choice(GROUPS),
    multiple=True,
    default=("day", "task"),
    show_default=True,
    help="What to sum by; may be given several times.",
)
@click.option("--task", metavar="NAME", help="Only this task.  [default: all]")
@json_option
def costs(days: str | None, by: tuple[str, ...], task: str | None, as_json: bool) -> None:
    """Show what was billed, and what batches saved against the standard price. Changes nothing.

    A month is the UTC month of the submission, as for budgets. What the built-in engine simulated is apart.
    """
    settings = checked_settings()
    first, last = ALL_DAYS if days is None else day_range(days)
    from batch_assets.batching.ledger.costs import CostGroup
    from batch_assets.batching.ledger.costs import costs as read_costs
    from batch_assets.batching.ledger.database import Database
    from batch_assets.project_tasks import read_tasks

    groups = tuple(CostGroup(name) for name in by)
    database, found = Database(settings.database), []
    if database.exists:
        with errors_in_one_sentence(), database.reading() as connection:
            found = read_costs(connection, first, last, groups, task)
    if not found and task is not None:
        find_task(read_tasks(settings), task)  # a misspelt name; a task that `defs/` no longer has may have costs
    if as_json:
        click.echo(as_json_text({"costs": [_as_object(by, cost) for cost in found], "total": _total(found)}))
    elif not found:
        click.echo("Nothing was billed.")
    else:
        wide_console().print(_table(by, found))


def _as_object(by: tuple[str, ...], cost: "Cost") -> dict[str, Any]:
    figures = {name: value for name, value in vars(cost).items() if name != "group"}
    return {**dict(zip(by, cost.group, strict=True)), **figures}


def _total(found: "list[Cost]") -> dict[str, Any]:
    from batch_assets.batching.ledger.costs import Cost

    names = [field.name for field in fields(Cost) if field.name != "group"]
    return {name: round(sum(getattr(cost, name) for cost in found), USD_DECIMALS) for name in names}


def _table(by: tuple[str, ...], found: "list[Cost]") -> Any:
    from rich.table import Table
    from rich.text import Text

    from batch_assets.batching.safety.outside_text import printable

    table = Table(show_footer=True)
    for number, name in enumerate(by):
        table.add_column(name, footer="" if number else "total")
    rows = [_as_object(by, cost) for cost in found]
    total = _total(found)
    shown = ["requests", "input_tokens", "output_tokens", "cost_usd", "saving_usd"]
    shown += ["simulated_cost_usd"] if any(cost.simulated_cost_usd for cost in found) else []
    for name in shown:
        table.add_column(name.replace("_usd", "").replace("_", " "), justify="right", footer=_figure(name, total))
    for row in rows:
        cells = [Text(printable(str(row[name]))) for name in by]
        table.add_row(*cells, *(_figure(name, row) for name in shown))
    return table


def _figure(name: str, row: dict[str, Any]) -> str:
    if not name.endswith("_usd"):
        return f"{row[name]:,}"
    if name != "simulated_cost_usd" and row["unpriced_tokens"]:
        return f"${row[name]:.6f} + unknown"
    return f"${row[name]:.6f}"
