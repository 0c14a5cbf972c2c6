"""Guards against a day that is stuck for good, and against an answer that is lost because the user gave its batch up.

Once, a batch was `finalizing` for four days, and the API refused to cancel it. `cancel` reported that it had ended, and
even a refresh planned nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest

from batch_assets.batching.ledger.spending import used_in_month, used_on_day
from batch_assets.batching.ledger.submissions import Submission
from batch_assets.batching.operations.abandon import (
    AbandonError,
    abandon_batch,
    abandon_command,
    find_submission,
    warning_of,
)
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.provider.batches import now_utc
from batch_assets_tests.batching.conftest import (
    API,
    DAY,
    ELSEWHERE,
    NEXT_DAY,
    PRICES,
    Call,
    FailsFirst,
    Reply,
    Workspace,
    hiding_batches,
    proxy,
    refusing_to_cancel,
    still_running,
    with_batches,
    with_key,
)
from batch_assets_tests.batching.submission.test_identities import lose
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of


def find(workspace: Workspace, batch_id: str) -> Submission:
    return find_submission(workspace.database, batch_id, workspace.folder)


def abandon(workspace: Workspace, batch_id: str) -> None:
    abandon_batch(workspace.database, find(workspace, batch_id))


def states(workspace: Workspace) -> list[str]:
    return workspace.column("SELECT state FROM openai_batch ORDER BY partition_date, plan, shard")


def state_of(workspace: Workspace, batch_id: str) -> str:
    (state,) = workspace.column("SELECT state FROM openai_batch WHERE batch_id = ?", [batch_id])
    return str(state)


def submit(workspace: Workspace, client: openai.OpenAI, api: LocalApi, names: str = "ab") -> str:
    """A day whose only batch the API has executed."""
    workspace.ingest(workspace.texts(names))
    workspace.plan()
    (batch_id,) = workspace.submit(client).batch_ids
    api.wait(batch_id)
    return str(batch_id)


# --- a batch that does not end

Situation = Callable[[LocalApi, str], AbstractContextManager[openai.OpenAI]]


def finalizing(api: LocalApi, batch_id: str) -> AbstractContextManager[openai.OpenAI]:
    return proxy(api.url, with_batches(status="finalizing"))


def in_an_unknown_status(api: LocalApi, batch_id: str) -> AbstractContextManager[openai.OpenAI]:
    return proxy(api.url, with_batches(status="paused"))


def not_found(api: LocalApi, batch_id: str) -> AbstractContextManager[openai.OpenAI]:
    return proxy(api.url, hiding_batches(batch_id))


@pytest.mark.parametrize(
    ("situation", "before"), [(finalizing, "submitted"), (in_an_unknown_status, "submitted"), (not_found, "missing")]
)
def test_the_requests_of_an_abandoned_batch_are_pending_and_are_bought_again(
    workspace: Workspace, api: LocalApi, situation: Situation, before: str
) -> None:
    """Even though the API goes on listing the batch as before."""
    batch_id = submit(workspace, api.client, api)
    with situation(api, batch_id) as client:
        workspace.collect(client)
        assert state_of(workspace, batch_id) == before
        assert workspace.plan(refresh=True).shards == []
        abandon(workspace, batch_id)
        assert state_of(workspace, batch_id) == "abandoned"
        workspace.collect(client)
        assert workspace.statuses() == {"pending": 2}
        assert sum(shard.requests for shard in workspace.plan().shards) == 2
        (second,) = workspace.submit(client).batch_ids
        assert second != batch_id
    api.wait(second)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}


def test_an_abandoned_batch_leaves_an_event(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api)
    abandon(workspace, batch_id)
    events = workspace.rows(
        "SELECT move, from_state, to_state, batch_id, message FROM submission_event ORDER BY moved_at"
    )
    assert events[-1] == ("abandon", "submitted", "abandoned", batch_id, "The user gave up the batch.")


def test_an_ended_batch_can_be_abandoned_and_its_files_stay(workspace: Workspace, api: LocalApi) -> None:
    """Its results cannot be loaded, so it keeps its requests in flight."""
    batch_id = submit(workspace, api.client, api)
    end_without_loading(workspace, api)
    files = sorted((workspace.folder / "results").iterdir())
    assert files
    abandon(workspace, batch_id)
    workspace.plan()
    (second,) = workspace.submit(api.client).batch_ids  # the API lists the first one as it did before
    assert (state_of(workspace, batch_id), second == batch_id) == ("abandoned", False)
    assert set(files) <= set((workspace.folder / "results").iterdir())


def end_without_loading(workspace: Workspace, api: LocalApi) -> None:
    """Store the results of the day's batch, as a run that is killed before it loads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batch_assets.batching.collection.collect.load_results", _killed)
        with pytest.raises(KeyboardInterrupt):
            workspace.collect(api.client)
    assert states(workspace) == ["ended"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


# --- requests in another submission, answers that exist, days that are cancelled


def test_an_equal_request_in_another_open_batch_stays_in_flight(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api, "abc")
    adopt_a_copy(workspace, "a")
    assert warning_of(workspace.database, find(workspace, batch_id)).requests_elsewhere == 1
    abandon(workspace, batch_id)
    assert sum(shard.requests for shard in workspace.plan().shards) == 2


def adopt_a_copy(workspace: Workspace, article: str) -> None:
    """Another open submission holds the request of this article, as after an adoption."""
    workspace.ingest({article: workspace.texts(article)[article]}, day=NEXT_DAY)
    workspace.plan(day=NEXT_DAY)
    workspace.execute(
        """
        INSERT INTO openai_batch (submission_id, partition_date, plan, round, shard, state, attempt, batch_id, api)
        VALUES ('copy', CAST($day AS DATE), 0, 1, 0, 'submitted', 1, 'batch_copy', $api)
        """,
        {"day": NEXT_DAY, "api": API},
    )
    workspace.execute(
        """
        INSERT INTO in_flight_request (custom_id, submission_id)
        SELECT custom_id, 'copy' FROM batch_request WHERE partition_date = CAST($day AS DATE)
        """,
        {"day": NEXT_DAY},
    )


def test_another_day_with_an_equal_article_is_free_too(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts("a"), day=NEXT_DAY)
    batch_id = submit(workspace, api.client, api, "abc")
    assert workspace.plan(day=NEXT_DAY).shards == []
    assert warning_of(workspace.database, find(workspace, batch_id)).days == (of(DAY), of(NEXT_DAY))
    abandon(workspace, batch_id)
    assert sum(shard.requests for shard in workspace.plan(day=NEXT_DAY).shards) == 1
    assert sum(shard.requests for shard in workspace.plan().shards) == 2


def test_an_abandoned_refresh_keeps_the_answers_that_exist(workspace: Workspace, api: LocalApi) -> None:
    workspace.ingest(workspace.texts())
    workspace.whole_day(api)
    workspace.plan(refresh=True)
    (batch_id,) = workspace.submit(api.client).batch_ids
    abandon(workspace, batch_id)
    with proxy(api.url, with_batches(status="finalizing")) as client:
        workspace.collect(client)
    assert workspace.statuses() == {"answered": 2}
    assert workspace.plan().shards == []


def test_the_requests_of_a_cancelled_day_are_not_sent_again_before_the_user_plans_it(
    workspace: Workspace, api: LocalApi
) -> None:
    """`cancel` promised that, and then named `abandon`."""
    batch_id = submit(workspace, api.client, api)
    with proxy(api.url, refusing_to_cancel(status="finalizing")) as client:
        cancel_day(workspace.database, client, day=of(DAY), data_folder=workspace.folder)
        assert "after you materialize `batch_request_file`" in str(
            warning_of(workspace.database, find(workspace, batch_id))
        )
        abandon(workspace, batch_id)
        workspace.collect(client)
        assert workspace.statuses() == {"cancelled": 2}
        assert workspace.plan(resume_cancelled=False).shards == []
        assert sum(shard.requests for shard in workspace.plan().shards) == 2


# --- budgets


def test_an_abandoned_batch_stays_reserved_until_it_is_collected(workspace: Workspace, api: LocalApi) -> None:
    """OpenAI may have billed it."""
    batch_id = submit(workspace, api.client, api)
    before = reserved(workspace)
    assert before > 0
    abandon(workspace, batch_id)
    assert reserved(workspace) == pytest.approx(before)
    workspace.plan()
    assert workspace.submit(api.client).recovered == 1  # it has ended since: a run collects it
    workspace.collect(api.client)
    assert reserved(workspace) == 0
    assert workspace.statuses() == {"answered": 2}
    assert api.stats()["batches_created"] == 1


def reserved(workspace: Workspace) -> float:
    with workspace.database.reading() as connection:
        on_day = used_on_day(connection, DAY, API, PRICES).reserved_usd
        assert used_in_month(connection, now_utc(), API, PRICES).reserved_usd == pytest.approx(on_day)
    return on_day


# --- a batch that is seen again


def test_an_abandoned_batch_that_ends_before_its_requests_are_sent_is_collected_and_nothing_is_bought(
    workspace: Workspace, api: LocalApi
) -> None:
    batch_id = submit(workspace, api.client, api)
    with proxy(api.url, with_batches(status="finalizing")) as client:
        workspace.collect(client)
    abandon(workspace, batch_id)
    assert workspace.plan().shards
    submitted = workspace.submit(api.client)
    assert (submitted.created, submitted.recovered, submitted.batch_ids) == (0, 1, [batch_id])
    assert workspace.collect(api.client).requests == {"answered": 2}
    assert states(workspace) == ["collected", "withdrawn"]
    assert api.stats() == {**api.stats(), "batches_created": 1, "requests_executed": 2}


def test_an_abandoned_batch_that_ends_after_its_requests_were_bought_again_is_counted(
    workspace: Workspace, api: LocalApi
) -> None:
    batch_id = submit(workspace, api.client, api)
    abandon(workspace, batch_id)
    workspace.plan()
    with proxy(api.url, with_batches(status="finalizing")) as client:
        (second,) = workspace.submit(client).batch_ids
    api.wait(second)
    workspace.ingest(workspace.texts("abc"))
    workspace.plan()
    for waited_for in workspace.submit(api.client).batch_ids:
        api.wait(waited_for)
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 3}
    spent = dict(workspace.rows("SELECT batch_id, sum(requests)::BIGINT FROM spending GROUP BY ALL"))
    assert (spent[batch_id], spent[second], sum(spent.values())) == (2, 2, 5)
    assert workspace.plan().shards == []


