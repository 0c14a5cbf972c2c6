"""A refused connection to this machine is definite: the run ends at once, and says what to start."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets_tests.batching.conftest import CUT, Workspace, proxy
from batch_assets_tests.local_api_client import LocalApi

HOUR = 3600.0  # of a pause: a run that made one would not end before the timeout of the test
CLOSED_PORT = 9


def client_of(api: LocalApi, lost_path: str) -> openai.OpenAI:
    """A client for which nothing listens when it sends to this path."""

    def redirect(request: Any) -> None:
        if request.method == "POST" and request.url.path.endswith(lost_path):
            request.url = request.url.copy_with(port=CLOSED_PORT)

    http_client = openai.DefaultHttpxClient(event_hooks={"request": [redirect]})
    return openai.OpenAI(
        api_key=api.client.api_key, base_url=str(api.client.base_url), http_client=http_client, max_retries=0
    )


@pytest.mark.parametrize("lost_path", ["/files", "/batches"])
def test_a_run_whose_server_has_ended_neither_retries_nor_searches(
    workspace: Workspace, api: LocalApi, lost_path: str
) -> None:
    workspace.ingest(workspace.texts())
    workspace.plan()
    patient = workspace.with_timing(upload_retry_seconds=HOUR, find_batch_pauses_seconds=(HOUR,))
    with (
        client_of(api, lost_path) as client,
        pytest.raises(SubmissionError, match=rf"Nothing listens at http://127\.0\.0\.1:{CLOSED_PORT}\. Start .* serve"),
    ):
        patient.submit(client)
    assert workspace.submit(api.client, run_id="again").batch_ids
    assert api.stats()["batches_created"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_the_address_is_named_without_what_may_be_secret(host: str) -> None:
    url = f"http://user:password@{host}:{CLOSED_PORT}/v1?token=abc"
    with openai.OpenAI(api_key="x", base_url=url, max_retries=0) as client, pytest.raises(openai.OpenAIError) as raised:
        client.batches.list()
    assert error_message(raised.value) == f"nothing listens at http://{host}:{CLOSED_PORT}"


def test_a_connection_that_was_cut_is_no_refused_one_and_is_told_with_its_cause(api: LocalApi) -> None:
    with proxy(api.url, lambda call: CUT) as client, pytest.raises(openai.APIConnectionError) as raised:
        client.with_options(max_retries=0).batches.list()
    message = error_message(raised.value)
    assert message.startswith("Connection error (")
    assert "disconnected" in message
