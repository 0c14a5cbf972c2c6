"""Random histories of two databases, three accounts and a user who changes everything, from a seed.

The invariants after every collection: the costs in `spending`, plus those of the uncollected batches, are what the
servers billed for this database, to the cent; no submission has two batches that ran; an answered request is neither
planned nor executed again. In the end every article has an answer or a reason.
"""

import random
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

import openai

from batch_assets.batching.collection.collect import collect_day
from batch_assets.batching.collection.fetch import CollectionError
from batch_assets.batching.ingest.articles import ingest_day
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.requests import RequestStateRules
from batch_assets.batching.ledger.retries import retry_day
from batch_assets.batching.operations.abandon import abandon_batch, find_submission
from batch_assets.batching.operations.cancel import cancel_day
from batch_assets.batching.planning.plan import plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.submission.errors import SubmissionError
from batch_assets.batching.submission.submit import submit_day
from batch_assets.batching.submission.submitter import make_submitter
from batch_assets.batching.timing import Timing
from batch_assets.task_set import result_table
from batch_assets_tests.batching.conftest import open_workspace
from batch_assets_tests.faults.accounts import PRICES, Account
from batch_assets_tests.faults.batch_faults import ACCOUNT_ERRORS, LATE_FILES, BatchFaults
from batch_assets_tests.faults.warehouses import (
    OUTPUT_LIMITS,
    PROMPTS,
    Warehouse,
    assert_each_article_has_an_end,
    assert_every_cent_is_recorded,
    assert_no_request_is_in_two_files,
    assert_nothing_answered_is_planned,
    assert_nothing_answered_was_sent,
    is_done,
    task,
)
from batch_assets_tests.faults.world_of_apis import Apis, PlannedFaults, client_with
from batch_assets_tests.project import write_articles
from batch_assets_tests.task_days import of

DAYS = ("2026-01-05", "2026-01-06")
ARTICLES = 5
STEPS = 14
KEYS = ("key-local", "key-two", "key-one")
MAX_ROUNDS = 3
NO_FAILURE = "no failure has this code"  # `retry` with it ends the pauses only
WORDS = "the harbour of a town reopened after a storm and all ships are waiting outside of it"
TIMING = Timing(
    upload_retry_seconds=0.0,
    find_batch_pauses_seconds=(0.0, 0.0, 0.0),
    first_requeue_pause=timedelta(0),
    download_pauses_seconds=(0.0,),
)


