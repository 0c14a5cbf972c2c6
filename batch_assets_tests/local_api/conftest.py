from __future__ import annotations

from collections.abc import Iterator

import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """One local Batch API for all tests of a module, for those that don't mind each other's files."""
    with serving(tmp_path_factory.mktemp("shared") / "local_api", engine="instant") as api:
        yield api
