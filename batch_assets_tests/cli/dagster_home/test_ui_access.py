"""Access to Dagster's UI: requests as browsers and attackers send them, to Dagster's own webserver over HTTP."""

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import dagster as dg
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from batch_assets.cli.dagster_home.ui_access import UiAccessMiddleware
from batch_assets.cli.dagster_home.webserver import ProtectedWebserver

LOCAL = "127.0.0.1:3000"
JSON = ("Content-Type", "application/json")
LAUNCH = json.dumps({"query": "mutation { setNuxSeen }"})
PASSWORD = "correct horse: battery ✓"


def status_of(
    method: str,
    path: str,
    *headers: tuple[str, str],
    query: str = "",
    host: str | None = LOCAL,
    kind: str = "http",
    password: str | None = None,
    local_only: bool = True,
) -> int:
    """The status of the answer; 200 if the request reached the application."""
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"host", host.encode("latin-1")), *raw] if host is not None else raw,
    }
    asyncio.run(UiAccessMiddleware(application, password=password, local_only=local_only)(scope, receive, send))
    if sent[0]["type"] == "websocket.close":
        return 403
    status: int = sent[0]["status"]
    return status


def basic(password: str) -> tuple[str, str]:
    return ("Authorization", "Basic " + base64.b64encode(f"user:{password}".encode()).decode())


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:3000",
        "LOCALHOST:3000",
        "a.localhost:3000",
        "127.0.0.1",
        LOCAL,
        "127.8.9.1:80",
        "[::1]:3000",
    ],
)
def test_names_of_this_machine_are_accepted(host: str) -> None:
    assert status_of("GET", "/", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0:3000"),
        *("10.0.0.1:3000", "192.168.0.7", "[fe80::1]:3000", "notlocalhost", "127.0.0.1evil"),
    ],
)
def test_another_name_that_resolves_to_this_machine_is_refused(host: str) -> None:
    for kind, path in (("http", "/"), ("http", "/graphql"), ("websocket", "/graphql"), ("http", "/logs/a/out")):
        assert status_of("GET", path, host=host, kind=kind) == 403
        assert status_of("GET", path, ("Origin", f"http://{host}"), host=host, kind=kind) == 403


@pytest.mark.parametrize(
    "host",
    [
        "[::1",
        "[",
        "]",
        ":",
        "::1",
        "",
        " ",
        "localhost:",
        "localhost:x",
        "localhost:1234567",
        "a@localhost",
        "a/b",
        "é",
        "\x00",
    ],
)
def test_a_malformed_host_is_refused(host: str) -> None:
    assert status_of("GET", "/", host=host) == 400
    assert status_of("GET", "/graphql", ("Origin", "http://[::1"), host=host, kind="websocket") == 403


def test_a_missing_host_and_two_hosts_are_refused() -> None:
    assert status_of("GET", "/", host=None) == 400
    assert status_of("GET", "/", ("Host", "evil.example")) == 400


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "null",
            "http://evil.example",
            "http://127.0.0.1:3001",
            "http://localhost:3000",
            "https://127.0.0.1:3000.evil",
        ),
        *("http://127.0.0.1", "file://", "http://127.0.0.1:3000/", "http://[::1", "", "é", "http://127.0.0.1:99999999"),
        "chrome-extension://abc",
    ],
)
def test_every_request_of_another_origin_is_refused(origin: str) -> None:
    for kind in ("http", "websocket"):
        for path in ("/", "/graphql", "/server_info", "/logs/a/out", "/download_debug/a", "/notebook"):
            assert status_of("GET", path, ("Origin", origin), kind=kind) == 403
    assert status_of("POST", "/graphql", ("Origin", origin), JSON) == 403
    assert status_of("POST", "/report_asset_materialization/a", ("Origin", origin), JSON) == 403


def test_two_origins_are_refused() -> None:
    assert status_of("POST", "/graphql", ("Origin", f"http://{LOCAL}"), ("Origin", f"http://{LOCAL}"), JSON) == 403


