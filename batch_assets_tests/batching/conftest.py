"""Shared by the tests of the protocol: a real database, the steps of a day, and a proxy that simulates faults."""

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
from batch_assets.batching.ledger.instances import ATTACHED, attached
from batch_assets.batching.ledger.requests import BudgetRefusal
from batch_assets.batching.ledger.schema import create_warehouse_id
from batch_assets.batching.planning.plan import Plan, plan_day
from batch_assets.batching.planning.plan_options import PlanOptions
from batch_assets.batching.planning.shards import FileLimits
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.identity import REPORTED_API
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.submission.submit import Submitted, submit_day
from batch_assets.batching.submission.submitter import Submitter, make_submitter
from batch_assets.batching.timing import Timing
from batch_assets.task_set import result_table
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

DAY = "2026-11-20"
NEXT_DAY = "2026-11-21"
TASK = Task(model="gpt-4.1-nano", max_output_tokens=100)
API = "local+instant"  # the name that the shared server reports: an engine that counts as a model
ELSEWHERE = "https://api.elsewhere.example/v1"  # another API
PRICES = (ModelPrice("gpt-4.1-nano", 0.05, 0.2),)  # as at OpenAI: at other APIs, the prices are not known


SHORT_TIMING = Timing(
    find_batch_pauses_seconds=(0.0, 0.01, 0.01),
    upload_retry_seconds=0.01,
    file_not_found_pauses_seconds=(0.01, 0.01, 0.01),
    lost_after=timedelta(0),
    download_pauses_seconds=(0.01, 0.01),
)


def with_key(client: openai.OpenAI, key: str) -> openai.OpenAI:
    """The same client with another key, which counts as another account."""
    return client.with_options(api_key=key)


def no_run_is_alive(run_id: str) -> bool:
    return False


