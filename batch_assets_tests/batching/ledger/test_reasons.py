"""Why articles have no answer: the numbers are those of the figures, the codes those of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batch_assets.batching.ledger.day_figures import figures_of_days, last_days
from batch_assets.batching.ledger.outcomes import INVALID_REQUEST, OTHER_FAILURE
from batch_assets.batching.ledger.reasons import Reason, reasons_of_days
from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets_tests.batching.conftest import DAY, NEXT_DAY, Workspace, changed_lines, proxy
from batch_assets_tests.local_api_client import LocalApi


def reasons(workspace: Workspace, first: str = DAY, last: str = NEXT_DAY) -> list[Reason]:
    with workspace.database.reading() as connection:
        return reasons_of_days(connection, first, last)


def failing(*statuses: int) -> Callable[[dict[str, Any]], None]:
    """The first requests fail, with these statuses and one code; the others have answers."""
    remaining = list(statuses)
    given: dict[str, int] = {}

    def change(line: dict[str, Any]) -> None:
        if remaining and line["custom_id"] not in given:
            given[line["custom_id"]] = remaining.pop()
        if status := given.get(line["custom_id"]):
            error = {"code": "string_above_max_length", "message": f"Too long, says status {status}."}
            line["response"] |= {"status_code": status, "body": {"error": error}}

    return change


def test_the_failed_and_blocked_articles_of_the_figures_have_their_reasons(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("abc"))
    with proxy(api.url, changed_lines(failing(400, 500))) as client:
        workspace.plan(max_rounds=1)
        for batch_id in workspace.submit(client).batch_ids:
            api.wait(batch_id)
        workspace.collect(client, max_rounds=1)
    workspace.ingest(workspace.texts("mn"), day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.collect(api.client, day=NEXT_DAY, refusal=BudgetRefusal("over_budget", "Over the limit."))
    with workspace.database.reading() as connection:
        failed_day, blocked_day = figures_of_days(connection, DAY, NEXT_DAY)
        assert last_days(connection, 1) == [NEXT_DAY]
        assert last_days(connection, 30) == [DAY, NEXT_DAY]
    of_failed = [reason for reason in reasons(workspace) if reason.day == DAY]
    assert sum(reason.articles for reason in of_failed) == failed_day.failed == 2
    assert {(reason.status, reason.code, reason.message, reason.remedy) for reason in of_failed} == {
        ("failed", "string_above_max_length", "Too long, says status 400.", INVALID_REQUEST.remedy),
        ("failed", "string_above_max_length", "Too long, says status 500.", OTHER_FAILURE.remedy),
    }
    [blocked] = reasons(workspace, first=NEXT_DAY)
    assert (blocked.status, blocked.code, blocked.articles) == ("blocked", "over_budget", blocked_day.blocked)


def test_an_empty_database_has_no_days(workspace: Workspace) -> None:
    with workspace.database.reading() as connection:
        assert last_days(connection, 30) == []
    assert reasons(workspace) == []
