"""What the tests of the protocol share: a real database, a day's work in a few words, and a faulty network."""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import openai
import pytest

from batch_assets.batching.collection.collect import Collected, collect_day
from batch_assets.batching.collection.ended_batches import BYTES_AT_ONCE
from batch_assets.batching.ingest.articles import Ingested, ingest_day
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.schema import create_warehouse_id
from batch_assets.batching.planning.plan import Plan, plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.shards import FileLimits
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import REPORTED_API
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.submission.submit import Submitted, submit_day
from batch_assets.batching.submission.submitter import Submitter, identify_api
from batch_assets.batching.timing import Timing
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi

DAY = "2026-11-20"
NEXT_DAY = "2026-11-21"
TASK = Task(model="gpt-4.1-nano", max_output_tokens=100)
API = "local+instant"  # what the shared server says of itself: an engine that counts as a model
PRICES = (ModelPrice("gpt-4.1-nano", 0.05, 0.2),)  # as OpenAI's, which are not known of other APIs


SHORT = Timing(
    find_batch_pauses_seconds=(0.0, 0.01, 0.01),
    upload_retry_seconds=0.01,
    file_not_found_pauses_seconds=(0.01, 0.01, 0.01),
    lost_after=timedelta(0),
    download_pauses_seconds=(0.01, 0.01),
)


def no_run_is_alive(run_id: str) -> bool:
    return False


