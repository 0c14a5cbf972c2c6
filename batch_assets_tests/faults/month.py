"""A month of one database, drawn from a seed: its user submits a day each night, and does nothing else.

Each night has a fault of the account or of its batch, or none; during the day the API may be down, the daemon may be
killed or restarted, and runs may be deleted. One day the key is revoked, hours before the new one is set. On one
weekend the environment has no key.
"""

import os
import random
import re
import traceback
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import httpcore2

from batch_assets.batching.ledger.database import Database
from batch_assets.cli.dagster_home.home import make_dagster_home
from batch_assets.settings import read_settings
from batch_assets_tests.conftest import serving
from batch_assets_tests.faults.accounts import MODEL, Account
from batch_assets_tests.faults.batch_faults import ACCOUNT_ERRORS, LATE_FILES, BatchFaults
from batch_assets_tests.faults.month_daemon import Daemon, Run, known_prices, open_tables
from batch_assets_tests.faults.simulated_clock import simulated_clock
from batch_assets_tests.faults.warehouses import Warehouse, assert_every_cent_is_recorded
from batch_assets_tests.faults.world_of_apis import Apis, running_apis
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.project import write_articles

FIRST_DAY, DAYS, MORE_DAYS = date(2026, 1, 5), 30, 6  # a Monday; more days until the last batches have ended
ARTICLES = 3
API, FIRST_KEY, SECOND_KEY = "https://api.openai.com/v1", "sk-first", "sk-second"
HOURS = (0, 2, 6, 10, 15, 20)  # when the sensor is evaluated
# One SQLite file for the events of all runs: a file for each run takes a second more of each.
ONE_FILE_FOR_EVENTS = """
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config: {base_dir: EVENTS}
"""
WORDS = "the harbour of a town reopened after a storm and all ships are waiting outside of it"
NIGHT_FAULTS = (
    "none", "creation lost", "upload lost", "no capacity", "refused for the account", "failed for the account",
    "lines for the account", "late file", "stuck", "stuck for ever", "slow",
)  # fmt: skip
DAY_FAULTS = ("none", "none", "API down", "killed", "cursor lost", "old cursor", "runs deleted")
# What the sensor says about a day with this fault, in at least one tick.
SENTENCES = {
    "refused for the account": r"{day}: 1 file deferred since [^(]*\(OpenAI would not create a batch",
    "failed for the account": r"{day}: 1 file deferred since [^(]*\(billing_hard_limit_reached: ",
    "lines for the account": r"{day}: requests are pending since [^(]* \(.*, next round at ",
    "stuck": r"of {day}, created [^.]* ago, is `finalizing`\. .*`batch-assets abandon batch_",
    "slow": r"of {day}, created [^.]* ago, is `in_progress`\. .*`batch-assets abandon batch_",
}
WITHOUT_KEY = f"There is no OPENAI_API_KEY, and this database has batches of {API}. Set the key."
WAITS_FOR_KEY = "1 file deferred since [^(]*\\(There is no OPENAI_API_KEY, and this database has batches of "
ELSEWHERE = f"waits for {API}, where its batches are; the API is local."


@dataclass(frozen=True)
class MonthToPlay:
    seed: int
    folder: Path
    days: int = DAYS


def play_month(month: MonthToPlay) -> None:
    """Play it in this process, whose clock it moves. An error is in the file `failure.txt`, too."""
    os.environ["BATCH_ASSETS_DATA_DIR"] = str(month.folder / "data")
    os.environ["BATCH_ASSETS_SOURCE"] = str(month.folder / "{partition}.jsonl")
    os.environ["BATCH_ASSETS_MODEL"] = MODEL
    os.environ["BATCH_ASSETS_START_DATE"] = FIRST_DAY.isoformat()
    try:
        with ExitStack() as stack:
            clock = stack.enter_context(simulated_clock(at(0, 0)))
            stack.enter_context(certificates_read_once())
            stack.enter_context(known_prices())
            # each day that waits is then in the text of the tick, and none is only counted
            stack.enter_context(mock.patch("batch_assets.batching.waiting.SUMMARY_CHARACTERS", 100_000))
            apis = stack.enter_context(running_apis(month.folder / "apis", [(FIRST_KEY, API, "org-one")]))
            stand_in = stack.enter_context(serving(month.folder / "data" / "local_api"))
            set_key(apis, FIRST_KEY)
            home = make_dagster_home(read_settings())
            tables = stack.enter_context(open_tables())
            (home / "dagster.yaml").write_text(ONE_FILE_FOR_EVENTS.replace("EVENTS", str(home / "events")))
            instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
            Month(month, apis, stand_in, Daemon(home, instance, clock, tables)).play()
    except BaseException:
        (month.folder / "failure.txt").write_text(f"seed {month.seed}\n{traceback.format_exc()}", encoding="utf-8")
        raise