def test_the_origin_of_the_ui_is_accepted() -> None:
    own = ("Origin", f"http://{LOCAL}")
    assert status_of("POST", "/graphql", own, JSON, ("Sec-Fetch-Site", "same-origin")) == 200
    assert status_of("GET", "/graphql", own, kind="websocket") == 200
    assert status_of("GET", "/", ("Origin", "http://localhost"), host="localhost:80") == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_another_site_may_only_link_to_a_page(site: str) -> None:
    headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    assert status_of("GET", "/", *headers) == 200
    assert status_of("GET", "/assets/summaries", *headers) == 200
    assert status_of("POST", "/", JSON, *headers) == 403
    assert status_of("GET", "/", *headers, ("Origin", "null")) == 403
    assert status_of("GET", "/", ("Sec-Fetch-Site", site)) == 403  # an image, for example
    assert status_of("GET", "/", *headers[:2], ("Sec-Fetch-Dest", "iframe")) == 403
    assert status_of("GET", "/graphql", *headers, kind="websocket") == 403


def test_another_site_may_link_to_pages_and_files_of_the_ui_only(webserver: ProtectedWebserver) -> None:
    """Each other route of Dagster, in a later version too, must be in NOT_PAGES."""
    headers = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    refused = set()
    for route in webserver.build_routes():  # type: ignore[no-untyped-call]
        assert isinstance(route, (Route, Mount, WebSocketRoute))
        assert route.name is not None
        if route.name in ("index_html_endpoint", "root_static") or route.name.endswith("_static"):
            continue
        kind = "websocket" if isinstance(route, WebSocketRoute) else "http"
        path = route.path.replace("{", "").replace("}", "").replace(":path", "").replace(":str", "")
        assert status_of("GET", path, *headers, kind=kind) == 403, route
        refused.add(path)
    assert {"/graphql", "/server_info", "/logs/path", "/notebook", "/report_asset_check/asset_key"} <= refused


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/graphql", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("application/jsonp", 415),
    ],
)
@pytest.mark.parametrize("path", ["/graphql", "/report_asset_materialization/a", "/report_asset_check/a", "/other"])
def test_only_a_post_of_json_is_accepted(path: str, content_type: str, status: int) -> None:
    assert status_of("POST", path, ("Content-Type", content_type)) == status
    assert status_of("POST", path) == 415
    assert status_of("POST", path, JSON, JSON) == 415
    assert status_of("POST", path, JSON, query="partition=2026-01-05") == (200 if path == "/graphql" else 400)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "GET2"):
        assert status_of(method, path, JSON) == 405


def test_every_request_needs_the_password() -> None:
    for kind, path in (("http", "/"), ("http", "/server_info"), ("http", "/graphql"), ("websocket", "/graphql")):
        for local_only in (True, False):
            options: dict[str, Any] = {"kind": kind, "password": PASSWORD, "local_only": local_only}
            assert status_of("GET", path, basic(PASSWORD), **options) == 200
            assert status_of("GET", path, **options) in (401, 403)
            assert status_of("GET", path, basic("wrong"), **options) in (401, 403)


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Basic", "Basic ", "Basic é", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode()),
        "Bearer " + base64.b64encode(f"a:{PASSWORD}".encode()).decode(),
        *(basic(part)[1] for part in ("", PASSWORD[:-1], PASSWORD + " ", PASSWORD.upper(), "correct horse")),
    ],
)
def test_only_the_whole_password_is_accepted(authorization: str) -> None:
    assert status_of("GET", "/", ("Authorization", authorization), password=PASSWORD) == 401
    assert status_of("GET", "/", basic(PASSWORD), basic(PASSWORD), password=PASSWORD) == 401


def test_a_ui_for_other_machines_accepts_any_host_with_the_password() -> None:
    open_to_all: dict[str, Any] = {"password": PASSWORD, "local_only": False, "host": "build.example:3000"}
    own = ("Origin", "http://build.example:3000")
    assert status_of("POST", "/graphql", own, JSON, basic(PASSWORD), **open_to_all) == 200
    assert status_of("POST", "/graphql", ("Origin", "http://evil.example"), JSON, basic(PASSWORD), **open_to_all) == 403


# Dagster's webserver behind it


@pytest.fixture(scope="module")
def webserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProtectedWebserver]:
    folder = tmp_path_factory.mktemp("dagster_home")
    with (
        dg.DagsterInstance.local_temp(str(folder)) as instance,
        WorkspaceProcessContext(
            instance, version="", read_only=False, workspace_load_target=EmptyWorkspaceTarget()
        ) as context,
    ):
        yield ProtectedWebserver(context, password=None, local_only=True)


@pytest.fixture(scope="module")
def address(webserver: ProtectedWebserver) -> Iterator[str]:
    with listening(webserver) as served:
        yield served


