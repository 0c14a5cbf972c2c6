"""Three accounts for histories: two of a model's API, and the built-in engine; behind a proxy that injects faults.

Each account is a real local Batch API. The proxy changes the times in its answers, hides new batches from the list,
loses answers to creations, fails batches as a whole, and makes some answers refusals or empty. A limit cuts answers.
What an API bills is computed from its own result files, independent of our tables.
"""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from batch_assets.batching.provider.prices import ModelPrice, batch_rates
from batch_assets.batching.provider.token_costs import cost_usd
from batch_assets_tests.conftest import serving
from batch_assets_tests.faults.scenarios import NO_CAPACITY
from batch_assets_tests.local_api_client import LocalApi

MODEL = "gpt-4.1-nano"
PRICES = (ModelPrice(MODEL, 0.05, 0.2),)


@dataclass
class PlannedFaults:
    """The next faults of the proxy. Each fault that happens reduces its counter by one."""

    clock_offset_seconds: int = 0
    lose_creations: int = 0
    lose_uploads: int = 0
    refuse_capacity: int = 0
    hide_for_listings: int = 0  # how often a batch that is made from now on is missing from the list


@dataclass
class Account:
    """An account with a server of its own behind the proxy. The proxy finds it by `key`."""

    key: str
    api: str
    organization: str
    server: LocalApi
    hidden: dict[str, int] = field(default_factory=dict)  # batch id → how many listings do not show it
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)  # batches that failed as a whole
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    bills: dict[str, float] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)  # batch ids

    def batches(self) -> list[dict[str, Any]]:
        """All batches that were made, as the server has them once they have ended."""
        for batch_id in self.made:
            if batch_id not in self.ended:
                self.ended[batch_id] = self.server.wait(batch_id).model_dump()
        return list(self.ended.values())

    def bill(self, batch: dict[str, Any]) -> float:
        """What it used, at the price of the model, by its own result files."""
        if batch["id"] not in self.bills:
            self.bills[batch["id"]] = self._bill(batch)
        return self.bills[batch["id"]]

    def _bill(self, batch: dict[str, Any]) -> float:
        usages = [line["response"]["body"]["usage"] for line in self.lines(batch) if line["response"]]
        rates = batch_rates(MODEL, own_prices=PRICES)
        costs = (
            cost_usd(rates, input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])
            for usage in usages
        )
        return sum(cost for cost in costs if cost is not None)

    def lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        if not batch["output_file_id"]:
            return []
        content = self.server.client.files.content(batch["output_file_id"]).content
        return [json.loads(line) for line in content.split(b"\n") if line]


@dataclass
class Apis:
    """The accounts by their keys, and the address of the proxy."""

    accounts: dict[str, Account]
    url: str
    faults: PlannedFaults = field(default_factory=PlannedFaults)

    def wait(self) -> None:
        """Wait until every batch has ended."""
        for account in self.accounts.values():
            account.batches()

    def forget_batches(self) -> None:
        """Forget the batches of an earlier history: they do not belong to the next one."""
        self.faults.__dict__.update(PlannedFaults().__dict__)
        for account in self.accounts.values():
            account.made.clear()
            account.ended.clear()
            account.failed.clear()


@contextmanager
def running_apis(folder: Path) -> Iterator[Apis]:
    with ExitStack() as stack:
        accounts = {
            key: Account(key, api, organization, stack.enter_context(serving(folder / key, engine="instant")))
            for key, api, organization in (
                ("key-one", "https://model.example/v1", "org-one"),
                ("key-two", "https://model.example/v1", "org-two"),
                ("key-local", "local", ""),
            )
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
            account = apis.accounts[self.headers["authorization"].removeprefix("Bearer ")]
            status, content_type, content = _answer(apis, account, self.command, self.path, body, dict(self.headers))
            self.close_connection = True
            if status == 0:
                return
            self.send_response_only(status)
            date = formatdate(usegmt=True) if not apis.faults.clock_offset_seconds else _date(apis.faults)
            for name, value in (
                ("date", date),
                ("content-type", content_type),
                ("content-length", str(len(content))),
                ("x-batch-assets-api", account.api),
                ("openai-organization", account.organization),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - the standard library's names

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
    if makes_batch and apis.faults.refuse_capacity:
        apis.faults.refuse_capacity -= 1
        return 200, "application/json", _shifted(_fail(account, body), apis)
    status, content_type, content = _forward(account.server.url, method, path, body, headers)
    if makes_batch and status == 200:
        batch_id = json.loads(content)["id"]
        account.made.append(batch_id)
        account.hidden[batch_id] = apis.faults.hide_for_listings
        if apis.faults.lose_creations:
            apis.faults.lose_creations -= 1
            return 0, "", b""
    if uploads and apis.faults.lose_uploads:
        apis.faults.lose_uploads -= 1
        return 0, "", b""
    if where.endswith("/content"):
        return status, content_type, _with_refusals(content)
    if status != 200 or "json" not in content_type:
        return status, content_type, content
    answer = json.loads(content)
    if where == "/batches" and method == "GET":
        answer["data"] = _listed(account, answer["data"], is_first="after=" not in path)
    if where.startswith("/files/"):
        answer["bytes"] = None  # the proxy changes the size of some
    return status, content_type, _shifted(answer, apis)


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
            shown.append(batch)
    return [*reversed(account.failed.values()), *shown] if is_first else shown


def _fail(account: Account, body: bytes) -> dict[str, Any]:
    batch = {
        "id": f"batch_failed_{account.key}_{len(account.failed)}",
        "object": "batch",
        "status": "failed",
        "created_at": int(time.time()),
        "failed_at": int(time.time()),
        "errors": {"object": "list", "data": [NO_CAPACITY]},
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


def _with_refusals(content: bytes) -> bytes:
    """Some answers of a model are refusals or empty, always the same ones; all are billed."""
    lines = []
    for line in content.split(b"\n"):
        if not line:
            continue
        result = json.loads(line)
        if "response" not in result or not result["response"]:  # a line of a request file
            lines.append(line)
            continue
        choice = result["response"]["body"]["choices"][0]
        match int(result["custom_id"][:2], 16) % 8:
            case 0:
                choice["message"] = {"role": "assistant", "content": None, "refusal": "No."}
            case 1:
                choice["message"]["content"] = ""
        lines.append(json.dumps(result).encode())
    return b"\n".join(lines) + b"\n"