@dataclass(frozen=True)
class KeptOpen(Database):
    """A database file, with its tables, that stays open: opening it costs 15 ms, a dozen times in a test.

    Everything else, the waiting for one's turn too, is as in use. Other processes can't have the file meanwhile.
    """

    connection: duckdb.DuckDBPyConnection | None = None

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._process_lock(), self._opened(read_only=False) as connection:
            yield connection

    @contextmanager
    def _opened(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        assert self.connection is not None
        with self.connection.cursor() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection


def database_in(folder: Path) -> Database:
    return Database(str(folder / "test.duckdb"), lock_timeout_seconds=20)


@contextmanager
def kept_open(folder: Path) -> Iterator[Workspace]:
    """The workspace in a folder that has a database."""
    path = database_in(folder).path
    with duckdb.connect(path) as connection:
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")  # 10 ms, for a file that nobody opens again
        yield Workspace(folder, KeptOpen(path, lock_timeout_seconds=20, connection=connection))


@dataclass(frozen=True)
class Workspace:
    """A data folder with its database, and the steps of a day with everything but the interesting preset."""

    folder: Path
    database: Database
    timing: Timing = SHORT
    file_limits: FileLimits = FileLimits()  # noqa: RUF009 (frozen)

    def with_timing(self, **changes: Any) -> Workspace:
        """The same workspace, whose runs wait for other times."""
        return replace(self, timing=replace(self.timing, **changes))

    def with_file_limits(self, **limits: Any) -> Workspace:
        """The same workspace, whose plans write smaller request files."""
        return replace(self, file_limits=FileLimits(**limits))

    def source(self, name: str, rows: Iterable[dict[str, Any]]) -> Path:
        """A JSONL file with these rows."""
        path = self.folder / "sources" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def ingest(self, bodies: dict[str, str] | Iterable[dict[str, Any]], *, day: str = DAY) -> Ingested:
        """Make these the day's articles: {id: body}, or whole rows."""
        rows = [{"id": name, "body": body} for name, body in bodies.items()] if isinstance(bodies, dict) else bodies
        path = self.source(f"{day}.jsonl", rows)
        return ingest_day(self.database, source=str(path.with_name("{partition}.jsonl")), day=day)

    def plan(self, *, day: str = DAY, task: Task = TASK, max_rounds: int = 3, **options: Any) -> Plan:
        chosen = PlanOptions(max_rounds=max_rounds, **{"api": API, "file_limits": self.file_limits, **options})
        return plan_day(self.database, day=day, task=task, data_folder=self.folder, options=chosen)

    def submit(
        self,
        client: openai.OpenAI,
        *,
        day: str = DAY,
        run_id: str = "run",
        is_run_alive: Callable[[str], bool] = no_run_is_alive,
        limits: Limits | None = None,
    ) -> Submitted:
        return submit_day(self.submitter(client, run_id=run_id, limits=limits), day, is_run_alive=is_run_alive)

    def submitter(self, client: openai.OpenAI, *, run_id: str = "run", limits: Limits | None = None) -> Submitter:
        api, warehouse_id = identify_api(self.database, client), self.database.warehouse_id()
        return Submitter(self.database, client, self.folder, run_id, warehouse_id, api, limits or Limits(), self.timing)

    def collect(
        self,
        client: openai.OpenAI,
        *,
        day: str = DAY,
        max_rounds: int = 3,
        task: Task = TASK,
        prices: tuple[ModelPrice, ...] = PRICES,
        bytes_at_once: int = BYTES_AT_ONCE,
    ) -> Collected:
        return collect_day(
            self.database,
            client,
            day=day,
            data_folder=self.folder,
            max_rounds=max_rounds,
            max_output_tokens=task.max_output_tokens,
            own_prices=prices,
            bytes_at_once=bytes_at_once,
            timing=self.timing,
        )

    def whole_day(self, api: LocalApi, *, day: str = DAY, task: Task = TASK) -> Collected:
        """Plan, submit, wait, collect."""
        self.plan(day=day, task=task)
        for batch_id in self.submit(api.client, day=day).batch_ids:
            api.wait(batch_id)
        return self.collect(api.client, day=day, task=task)

    def send(
        self, client: openai.OpenAI, api: LocalApi, *, day: str = DAY, task: Task = TASK, **options: Any
    ) -> Collected:
        """Submit, wait at the API behind, collect: what is planned already."""
        for batch_id in self.submit(client, day=day, **options).batch_ids:
            api.wait(batch_id)
        return self.collect(client, day=day, task=task)

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self.database.reading() as connection:
            return connection.execute(statement, list(parameters)).fetchall()

    def column(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        return [row[0] for row in self.rows(statement, parameters)]

    def execute(self, statement: str, parameters: object = ()) -> None:
        with self.database.writing() as connection:
            connection.execute(statement, parameters)

    def statuses(self, day: str = DAY) -> dict[str, int]:
        """How many of the day's `summaries` have which status."""
        statement = "SELECT status, count(*) FROM summaries WHERE partition_date = ? GROUP BY status ORDER BY status"
        return dict(self.rows(statement, [day]))

    def end_pauses(self) -> None:
        """As if the pauses of all deferred submissions were over."""
        self.execute("UPDATE openai_batch SET not_before = NULL")

    def back_up(self, name: str = "backup") -> Path:
        """A copy of the database file as it is now, with nothing beside it."""
        self.execute("CHECKPOINT")
        return Path(shutil.copy(self.database.path, self.folder.with_name(f"{self.folder.name} {name}")))

    @contextmanager
    def restore(self, backup: Path) -> Iterator[Workspace]:
        """This data folder, in another place, with this copy of the database."""
        folder = self.folder.with_name(f"{backup.name} restored")
        shutil.copytree(self.folder, folder)
        for path in folder.glob("test.duckdb*"):
            path.unlink()
        shutil.copy(backup, database_in(folder).path)
        with kept_open(folder) as workspace:
            yield replace(workspace, timing=self.timing, file_limits=self.file_limits)

    @contextmanager
    def copy(self, folder: Path) -> Iterator[Workspace]:
        """The same state in another folder and warehouse; this one's database must not be open."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        with kept_open(folder) as workspace:
            workspace.be_another_warehouse()
            yield replace(workspace, timing=self.timing, file_limits=self.file_limits)

    def be_another_warehouse(self) -> None:
        """Another database than the one that this is a copy of: it shares a server with others."""
        with self.database.writing() as connection:
            create_warehouse_id(connection)

    def request_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "requests").rglob("*") if path.is_file())

    def requests(self) -> list[dict[str, Any]]:
        """What all request files hold, by the standard parser."""
        return [json.loads(line) for path in self.request_files() for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with our tables, empty: copying it is ten times faster than making one."""
    path = tmp_path_factory.mktemp("new") / "test.duckdb"
    with Database(str(path)).writing():
        return path


@pytest.fixture
def workspace(tmp_path: Path, new_database: Path) -> Iterator[Workspace]:
    shutil.copy(new_database, tmp_path)
    with kept_open(tmp_path) as workspace:
        workspace.be_another_warehouse()
        yield workspace


@pytest.fixture
def second(tmp_path: Path, new_database: Path) -> Iterator[Workspace]:
    """Another data folder with another database."""
    folder = tmp_path / "second"
    folder.mkdir()
    shutil.copy(new_database, folder)
    with kept_open(folder) as workspace:
        workspace.be_another_warehouse()
        yield workspace


@dataclass(frozen=True)
class SharedApi(LocalApi):
    """A local Batch API that other tests use too; what they did before is not counted."""

    before: dict[str, int]

    def stats(self) -> dict[str, int]:
        return {name: count - self.before.get(name, 0) for name, count in super().stats().items()}


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serving(tmp_path_factory.mktemp("shared") / "local_api", engine="instant") as running:
        yield running


@pytest.fixture
def api(shared_server: LocalApi) -> LocalApi:
    """A local Batch API that answers at once. Use texts of the test's own, so that no two tests share a key."""
    return SharedApi(shared_server.url, shared_server.client, shared_server.directory, shared_server.stats())


@dataclass(frozen=True)
class Reply:
    status: int
    content: bytes
    content_type: str = "application/json"
    sent_bytes: int | None = None  # of the content, before the connection is cut; None: all
    api: str | None = API  # what the API says of itself, in a header
    date: str | None = "now"  # the header of the same name

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @staticmethod
    def of(value: Any, status: int = 200) -> Reply:
        return Reply(status, json.dumps(value).encode())


@dataclass(frozen=True)
class Call:
    """A request at the proxy."""

    method: str
    path: str  # from /v1 on, with the query
    body: bytes
    send: Callable[[bytes], Reply]

    def forward(self, body: bytes | None = None) -> Reply:
        """Send it on to the API behind, or another body in its place."""
        return self.send(self.body if body is None else body)

    @property
    def creates_batch(self) -> bool:
        return self.method == "POST" and self.path == "/v1/batches"

    @property
    def lists_batches(self) -> bool:
        return self.method == "GET" and self.path.partition("?")[0] == "/v1/batches"

    @property
    def uploads(self) -> bool:
        return self.method == "POST" and self.path == "/v1/files"

    @property
    def downloads(self) -> bool:
        return self.path.endswith("/content")


CUT = None  # instead of a reply: the connection is cut without one


class FailsFirst:
    """An API whose first `times` batches are made, and fail a moment later, before anything ran, with these words."""

    def __init__(self, code: str, message: str, *, times: int = 1) -> None:
        self.error = {"code": code, "message": message, "param": None, "line": None}
        self.times = times
        self.file_id = ""
        self.no_file_id = f"file-{uuid.uuid4().hex}"

    def __call__(self, call: Call) -> Reply:
        body = call.body
        if call.creates_batch and self.times > 0:
            self.times -= 1
            self.file_id = json.loads(body)["input_file_id"]
            body = body.replace(self.file_id.encode(), self.no_file_id.encode())
        reply = call.forward(body)
        if "/v1/batches" not in call.path or reply.status != 200:
            return reply
        shown = reply.json
        for batch in shown.get("data", [shown]):
            if batch["input_file_id"] == self.no_file_id:
                batch["input_file_id"] = self.file_id
                batch["errors"] = batch["errors"] and {"object": "list", "data": [self.error]}
        return Reply.of(shown)


def changed_lines(change: Callable[[dict[str, Any]], object]) -> Callable[[Call], Reply]:
    """An API whose result lines are changed in place; one for which `change` returns False is left out."""

    def answer(call: Call) -> Reply:
        if call.method == "GET" and call.path.startswith("/v1/files/") and not call.downloads:
            return Reply.of({"error": {"message": "not told, since it would be another size"}}, 404)
        reply = call.forward()
        if not call.downloads or reply.status != 200:
            return reply
        lines = [json.loads(line) for line in reply.content.splitlines()]
        kept = [line for line in lines if change(line) is not False]
        return replace(reply, content=b"".join(json.dumps(line).encode() + b"\n" for line in kept))

    return answer


def without(*batch_ids: str) -> Callable[[Call], Reply]:
    """The API as another account sees it, or after it has lost these batches."""

    def answer(call: Call) -> Reply:
        if any(batch_id in call.path for batch_id in batch_ids):
            return Reply.of({"error": {"message": "No batch found"}}, 404)
        reply = call.forward()
        if not call.lists_batches:
            return reply
        page = reply.json
        return Reply.of({**page, "data": [batch for batch in page["data"] if batch["id"] not in batch_ids]})

    return answer


def still_running(call: Call) -> Reply:
    """An API whose batches do not end."""
    reply = call.forward()
    if call.creates_batch or "/batches" not in call.path:
        return reply
    shown = reply.json
    for batch in shown.get("data", [shown]):
        batch.update(status="in_progress", completed_at=None, output_file_id=None)
    return Reply.of(shown, reply.status)


def called(name: str | None, answer: Callable[[Call], Reply | None] = Call.forward) -> Callable[[Call], Reply | None]:
    """The same at an API that says this name; None: it says nothing, and is known by its address."""

    def rename(call: Call) -> Reply | None:
        reply = answer(call)
        return None if reply is None else replace(reply, api=name)

    return rename


@contextmanager
def proxy(url: str, answer: Callable[[Call], Reply | None], *, page_size: int | None = None) -> Iterator[openai.OpenAI]:
    """A client of a real HTTP server in front of the API at `url`; `answer` decides what comes back.

    `page_size`: the most that a page of a list holds, whatever the client asks for.
    """

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            reply = answer(Call(self.command, self.path, body, self.forward))
            self.close_connection = True
            if reply is CUT:
                return
            self.send_response_only(reply.status)
            if reply.date is not None:
                self.send_header("date", self.date_time_string() if reply.date == "now" else reply.date)
            self.send_header("content-type", reply.content_type)
            self.send_header("content-length", str(len(reply.content)))
            if reply.api is not None:
                self.send_header(REPORTED_API, reply.api)
            self.end_headers()
            self.wfile.write(reply.content[: reply.sent_bytes])

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - the standard library's names

        def forward(self, body: bytes) -> Reply:
            kept = {name: self.headers[name] for name in ("content-type", "authorization") if name in self.headers}
            path = self.path if page_size is None else re.sub(r"\blimit=\d+", f"limit={page_size}", self.path)
            request = urllib.request.Request(
                url.removesuffix("/v1") + path, data=body or None, headers=kept, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as response:
                    return Reply(response.status, response.read(), response.headers["content-type"])
            except urllib.error.HTTPError as error:
                return Reply(error.code, error.read(), error.headers["content-type"])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        plain = openai.DefaultHttpxClient(verify=False)  # reading certificates takes 35 ms
        with openai.OpenAI(base_url=address, api_key="unused", max_retries=0, http_client=plain) as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
