"""Shared by the tests of the collection."""

import pytest

from batch_assets_tests.batching.conftest import Workspace, database_in


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("planned")
    workspace = Workspace(folder, database_in(folder))
    workspace.ingest({"a": "one", "b": "two", "c": "three"})
    workspace.plan()
    return workspace
