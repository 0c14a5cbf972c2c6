"""Only clients with a valid key can use a server. Other users of the machine can't read the key."""

from __future__ import annotations

import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.keys import NO_KEY, key_path, local_api_key
from batch_assets.local_api.serving.server import serve
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import http_request, lines_of, submit, upload
from batch_assets_tests.local_api_client import LocalApi

KEY = "sk-Right-0123456789"


@pytest.fixture(scope="module")
def api_with_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """A server with a key of its user."""
    with serving(tmp_path_factory.mktemp("api_with_key") / "local_api", api_key=KEY) as api:
        yield api


pytestmark = pytest.mark.usefixtures("usual_umask")


def status_with(api: LocalApi, authorization: str, path: str = "/v1/files") -> int:
    return http_request(api, "GET", path, headers={"authorization": authorization}).status


def test_the_right_key_is_accepted(api_with_key: LocalApi) -> None:
    assert status_with(api_with_key, f"Bearer {KEY}") == 200
    assert status_with(api_with_key, f"bearer  {KEY} ") == 200, "the scheme may have any case, and any number of spaces"


@pytest.mark.parametrize(
    "key",
    [
        KEY[:-1],
        KEY[:1],
        KEY[1:],
        KEY[-1:],
        KEY + "0",
        "0" + KEY,
        KEY * 2,
        f"{KEY} {KEY}",
        KEY.lower(),
        KEY.upper(),
        KEY.swapcase(),
        KEY[::-1],
        "",
        " ",
        "local",
        "unused",
        "None",
        "*",
        KEY.replace("-", "_"),
        f'"{KEY}"',
        f"{KEY},",
        "\xff",
    ],
)
def test_other_keys_are_refused(api_with_key: LocalApi, key: str) -> None:
    assert status_with(api_with_key, f"Bearer {key}") == 401


@pytest.mark.parametrize("authorization", [KEY, f"Basic {KEY}", f"Token {KEY}", f"Bearer{KEY}", f"Bearer:{KEY}", ""])
def test_a_key_without_bearer_is_refused(api_with_key: LocalApi, authorization: str) -> None:
    assert status_with(api_with_key, authorization) == 401


@pytest.mark.parametrize(
    "path", ["/v1/files", "/v1/batches", "/v1/models", "/stats", "/openapi.json", "/", "/healthz/"]
)
def test_only_healthz_needs_no_key(api_with_key: LocalApi, path: str) -> None:
    assert http_request(api_with_key, "GET", path).status == 401
    assert http_request(api_with_key, "GET", "/healthz").status == 200


def test_a_server_without_a_user_key_makes_a_private_one(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "local_api"
    with serving(folder, without_key=False) as api:
        key = local_api_key(folder)
        assert re.fullmatch(r"sk-local-[0-9a-f]{64}", key)
        for wrong in (None, NO_KEY, key[:-1], key + "0", key.upper()):
            headers = {"authorization": f"Bearer {wrong}"} if wrong else {}
            assert http_request(api, "GET", "/v1/files", headers=headers).status == 401
        assert running_url(folder) == api.url, "it needs no key to find the server"
        with_key = LocalApi(api.url, api.client.with_options(api_key=key), folder)
        assert with_key.wait(submit(with_key, lines_of(2)).id).status == "completed"
        upload(with_key, lines_of(2))
        names = ("", "key", "server.json", "server.lock", "local_api.sqlite3", "local_api.sqlite3-wal", "files")
        modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("..", *names)}
        assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}
    with serving(folder, without_key=False) as api:
        assert local_api_key(folder) == key, "the key stays the same"
        assert status_with(api, f"Bearer {key}") == 200


def test_the_folders_key_is_valid_beside_a_user_key(tmp_path: Path) -> None:
    with serving(tmp_path, api_key=KEY) as api:
        assert status_with(api, f"Bearer {local_api_key(tmp_path)}") == 200
        assert status_with(api, f"Bearer {KEY}") == 200


