"""Who answers: what a gateway says in its place is never taken for the API."""

from pathlib import Path

import openai
import pytest

from batch_assets.batching.provider.identity import identify
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.conftest import serving


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_of_a_gateway_names_no_api(tmp_path: Path, status: int) -> None:
    """A batch that is recorded under the gateway's name would never be collected from the API's."""
    with serving(tmp_path) as api:
        faults = [status]

        def answer(call: Call) -> Reply:
            if faults:
                return Reply(faults.pop(), b"<html>Bad gateway</html>", "text/html", api=None)
            return call.forward()

        with proxy(api.url, answer) as client:
            with pytest.raises(openai.InternalServerError):
                identify(client, "a warehouse")
            assert identify(client, "a warehouse").name == "local+instant"  # as the test's proxy names it


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_api_without_a_list_is_known_by_its_address(status: int) -> None:
    with proxy("", lambda call: Reply.of({"error": {"message": "No such route."}}, status)) as client:
        assert identify(client, "a warehouse").name == "local+instant"
    without_name = Reply(status, b"{}", api=None)
    with proxy("", lambda call: without_name) as client:
        assert identify(client, "a warehouse").name == str(client.base_url).rstrip("/")
