"""`batch-assets export`: the results of days as a file, for other programs and for fine-tuning."""

from pathlib import Path

import click

from batch_assets.batching.counting import counted
from batch_assets.batching.safety.outside_text import printable
from batch_assets.cli.common import (
    checked_settings,
    errors_in_one_sentence,
    existing_database,
    find_task,
    target_file,
    task_option,
)
from batch_assets.cli.day_range import as_json_text, day_range, days_between, json_option

MIN_EXAMPLES = 10  # https://developers.openai.com/api/docs/guides/supervised-fine-tuning


@click.command(epilog="\b\nExample: batch-assets export 2026-01-01..2026-01-31 --format csv --out january.csv")
@click.argument("days", metavar="DAY[..DAY]")
@click.option(
    "--format", "form", type=click.Choice(["parquet", "csv", "jsonl", "finetune"]), required=True,
    help="finetune: OpenAI's JSONL of examples.",
)  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE")
@task_option
@click.option("--answered-only", is_flag=True, help="Only the articles that have an answer.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def export(days: str, form: str, out: Path, task: str, answered_only: bool, force: bool, as_json: bool) -> None:
    """Write the results of these days to a file: the rows of the task's table, or examples for fine-tuning.

    In CSV, a text that a spreadsheet would run as a formula begins with a quote.
    """
    settings = checked_settings()
    between = days_between(*day_range(days))
    from batch_assets.batching.operations.export import Format, export_days, left_out_text
    from batch_assets.project_tasks import read_tasks

    declared = find_task(read_tasks(settings), task)
    database, target = existing_database(settings), target_file(out)
    shown = printable(str(out))
    if target.exists() and not force:
        raise click.ClickException(f"{shown} exists. Add --force to replace it, or name another file.")
    with errors_in_one_sentence():
        written = export_days(
            database, task, between, target, Format(form), source=declared.feed.name, answered_only=answered_only
        )
    size = target.stat().st_size
    if as_json:
        click.echo(as_json_text({"file": str(target), "format": form, "task": task, "bytes": size, **vars(written)}))
        return
    what = "example" if form == Format.FINETUNE else "row"
    click.echo(f"{counted(written.rows, what)} in {shown} ({size:,} bytes).")
    if written.left_out:
        click.echo(f"Left out: {left_out_text(written.left_out)}.")
    if written.by_built_in_engine:
        click.echo(f"{counted(written.by_built_in_engine, 'answer')} of the built-in engine, which is no model.")
    if form == Format.FINETUNE and written.rows < MIN_EXAMPLES:
        click.echo(f"OpenAI's fine-tuning needs at least {MIN_EXAMPLES} examples.")