class History:
    """One history; the random generator `dice` decides."""

    def __init__(self, seed: int, folder: Path, apis: Apis, stack: ExitStack) -> None:
        self.dice, self.apis = random.Random(seed), apis
        self.stack = stack
        self.warehouses = [self._warehouse(folder / name, seed, name) for name in ("one", "two")]
        self.clients = {key: stack.enter_context(client_with(apis.url, key)) for key in apis.accounts}
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
            [
                "plan", "submit", "collect", "edit", "prompt", "limit", "refresh", "account", "cancel", "fault",
                "abandon", "stuck batch ends", "retry",
            ],
            [5, 8, 8, 1, 1, 2, 1, 2, 1, 9, 2, 1, 1],
        )[0]  # fmt: skip
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
                warehouse.task = task(prompt=self.dice.choice(PROMPTS), limit=warehouse.task.max_output_tokens)
            case "limit":
                warehouse.task = task(prompt=warehouse.task.system_prompt, limit=self.dice.choice(OUTPUT_LIMITS))
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
            case "abandon":
                self._abandon(warehouse)
            case "stuck batch ends":
                if stuck := list(self._stuck().values()):
                    self.dice.choice(stuck).is_stuck = False
            case "retry":
                self._retry(warehouse, day, code=self.dice.choice([None, "content_refused"]))

    def _plan_a_fault(self) -> None:
        faults = self.apis.faults
        match self.dice.randrange(9):
            case 0:
                faults.lose_creations, faults.hide_for_listings = 1, self.dice.choice([0, 1, 2])
            case 1:
                faults.lose_uploads = 1
            case 2:
                faults.refuse_capacity = 1
            case 3:
                faults.hide_for_listings = self.dice.choice([0, 1])
            case 4:
                faults.refuse_for_account = [self.dice.choice(ACCOUNT_ERRORS)]
            case 5:
                faults.fail_for_account = 1
            case 6:
                error, fails_all = self.dice.choice(ACCOUNT_ERRORS), self.dice.random() < 0.3
                faults.next_batches.append(BatchFaults(lines=error, fails_all_lines=fails_all))
            case 7:
                late = self.dice.choices(LATE_FILES, k=self.dice.randint(1, 3))
                faults.next_batches.append(BatchFaults(late=late))
            case 8:
                faults.next_batches.append(BatchFaults(is_stuck=True))

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
        assert_no_request_is_in_two_files(warehouse)
        if not refresh:
            assert_nothing_answered_is_planned(warehouse, day, rules)

    def _submit(self, warehouse: Warehouse, day: str) -> None:
        self.runs += 1
        made_before = set(self._account.made)
        with suppress(SubmissionError):  # a later step submits again
            submitter = make_submitter(
                warehouse.database,
                self._client,
                warehouse.folder,
                f"run-{self.runs}",
                limits=Limits(own_prices=PRICES),
                timing=TIMING,
            )
            submit_day(submitter, of(day), is_run_alive=lambda run_id: False)
        if self._account.api != BUILT_IN_ENGINE:
            assert_nothing_answered_was_sent(warehouse, set(self._account.made) - made_before)

    def _collect(self, warehouse: Warehouse, day: str) -> None:
        with suppress(CollectionError):
            collect_day(
                warehouse.database,
                self._client,
                day=day,
                results=result_table(warehouse.task),
                data_folder=warehouse.folder,
                max_rounds=MAX_ROUNDS,
                max_output_tokens=warehouse.task.max_output_tokens,
                own_prices=PRICES,
                timing=TIMING,
            )
        self._assert_every_cent_is_recorded(warehouse)

    def _cancel(self, warehouse: Warehouse, day: str) -> None:
        with suppress(openai.OpenAIError):
            cancel_day(warehouse.database, self._client, day=of(day), data_folder=warehouse.folder)

    def _assert_every_cent_is_recorded(self, warehouse: Warehouse) -> None:
        self.apis.wait()
        assert_every_cent_is_recorded(warehouse, self.apis.accounts.values())

    def _abandon(self, warehouse: Warehouse) -> None:
        """The user gives up a batch that does not end, or that the API does not find."""
        given_up = [
            batch_id
            for batch_id, state in warehouse.rows("SELECT batch_id, state FROM openai_batch WHERE batch_id IS NOT NULL")
            if state == "missing" or (state == "submitted" and batch_id in self._stuck())
        ]
        if given_up:
            self._give_up(warehouse, self.dice.choice(sorted(given_up)))

    def _give_up(self, warehouse: Warehouse, batch_id: str) -> None:
        submission = find_submission(warehouse.database, batch_id, warehouse.folder)
        abandon_batch(warehouse.database, submission)

    def _retry(self, warehouse: Warehouse, day: str, code: str | None) -> None:
        rules = RequestStateRules(self._account.api, warehouse.task.max_output_tokens, MAX_ROUNDS)
        retry_day(warehouse.database, of(day), rules, code)

    def _stuck(self) -> dict[str, BatchFaults]:
        """batch id → its faults, for each batch that does not end."""
        all_faults = [item for account in self.apis.accounts.values() for item in account.batch_faults.items()]
        return {
            batch_id: faults for batch_id, faults in sorted(all_faults, key=lambda item: item[0]) if faults.is_stuck
        }

    def _finish(self) -> None:
        """Without new faults, at each account in turn: every day ends. The user ends all pauses.

        Each batch that is stuck ends, or the user gives it up.
        """
        self.apis.faults.__dict__.update(PlannedFaults().__dict__)
        for faults in self._stuck().values():
            faults.is_stuck = self.dice.random() < 0.5
        self._finish_all_days()
        for key in KEYS:
            for warehouse in self.warehouses:
                if self._given_up_and_listed(warehouse):
                    self._send_another_request(warehouse, key)
        self._finish_all_days()
        for warehouse in self.warehouses:
            assert_each_article_has_an_end(warehouse)
            assert self._given_up_and_listed(warehouse) == [], "ended after the user gave it up, and not collected"

    def _finish_all_days(self) -> None:
        for _ in range(MAX_ROUNDS + 2):
            if all(is_done(warehouse) for warehouse in self.warehouses):
                return
            for self.key in KEYS:
                for warehouse in self.warehouses:
                    self._give_up_stuck_batches(warehouse)
                    for day in DAYS:
                        self._retry(warehouse, day, code=NO_FAILURE)
                        self._plan(warehouse, day)
                        self._submit(warehouse, day)
                        self._collect(warehouse, day)

    def _given_up_and_listed(self, warehouse: Warehouse) -> list[str]:
        given_up = warehouse.column("SELECT batch_id FROM openai_batch WHERE state = 'abandoned'")
        return sorted(set(given_up) - self._stuck().keys())

    def _send_another_request(self, warehouse: Warehouse, key: str) -> None:
        """Before it creates a batch, the run reads the list, and finds the batches that ended since."""
        self.key = key
        warehouse.articles[0]["body"] += " edited"
        self._ingest(warehouse)
        self._plan(warehouse, DAYS[0])
        self._submit(warehouse, DAYS[0])
        self._collect(warehouse, DAYS[0])

    def _give_up_stuck_batches(self, warehouse: Warehouse) -> None:
        for batch_id in warehouse.column("SELECT batch_id FROM openai_batch WHERE state IN ('submitted', 'missing')"):
            if batch_id in self._stuck():
                self._give_up(warehouse, batch_id)
