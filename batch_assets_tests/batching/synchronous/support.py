"""A day whose requests are asked outside of a batch, as `batch-assets try` does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import identify
from batch_assets.batching.synchronous.ask import Asked, Asker, ask, settle
from batch_assets.batching.synchronous.callers import registered_caller
from batch_assets.batching.synchronous.pending import PendingDay, first_pending
from batch_assets_tests.batching.conftest import DAY, TASK, Call, Reply, Workspace, with_api_name

OPENAI = "https://api.openai.com/v1"  # whose prices are known


@contextmanager
def asker_of(workspace: Workspace, client: openai.OpenAI, **options: Any) -> Iterator[Asker]:
    api = identify(client, workspace.database.warehouse_id())
    with registered_caller(workspace.folder) as caller:
        yield Asker(workspace.database, client, workspace.folder, api, caller, **options)


def pending(
    workspace: Workspace, client: openai.OpenAI, task: Task = TASK, limit: int = 5, day: str = DAY
) -> PendingDay:
    api = identify(client, workspace.database.warehouse_id()).name
    options = PlanOptions(max_rounds=3, api=api, resume_cancelled=False)
    return first_pending(workspace.database, task, day, options, limit)


def tried(
    workspace: Workspace, client: openai.OpenAI, *, task: Task = TASK, limit: int = 5, day: str = DAY, **options: Any
) -> list[Asked]:
    """Ask the first pending requests of the day."""
    with asker_of(workspace, client, **options) as asker:
        settle(asker)
        requests = pending(workspace, client, task, limit, day).requests
        return [ask(asker, task.on(day), request) for request in requests]


def at_openai(answer: Callable[[Call], Reply | None] = Call.forward) -> Callable[[Call], Reply | None]:
    """The API as one that names itself as OpenAI's, so that its prices are known."""
    return with_api_name(OPENAI, answer)


def is_call(call: Call) -> bool:
    """Whether it is a request outside of a batch."""
    return call.method == "POST" and call.path in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
