"""`batch-assets demo`: one day from articles to summaries, with the real assets, instance and sensor.

Only Dagster's daemon is missing: this process evaluates the sensor and executes the runs that the sensor requests.
Everything is in the persistent Dagster home, so Dagster's UI shows it.
"""

import click

from batch_assets.cli.common import checked_settings, chosen_day, day_option, find_task, task_option
from batch_assets.settings import Settings


@click.command()
@day_option
@task_option
@click.option("--yes", is_flag=True, help="Don't ask before OpenAI is paid.")
def demo(day: str | None, task: str, yes: bool) -> None:
    """One day from articles to the results of a task, in this terminal."""
    settings = checked_settings()
    from batch_assets.cli.dagster_home.home import StartError, local_api, make_dagster_home
    from batch_assets.cli.demo_day import run_day
    from batch_assets.project_tasks import read_tasks

    declared = find_task(read_tasks(settings), task)
    day = chosen_day(day, settings, declared)
    dagster_home = make_dagster_home(settings)
    try:
        with local_api(settings) as api_url:
            if api_url is None:
                _check_that_the_api_answers(settings)
            run_day(settings, dagster_home, day, declared, api_url, confirm=not yes)
    except StartError as error:
        raise click.ClickException(str(error)) from error


def _check_that_the_api_answers(settings: Settings) -> None:
    """The user at the terminal is told at once. A run would end with an error, and the sensor would try again later."""
    import openai

    from batch_assets.batching.provider.batches import error_message
    from batch_assets.batching.provider.connection import WHAT_TO_START, refused_address
    from batch_assets.batching.safety.outside_text import as_message
    from batch_assets.local_api.serving.keys import NO_KEY

    client = openai.OpenAI(api_key=None if settings.has_key else NO_KEY, timeout=20, max_retries=0)
    try:
        with client:
            client.batches.list(limit=1)
    except openai.OpenAIError as error:
        if address := refused_address(error):
            raise click.ClickException(f"Nothing listens at {address}. {WHAT_TO_START}") from error
        raise click.ClickException(
            f"The API at {as_message(str(client.base_url))} does not answer as it should: {error_message(error)}"
        ) from error
