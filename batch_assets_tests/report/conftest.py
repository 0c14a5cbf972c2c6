"""A small history: a failed article, a price that is not known, a day of the built-in engine, and one that waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.report.read import Report, read_report
from batch_assets_tests.batching.conftest import (
    Call,
    Reply,
    Workspace,
    changed_lines,
    new_database,
    open_workspace,
    proxy,
    shared_server,
    with_api_name,
)
from batch_assets_tests.local_api_client import LocalApi

__all__ = ["new_database", "shared_server"]
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22", "2026-11-24")
FAILED_DAY, UNPRICED_DAY, SIMULATED_DAY, BLOCKED_DAY = DAYS
CODE, MESSAGE = "string_above_max_length", "The message is too long."
NOW = datetime.fromisoformat("2026-11-25")


def failing_once() -> Callable[[dict[str, Any]], None]:
    """The first request fails for good."""
    failed: set[str] = set()

    def change(line: dict[str, Any]) -> None:
        if not failed:
            failed.add(line["custom_id"])
        if line["custom_id"] in failed:
            line["response"] |= {"status_code": 400, "body": {"error": {"code": CODE, "message": MESSAGE}}}

    return change


def whole_day(workspace: Workspace, api: LocalApi, day: str, answer: Callable[[Call], Reply | None]) -> None:
    with proxy(api.url, answer) as client:
        for batch_id in workspace.submit(client, day=day).batch_ids:
            api.wait(batch_id)
        workspace.collect(client, day=day)


@pytest.fixture(scope="module")
def history(
    tmp_path_factory: pytest.TempPathFactory, new_database: Any, shared_server: LocalApi
) -> Iterator[Workspace]:
    """The workspace after four days. The last one is over its budget."""
    folder = tmp_path_factory.mktemp("history")
    shutil.copy(new_database, folder)
    with open_workspace(folder) as workspace:
        workspace.renew_warehouse_id()
        for day, letters in zip(DAYS, ("abc", "de", "fg", "h"), strict=True):
            workspace.ingest(workspace.texts(letters), day=day)
        workspace.plan(day=FAILED_DAY)
        whole_day(workspace, shared_server, FAILED_DAY, changed_lines(failing_once()))
        workspace.plan(day=UNPRICED_DAY, task=Task("mistral-small"))
        whole_day(workspace, shared_server, UNPRICED_DAY, Call.forward)
        workspace.plan(day=SIMULATED_DAY, api=BUILT_IN_ENGINE)
        whole_day(workspace, shared_server, SIMULATED_DAY, with_api_name(BUILT_IN_ENGINE))
        workspace.plan(day=BLOCKED_DAY)
        refusal = BudgetRefusal("over_budget", "Over the limit.")
        workspace.collect(shared_server.client, day=BLOCKED_DAY, refusal=refusal)
        yield workspace


@pytest.fixture(scope="module")
def report(history: Workspace) -> Report:
    with history.database.reading() as connection:
        return read_report(connection, None, NOW)