def test_a_missing_batch_that_was_abandoned_is_seen_again_when_its_key_returns_although_it_still_runs(
    workspace: Workspace, api: LocalApi
) -> None:
    batch_id = submit(workspace, api.client, api)
    with proxy(api.url, hiding_batches(batch_id)) as stranger:
        workspace.collect(stranger)
    abandon(workspace, batch_id)
    workspace.plan()
    with proxy(api.url, still_running) as client:
        submitted = workspace.submit(client)
    assert (submitted.created, submitted.recovered) == (0, 1)
    assert workspace.collect(api.client).requests == {"answered": 2}
    assert api.stats()["batches_created"] == 1


def test_a_batch_whose_results_cannot_be_downloaded_can_be_abandoned_again(workspace: Workspace, api: LocalApi) -> None:
    """It is seen again once, with its results. Then the user knows about them, and gives it up."""
    batch_id = submit(workspace, api.client, api)
    abandon(workspace, batch_id)
    workspace.plan()
    assert workspace.submit(api.client).recovered == 1
    assert "Materialize `summaries`" in str(warning_of(workspace.database, find(workspace, batch_id)))
    abandon(workspace, batch_id)
    workspace.plan()
    submitted = workspace.submit(api.client)
    assert (submitted.created, submitted.recovered, state_of(workspace, batch_id)) == (1, 0, "abandoned")