def certificates_read_once() -> AbstractContextManager[object]:
    """Each client would read them again, in 35 ms."""
    return mock.patch("httpcore2.default_ssl_context", cache(httpcore2.default_ssl_context))


def at(night: int, hour: int) -> datetime:
    """The time of an hour after so many nights: the first night ends the first day."""
    return datetime.combine(FIRST_DAY + timedelta(days=night + 1), datetime.min.time(), UTC) + timedelta(hours=hour)


def set_key(apis: Apis, key: str | None) -> None:
    for name, value in (("OPENAI_API_KEY", key), ("OPENAI_BASE_URL", apis.url if key else None)):
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Month:
    """One month; the random generator `dice` decides."""

    def __init__(self, month: MonthToPlay, apis: Apis, stand_in: LocalApi, daemon: Daemon) -> None:
        self.days = month.days
        self.dice, self.folder, self.apis, self.stand_in = random.Random(month.seed), month.folder, apis, stand_in
        self.daemon, self.clock = daemon, daemon.clock
        self.account: Account = apis.accounts[FIRST_KEY]
        self.articles: list[dict[str, Any]] = []
        self.reasons: list[str] = []  # of each tick: why days wait
        self.rotation_at = at(self.dice.randint(7, 11), self.dice.randint(0, 23))
        weekend = 5 + 7 * self.dice.choice([2, 3])  # the first Saturday is day 5
        self.weekend = (at(weekend - 1, 0), at(weekend + 1, 0))
        self.stuck_until: dict[str, datetime] = {}  # batch id → when it ends

    def play(self) -> None:
        for night in range(self.days + MORE_DAYS):
            day_fault, day_fault_at = self.dice.choice(DAY_FAULTS), self.dice.choice(HOURS[2:-1])
            for hour in HOURS:
                self.clock.advance_to(at(night, hour))
                self._change_key()
                self._end_stuck_batches()
                self.apis.faults.batch_seconds = self.dice.uniform(600, 20 * 3600)
                if night < self.days:
                    if hour == 2:
                        self._submit(night)
                    if hour == day_fault_at:
                        self._begin(day_fault, night)
                if hour >= day_fault_at + 4:
                    self.apis.faults.is_down = False
                self._tick()
            if night >= self.days and self._waiting_days() <= self._days_stuck_for_ever():
                break
        self._check()

    def _submit(self, night: int) -> None:
        """What the schedule does each night: submit the day that has ended, with its fault."""
        day = (FIRST_DAY + timedelta(days=night)).isoformat()
        articles = [
            {"id": f"{day}-{number}", "body": f"{number} of {day}: {WORDS}", "published_at": f"{day}T12:00:00Z"}
            for number in range(ARTICLES)
        ]
        write_articles(self.folder / f"{day}.jsonl", articles)
        self.articles += articles
        self._plan_night_fault(self.dice.choice(NIGHT_FAULTS))
        self.daemon.start(Run(day))

    def _plan_night_fault(self, fault: str) -> None:
        faults = self.apis.faults
        match fault:
            case "creation lost":
                faults.lose_creations, faults.hide_for_listings = 1, self.dice.choice([0, 2])
            case "upload lost":
                faults.lose_uploads = 1
            case "no capacity":
                faults.refuse_capacity = self.dice.randint(1, 3)
            case "refused for the account":
                faults.refuse_for_account = self.dice.choices(ACCOUNT_ERRORS, k=self.dice.randint(1, 4))
            case "failed for the account":
                faults.fail_for_account = self.dice.randint(1, 4)
            case "lines for the account":
                error = self.dice.choice(ACCOUNT_ERRORS)
                faults.next_batches = [BatchFaults(fault, lines=error, fails_all_lines=True)]
            case "late file":
                faults.next_batches = [
                    BatchFaults(fault, late=self.dice.choices(LATE_FILES, k=self.dice.randint(2, 5)))
                ]
            case "stuck" | "stuck for ever":
                faults.next_batches = [BatchFaults(fault, is_stuck=True)]
            case "slow":
                faults.next_batches = [BatchFaults(fault, runs_for_seconds=3600 * self.dice.randint(36, 60))]

    def _begin(self, fault: str, night: int) -> None:
        """A fault during the day; most end within it."""
        match fault:
            case "API down":
                self.apis.faults.is_down = True
            case "killed":
                self.daemon.kill_next_run_at = self.dice.randint(0, 50)
            case "cursor lost":
                self.daemon.restart(forgotten_ticks=None)
            case "old cursor":
                self.daemon.restart(forgotten_ticks=self.dice.randint(1, 30))
            case "runs deleted" if night + 1 < self.days:  # the next run of any day finds the batches of these
                deleted = FIRST_DAY + timedelta(days=self.dice.randint(max(0, night - 2), night))
                self.daemon.delete_runs(deleted.isoformat())

    def _change_key(self) -> None:
        """The key is revoked; five hours later the user sets the new one. On the weekend there is none."""
        now = self.clock.now()
        is_rotated = now >= self.rotation_at
        self.apis.accounts = {SECOND_KEY if is_rotated else FIRST_KEY: self.account}
        key: str | None = SECOND_KEY if now >= self.rotation_at + timedelta(hours=5) else FIRST_KEY
        if self.weekend[0] <= now < self.weekend[1]:
            key = None
        if key != os.environ.get("OPENAI_API_KEY"):
            set_key(self.apis, key)
            self.daemon.load_code_location()

    def _end_stuck_batches(self) -> None:
        """A stuck batch ends after some days, unless it is stuck for ever."""
        for batch_id, faults in self.account.batch_faults.items():
            if faults.is_stuck and faults.name == "stuck":
                hours = self.dice.randint(30, 90)
                until = self.stuck_until.setdefault(batch_id, self.clock.now() + timedelta(hours=hours))
                if self.clock.now() >= until:
                    faults.is_stuck, faults.runs_until = False, self.clock.now().timestamp()

    def _tick(self) -> None:
        """The sensor, until it requests no run; at most four times in this hour."""
        for _ in range(4):
            reason, runs = self.daemon.tick()
            self.reasons.append(reason)
            if not runs:
                return
            self.clock.advance(minutes=5)

    @property
    def warehouse(self) -> Warehouse:
        database = Database(str(self.folder / "data" / "batch_assets.duckdb"))
        return Warehouse(self.folder / "data", self.articles, database)

    def _waiting_days(self) -> set[str]:
        """The days with an article that has neither an answer nor a final failure."""
        return set(
            self.warehouse.column(
                """
                SELECT DISTINCT raw_articles.partition_date::VARCHAR FROM raw_articles
                LEFT JOIN summaries USING (partition_date, article_id)
                WHERE coalesce(status NOT IN ('answered', 'failed') OR error_code IS NULL AND status = 'failed', true)
                """
            )
        )

    def _days_stuck_for_ever(self) -> set[str]:
        return {day for fault, day in self.apis.happened if fault == "stuck for ever"}

    def _check(self) -> None:
        days = {article["published_at"][:10] for article in self.articles}
        waiting = self._waiting_days() | days.difference(
            self.warehouse.column("SELECT DISTINCT partition_date::VARCHAR FROM summaries")
        )
        assert waiting == self._days_stuck_for_ever(), (sorted(waiting), self.reasons[-1], self.daemon.failures)
        for day in sorted(waiting):
            assert re.search(SENTENCES["stuck"].format(day=day), self.reasons[-1]), (day, self.reasons[-1])
        self._check_sentences()
        assert_every_cent_is_recorded(self.warehouse, [self.account])
        executed = Counter(
            line["custom_id"] for batch in self.account.batches() for line in self.account.results_of(batch).executed
        )
        answered = set(self.warehouse.column("SELECT custom_id FROM completion"))
        assert [custom_id for custom_id in answered if executed[custom_id] != 1] == [], "executed twice"
        failed = set(self.warehouse.column("SELECT custom_id FROM failed_request")) - answered
        assert max((executed[custom_id] for custom_id in failed), default=0) <= 3, "more rounds than the limit"
        stats = self.stand_in.stats()
        assert (stats["files_created"], stats["requests_executed"]) == (0, 0), "bought from the stand-in"

    def _check_sentences(self) -> None:
        """Each fault that made a day wait was named by the sensor, in a sentence about this day."""
        for fault, day in self.apis.happened:
            pattern = SENTENCES.get(fault)
            if pattern is not None:
                named = any(re.search(pattern.format(day=day), reason) for reason in self.reasons)
                about = [reason for reason in self.reasons if day in reason]
                assert named, (fault, day, sorted(set(about)))
        failures = [sentence for sentences in self.daemon.failures.values() for sentence in sentences]
        assert any(WITHOUT_KEY in sentence for sentence in failures), failures
        assert any(re.search(WAITS_FOR_KEY, reason) for reason in self.reasons)
        assert any(ELSEWHERE in reason for reason in self.reasons)
