"""`batch-assets errors`: the articles of a day that have no answer, why, and what to do."""

from typing import TYPE_CHECKING, Any

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import (
    check_day,
    checked_settings,
    errors_in_one_sentence,
    existing_database,
    find_task,
    task_option,
)
from batch_assets.cli.day_range import as_json_text, json_option
from batch_assets.cli.terminal import wide_console

if TYPE_CHECKING:
    from rich.table import Table

    from batch_assets.batching.ledger.day_errors import DayErrors, ErrorGroup

SHOWN_IDS = 3


@click.command()
@click.argument("day")
@click.option("--code", metavar="CODE", help="Only the articles with this code (`summaries.error_code`).")
@task_option
@json_option
def errors(day: str, code: str | None, task: str, as_json: bool) -> None:
    """Show the articles of DAY without an answer, by status and code, with what to do.

    Also the lines of result files that could not be used, and the rows of the source that are no article.
    """
    settings = checked_settings()
    from batch_assets.batching.ledger.day_errors import errors_of_day
    from batch_assets.batching.task_day import TaskDay
    from batch_assets.project_tasks import read_tasks

    check_day(day)
    declared = find_task(read_tasks(settings), task)
    database = existing_database(settings)
    with errors_in_one_sentence(), database.reading() as connection:
        found = errors_of_day(connection, TaskDay(task, day), declared.feed.name)
    groups = [group for group in found.articles if code is None or group.code == code]
    if as_json:
        click.echo(as_json_text(_as_object(task, day, found, groups, code)))
    else:
        _print(task, day, found, groups, code)


def _as_object(task: str, day: str, found: "DayErrors", groups: "list[ErrorGroup]", code: str | None) -> dict[str, Any]:
    return {
        "task": task,
        "day": day,
        "is_planned": found.is_planned,
        "articles": groups,
        "quarantined_lines": [] if code else [lines._asdict() for lines in found.quarantined],
        "rejected_rows": [] if code else [rows._asdict() for rows in found.rejected],
    }


def _print(task: str, day: str, found: "DayErrors", groups: "list[ErrorGroup]", code: str | None) -> None:
    from rich.text import Text

    from batch_assets.batching.safety.outside_text import as_message, as_shown

    console = wide_console()
    if groups:
        console.print(_table(task, day, groups))
    elif not found.is_planned:
        text = f"{day} was not planned yet for {task}: materialize `batch_request_file`."
        console.print(Text(text), soft_wrap=True)
    else:
        with_code = "" if code is None else f" with the code {as_shown(code)}"
        console.print(Text(f"No article of {day} is without an answer of {task}{with_code}."), soft_wrap=True)
    if code is not None:
        return
    for lines in found.quarantined:
        what = (
            "the whole file" if lines.first_line == 0 else f"{counted(lines.lines, 'line')} from {lines.first_line:,}"
        )
        text = f"In quarantine: {what} of {lines.path or 'a file that the API no longer has'}: {lines.reason}"
        console.print(Text(as_message(text)), soft_wrap=True)
    for rows in found.rejected:
        whose = f"of {day}" if rows.is_of_day else "without a day"
        place = f"line {rows.first_line}" if rows.first_line else f"row {rows.first_row}" if rows.first_row else None
        where = f" The first: {rows.first_file}, {place}." if rows.first_file and place else ""
        message = f" ({rows.message})" if rows.message else ""
        text = f"No article: {counted(rows.rows, 'row')} of the source, {whose}: {rows.reason}{message}.{where}"
        console.print(Text(as_message(text)), soft_wrap=True)
    if found.quarantined or found.rejected:
        console.print("`quarantined_line` and `rejected_article` have them.", soft_wrap=True, highlight=False)


def _table(task: str, day: str, groups: "list[ErrorGroup]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from batch_assets.batching.safety.outside_text import as_message, as_shown

    count = counted(sum(group.articles for group in groups), "article")
    table = Table(title=Text(f"{count} of {day} without an answer of {task}"), title_justify="left", show_lines=True)
    for name in ("status", "code", "articles", "why, and what to do"):
        table.add_column(name, justify="right" if name == "articles" else "left", overflow="fold")
    for group in groups:
        ids = ", ".join(as_shown(article_id) for article_id in group.article_ids[:SHOWN_IDS])
        more = f" and {counted(group.messages - 1, 'other message')}" if group.messages > 1 else ""
        why = Text(as_message(group.message or "") + more)
        why.append(("\n" if group.message else "") + as_message(group.what_to_do), style="bold")
        why.append(f"\n{ids}{', …' if group.articles > SHOWN_IDS else ''}", style="dim")
        table.add_row(group.status, Text(as_shown(group.code or "")), f"{group.articles:,}", why)
    return table
