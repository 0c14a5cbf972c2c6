"""FaultConfig: each goes wrong in the way that it says, as a client of OpenAI's would see it, and nothing else does."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch

from batch_assets.local_api.batches.quota import enqueued_tokens
from batch_assets.local_api.faults import FaultConfig, read_fault_config
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    Answer,
    custom_ids,
    http_request,
    jsonl,
    lines_of,
    request_line,
    results,
    server_process,
    submit,
    submit_file,
    upload,
)
from batch_assets_tests.local_api_client import LocalApi

LINES = 200


@pytest.fixture(scope="module")
def controlled_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """One server for all tests of this module that can share it: each sets its own faults."""
    with serving(tmp_path_factory.mktemp("controlled") / "local_api", engine="instant", control=True) as api:
        yield api


@pytest.fixture
def api(controlled_api: LocalApi) -> Iterator[LocalApi]:
    """The shared server, which has no faults afterwards."""
    yield controlled_api
    put_faults(controlled_api, {})


def counts(batch: Batch) -> dict[str, Any]:
    assert batch.request_counts is not None
    return batch.request_counts.to_dict()


def begun(api: LocalApi, batch: Batch) -> Batch:
    """The batch once it has been validated."""
    deadline = time.monotonic() + 20
    while (seen := api.client.batches.retrieve(batch.id)).status == "validating":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return seen


def made_from(api: LocalApi, file_id: str) -> list[str]:
    """Ids of the batches of a file that are listed, newest first."""
    return [batch.id for batch in api.client.batches.list(limit=100) if batch.input_file_id == file_id]


def put_faults(api: LocalApi, faults: Any) -> Answer:
    return http_request(api, "PUT", "/control/faults", json.dumps(faults).encode())


def test_a_share_of_the_lines_expires(api: LocalApi) -> None:
    put_faults(api, {"expire_share": 0.3})
    batch = api.wait(submit(api, lines_of(LINES)).id)
    output, errors = results(api, batch)
    assert batch.status == "expired"
    assert custom_ids(output + errors) == custom_ids(lines_of(LINES))
    assert counts(batch) == {"total": LINES, "completed": len(output), "failed": 0}
    assert 30 < len(errors) < 90
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}
    assert batch.expired_at is not None
    assert batch.expires_at is not None
    assert batch.expires_at <= batch.expired_at


def test_a_whole_batch_expires(api: LocalApi) -> None:
    put_faults(api, {"expire_share": 1})
    batch = api.wait(submit(api, lines_of(3)).id)
    assert (batch.status, batch.output_file_id, counts(batch)["completed"]) == ("expired", None, 0)
    assert batch.error_file_id


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(500, "server_error", None), (429, "requests", "rate_limit_exceeded"), (400, "invalid_request_error", None)],
)
def test_a_share_of_the_lines_fails(api: LocalApi, status: int, kind: str, code: str | None) -> None:
    put_faults(api, {"fail_share": 0.3, "fail_status": status})
    batch = api.wait(submit(api, lines_of(LINES)).id)
    output, errors = results(api, batch)
    assert batch.status == "completed"
    assert custom_ids(output + errors) == custom_ids(lines_of(LINES))
    assert counts(batch) == {"total": LINES, "completed": len(output), "failed": len(errors)}
    assert 30 < len(errors) < 90
    assert {line["response"]["status_code"] for line in errors} == {status}
    error = errors[0]["response"]["body"]["error"]
    assert (error["type"], error["code"], errors[0]["error"]) == (kind, code, None)


def test_lines_with_status_0_stand_in_the_output_file_and_count_as_completed(api: LocalApi) -> None:
    put_faults(api, {"fail_share": 0.3, "fail_status": 0})
    batch = api.wait(submit(api, lines_of(LINES)).id)
    output, errors = results(api, batch)
    assert (batch.status, batch.error_file_id, errors) == ("completed", None, [])
    assert custom_ids(output) == custom_ids(lines_of(LINES))
    assert counts(batch) == {"total": LINES, "completed": LINES, "failed": 0}
    statuses = Counter(line["response"]["status_code"] for line in output)
    assert set(statuses) == {0, 200}
    assert 30 < statuses[0] < 90


def test_a_share_of_the_lines_is_in_neither_file(api: LocalApi) -> None:
    put_faults(api, {"drop_share": 0.3})
    batch = api.wait(submit(api, lines_of(LINES)).id)
    output, errors = results(api, batch)
    assert (batch.status, errors) == ("completed", [])
    assert LINES - 90 < len(output) < LINES - 30
    assert counts(batch) == {"total": LINES, "completed": len(output), "failed": 0}


def test_shares_go_side_by_side_and_a_restart_decides_the_same(tmp_path: Path) -> None:
    faults = FaultConfig(expire_share=0.2, drop_share=0.2, fail_share=0.2)

    def fates(api: LocalApi, batch: Batch) -> dict[str, str]:
        output, errors = results(api, batch)
        found = dict.fromkeys(custom_ids(lines_of(LINES)), "drop")
        found.update((line["custom_id"], "run") for line in output)
        found.update((line["custom_id"], "expire" if line["error"] else "fail") for line in errors)
        return found

    with serving(tmp_path / "a", engine="instant", faults=faults) as api:
        first, second = (fates(api, api.wait(submit(api, lines_of(LINES)).id)) for _ in range(2))
    assert first == {line["custom_id"]: faults.fate(1, line["custom_id"]) for line in lines_of(LINES)}
    assert first != second, "who comes again in another batch has another chance"
    with server_process(tmp_path / "b", engine="instant", latency_seconds=0.01, faults=faults) as server:
        batch = submit(server.api, lines_of(LINES))
        while counts(server.api.client.batches.retrieve(batch.id))["completed"] < 20:
            time.sleep(0.005)
        server.kill()
    with serving(tmp_path / "b", engine="instant", faults=faults) as api:
        assert fates(api, api.wait(batch.id)) == first


@given(custom_id=st.text(), batch=st.integers(1, 9), shares=st.lists(st.floats(0, 1 / 3), min_size=3, max_size=3))
def test_a_line_has_one_fate_which_only_a_share_of_its_own_can_bring(
    custom_id: str, batch: int, shares: list[float]
) -> None:
    faults = FaultConfig(expire_share=shares[0], drop_share=shares[1], fail_share=shares[2])
    fate = faults.fate(batch, custom_id)
    assert fate == faults.fate(batch, custom_id)
    assert dict(zip(("expire", "drop", "fail"), shares, strict=True)).get(fate, 1) > 0


def test_another_seed_chooses_other_lines() -> None:
    chosen = [
        {n for n in range(LINES) if FaultConfig(seed=seed, fail_share=0.3).fate(1, f"request-{n}") == "fail"}
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_cut_connection_hides_a_batch_that_was_made(api: LocalApi, capfd: pytest.CaptureFixture[str]) -> None:
    put_faults(api, {"cut_create": 2})
    file_id = upload(api, lines_of(2))
    for _ in range(2):
        with pytest.raises(openai.APIConnectionError):
            submit_file(api, file_id)
    third = submit_file(api, file_id)
    made = made_from(api, file_id)
    assert len(made) == 3
    assert made[0] == third.id
    assert {api.wait(batch_id).status for batch_id in made} == {"completed"}
    assert capfd.readouterr().err == "", "uvicorn has nothing to complain of"


def test_a_cut_answer_never_comes(api: LocalApi) -> None:
    put_faults(api, {"cut_create": 1})
    body = {"input_file_id": upload(api, lines_of(1)), "endpoint": ENDPOINT, "completion_window": "24h"}
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("POST", "/v1/batches", json.dumps(body), {"content-type": "application/json"})
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()


def test_a_500_hides_a_batch_that_was_made(api: LocalApi) -> None:
    put_faults(api, {"error_create": 1})
    file_id = upload(api, lines_of(2))
    with pytest.raises(openai.InternalServerError, match="Sorry about that"):
        submit_file(api, file_id)
    assert len(made_from(api, file_id)) == 1
    submit_file(api, file_id)
    assert len(made_from(api, file_id)) == 2


def test_a_refused_creation_uses_up_no_drill(api: LocalApi) -> None:
    put_faults(api, {"error_create": 1})
    with pytest.raises(openai.BadRequestError):
        api.client.batches.create(input_file_id="x", endpoint=ENDPOINT, completion_window="1h")  # type: ignore[arg-type]
    with pytest.raises(openai.InternalServerError):
        submit_file(api, "x")


def test_answers_to_uploads_are_lost_likewise(api: LocalApi) -> None:
    before = {file.id for file in api.client.files.list(purpose="batch")}
    put_faults(api, {"cut_upload": 1, "error_upload": 1})
    with pytest.raises(openai.APIConnectionError):
        upload(api, lines_of(2))
    with pytest.raises(openai.InternalServerError):
        upload(api, lines_of(2))
    third = upload(api, lines_of(2))
    new = {file.id for file in api.client.files.list(purpose="batch")} - before
    assert len(new) == 3
    assert third in new


def test_a_new_batch_is_listed_late_but_found_at_once(api: LocalApi) -> None:
    put_faults(api, {"list_lag": 3600})
    batch = submit(api, lines_of(2))
    assert api.client.batches.list().data == []
    assert api.wait(batch.id).status == "completed"
    put_faults(api, {})
    assert made_from(api, batch.input_file_id) == [batch.id]


def test_result_files_are_there_late_but_known_at_once(api: LocalApi) -> None:
    put_faults(api, {"output_late": 3600})
    batch = api.wait(submit(api, lines_of(2)).id)
    assert batch.output_file_id is not None
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        api.client.files.content(batch.output_file_id)
    assert api.client.files.retrieve(batch.output_file_id).bytes > 0
    assert api.client.files.content(batch.input_file_id).content == jsonl(lines_of(2))
    put_faults(api, {})
    assert custom_ids(results(api, batch)[0]) == custom_ids(lines_of(2))


def test_batches_beyond_the_enqueued_token_limit_fail(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl(lines_of(10)))
    tokens = enqueued_tokens(path)
    limit = 2 * tokens + tokens // 2
    with serving(tmp_path / "api", engine="instant", batch_seconds=3600, faults=FaultConfig(token_limit=limit)) as api:
        file_id = upload(api, lines_of(10))
        first, second, third = (begun(api, submit_file(api, file_id)) for _ in range(3))
        other_model = [request_line(n["custom_id"], body={**n["body"], "model": "gpt-5-nano"}) for n in lines_of(10)]
        of_another = begun(api, submit(api, other_model))
        assert [batch.status for batch in (first, second, of_another)] == ["in_progress"] * 3
        failed = api.wait(third.id)
        assert (failed.status, counts(failed)) == ("failed", {"total": 0, "completed": 0, "failed": 0})
        assert failed.errors is not None
        assert [problem.to_dict() for problem in failed.errors.data or []] == [
            {
                "code": "token_limit_exceeded",
                "message": f"Enqueued token limit reached for gpt-4.1-mini in organization org-local. Limit: {limit:,} "
                "enqueued tokens. Please try again once some in_progress batches have been completed.",
                "param": None,
                "line": None,
            }
        ]
        api.client.batches.cancel(first.id)
        api.wait(first.id)
        assert begun(api, submit_file(api, file_id)).status == "in_progress", "there is room again"


def test_the_room_is_taken_once_by_batches_that_come_together(tmp_path: Path) -> None:
    with serving(tmp_path, engine="instant", batch_seconds=3600, faults=FaultConfig(token_limit=50)) as api:
        file_id = upload(api, lines_of(3))
        made = [submit_file(api, file_id) for _ in range(12)]
        states = Counter(begun(api, batch).status for batch in made)
        [running, *_] = [batch.id for batch in api.client.batches.list() if batch.status == "in_progress"]
        tokens = enqueued_tokens(tmp_path / "batches" / running / "input.jsonl")
    assert states == {"in_progress": 50 // tokens, "failed": 12 - 50 // tokens}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "The harbour reopened."}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "The harbour reopened."}]}]},
        {"input": "The harbour reopened."},
        {"input": ["The harbour reopened."]},
        {"prompt": "The harbour reopened."},
    ],
)
def test_prompts_are_counted_whatever_their_form(tmp_path: Path, body: dict[str, Any]) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl([{"custom_id": "a", "body": {"model": "m", "max_tokens": 9, **body}}]))
    assert enqueued_tokens(path) == 4


def test_drills_are_changed_while_the_server_runs(api: LocalApi) -> None:
    answer = put_faults(api, {"fail_share": 1, "fail_status": 429})
    assert read_fault_config(answer.json) == FaultConfig(fail_share=1, fail_status=429)
    assert http_request(api, "GET", "/control/faults").json == answer.json
    batch = api.wait(submit(api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 0, "failed": 2}
    assert read_fault_config(put_faults(api, {"list_lag": 0}).json) == FaultConfig(), "what is not named is off"
    batch = api.wait(submit(api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 2, "failed": 0}


def test_drills_that_happen_so_many_times_are_counted_anew_when_they_are_set(api: LocalApi) -> None:
    file_id = upload(api, lines_of(1))
    for _ in range(2):
        put_faults(api, {"error_create": 1})
        with pytest.raises(openai.InternalServerError):
            submit_file(api, file_id)
        submit_file(api, file_id)


def test_without_being_told_so_the_server_lets_nobody_change_drills(shared_api: LocalApi) -> None:
    assert http_request(shared_api, "GET", "/control/faults").status == 404
    assert put_faults(shared_api, {"fail_share": 1}).status == 404
    batch = shared_api.wait(submit(shared_api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 2, "failed": 0}


WRONG = [
    ([], "JSON object"),
    ({"fail": 1}, "There is no fault 'fail'"),
    ({"fail_share": 1.5}, "more than 1"),
    ({"fail_share": 0.6, "drop_share": 0.6}, "more than 1"),
    ({"fail_share": -0.1}, "from 0 to"),
    ({"fail_share": "0.1"}, "must be a number"),
    ({"fail_share": True}, "must be a number"),
    ({"fail_share": None}, "must be a number"),
    ({"list_lag": 1e999}, "from 0 to"),
    ({"list_lag": float("nan")}, "from 0 to"),
    ({"list_lag": 10**400}, "from 0 to"),
    ({"cut_create": 1.5}, "whole number"),
    ({"fail_status": 200}, "from 400 to 599"),
    ({"fail_status": 600}, "from 400 to 599"),
]


@pytest.mark.parametrize(("wrong", "sentence"), WRONG)
def test_drills_that_make_no_sense_are_refused_in_a_sentence(wrong: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_fault_config(wrong)


def test_a_refused_change_changes_nothing(api: LocalApi) -> None:
    put_faults(api, {"list_lag": 2})
    answer = put_faults(api, {"fail_share": 2})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert "more than 1" in answer.json["error"]["message"]
    assert http_request(api, "GET", "/control/faults").json["list_lag"] == 2
