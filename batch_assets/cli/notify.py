"""`batch-assets notify`: a test message to each URL of BATCH_ASSETS_NOTIFY."""

import click

from batch_assets.cli.common import checked_settings


@click.command()
@click.option("--test", is_flag=True, required=True, help="Send a test message.")
def notify(test: bool) -> None:
    """Send a test message to each URL of BATCH_ASSETS_NOTIFY, and say which of them accepted it.

    The exit code is 1 if one did not.
    """
    settings = checked_settings()
    from batch_assets.notifications.delivery import Message, names_of, send

    if not settings.notify:
        raise click.ClickException(
            "BATCH_ASSETS_NOTIFY is not set. It has the URLs that get messages, separated by white space, in the form "
            "of apprise: https://appriseit.com."
        )
    message = Message("batch_assets: a test message", "`batch-assets notify --test` sent it. Nothing happened.")
    refused = 0
    for name, url in names_of(settings.notify).items():
        reason = send(url, message)
        refused += reason is not None
        click.echo(f"{name}: {'accepted' if reason is None else f'not accepted: {reason}'}")
    if refused:
        raise SystemExit(1)
