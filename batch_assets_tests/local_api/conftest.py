"""Fixtures of the tests of the local Batch API."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """One local Batch API for all tests of a module that may see each other's files."""
    with serving(tmp_path_factory.mktemp("shared") / "local_api", engine="instant") as api:
        yield api


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The mask of most systems, with which new files would be readable for others."""
    before = os.umask(0o022)
    yield
    os.umask(before)
