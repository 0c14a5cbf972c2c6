"""`batch-assets doctor`: checks of everything that a run needs, and repairs that only the user can decide on."""

import click

from batch_assets.cli.common import checked_settings, errors_in_one_sentence, existing_database
from batch_assets.cli.day_range import as_json_text, json_option


@click.command()
@click.option("--new-warehouse-id", is_flag=True, help="Give a copied database its own identity. Checks nothing.")
@json_option
def doctor(new_warehouse_id: bool, as_json: bool) -> None:
    """Check settings, API, model, source, database, Dagster and disk, and say what to do. Changes nothing.

    Ends with 1 if a check fails (✗).
    """
    if new_warehouse_id:
        _give_new_identity()
        return
    from rich.console import Console
    from rich.text import Text

    from batch_assets.batching.safety.outside_text import as_message
    from batch_assets.cli.doctor_checks import Status, run_checks

    console, found = Console(), []
    marks = {Status.OK: ("✓", "green"), Status.WARNING: ("!", "yellow"), Status.FAILED: ("✗", "red")}
    for check in run_checks():
        found.append(check)
        if not as_json:
            what_to_do = f"\n  {as_message(check.what_to_do)}" if check.what_to_do else ""
            text = f" {check.name}: {as_message(check.message)}{what_to_do}"
            console.print(Text.assemble(marks[check.status], text), soft_wrap=True)
    has_failed = any(check.status is Status.FAILED for check in found)
    if as_json:
        click.echo(as_json_text({"is_ok": not has_failed, "checks": found}))
    if has_failed:
        click.get_current_context().exit(1)


def _give_new_identity() -> None:
    settings = checked_settings()
    from batch_assets.batching.ledger.schema import create_warehouse_id

    with errors_in_one_sentence(), existing_database(settings).writing() as connection:
        create_warehouse_id(connection)
    click.echo(
        "The database has a new identity. Batches that are in flight belong to the database that it was copied from."
    )
