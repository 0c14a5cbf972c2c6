"""`batch-assets doctor`: repairs that only the user can decide on."""

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence


@click.command()
@click.option("--new-warehouse-id", is_flag=True, required=True, help="Give a copied database its own identity.")
def doctor(new_warehouse_id: bool) -> None:
    """Repair what only you can know about."""
    settings = checked_settings()
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.ledger.schema import create_warehouse_id

    with errors_in_one_sentence(), Database(settings.database).writing() as connection:
        create_warehouse_id(connection)
    click.echo(
        "The database has a new identity. Batches that are in flight belong to the database that it was copied from."
    )
