"""Random histories, from seeds: every cent is in the tables, and nothing is bought twice."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from batch_assets_tests.faults.histories import History
from batch_assets_tests.faults.world_of_apis import Apis, running_apis

HISTORIES = 300 if os.environ.get("BATCH_ASSETS_TEST_THOROUGH") else 4


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apis]:
    with running_apis(tmp_path_factory.mktemp("apis")) as running:
        yield running


@pytest.mark.end_to_end
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_a_history_ends_with_every_cent_recorded_and_nothing_bought_twice(
    apis: Apis, tmp_path: Path, seed: int
) -> None:
    with ExitStack() as stack:
        History(seed, tmp_path, apis, stack).play()
