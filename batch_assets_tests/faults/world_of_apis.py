"""Three accounts for histories: two of a model's API, and the built-in engine; behind a proxy that injects faults.

Each account is a real local Batch API. The proxy changes the times in its answers, hides new batches from the list,
loses answers to creations, refuses creations, fails batches as a whole, and makes some answers refusals or empty. A
limit cuts answers. `batch_faults` has the faults of single batches: account errors on lines, late files, no end.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from batch_assets_tests.conftest import serving
from batch_assets_tests.faults.accounts import Account
from batch_assets_tests.faults.batch_faults import (
    BILLING,
    WRONG_KEY,
    AccountError,
    BatchFaults,
    as_lines,
    errors_file_id,
    late_content,
)
from batch_assets_tests.faults.scenarios import NO_CAPACITY


@dataclass
class PlannedFaults:
    """The next faults of the proxy. Each fault that happens reduces its counter by one."""

    clock_offset_seconds: int = 0
    lose_creations: int = 0
    lose_uploads: int = 0
    refuse_capacity: int = 0
    hide_for_listings: int = 0  # how often a batch that is made from now on is missing from the list
    refuse_for_account: list[AccountError] = field(default_factory=list)  # the next creations
    fail_for_account: int = 0  # batches that fail as a whole
    next_batches: list[BatchFaults] = field(default_factory=list)  # of the batches that are made next
    batch_seconds: float = 0.0  # how long a batch runs that is made from now on
    is_down: bool = False  # no call has an answer


@dataclass
class Apis:
    """The accounts by their keys, and the address of the proxy."""

    accounts: dict[str, Account]
    url: str
    faults: PlannedFaults = field(default_factory=PlannedFaults)
    happened: list[tuple[str, str]] = field(default_factory=list)  # what happened to the creation of a batch, its day

    def wait(self) -> None:
        """Wait until every batch has ended."""
        for account in self.accounts.values():
            account.batches()

    def forget_batches(self) -> None:
        """Forget the batches of an earlier history: they do not belong to the next one."""
        self.faults.__dict__.update(PlannedFaults().__dict__)
        for account in self.accounts.values():
            account.forget_batches()


ACCOUNTS = (  # key, API, organization
    ("key-one", "https://model.example/v1", "org-one"),
    ("key-two", "https://model.example/v1", "org-two"),
    ("key-local", "local", ""),
)


@contextmanager
def running_apis(folder: Path, accounts_to_run: Iterable[tuple[str, str, str]] = ACCOUNTS) -> Iterator[Apis]:
    with ExitStack() as stack:
        accounts = {
            key: Account(key, api, organization, stack.enter_context(serving(folder / key, engine="instant")))
            for key, api, organization in accounts_to_run
        }
        apis = Apis(accounts, "")
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(apis))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        apis.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield apis
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(apis: Apis) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            account = apis.accounts.get(self.headers["authorization"].removeprefix("Bearer "))
            self.close_connection = True
            if apis.faults.is_down:
                return
            if account is None:
                api = next(iter(apis.accounts.values())).api
                self.send(401, "application/json", json.dumps(WRONG_KEY.body).encode(), {"x-batch-assets-api": api})
                return
            status, content_type, content = _answer(apis, account, self.command, self.path, body, dict(self.headers))
            if status != 0:
                identity = {"x-batch-assets-api": account.api, "openai-organization": account.organization}
                self.send(status, content_type, content, identity)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - the standard library's names

        def send(self, status: int, content_type: str, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response_only(status)
            date = formatdate(usegmt=True) if not apis.faults.clock_offset_seconds else _date(apis.faults)
            of_content = {"content-type": content_type, "content-length": str(len(content))}
            for name, value in {"date": date, **of_content, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _date(faults: PlannedFaults) -> str:
    return formatdate(time.time() + faults.clock_offset_seconds, usegmt=True)


def _answer(
    apis: Apis, account: Account, method: str, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, str, bytes]:
    """(status, content type, content); status 0: the answer is lost."""
    where = path.split("?")[0].removeprefix("/v1")
    name = where.removeprefix("/batches/")
    if name in account.failed:
        return 200, "application/json", _shifted(account.failed[name], apis)
    makes_batch, uploads = (method, where) == ("POST", "/batches"), (method, where) == ("POST", "/files")
    if makes_batch and (refusal := _refusal(apis, account, body)) is not None:
        return refusal
    if where.endswith("/cancel") and account.faults_of(name.removesuffix("/cancel")).is_stuck:
        return 409, "application/json", b'{"error": {"message": "Cannot cancel a batch with status finalizing."}}'
    if where.startswith("/files/") and (batch := account.batch_of_file(where.split("/")[2])) is not None:
        return _result_file(account, batch, where)
    status, content_type, content = _forward(account.server.url, method, path, body, headers)
    if makes_batch and status == 200:
        _made(apis, account, json.loads(content))
        if apis.faults.lose_creations:
            apis.faults.lose_creations -= 1
            return 0, "", b""
    if uploads and apis.faults.lose_uploads:
        apis.faults.lose_uploads -= 1
        return 0, "", b""
    if status != 200 or "json" not in content_type:
        return status, content_type, content
    answer = json.loads(content)
    if where == "/batches" and method == "GET":
        answer["data"] = _listed(account, answer["data"], is_first="after=" not in path)
    elif answer.get("object") == "batch":
        answer = account.shown(answer)
    return status, content_type, _shifted(answer, apis)


def _refusal(apis: Apis, account: Account, body: bytes) -> tuple[int, str, bytes] | None:
    """The answer to a creation that the API refuses, or to one whose batch fails at once; None: it makes the batch."""
    faults = apis.faults
    day = json.loads(body)["metadata"].get("partition", "")
    if faults.refuse_for_account:
        apis.happened.append(("refused for the account", day))
        error = faults.refuse_for_account.pop()
        return error.status, "application/json", json.dumps(error.body).encode()
    if faults.refuse_capacity:
        faults.refuse_capacity -= 1
        return 200, "application/json", _shifted(_fail(account, body, NO_CAPACITY), apis)
    if faults.fail_for_account:
        faults.fail_for_account -= 1
        apis.happened.append(("failed for the account", day))
        return 200, "application/json", _shifted(_fail(account, body, BILLING.of_batch), apis)
    return None


def _made(apis: Apis, account: Account, batch: dict[str, Any]) -> None:
    account.made.append(batch["id"])
    account.hidden[batch["id"]] = apis.faults.hide_for_listings
    faults = apis.faults.next_batches.pop() if apis.faults.next_batches else BatchFaults()
    if runs_for_seconds := faults.runs_for_seconds or apis.faults.batch_seconds:
        faults.runs_until = time.time() + runs_for_seconds
    account.batch_faults[batch["id"]] = faults
    if faults.name:
        apis.happened.append((faults.name, batch["metadata"]["partition"]))


def _result_file(account: Account, batch: dict[str, Any], where: str) -> tuple[int, str, bytes]:
    """A result file, or what the API says about it."""
    file_id = where.split("/")[2]
    if not where.endswith("/content"):  # without a size, since the content of some is changed
        return 200, "application/json", json.dumps({"id": file_id, "object": "file", "bytes": None}).encode()
    results, faults = account.results_of(batch), account.faults_of(batch["id"])
    if file_id == errors_file_id(batch["output_file_id"]):
        return 200, "application/octet-stream", as_lines(results.errors)
    content = as_lines(with_refusal(line) for line in results.executed)
    if faults.late:
        return (200, *late_content(content, faults.late.pop(0)))
    return 200, "application/octet-stream", content


def _forward(url: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    kept = {name: value for name, value in headers.items() if name.lower() in ("content-type", "authorization")}
    try:
        connection.request(method, path, body or None, kept)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type") or "", answer.read()
    finally:
        connection.close()


def _listed(account: Account, batches: list[dict[str, Any]], *, is_first: bool) -> list[dict[str, Any]]:
    shown = []
    for batch in batches:
        if account.hidden.get(batch["id"], 0) > 0:
            account.hidden[batch["id"]] -= 1
        else:
            shown.append(account.shown(batch))
    return [*reversed(account.failed.values()), *shown] if is_first else shown


def _fail(account: Account, body: bytes, error: dict[str, Any]) -> dict[str, Any]:
    batch = {
        "id": f"batch_failed_{account.key}_{len(account.failed)}",
        "object": "batch",
        "status": "failed",
        "created_at": int(time.time()),
        "failed_at": int(time.time()),
        "errors": {"object": "list", "data": [error]},
        **json.loads(body),
    }
    account.failed[batch["id"]] = batch
    return batch


def _shifted(value: Any, apis: Apis) -> bytes:
    """The times in it, by the API's clock."""
    offset = apis.faults.clock_offset_seconds

    def shift(found: Any) -> Any:
        if isinstance(found, dict):
            return {
                name: inner + offset if name.endswith("_at") and isinstance(inner, int) and inner else shift(inner)
                for name, inner in found.items()
            }
        return [shift(inner) for inner in found] if isinstance(found, list) else found

    return json.dumps(shift(value)).encode()


def with_refusal(line: dict[str, Any]) -> dict[str, Any]:
    """Some answers of a model are refusals or empty, always the same ones; all are billed."""
    choice = line["response"]["body"]["choices"][0]
    match int(line["custom_id"][:2], 16) % 8:
        case 0:
            choice["message"] = {"role": "assistant", "content": None, "refusal": "No."}
        case 1:
            choice["message"]["content"] = ""
    return line


@contextmanager
def client_with(url: str, key: str) -> Iterator[openai.OpenAI]:
    plain = openai.DefaultHttpxClient(verify=False)  # reading certificates takes 35 ms
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, http_client=plain) as client:
        yield client
