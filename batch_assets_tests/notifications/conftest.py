"""The fixture of the tests of messages: an endpoint that receives them."""

from collections.abc import Iterator

import pytest

from batch_assets_tests.notifications.endpoint import Endpoint, receiving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with receiving() as endpoint:
        monkeypatch.setenv("BATCH_ASSETS_NOTIFY", endpoint.url)
        yield endpoint