# --- what the user reads before


@pytest.mark.parametrize(
    ("situation", "sentence"),
    [
        (finalizing, "may still run and be billed: giving it up does not cancel it"),
        (in_an_unknown_status, "its status was paused"),
        (not_found, "Another account may have it, and be billed for it"),
    ],
)
def test_the_warning_says_what_may_still_be_billed(
    workspace: Workspace, api: LocalApi, situation: Situation, sentence: str
) -> None:
    batch_id = submit(workspace, api.client, api)
    with situation(api, batch_id) as client:
        workspace.collect(client)
    shown = str(warning_of(workspace.database, find(workspace, batch_id)))
    assert sentence in shown
    assert "A run buys its 2 requests again" in shown


def test_the_warning_about_an_ended_batch_names_the_free_way(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api)
    end_without_loading(workspace, api)
    shown = str(warning_of(workspace.database, find(workspace, batch_id)))
    assert f"{batch_id} of {DAY} has ended, and the API has billed it." in shown
    assert "Materialize `summaries` of the day first: its answers cost nothing more." in shown
    assert "may still run" not in shown


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("expected_cost_usd = 0.0123", "expected to cost $0.012."),
        ("expected_cost_usd = NULL", "The price of its model in batches is not known."),
        ("api = 'local', expected_cost_usd = 0.0123", "The built-in engine bills nothing."),
    ],
)
def test_the_warning_has_the_expected_cost_if_it_is_known(
    workspace: Workspace, api: LocalApi, change: str, sentence: str
) -> None:
    batch_id = submit(workspace, api.client, api)
    workspace.execute(f"UPDATE openai_batch SET {change}")
    shown = str(warning_of(workspace.database, find(workspace, batch_id)))
    assert sentence in shown
    assert ("$0.012." in shown) is ("$0.012." in sentence)


