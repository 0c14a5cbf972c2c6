"""A client of the API that the settings name, for the commands. Runs and sensors have that of a resource."""

from collections.abc import Iterator
from contextlib import contextmanager

import openai

from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.keys import NO_KEY, local_api_key
from batch_assets.settings import Settings


def client_at(settings: Settings, local_url: str | None) -> openai.OpenAI:
    """A client. local_url: of the local Batch API that stands in; None: another API is configured."""
    if local_url is not None:
        return openai.OpenAI(api_key=local_api_key(settings.local_api_folder), base_url=local_url)
    # the client itself reads OPENAI_BASE_URL, and the key if there is one
    return openai.OpenAI(api_key=None if settings.has_key else NO_KEY)


@contextmanager
def client_of_running_api(settings: Settings) -> Iterator[openai.OpenAI | None]:
    """A client of the API that the settings name; None if that is the local one, which does not run. Starts nothing."""
    url = None if settings.has_remote_api else running_url(settings.local_api_folder)
    if url is None and not settings.has_remote_api:
        yield None
        return
    with client_at(settings, url) as client:
        yield client
