"""Ids that an API returns are opaque: percent-encoded in URLs, never a part of a path on our disk.

The API behind the proxy is the real local one; the proxy gives its batches and files other ids, and takes them back.
"""

import json
import urllib.parse
from pathlib import Path

import openai
import pytest

from batch_assets.batching.submission.adoption import adopt_batch
from batch_assets_tests.batching.conftest import DAY, SHORT_TIMING, Call, Reply, Workspace, proxy
from batch_assets_tests.local_api_client import LocalApi
from batch_assets_tests.task_days import of

NASTY = [
    "../../escaped",
    "../" * 12 + "tmp/escaped",
    "/tmp/escaped",
    "a/b/c",
    "..\\..\\escaped",
    "C:escaped",
    "x?after=y#z",
    "%2e%2e%2fescaped",
    "nul\0byte",
    "line\nbreak",
    "x" * 400,
    "'; DROP TABLE openai_batch; --",
    "ü/\u202e",
]


class OtherIds:
    """Gives each id of the API a prefix, and takes it off again where a client sends it back."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, call: Call) -> Reply:
        path, _, query = call.path.partition("?")
        path = "/".join(self._without(urllib.parse.unquote(part)) for part in path.split("/"))
        body = call.body
        if call.creates_batch:
            asked = json.loads(body)
            body = json.dumps({**asked, "input_file_id": self._without(asked["input_file_id"])}).encode()
        reply = Call(call.method, path + ("?" + query if query else ""), call.body, call.send)
        answer = self._send(reply, body)
        if answer.content_type.startswith("application/json") and not call.downloads:
            return Reply.of(self._with(answer.json), answer.status)
        return answer

    def _send(self, call: Call, body: bytes) -> Reply:
        send = getattr(call.send, "__self__")  # noqa: B009 - the proxy's handler, whose path is what it forwards to
        send.path = call.path
        return call.forward(body)

    def _without(self, text: str) -> str:
        return text.removeprefix(self.prefix)

    def _with(self, value: object) -> object:
        if isinstance(value, dict):
            return {
                name: self.prefix + inner if self._is_id(name, inner) else self._with(inner)
                for name, inner in value.items()
            }
        return [self._with(inner) for inner in value] if isinstance(value, list) else value

    @staticmethod
    def _is_id(name: str, value: object) -> bool:
        return isinstance(value, str) and (name in ("id", "first_id", "last_id") or name.endswith("_file_id"))


STORED_PATHS = "SELECT path FROM batch_request_file JOIN openai_batch USING (submission_id) WHERE state <> 'withdrawn'"


def paths_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prefix", NASTY)
def test_a_batch_and_files_of_any_id_are_collected_and_nothing_is_written_elsewhere(
    workspace: Workspace, api: LocalApi, prefix: str
) -> None:
    workspace.ingest({"a": f"one {prefix!r}"})
    workspace.plan()
    before = paths_below(workspace.folder.parent)
    with proxy(api.url, OtherIds(prefix)) as client:
        [batch_id] = workspace.submit(client).batch_ids
        api.wait(batch_id.removeprefix(prefix))
        workspace.collect(client)
    assert workspace.statuses() == {"answered": 1}
    assert workspace.column("SELECT batch_id FROM openai_batch") == [batch_id]
    [stored] = (path.name for path in (workspace.folder / "results").iterdir())
    new = paths_below(workspace.folder.parent) - before
    assert [path for path in new if path.endswith("_output.jsonl")] == [f"{workspace.folder.name}/results/{stored}"]
    assert not [path for path in new if "escaped" in path]
    assert not Path("/tmp/escaped").exists()


@pytest.mark.parametrize("prefix", NASTY)
def test_a_batch_of_any_id_is_adopted_into_a_file_of_our_own_name(
    workspace: Workspace, api: LocalApi, prefix: str
) -> None:
    workspace.ingest({"a": f"two {prefix!r}"})
    workspace.plan()
    [path] = workspace.request_files()
    with proxy(api.url, OtherIds(prefix)) as client:
        file = client.files.create(file=("requests.jsonl", path.read_bytes()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        assert adopt_batch(workspace.database, client, batch_id=batch.id, data_folder=workspace.folder) == [of(DAY)]
    [stored] = (workspace.folder / path for path in workspace.column(STORED_PATHS))
    assert stored.parent == workspace.folder / "requests" / DAY
    assert stored.name.isascii()
    assert stored.exists()


@pytest.mark.parametrize("file_id", [".", ".."])
def test_an_id_that_fits_into_no_url_is_an_error_of_the_api(workspace: Workspace, api: LocalApi, file_id: str) -> None:
    from batch_assets.batching.provider.download import download

    with pytest.raises(openai.OpenAIError, match="no URL can be made of the file id"):
        download(api.client, file_id, workspace.folder / "results" / "x.jsonl", SHORT_TIMING)
    assert not (workspace.folder / "results" / "x.jsonl").exists()