@pytest.mark.parametrize("content", [b"", b"\n", b"sk-local-12", b"sk-local-" + b"0" * 63 + b"\n", b"\0" * 74, b"\xff"])
def test_a_damaged_key_is_replaced(tmp_path: Path, content: bytes) -> None:
    write_key(tmp_path, content)
    assert local_api_key(tmp_path) == NO_KEY
    with serving(tmp_path, without_key=False) as api:
        assert status_with(api, f"Bearer {local_api_key(tmp_path)}") == 200
        for wrong in (NO_KEY, content.decode("latin-1").strip()):
            assert status_with(api, f"Bearer {wrong}") in (400, 401)
    assert stat.S_IMODE(key_path(tmp_path).stat().st_mode) == 0o600


def test_a_key_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    key = "sk-local-" + "0" * 64
    write_key(tmp_path, key.encode(), mode=0o644)
    with serving(tmp_path, without_key=False) as api:
        assert status_with(api, f"Bearer {key}") == 401
        assert status_with(api, f"Bearer {local_api_key(tmp_path)}") == 200


def test_a_partial_key_file_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    write_key(tmp_path, b"sk-local-12", name="key.partial", mode=0o644)
    with serving(tmp_path, without_key=False) as api:
        assert status_with(api, f"Bearer {local_api_key(tmp_path)}") == 200
    assert stat.S_IMODE(key_path(tmp_path).stat().st_mode) == 0o600
    assert not (tmp_path / "key.partial").exists()


def test_a_key_file_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    write_key(tmp_path, b"sk-local-" + b"0" * 64, name="elsewhere")
    key_path(tmp_path).symlink_to(tmp_path / "elsewhere")
    with serving(tmp_path, without_key=False):
        assert not key_path(tmp_path).is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "sk-local-" + "0" * 64


def write_key(folder: Path, content: bytes, *, name: str = "key", mode: int = 0o600) -> None:
    (folder / name).write_bytes(content)
    (folder / name).chmod(mode)


def test_an_empty_key_counts_as_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_ASSETS_SERVE_KEY", "  ")
    with pytest.raises(ValueError, match="BATCH_ASSETS_SERVE_KEY"):
        serve(tmp_path, host="0.0.0.0")
    with serving(tmp_path, without_key=False) as api, pytest.raises(openai.AuthenticationError):
        api.client.files.list()


@pytest.mark.parametrize(
    ("options", "variable", "sentence"),
    [
        ({"host": "0.0.0.0"}, "", "Listening on 0.0.0.0 lets other machines in"),
        ({"host": "::"}, "", "lets other machines in"),
        ({"host": "192.0.2.1"}, "", "lets other machines in"),
        ({}, KEY, "A server without a key can't have one"),
        ({"host": "0.0.0.0"}, KEY, "A server without a key can't have one"),
        ({"api_key": KEY}, "", "A server without a key can't have one"),
    ],
)
def test_without_key_excludes_other_hosts_and_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], variable: str, sentence: str
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_SERVE_KEY", variable)
    stop = threading.Event()
    stop.set()
    with pytest.raises(ValueError, match=sentence):
        serve(tmp_path, without_key=True, stop=stop, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
def test_requests_of_web_pages_are_refused_even_with_the_folders_key(tmp_path: Path, headers: dict[str, str]) -> None:
    with serving(tmp_path, without_key=False) as api:
        authorization = {"authorization": f"Bearer {local_api_key(tmp_path)}"}
        assert http_request(api, "GET", "/v1/files", headers={**authorization, **headers}).status == 403
        in_a_container = {"host": "host.docker.internal:1"}
        assert http_request(api, "GET", "/v1/files", headers={**authorization, **in_a_container}).status == 200


def test_with_a_user_key_any_host_name_is_accepted(api_with_key: LocalApi) -> None:
    headers = {"authorization": f"Bearer {KEY}", "host": "api.example"}
    assert http_request(api_with_key, "GET", "/v1/files", headers=headers).status == 200