def test_a_batch_that_no_claim_priced_has_the_price_of_today(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api)
    workspace.execute("UPDATE openai_batch SET expected_cost_usd = NULL, api = 'https://api.openai.com/v1'")
    assert "expected to cost $0.0" in str(warning_of(workspace.database, find(workspace, batch_id)))


def test_requests_that_no_day_needs_are_not_bought_again(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api)
    workspace.execute("DELETE FROM batch_request")
    assert "No day needs its requests" in str(warning_of(workspace.database, find(workspace, batch_id)))


# --- batches that cannot be abandoned


def unknown(workspace: Workspace, api: LocalApi) -> str:
    return "batch_none"


def collected(workspace: Workspace, api: LocalApi) -> str:
    batch_id = submit(workspace, api.client, api)
    workspace.collect(api.client)
    return batch_id


def lost(workspace: Workspace, api: LocalApi) -> str:
    return lose(workspace, api)


def without_capacity(workspace: Workspace, api: LocalApi) -> str:
    with proxy(api.url, FailsFirst("token_limit_exceeded", "Enqueued token limit reached.")) as client:
        batch_id = submit(workspace, client, api)
        workspace.collect(client)
    return batch_id


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (unknown, "The ledger knows no batch batch_none"),
        (collected, "its answers and its cost are in the tables"),
        (lost, "counts as lost: its requests are pending again"),
        (without_capacity, "ran no request"),
    ],
)
def test_a_batch_that_cannot_be_abandoned_is_explained_and_nothing_changes(
    workspace: Workspace, api: LocalApi, make: Callable[[Workspace, LocalApi], str], sentence: str
) -> None:
    batch_id = make(workspace, api)
    before = ledger(workspace)
    with pytest.raises(AbandonError, match=sentence) as raised:
        find(workspace, batch_id)
    assert batch_id in str(raised.value)
    assert ledger(workspace) == before


def ledger(workspace: Workspace) -> list[list[tuple[Any, ...]]]:
    tables = ("openai_batch", "submission_event", "in_flight_request", "failed_request")
    return [workspace.rows(f"FROM {table} ORDER BY ALL") for table in tables]