@dataclass(frozen=True)
class OpenDatabase(Database):
    """A database file, with its tables, that stays open: opening it takes 3 ms, a hundred times in a test.

    Everything else is as in use, including the lock. Other processes cannot open the file meanwhile.
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
            connection.execute(f"USE {ATTACHED}; SET TimeZone = 'UTC'")
            yield connection


def database_in(folder: Path) -> Database:
    return Database(str(folder / "test.duckdb"), lock_timeout_seconds=20)


@contextmanager
def open_workspace(folder: Path) -> Iterator[Workspace]:
    """The workspace in a folder that has a database."""
    path = database_in(folder).path
    with attached(path, read_only=False) as connection:
        connection.execute("SET threads = 1")  # threads make small statements slower
        yield Workspace(folder, OpenDatabase(path, lock_timeout_seconds=20, connection=connection))


@dataclass(frozen=True)
class Workspace:
    """A data folder with its database, and the steps of a day with defaults for all that a test does not set."""

    folder: Path
    database: Database
    timing: Timing = SHORT_TIMING
    file_limits: FileLimits = FileLimits()  # noqa: RUF009 (frozen)

    def with_timing(self, **changes: Any) -> Workspace:
        """The same workspace, whose runs have other pauses and timeouts."""
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

    def texts(self, names: str = "ab") -> dict[str, str]:
        """{name: body} for each of these letters. No other test has these bodies, so none shares the requests."""
        return {name: f"{name} of {self.folder.name}" for name in names}

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
        return submit_day(self.submitter(client, run_id=run_id, limits=limits), of(day), is_run_alive=is_run_alive)

    def submitter(self, client: openai.OpenAI, *, run_id: str = "run", limits: Limits | None = None) -> Submitter:
        return make_submitter(self.database, client, self.folder, run_id, limits=limits, timing=self.timing)

    def collect(
        self,
        client: openai.OpenAI,
        *,
        day: str = DAY,
        max_rounds: int = 3,
        task: Task = TASK,
        prices: tuple[ModelPrice, ...] = PRICES,
        refusal: BudgetRefusal | None = None,
        bytes_at_once: int = BYTES_AT_ONCE,
    ) -> Collected:
        return collect_day(
            self.database,
            client,
            day=day,
            results=result_table(task),
            data_folder=self.folder,
            max_rounds=max_rounds,
            max_output_tokens=task.max_output_tokens,
            own_prices=prices,
            refusal=lambda api: refusal,
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
        """Submit what is planned, wait at the API behind the client, and collect."""
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
        """End the pauses of all deferred submissions."""
        self.execute("UPDATE openai_batch SET not_before = NULL")

    def back_up(self, name: str = "backup") -> Path:
        """A copy of the database file as it is now, without the files beside it."""
        self.execute("CHECKPOINT")
        return Path(shutil.copy(self.database.path, self.folder.with_name(f"{self.folder.name} {name}")))

    @contextmanager
    def restore(self, backup: Path) -> Iterator[Workspace]:
        """A copy of this data folder with the database of the backup."""
        folder = self.folder.with_name(f"{backup.name} restored")
        shutil.copytree(self.folder, folder)
        for path in folder.glob("test.duckdb*"):
            path.unlink()
        shutil.copy(backup, database_in(folder).path)
        with open_workspace(folder) as workspace:
            yield replace(workspace, timing=self.timing, file_limits=self.file_limits)

    @contextmanager
    def copy(self, folder: Path) -> Iterator[Workspace]:
        """The same state in another folder and warehouse; the database of this one must not be open."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        with open_workspace(folder) as workspace:
            workspace.renew_warehouse_id()
            yield replace(workspace, timing=self.timing, file_limits=self.file_limits)

    def renew_warehouse_id(self) -> None:
        """Give the copied database an id of its own, since the copies of all tests share a server."""
        with self.database.writing() as connection:
            create_warehouse_id(connection)

    def request_files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "requests").rglob("*") if path.is_file())

    def requests(self) -> list[dict[str, Any]]:
        """The lines of all request files, by the standard parser."""
        return [json.loads(line) for path in self.request_files() for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the tables: a copy of it is ten times faster than a new one."""
    path = tmp_path_factory.mktemp("new") / "test.duckdb"
    with Database(str(path)).writing():
        return path


@pytest.fixture
def workspace(tmp_path: Path, new_database: Path) -> Iterator[Workspace]:
    shutil.copy(new_database, tmp_path)
    with open_workspace(tmp_path) as workspace:
        workspace.renew_warehouse_id()
        yield workspace


@pytest.fixture
def second(tmp_path: Path, new_database: Path) -> Iterator[Workspace]:
    """Another data folder with another database."""
    folder = tmp_path / "second"
    folder.mkdir()
    shutil.copy(new_database, folder)
    with open_workspace(folder) as workspace:
        workspace.renew_warehouse_id()
        yield workspace


@dataclass(frozen=True)
class SharedApi(LocalApi):
    """A local Batch API that other tests use, too. Its counts do not include what earlier tests did."""

    before: dict[str, int]

    def stats(self) -> dict[str, int]:
        return {name: count - self.before.get(name, 0) for name, count in super().stats().items()}


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    with serving(tmp_path_factory.mktemp("shared") / "local_api", engine="instant") as running:
        yield running


@pytest.fixture
def api(shared_server: LocalApi) -> LocalApi:
    """A local Batch API that answers at once. Each test needs texts of its own, so that no two share a custom_id."""
    return SharedApi(shared_server.url, shared_server.client, shared_server.directory, shared_server.stats())


def make_batches(api: LocalApi, count: int) -> list[str]:
    """Completed batches of one request each; returns their ids, the oldest first."""
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": '
    line += b'{"model": "gpt-4.1-nano", "messages": [{"role": "user", "content": "Text."}]}}\n'
    file_id = api.client.files.create(file=("a.jsonl", line), purpose="batch").id
    made = [
        api.client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h").id
        for _ in range(count)
    ]
    for batch_id in made:
        api.wait(batch_id)
    return made


@dataclass(frozen=True)
class Reply:
    status: int
    content: bytes
    content_type: str = "application/json"
    sent_bytes: int | None = None  # of the content, before the connection is cut; None: all
    api: str | None = API  # the name that the API reports in a header
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
        """Send the call, or one with another body, to the API behind the proxy."""
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


CUT = None  # instead of a reply: the proxy closes the connection


class FailsFirst:
    """An API whose first `times` batches fail just after their creation, before any request ran, with this error."""

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
    """An API whose result lines `change` changes in place. It leaves out the lines for which `change` returns False."""

    def answer(call: Call) -> Reply:
        if call.method == "GET" and call.path.startswith("/v1/files/") and not call.downloads:
            return Reply.of({"error": {"message": "no size, since the changed file has another one"}}, 404)
        reply = call.forward()
        if not call.downloads or reply.status != 200:
            return reply
        lines = [json.loads(line) for line in reply.content.splitlines()]
        kept = [line for line in lines if change(line) is not False]
        return replace(reply, content=b"".join(json.dumps(line).encode() + b"\n" for line in kept))

    return answer


def hiding_batches(*batch_ids: str) -> Callable[[Call], Reply]:
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


def with_batches(**fields: Any) -> Callable[[Call], Reply]:
    """An API whose batches have no result files, and these fields."""

    def answer(call: Call) -> Reply:
        reply = call.forward()
        if call.creates_batch or "/batches" not in call.path or reply.status != 200:
            return reply
        shown = reply.json
        for batch in shown.get("data", [shown]):
            batch.update({"completed_at": None, "output_file_id": None, **fields})
        return Reply.of(shown, reply.status)

    return answer


def refusing_to_cancel(**fields: Any) -> Callable[[Call], Reply]:
    """The same, and the API refuses to cancel them."""

    def answer(call: Call) -> Reply:
        if call.path.endswith("/cancel"):
            return Reply.of({"error": {"message": "Cannot cancel a batch with this status."}}, 409)
        return with_batches(**fields)(call)

    return answer


still_running = with_batches(status="in_progress")  # an API whose batches do not end


def with_api_name(
    name: str | None, answer: Callable[[Call], Reply | None] = Call.forward
) -> Callable[[Call], Reply | None]:
    """The same at an API that reports this name; None: it reports none, so its address identifies it."""

    def rename(call: Call) -> Reply | None:
        reply = answer(call)
        return None if reply is None else replace(reply, api=name)

    return rename


@contextmanager
def proxy(url: str, answer: Callable[[Call], Reply | None], *, page_size: int | None = None) -> Iterator[openai.OpenAI]:
    """A client of a real HTTP server in front of the API at `url`; `answer` returns the reply.

    `page_size`: the maximum of a page of a list, even if the client asks for more.
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
