"""`batch-assets move-api`: an API has a new address."""

import click

from batch_assets.batching.counting import counted
from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database


@click.command("move-api")
@click.argument("old")
@click.argument("new")
def move_api(old: str, new: str) -> None:
    """Look for the batches of the API with the address OLD at its new address NEW."""
    settings = checked_settings()
    from batch_assets.batching.ledger import aliases

    database = existing_database(settings)
    with errors_in_one_sentence():
        moved = aliases.move_api(database, old, new)
    if not moved:
        raise click.ClickException(f"No submission was made at {old}. `openai_batch.api` names the APIs.")
    click.echo(f"{counted(moved, 'submission')} moved from {old} to {new}.")