def test_a_batch_that_a_run_has_changed_since_the_question_is_not_abandoned(
    workspace: Workspace, api: LocalApi
) -> None:
    """The user answers later, and a run has stored the results meanwhile."""
    batch_id = submit(workspace, api.client, api)
    as_asked = find(workspace, batch_id)
    end_without_loading(workspace, api)
    before = ledger(workspace)
    with pytest.raises(AbandonError, match=r"A run has changed .* Run the command again\."):
        abandon_batch(workspace.database, as_asked)
    assert ledger(workspace) == before
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}


def test_a_batch_is_abandoned_once(workspace: Workspace, api: LocalApi) -> None:
    """The first command may have been killed before it reported the day to the sensor."""
    batch_id = submit(workspace, api.client, api)
    abandon(workspace, batch_id)
    before = ledger(workspace)
    assert warning_of(workspace.database, find(workspace, batch_id)).is_done
    abandon(workspace, batch_id)
    assert ledger(workspace) == before


def test_a_run_that_collects_at_the_same_time_loads_no_abandoned_batch(workspace: Workspace, api: LocalApi) -> None:
    batch_id = submit(workspace, api.client, api)

    def answer(call: Call) -> Reply:
        reply = call.forward()
        if call.downloads and state_of(workspace, batch_id) == "submitted":
            abandon(workspace, batch_id)
        return reply

    with proxy(api.url, answer) as client:
        workspace.collect(client)
    assert state_of(workspace, batch_id) == "abandoned"
    assert workspace.column("SELECT count(*) FROM completion") == [0]
    workspace.plan()
    assert workspace.submit(api.client).recovered == 1  # not bought again: its results are new to the ledger
    workspace.collect(api.client)
    assert workspace.statuses() == {"answered": 2}


# --- ids are opaque

NASTY = ["../../escaped", "/tmp/escaped", "\x1b[2Jbatch", "line\nbreak", "nul\0byte", "'; DROP TABLE openai_batch; --"]


@pytest.mark.parametrize("name", NASTY)
def test_a_batch_with_any_id_can_be_abandoned_by_the_id_that_is_shown(
    workspace: Workspace, api: LocalApi, name: str
) -> None:
    submit(workspace, api.client, api)
    workspace.execute("UPDATE openai_batch SET batch_id = ?", [name])
    shown = str(warning_of(workspace.database, find(workspace, name)))
    assert shown.isprintable()
    printed = shown.partition(" of 2026")[0]
    abandon(workspace, printed)
    assert states(workspace) == ["abandoned"]
    assert not list(workspace.folder.parent.rglob("*escaped*"))


def test_an_unknown_id_is_printable() -> None:
    assert abandon_command("a b; rm -rf /\x1b[2J") == "batch-assets abandon 'a b; rm -rf /[2J'"
    assert abandon_command("-x") == "batch-assets abandon -- -x"
    assert abandon_command("batch_1") == "batch-assets abandon batch_1"


@pytest.mark.parametrize("name", ["\x1b[2J", "../none", "a\nb"])
def test_the_sentence_about_an_unknown_id_is_one_printable_line(workspace: Workspace, name: str) -> None:
    with pytest.raises(AbandonError) as raised:
        find(workspace, name)
    assert str(raised.value).isprintable()


def test_ids_that_look_the_same_are_not_guessed(workspace: Workspace, api: LocalApi) -> None:
    workspace = workspace.with_file_limits(max_requests=1)
    workspace.ingest(workspace.texts())
    workspace.plan()
    for batch_id in workspace.submit(api.client).batch_ids:
        api.wait(batch_id)
    workspace.execute("UPDATE openai_batch SET batch_id = 'x' || chr(8298 + shard::INTEGER)")
    with pytest.raises(AbandonError, match="several batches"):
        find(workspace, "x")


def test_a_batch_at_another_api_can_be_abandoned(workspace: Workspace, api: LocalApi) -> None:
    """That API may no longer exist."""
    batch_id = submit(workspace, api.client, api)
    workspace.execute("UPDATE openai_batch SET api = ?", [ELSEWHERE])
    assert ELSEWHERE in str(warning_of(workspace.database, find(workspace, batch_id)))
    abandon(workspace, batch_id)
    workspace.plan()
    assert workspace.submit(with_key(api.client, "another")).created == 1