@contextmanager
def listening(webserver: ProtectedWebserver) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(webserver.create_asgi_app(), log_config=None, log_level="warning", http="h11")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def fetch(address: str, request: str, body: str = "") -> tuple[int, str]:
    """Send the lines of a request unchanged; returns status and body of the answer."""
    lines = [*request.strip().splitlines(), "Connection: close", f"Content-Length: {len(body.encode())}"]
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join([*(line.strip() for line in lines), "", body]).encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content.decode()


def test_only_a_post_of_json_executes_a_mutation(address: str, webserver: ProtectedWebserver) -> None:
    mutation = 'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["a"]}}]) { __typename } }'
    wipe = quote(mutation)
    instance = webserver._process_context.instance
    key = dg.AssetKey("a")
    instance.report_runless_asset_event(dg.AssetMaterialization(key))
    for accept in ("image/avif,image/webp,*/*", "application/json", "text/html"):
        request_lines = f"GET /graphql?query={wipe} HTTP/1.1\nHost: {address}\nAccept: {accept}"
        status, body = fetch(address, request_lines)
        assert status == (200 if accept == "text/html" else 400), body
        assert "__typename" not in body
        assert fetch(address, f"{request_lines}\nSec-Fetch-Site: cross-site")[0] == 403
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/graphql"):
        for path in ("/graphql", f"/graphql?query={wipe}"):
            request_lines = f"POST {path} HTTP/1.1\nHost: {address}\nContent-Type: {content_type}"
            assert fetch(address, request_lines, json.dumps({"query": mutation}))[0] == 415
    request_lines = f"POST /graphql?query={wipe} HTTP/1.1\nHost: {address}\nContent-Type: application/json"
    assert fetch(address, request_lines, "{}")[0] == 400
    assert instance.get_latest_materialization_event(key) is not None

    status, body = fetch(
        address,
        f"POST /graphql HTTP/1.1\nHost: {address}\nContent-Type: application/json",
        json.dumps({"query": mutation}),
    )
    assert (status, json.loads(body)["data"]["wipeAssets"]["__typename"]) == (200, "AssetWipeSuccess")
    assert instance.get_latest_materialization_event(key) is None


def test_only_a_post_of_json_reports_an_event(address: str, webserver: ProtectedWebserver) -> None:
    instance = webserver._process_context.instance
    key = dg.AssetKey("reported")
    for request in (
        "POST {path}?partition=b HTTP/1.1",
        "POST {path} HTTP/1.1",
        "POST {path} HTTP/1.1\nContent-Type: text/plain",
        "POST {path} HTTP/1.1\nContent-Type: application/json\nOrigin: null",
        "POST {path}?partition=b HTTP/1.1\nContent-Type: application/json",
    ):
        request_lines = request.format(path="/report_asset_materialization/reported")
        assert fetch(address, f"{request_lines}\nHost: {address}", "{}")[0] in (400, 403, 415)
    assert instance.get_latest_materialization_event(key) is None
    proper = f"POST /report_asset_materialization/reported HTTP/1.1\nHost: {address}\nContent-Type: application/json"
    assert fetch(address, proper, "{}")[0] == 200
    assert instance.get_latest_materialization_event(key) is not None


@pytest.mark.parametrize(
    "header",
    ["Host: [::1", "Host: \x7f", "Host:", "X: y", "Origin: [::1", "Sec-Fetch-Site: \x01", "Authorization: Basic é"],
)
def test_a_malformed_header_is_never_a_500(address: str, header: str) -> None:
    host = "" if header.startswith(("Host", "X")) else f"\nHost: {address}"
    for line in ("GET / HTTP/1.1", "GET /graphql HTTP/1.1", "POST /graphql HTTP/1.1"):
        assert fetch(address, f"{line}\n{header}{host}")[0] in (200, 400, 403, 415)


def test_the_websocket_accepts_pages_of_the_ui_only(address: str) -> None:
    protocol = Subprotocol("graphql-ws")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus, match="HTTP 403"):
            connect(f"ws://{address}/graphql", origin=Origin(origin), subprotocols=[protocol])
    with connect(f"ws://{address}/graphql", origin=Origin(f"http://{address}"), subprotocols=[protocol]) as own:
        own.send(json.dumps({"type": "connection_init"}))
        assert json.loads(own.recv(20))["type"] == "connection_ack"


def test_other_sites_may_not_show_the_ui_in_a_frame(address: str) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"GET /server_info HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        assert b"x-frame-options: SAMEORIGIN" in connection.recv(65536)
