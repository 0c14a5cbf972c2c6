"""`batch-assets report`: one page about cost, volume, time and failures over days."""

from pathlib import Path

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database, target_file
from batch_assets.cli.day_range import as_json_text, day_range, json_option


@click.command()
@click.argument("days", required=False, metavar="[DAY[..DAY]]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the page. Default: report.html in the data folder.",
)
@json_option
def report(days: str | None, out: Path | None, as_json: bool) -> None:
    """Write a page about what DAY..DAY cost and saved, how many articles were answered or failed, and what waits.

    By default of the last 30 days that have figures. The page is one file that loads nothing. --json writes none.
    """
    if as_json and out is not None:
        raise click.UsageError("--json and --out exclude each other.")
    asked = None if days is None else day_range(days)
    settings = checked_settings()
    from batch_assets.batching.provider.batches import now_utc
    from batch_assets.report.as_json import as_dict
    from batch_assets.report.page import page_of
    from batch_assets.report.read import read_report
    from batch_assets.report.write import FILE_NAME, write_page

    database = existing_database(settings)
    with errors_in_one_sentence(), database.reading() as connection:
        found = read_report(connection, asked, now_utc())
    if as_json:
        click.echo(as_json_text(as_dict(found)))
        return
    path = target_file(out or settings.data_folder / FILE_NAME)
    write_page(path, page_of(found))
    click.echo(f"{path} has the report.")
