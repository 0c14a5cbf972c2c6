"""A gateway repeats the key and the header of the request, at each step. Neither may be stored or printed.

The same for the secrets in the URLs of the source and of the database, which DuckDB repeats.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pytest

from batch_assets.resources import OPENAI, WAREHOUSE, Warehouse
from batch_assets_tests.batching.conftest import SHORT_TIMING, Call, Reply, proxy
from batch_assets_tests.first_task import openai_batch_sensor, raw_articles, summaries
from batch_assets_tests.leaks import kept_by_dagster, tables_of
from batch_assets_tests.project import UPSTREAM, Project, api_at

KEY = "sk-proj-a+secret/0123456789"
PASSWORD = "pass/w@rd-of-mine"
STEPS = {
    "upload": lambda call: call.method == "POST" and call.path.startswith("/v1/files"),
    "create": lambda call: call.creates_batch,
    "list": lambda call: call.method == "GET" and call.path.startswith("/v1/batches?"),
    "retrieve": lambda call: call.method == "GET" and call.path.startswith("/v1/batches/"),
    "content": lambda call: call.path.endswith("/content"),
}


@pytest.fixture(autouse=True)
def the_users_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def repeat_the_key(status: int) -> Reply:
    words = f"Incorrect API key provided: {KEY}\x1b[2J. Request headers: {{'Authorization': 'Bearer {KEY}'}}"
    error = {
        "message": words,
        "type": f"invalid {KEY}",
        "code": f"bad_{KEY}",
        "param": KEY,
        "headers": [f"Bearer {KEY}"],
    }
    return Reply.of({"error": error}, status)


def use(project: Project, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    openai = api_at(url, KEY, timing=SHORT_TIMING)
    resources = {**project.resources, OPENAI: openai}
    monkeypatch.setattr(Project, "resources", property(lambda self: resources))


def assert_nowhere(secret: str, project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    kept = kept_by_dagster(project.instance)
    assert len(kept) > 1000
    at = kept.find(secret)
    assert at < 0, kept[max(0, at - 300) : at + 100]
    for table, rows in tables_of(project.database):
        assert secret not in rows, table
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err


@pytest.mark.parametrize(
    "status", [401, *(pytest.param(status, marks=pytest.mark.end_to_end) for status in (400, 500))]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_gateway_that_repeats_the_key_is_not_repeated(
    project: Project, step: str, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    refused: list[Call] = []

    def answer(call: Call) -> Reply:
        if STEPS[step](call):
            refused.append(call)
            return repeat_the_key(status)
        # a list is asked for only where the answer to a creation is lost
        return repeat_the_key(500) if step == "list" and call.creates_batch else call.forward()

    with proxy(project.api.url, answer) as client:
        use(project, str(client.base_url), monkeypatch)
        submitted = project.materialize(UPSTREAM)
        if step in ("retrieve", "content"):
            assert submitted.success
            assert not project.finish().success
        else:
            assert not submitted.success
        resources = {OPENAI: api_at(str(client.base_url), KEY)}
        with dg.build_sensor_context(instance=project.instance, resources=resources) as context:
            tick = openai_batch_sensor._raw_fn(context)
    assert refused
    assert KEY not in repr(tick)
    assert_nowhere(KEY, project, capfd)
    assert "…" in kept_by_dagster(project.instance)
    assert "[2J" in kept_by_dagster(project.instance)
    assert "\\u001b" not in kept_by_dagster(project.instance)


def test_the_sensor_does_not_repeat_what_the_list_says(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.materialize(UPSTREAM)
    with proxy(project.api.url, lambda call: repeat_the_key(401)) as client:
        resources = {OPENAI: api_at(str(client.base_url), KEY)}
        with dg.build_sensor_context(instance=project.instance, resources=resources) as context:
            tick = openai_batch_sensor._raw_fn(context)
    assert isinstance(tick, dg.SensorResult)
    assert "Incorrect API key provided: …[2J" in str(tick.skip_reason)
    assert KEY not in repr(tick)
    assert_nowhere(KEY, project, capfd)


def test_the_sensors_own_error_has_no_secret_in_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"an event says {KEY}")

    monkeypatch.setattr("batch_assets.sensors.read_new_days", fail)
    with (
        dg.build_sensor_context(
            instance=project.instance, resources={OPENAI: api_at("http://127.0.0.1:9/v1", KEY)}
        ) as context,
        pytest.raises(ValueError, match="an event says …"),
    ):
        openai_batch_sensor._raw_fn(context)


def test_messages_about_requests_and_batches_have_no_secrets(
    project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lines of the result file repeat the key: as an error, as its code, and as a line that can't be read."""

    def answer(call: Call) -> Reply:
        reply = call.forward()
        if not call.path.endswith("/content"):
            if call.method == "GET" and "/v1/files" in call.path:
                return Reply.of({**reply.json, "bytes": None}) if "data" not in reply.json else reply
            return reply
        lines = reply.content.splitlines()
        results = [json.loads(line) for line in lines]
        for number, result in enumerate(results):
            body = {"error": {"code": f"bad_{KEY}", "message": f"No. {number}: {KEY}"}}
            result["response"] |= {"status_code": 400, "body": body}
        broken = f'{{"custom_id": "{KEY}", broken'.encode()
        return Reply(200, b"\n".join([*(json.dumps(result).encode() for result in results), broken]) + b"\n")

    with proxy(project.api.url, answer) as client:
        use(project, str(client.base_url), monkeypatch)
        assert project.materialize(UPSTREAM).success
        assert project.finish().success
    assert project.rows("SELECT count(*), any_value(error_code), min(error_message) FROM summaries") == [
        (20, "bad_…", "bad_…: No. 0: …")
    ]
    assert project.rows("SELECT count(*) FROM quarantined_line") == [(1,)]
    assert_nowhere(KEY, project, capfd)


@contextmanager
def feed(content: bytes, status: int = 200) -> Iterator[str]:
    """A server that sends this content, or repeats the request; gives its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content or f"no {self.path} for {self.headers}".encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the standard library's name

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("name", "status"), [("a.parquet", 403), ("a.parquet", 200), ("a.jsonl", 403), ("a.csv", 200), ("a.txt", 200)]
)
def test_the_secrets_of_the_sources_url_are_in_no_event(
    project: Project, name: str, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with feed(b"" if status == 403 else b"<html>This is no data", status) as address:
        source = f"http://me:{PASSWORD}@{address}/{name}?sig={PASSWORD}"
        project.source = source
        monkeypatch.setenv("BATCH_ASSETS_SOURCE", source)
        assert not project.materialize([raw_articles]).success
    assert_nowhere("rd-of-mine", project, capfd)
    assert "…" in kept_by_dagster(project.instance)


def test_the_secrets_of_the_databases_url_are_in_no_event(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """DuckDB cannot open it, and its error has the whole URL."""
    url = f"nowhere://me:{PASSWORD}@x.org/ours.duckdb?motherduck_token={PASSWORD}"
    resources = {**project.resources, WAREHOUSE: Warehouse(data_dir=str(tmp_path / "data"), database=url)}
    with monkeypatch.context() as patch:
        patch.setattr(Project, "resources", property(lambda self: resources))
        patch.setenv("BATCH_ASSETS_DUCKDB", url)
        for asset in (raw_articles, summaries):
            assert not project.materialize([asset]).success
    assert "nowhere://…@x.org/ours.duckdb?motherduck_token=…" in kept_by_dagster(project.instance)
    assert_nowhere("rd-of-mine", project, capfd)
