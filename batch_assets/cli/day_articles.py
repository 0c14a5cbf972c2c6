"""What a command needs before it looks at the requests of days: the articles of these days, and which API is meant."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_assets.settings import Settings

if TYPE_CHECKING:
    from batch_assets.batching.ledger.database import Database
    from batch_assets.batching.provider.identity import ApiIdentity
    from batch_assets.task_set import DeclaredTask, TaskSet

API_SECONDS = 5.0


def check_stand_in(settings: Settings, database: "Database") -> None:
    """No local Batch API stands in for a real API whose key is missing."""
    from batch_assets.batching.ledger.known_batches import why_no_stand_in

    if not settings.has_remote_api and (why := why_no_stand_in(database)):
        raise click.ClickException(why)


def read_missing_articles(
    database: "Database", tasks: "TaskSet", declared: "DeclaredTask", days: Sequence[str]
) -> None:
    """Read the source for those of the days of which `raw_articles` has no article. Raises SourceError."""
    from batch_assets.batching.collection.day_results import is_pruned_day
    from batch_assets.batching.ingest.articles import read_source
    from batch_assets.batching.ingest.tables import has_articles

    feed = declared.feed
    with database.reading() as connection:
        pruned = [day for day in days if is_pruned_day(connection, feed.name, day)]
        missing = [day for day in days if not has_articles(connection, feed.name, day)]
    if pruned:
        raise click.ClickException(
            f"`prune` has deleted the articles of {pruned[0]}. Materialize `{feed.key.to_user_string()}` of the day "
            "first."
        )
    if missing:
        with read_source(database, tasks.source_of(feed), missing) as read:
            for day in missing:
                read.replace_day(day)


def known_api(settings: Settings, database: "Database") -> "ApiIdentity":
    """The API that the settings name, by one short call; if it does not answer, by its address. Starts nothing."""
    import openai

    from batch_assets.api_client import client_of_running_api
    from batch_assets.batching.provider.identity import BUILT_IN_ENGINE, ApiIdentity, identify, normalized_url

    with client_of_running_api(settings) as client:
        if client is None:
            return ApiIdentity(BUILT_IN_ENGINE, is_assumed=True)
        try:
            return identify(client.with_options(timeout=API_SECONDS, max_retries=0), database.warehouse_id())
        except openai.OpenAIError:
            return ApiIdentity(normalized_url(str(client.base_url)), is_assumed=True)
