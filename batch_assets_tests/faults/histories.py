"""Random histories of two databases, three accounts and a user who changes everything, from a seed.

The invariants after every collection: the costs in `spending`, plus those of the uncollected batches, are what the
servers billed for this database, to the cent; no submission has two batches that ran; an answered request is not
planned again. In the end every article has an answer or a reason.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.requests import RequestStateRules, find_states
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.task import Task
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from batch_assets.batching.timing import Timing
from batch_assets_tests.batching.conftest import open_workspace
from batch_assets_tests.faults.world_of_apis import MODEL, PRICES, Account, Apis, PlannedFaults
from batch_assets_tests.project import write_articles

DAYS = ("2026-01-05", "2026-01-06")
ARTICLES = 5
STEPS = 14
MAX_ROUNDS = 3
PROMPTS = ("Say what it says.", "Say it in one word.")
OUTPUT_LIMITS = (6, 50)  # of an answer, in words: the lower one cuts
WORDS = "the harbour of a town reopened after a storm and all ships are waiting outside of it"


TIMING = Timing(
    upload_retry_seconds=0.0,
    find_batch_pauses_seconds=(0.0, 0.0, 0.0),
    first_requeue_pause=timedelta(0),
    download_pauses_seconds=(0.0,),
)


@dataclass
class Warehouse:
    """A user's database, with the articles of both days."""

    folder: Path
    articles: list[dict[str, Any]]
    database: Database
    task: Task = field(
        default_factory=lambda: Task(MODEL, system_prompt=PROMPTS[0], max_output_tokens=OUTPUT_LIMITS[1])
    )

    def rows(self, statement: str, parameters: list[object] | None = None) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(statement, parameters or []).fetchall()


