"""A user's database in a history, and the invariants of its ledger."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.requests import RequestStateRules, find_states
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets_tests.faults.accounts import MODEL, Account
from batch_assets_tests.task_days import of

PROMPTS = ("Say what it says.", "Say it in one word.")
OUTPUT_LIMITS = (6, 50)  # of an answer, in words: the lower one cuts
# An answer that counts for a request file: a file with a higher limit sends the request of a cut answer again.
IS_CUT = "(finish_reason = 'length' AND answer.max_output_tokens < batch_request_file.request_max_output_tokens)"


def task(*, prompt: str = PROMPTS[0], limit: int = OUTPUT_LIMITS[1]) -> Task:
    return Task(MODEL, system_prompt=prompt, max_output_tokens=limit)


@dataclass
class Warehouse:
    """A user's database, with the articles of all days."""

    folder: Path
    articles: list[dict[str, Any]]
    database: Database
    task: Task = field(default_factory=task)

    def rows(self, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(statement, parameters).fetchall()

    def column(self, statement: str, parameters: object = None) -> list[Any]:
        return [row[0] for row in self.rows(statement, parameters)]


def assert_no_request_is_in_two_files(warehouse: Warehouse) -> None:
    in_flight = Counter(
        warehouse.column(
            """
            SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
            WHERE state NOT IN ('lost', 'abandoned')
            """
        )
    )
    assert not [custom_id for custom_id, times in in_flight.items() if times > 1], "in two files at once"


def assert_nothing_answered_is_planned(warehouse: Warehouse, day: str, rules: RequestStateRules) -> None:
    with warehouse.database.writing() as connection:
        find_states(connection, of(day), rules)
        planned = connection.execute(
            f"""
            SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
            JOIN batch_request_file USING (submission_id)
            JOIN valid_completion($api) AS answer USING (custom_id)
            WHERE state = 'planned' AND openai_batch.partition_date = CAST($day AS DATE) AND NOT is_refresh
                AND NOT {IS_CUT}
            """,
            {"api": rules.api, "day": day},
        ).fetchall()
    assert planned == [], "answered, and planned again"


def assert_nothing_answered_was_sent(warehouse: Warehouse, made: Collection[str]) -> None:
    """No request in these batches, which a run has just made at a model's API, had an answer before."""
    sent = warehouse.rows(
        f"""
        SELECT custom_id, openai_batch.batch_id FROM in_flight_request JOIN openai_batch USING (submission_id)
        JOIN batch_request_file USING (submission_id)
        JOIN completion AS answer USING (custom_id)
        WHERE list_contains($made, openai_batch.batch_id) AND NOT is_refresh AND NOT {IS_CUT}
            AND answer.api <> $built_in
        """,
        {"made": list(made), "built_in": BUILT_IN_ENGINE},
    )
    assert sent == [], "answered, and executed again"


def assert_every_cent_is_recorded(warehouse: Warehouse, accounts: Collection[Account]) -> None:
    """What each collected batch billed is in `spending`, to the cent; nothing is in it of any other batch."""
    identity = warehouse.database.warehouse_id()
    recorded = dict(
        warehouse.rows("SELECT batch_id, sum(coalesce(cost_usd, simulated_cost_usd)) FROM spending GROUP BY batch_id")
    )
    collected = set(warehouse.column("SELECT batch_id FROM openai_batch WHERE state = 'collected'"))
    of_submissions: Counter[str] = Counter()
    for account in accounts:
        for batch in account.batches():
            metadata = batch["metadata"] or {}
            if metadata.get("warehouse_id") != identity:
                continue
            of_submissions[metadata["submission_id"]] += 1
            if batch["id"] in collected:
                billed = account.bill(batch)
                assert recorded.get(batch["id"], 0.0) == pytest.approx(billed, abs=1e-12), batch["id"]
            else:
                assert batch["id"] not in recorded, "spent, and not collected"
    assert not [name for name, times in of_submissions.items() if times > 1], "a submission with two batches"
    assert set(recorded) <= collected


def assert_each_article_has_an_end(warehouse: Warehouse) -> None:
    """Every article is answered, or failed with a code; every batch is collected, or the user has given it up."""
    states = dict(warehouse.rows("SELECT status, count(*) FROM summaries GROUP BY status"))
    assert set(states) <= {"answered", "failed"}, states
    assert sum(states.values()) == len(warehouse.articles), states
    unexplained = "SELECT count(*) FROM summaries WHERE status = 'failed' AND error_code IS NULL"
    assert warehouse.rows(unexplained) == [(0,)]
    unfinished = "SELECT state, batch_id, message FROM openai_batch WHERE state NOT IN ('collected', 'withdrawn')"
    not_given_up = [row for row in warehouse.rows(unfinished) if row[0] != "abandoned"]
    assert not_given_up == []


def is_done(warehouse: Warehouse) -> bool:
    is_open = "SELECT 1 FROM openai_batch WHERE state NOT IN ('collected', 'withdrawn', 'abandoned')"
    has_end = "SELECT count(*) FROM summaries WHERE status IN ('answered', 'failed')"
    return warehouse.rows(is_open) == [] and warehouse.rows(has_end) == [(len(warehouse.articles),)]
