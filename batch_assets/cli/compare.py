"""`batch-assets compare`: two prompts or models side by side, by the results of their tasks for a day."""

from pathlib import Path

import click

from batch_assets.cli.common import check_day, checked_settings, errors_in_one_sentence, existing_database, find_task
from batch_assets.cli.day_range import as_json_text


@click.command()
@click.argument("task_a")
@click.argument("task_b")
@click.argument("day")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="How many articles to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page instead.")
def compare(task_a: str, task_b: str, day: str, limit: int, as_json: bool, html: Path | None) -> None:
    """Show the answers of TASK_A and TASK_B for DAY side by side, with tokens and costs. Changes nothing.

    The sums are those of all articles of the day.
    """
    if as_json and html is not None:
        raise click.UsageError("--json and --html exclude each other.")
    settings = checked_settings()
    from rich.console import Console

    from batch_assets.batching.collection.comparison import compare_day
    from batch_assets.cli.comparison_report import as_object, print_comparison
    from batch_assets.project_tasks import read_tasks

    check_day(day)
    tasks = read_tasks(settings)
    tables = find_task(tasks, task_a).results, find_task(tasks, task_b).results
    database = existing_database(settings)
    with errors_in_one_sentence(), database.reading() as connection:
        comparison = compare_day(connection, day, tables, limit)
    if html is not None:
        from batch_assets.cli.comparison_page import page_of

        html.write_text(page_of(comparison), encoding="utf-8")
        click.echo(f"{html} has the comparison.")
    elif as_json:
        click.echo(as_json_text(as_object(comparison)))
    else:
        print_comparison(Console(), comparison)
