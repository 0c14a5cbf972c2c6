"""`batch-assets reload`: load result files of a batch again, also files that the user has downloaded."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database
from batch_assets.cli.day_range import as_json_text, json_option

if TYPE_CHECKING:
    from batch_assets.batching.collection.reload import Reloaded


@click.command(epilog="\b\nExample: batch-assets reload batch_67f0_output.jsonl batch_67f0_error.jsonl")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="RESULT_FILE…",
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option("--batch", "batch_id", metavar="ID", help="The batch of the files.  [default: found by name or requests]")
@json_option
def reload(files: tuple[Path, ...], batch_id: str | None, as_json: bool) -> None:
    """Load output and error files of a batch of ours: what the tables lack is added.

    Nothing is bought, and no answer is replaced or taken away. Give both files of a batch together.
    """
    settings = checked_settings()
    for path in files:
        if not path.is_file():
            raise click.ClickException(f"There is no file {path}.")
    from batch_assets.batching.collection.reload import reload_files
    from batch_assets.project_tasks import read_tasks

    own_prices = read_tasks(settings).limits.own_prices
    database = existing_database(settings)
    paths = [path.absolute() for path in dict.fromkeys(files)]
    with errors_in_one_sentence():
        reloaded = reload_files(database, settings.data_folder, paths, batch_id, own_prices)
    if as_json:
        click.echo(as_json_text({"batches": [{**vars(one), **_days_of(one)} for one in reloaded]}))
        return
    for one in reloaded:
        for sentence in _sentences(one):
            click.echo(sentence)


def _days_of(one: "Reloaded") -> dict[str, object]:
    return {
        "task": one.day.task,
        "day": one.day.day,
        "days": [{"task": day.task, "day": day.day} for day in one.days],
    }


def _sentences(one: "Reloaded") -> list[str]:
    from batch_assets.batching.safety.outside_text import as_message

    batch_id = as_message(one.batch_id)
    sentences = [
        f"{batch_id} of {one.day.label}: {counted(one.answers, 'answer')} added, {one.answers_present:,} present "
        f"before; {counted(one.failures, 'failure')} and {counted(one.quarantined, 'line')} in quarantine added."
    ]
    if one.other_requests:
        sentences.append(f"{counted(one.other_requests, 'request')} in the files are of another batch: left out.")
    if one.is_billing_added:
        sentences.append("What they cost was not recorded: it is in `spending` now.")
    if one.state != "collected" and one.answers:
        sentences.append(
            f"The batch is still {one.state}: its cost is recorded when it is collected. If it is never collected, "
            f"`batch-assets abandon {batch_id}` lets its days go on: only requests without an answer are bought."
        )
    if one.withdrawn_files:
        sentences.append(
            f"{counted(one.withdrawn_files, 'request file')} withdrawn, since an answer for it is here. Materialize "
            "`batch_request_file` and `openai_batch` of these days for the other requests."
        )
    if one.days:
        days = ", ".join(f"`{day.task}` of {day.day}" for day in one.days)
        sentences.append(f"To have the answers in the tables of results, materialize {days}.")
    return sentences