class History:
    """One history; the random generator `dice` decides."""

    def __init__(self, seed: int, folder: Path, apis: Apis, stack: ExitStack) -> None:
        self.dice, self.apis = random.Random(seed), apis
        self.stack = stack
        self.warehouses = [self._warehouse(folder / name, seed, name) for name in ("one", "two")]
        self.clients = {key: stack.enter_context(_client(apis.url, key)) for key in apis.accounts}
        apis.forget_batches()
        self.key = "key-one"
        self.runs = 0

    def _warehouse(self, folder: Path, seed: int, name: str) -> Warehouse:
        folder.mkdir(parents=True)
        # the first articles are the same in both databases
        articles = [
            {"id": f"a{n}", "body": f"{seed} {n if n < 2 else name + str(n)} {WORDS}", "published_at": f"{day}T12:00Z"}
            for day in DAYS
            for n in range(ARTICLES)
        ]
        with Database(str(folder / "test.duckdb")).writing():
            pass  # makes the tables
        return Warehouse(folder, articles, self.stack.enter_context(open_workspace(folder)).database)

    def play(self) -> None:
        """Take all steps, check the invariants after each collection, and finish all days."""
        for warehouse in self.warehouses:
            self._ingest(warehouse)
        for _ in range(STEPS):
            self._step(self.dice.choice(self.warehouses), self.dice.choice(DAYS))
        self._finish()

    def _step(self, warehouse: Warehouse, day: str) -> None:
        self.apis.faults.clock_offset_seconds = self.dice.choice([0, 0, 7200, -7200, 61])
        action = self.dice.choices(
            ["plan", "submit", "collect", "edit", "prompt", "limit", "refresh", "account", "cancel", "fault"],
            [5, 8, 8, 1, 1, 2, 1, 2, 1, 5],
        )[0]
        match action:
            case "plan":
                self._plan(warehouse, day)
            case "submit":
                self._plan(warehouse, day)
                self._submit(warehouse, day)
            case "collect":
                self.apis.wait()
                self._collect(warehouse, day)
            case "edit":
                self.dice.choice(warehouse.articles)["body"] += " edited"
                self._ingest(warehouse)
            case "prompt":
                warehouse.task = self._task(prompt=self.dice.choice(PROMPTS), limit=warehouse.task.max_output_tokens)
            case "limit":
                warehouse.task = self._task(prompt=warehouse.task.system_prompt, limit=self.dice.choice(OUTPUT_LIMITS))
            case "refresh":
                self._plan(warehouse, day, refresh=True)
                if self.dice.random() < 0.6:
                    self._submit(warehouse, day)
            case "account":
                self.key = self.dice.choice(list(self.apis.accounts))
            case "cancel":
                self._cancel(warehouse, day)
            case "fault":
                self._plan_a_fault()

    def _task(self, *, prompt: str, limit: int) -> Task:
        return Task(MODEL, system_prompt=prompt, max_output_tokens=limit)

    def _plan_a_fault(self) -> None:
        faults = self.apis.faults
        match self.dice.randrange(4):
            case 0:
                faults.lose_creations, faults.hide_for_listings = 1, self.dice.choice([0, 1, 2])
            case 1:
                faults.lose_uploads = 1
            case 2:
                faults.refuse_capacity = 1
            case 3:
                faults.hide_for_listings = self.dice.choice([0, 1])

    @property
    def _account(self) -> Account:
        return self.apis.accounts[self.key]

    @property
    def _client(self) -> openai.OpenAI:
        return self.clients[self.key]

    def _ingest(self, warehouse: Warehouse) -> None:
        source = write_articles(warehouse.folder / "articles.jsonl", warehouse.articles)
        for day in DAYS:
            ingest_day(warehouse.database, source=source, day=day)

    def _plan(self, warehouse: Warehouse, day: str, *, refresh: bool = False) -> None:
        rules = RequestStateRules(self._account.api, warehouse.task.max_output_tokens, MAX_ROUNDS)
        plan_day(
            warehouse.database,
            day=day,
            task=warehouse.task,
            data_folder=warehouse.folder,
            options=PlanOptions(max_rounds=MAX_ROUNDS, api=self._account.api, refresh=refresh, own_prices=PRICES),
        )
        in_flight = Counter(
            custom_id
            for (custom_id,) in warehouse.rows(
                """
                SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
                WHERE state NOT IN ('lost', 'abandoned')
                """
            )
        )
        assert not [custom_id for custom_id, times in in_flight.items() if times > 1], "in two files at once"
        if not refresh:
            self._assert_nothing_answered_is_planned(warehouse, day, rules)

    def _assert_nothing_answered_is_planned(self, warehouse: Warehouse, day: str, rules: RequestStateRules) -> None:
        with warehouse.database.writing() as connection:
            find_states(connection, day, rules)
            planned = connection.execute(
                """
                SELECT custom_id FROM in_flight_request JOIN openai_batch USING (submission_id)
                JOIN batch_request_file USING (submission_id)
                JOIN valid_completion($api) AS answer USING (custom_id)
                WHERE state = 'planned' AND openai_batch.partition_date = CAST($day AS DATE) AND NOT is_refresh
                    AND NOT (finish_reason = 'length'
                        AND answer.max_output_tokens < batch_request_file.request_max_output_tokens)
                """,
                {"api": rules.api, "day": day},
            ).fetchall()
        assert planned == [], "answered, and planned again"

    def _submit(self, warehouse: Warehouse, day: str) -> None:
        self.runs += 1
        with suppress(SubmissionError):  # a later step submits again
            submitter = make_submitter(
                warehouse.database,
                self._client,
                warehouse.folder,
                f"run-{self.runs}",
                limits=Limits(own_prices=PRICES),
                timing=TIMING,
            )
            submit_day(submitter, day, is_run_alive=lambda run_id: False)

    def _collect(self, warehouse: Warehouse, day: str) -> None:
        with suppress(CollectionError):
            collect_day(
                warehouse.database,
                self._client,
                day=day,
                data_folder=warehouse.folder,
                max_rounds=MAX_ROUNDS,
                max_output_tokens=warehouse.task.max_output_tokens,
                own_prices=PRICES,
                timing=TIMING,
            )
        self._assert_every_cent_is_recorded(warehouse)

    def _cancel(self, warehouse: Warehouse, day: str) -> None:
        with suppress(openai.OpenAIError):
            cancel_day(warehouse.database, self._client, day=day, data_folder=warehouse.folder)

    def _assert_every_cent_is_recorded(self, warehouse: Warehouse) -> None:
        self.apis.wait()
        identity = warehouse.database.warehouse_id()
        recorded = dict(
            warehouse.rows(
                "SELECT batch_id, sum(coalesce(cost_usd, simulated_cost_usd)) FROM spending GROUP BY batch_id"
            )
        )
        collected = {
            batch_id for (batch_id,) in warehouse.rows("SELECT batch_id FROM openai_batch WHERE state = 'collected'")
        }
        of_submissions: Counter[str] = Counter()
        for account in self.apis.accounts.values():
            for batch in account.batches():
                metadata = batch["metadata"] or {}
                if metadata.get("warehouse_id") != identity:
                    continue
                of_submissions[metadata["submission_id"]] += 1
                billed = account.bill(batch)
                if batch["id"] in collected:
                    assert recorded.get(batch["id"], 0.0) == pytest.approx(billed, abs=1e-12), batch["id"]
                else:
                    assert batch["id"] not in recorded, "spent, and not collected"
        assert not [name for name, times in of_submissions.items() if times > 1], "a submission with two batches"
        assert set(recorded) <= collected

    def _finish(self) -> None:
        """Without faults, at each account in turn: every day ends."""
        self.apis.faults.__dict__.update(PlannedFaults().__dict__)
        for _ in range(MAX_ROUNDS + 2):
            for key in ("key-local", "key-two", "key-one"):
                self.key = key
                for warehouse in self.warehouses:
                    for day in DAYS:
                        self._plan(warehouse, day)
                        self._submit(warehouse, day)
                        self._collect(warehouse, day)
            if all(self._is_done(warehouse) for warehouse in self.warehouses):
                break
        for warehouse in self.warehouses:
            states = dict(warehouse.rows("SELECT status, count(*) FROM summaries GROUP BY status"))
            assert set(states) <= {"answered", "failed"}, states
            assert sum(states.values()) == ARTICLES * len(DAYS), states
            unexplained = warehouse.rows(
                "SELECT count(*) FROM summaries WHERE status = 'failed' AND error_code IS NULL"
            )
            assert unexplained == [(0,)]
            unfinished = warehouse.rows(
                "SELECT state, count(*) FROM openai_batch GROUP BY state HAVING state NOT IN ('collected', 'withdrawn')"
            )
            assert unfinished == [], unfinished

    def _is_done(self, warehouse: Warehouse) -> bool:
        is_open = "SELECT 1 FROM openai_batch WHERE state NOT IN ('collected', 'withdrawn')"
        states = {state for (state,) in warehouse.rows("SELECT DISTINCT status FROM summaries")}
        return warehouse.rows(is_open) == [] and states <= {"answered", "failed"}


@contextmanager
def _client(url: str, key: str) -> Iterator[openai.OpenAI]:
    plain = openai.DefaultHttpxClient(verify=False)  # reading certificates takes 35 ms
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, http_client=plain) as client:
        yield client
