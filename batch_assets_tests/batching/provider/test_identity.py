"""The identity of an API: the answer of a gateway before it never counts as the API's."""

from pathlib import Path

import openai
import pytest

from batch_assets.batching.provider.identity import identify
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.conftest import serving


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_error_of_a_gateway_does_not_identify_an_api(tmp_path: Path, status: int) -> None:
    """A run would not collect a batch that is recorded with the gateway's name."""
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
def test_an_api_without_a_list_is_identified_by_its_address(status: int) -> None:
    with proxy("", lambda call: Reply.of({"error": {"message": "No such route."}}, status)) as client:
        assert identify(client, "a warehouse").name == "local+instant"
    without_name = Reply(status, b"{}", api=None)
    with proxy("", lambda call: without_name) as client:
        assert identify(client, "a warehouse").name == str(client.base_url).rstrip("/")
