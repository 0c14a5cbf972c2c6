"""A full disk, or a directory that is not writable: an error message says so, and no data is lost.

A limit on the size of the server's files takes the place of a full disk. The tests set and remove it from outside.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from batch_assets.local_api.serving.server import serve
from batch_assets_tests.local_api.support import (
    ServerProcess,
    custom_ids,
    http_request,
    lines_of,
    results,
    server_process,
    submit,
    submit_file,
    upload,
    wait_until,
)

LINES = 1000
SENTENCE = r"The local Batch API can't keep its files in [^\n]*: [^\n]*\. Free some space, give it [^\n]*\.$"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")


def test_a_directory_that_cannot_be_made_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"can't keep its files in .*: Not a directory\. Free some space, give it"):
        serve(tmp_path / "file" / "local_api")


@linux_only
def test_a_full_disk_is_an_error_at_the_start(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path; from batch_assets.local_api.serving.server import serve\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try: serve(Path(sys.argv[1]))\n"
        "except OSError as error: print(error)"
    )
    printed = subprocess.check_output([sys.executable, "-c", program, str(tmp_path)], text=True, timeout=20)
    assert f"can't keep its files in {tmp_path}: File too large. Free some space" in printed
    assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.parametrize(
    "name",
    [
        *("", "files", "uploads", "batches"),
        *("server.lock/", "key/", "key.partial/", "webhook_secret/", "webhook_secret.partial/"),
        *("local_api.sqlite3/", "server.json/", "server.json.partial/"),
    ],
)
def test_each_path_that_the_server_cannot_write_is_an_error_at_the_start(tmp_path: Path, name: str) -> None:
    """A file is in the place of a folder, or a folder in the place of a file."""
    path = tmp_path / "local_api" / name
    if name.endswith("/"):
        path.mkdir(parents=True)
        (path / "in the way").touch()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(OSError, match=SENTENCE):
        serve(tmp_path / "local_api", webhook="http://127.0.0.1:9/")


def test_a_damaged_database_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "local_api.sqlite3").write_bytes(b"no database" * 1_000)
    with pytest.raises(OSError, match=SENTENCE):
        serve(tmp_path)


SERVE_EACH = """
import contextlib, ctypes, os, resource, sys, threading
from pathlib import Path
from batch_assets.local_api.serving.server import serve

def attempt(folder):
    stop = threading.Event()
    try:
        serve(folder, webhook="http://127.0.0.1:9/", ready=lambda url: stop.set(), stop=stop)
    except OSError as error:
        print(error, flush=True)
    else:
        print("served", flush=True)
"""


@linux_only
def test_a_disk_that_is_full_at_any_step_is_an_error_at_the_start(tmp_path: Path) -> None:
    """At the lock, the key, the database, the port or the discovery file. No file is damaged."""
    program = (
        SERVE_EACH
        + "for size in map(int, sys.argv[2:]):\n"
        + "    for limit in (size, resource.RLIM_INFINITY):\n"
        + "        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        + "        attempt(Path(sys.argv[1]) / str(size))\n"
    )
    sizes = [0, 16, 80, 4_096, 8_192, 20_000, 32_768]
    printed = run_program(program, tmp_path, *map(str, sizes))
    assert printed[1::2] == ["served"] * len(sizes), "without the limit"
    assert all(re.match(SENTENCE, line) for line in printed[::2]), printed


@linux_only
def test_a_folder_that_is_not_writable_is_an_error_at_the_start(tmp_path: Path) -> None:
    program = (
        SERVE_EACH
        + "for capability in (1, 2):  # with which root may ignore file modes\n"
        + "    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)\n"
        + "if len(sys.argv) == 2:\n"
        + "    os.execv(sys.executable, [sys.executable, '-c', sys.orig_argv[2], sys.argv[1], 'again'])\n"
        + "for name in ('parent', 'folder', 'uploads', 'database'):\n"
        + "    folder = Path(sys.argv[1]) / name / 'local_api'\n"
        + "    attempt(folder)\n"
        + "    closed = {'parent': folder.parent, 'folder': folder, 'uploads': folder / 'uploads'}.get(name)\n"
        + "    closed = closed or folder / 'local_api.sqlite3'\n"
        + "    if name == 'parent': folder.rename(folder.with_name('other')); closed = folder.parent\n"
        + "    closed.chmod(0o500)\n"
        + "    attempt(folder)\n"
        + "    closed.chmod(0o700)\n"
    )
    printed = run_program(program, tmp_path)
    assert printed[::2] == ["served"] * 4
    assert all(re.match(SENTENCE, line) for line in printed[1::2]), printed


def run_program(program: str, *arguments: object) -> list[str]:
    """The lines that it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.check_output(command, text=True, timeout=60).splitlines()


@linux_only
def test_a_request_on_a_full_disk_is_an_error_507(tmp_path: Path) -> None:
    with server_process(tmp_path, engine="instant") as server:
        api = server.api
        file_id = upload(api, lines_of(3))
        limit_files(server, 1)
        for request in (lambda: upload(api, lines_of(LINES * 10)), lambda: submit_file(api, file_id)):
            with pytest.raises(openai.InternalServerError) as refusal:
                request()
            assert refusal.value.status_code == 507
            assert (refusal.value.type, refusal.value.code) == ("server_error", "insufficient_storage")
            assert "Free some space on its disk, then try again." in str(refusal.value)
        assert [file.id for file in api.client.files.list()] == [file_id], "reading needs no space"
        assert not list((tmp_path / "uploads").iterdir())
        limit_files(server, resource.RLIM_INFINITY)
        assert api.wait(submit_file(api, file_id).id).status == "completed"
        assert http_request(api, "GET", "/healthz").status == 200


@linux_only
@pytest.mark.end_to_end
def test_a_batch_continues_when_the_disk_has_space_again(tmp_path: Path) -> None:
    with server_process(tmp_path, engine="instant", latency_seconds=0.001) as server:
        api = server.api
        batch = submit(api, lines_of(LINES))
        output = tmp_path / "batches" / batch.id / "output.jsonl"
        wait_for_size(output, 50_000)
        limit = 100_000
        limit_files(server, limit)
        wait_for_size(output, limit)
        assert api.client.batches.retrieve(batch.id).status == "in_progress"
        limit_files(server, resource.RLIM_INFINITY)
        batch = api.wait(batch.id)
        lines, errors = results(api, batch)
        assert (batch.status, custom_ids(lines), errors) == ("completed", custom_ids(lines_of(LINES)), [])


def limit_files(server: ServerProcess, size: int) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def wait_for_size(path: Path, size: int) -> None:
    wait_until(lambda: path.exists() and path.stat().st_size >= size)
