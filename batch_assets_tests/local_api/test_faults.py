"""Each fault happens as its meaning says, as a client of OpenAI would see it, and nothing else goes wrong."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai.types import Batch

from batch_assets.local_api.faults import FaultConfig, LineFault, read_fault_config
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import (
    ENDPOINT,
    HttpResponse,
    counts,
    custom_ids,
    http_request,
    jsonl,
    lines_of,
    results,
    server_process,
    submit,
    submit_file,
    upload,
    wait_for_progress,
)
from batch_assets_tests.local_api_client import LocalApi

LINES = 200


@pytest.fixture(scope="module")
def controlled_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApi]:
    """One server for all tests of this module that can share it. Each test sets its own faults."""
    with serving(tmp_path_factory.mktemp("controlled") / "local_api", engine="instant", control=True) as api:
        yield api


@pytest.fixture
def api(controlled_api: LocalApi) -> Iterator[LocalApi]:
    """The shared server. Its faults are off after each test."""
    yield controlled_api
    put_faults(controlled_api, {})


def made_from(api: LocalApi, file_id: str) -> list[str]:
    """Ids of the batches of a file that are listed, newest first."""
    return [batch.id for batch in api.client.batches.list(limit=100) if batch.input_file_id == file_id]


def put_faults(api: LocalApi, faults: Any) -> HttpResponse:
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


def test_lines_with_status_0_are_in_the_output_file_and_count_as_completed(api: LocalApi) -> None:
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


def test_all_shares_work_together_and_are_the_same_after_a_restart(tmp_path: Path) -> None:
    faults = FaultConfig(expire_share=0.2, drop_share=0.2, fail_share=0.2)

    def faults_of_lines(api: LocalApi, batch: Batch) -> dict[str, LineFault]:
        output, errors = results(api, batch)
        found = dict.fromkeys(custom_ids(lines_of(LINES)), LineFault.DROP)
        found.update((line["custom_id"], LineFault.NONE) for line in output)
        found.update((line["custom_id"], LineFault.EXPIRE if line["error"] else LineFault.FAIL) for line in errors)
        return found

    with serving(tmp_path / "a", engine="instant", faults=faults) as api:
        first, second = (faults_of_lines(api, api.wait(submit(api, lines_of(LINES)).id)) for _ in range(2))
    assert first == {line["custom_id"]: faults.line_fault(1, line["custom_id"]) for line in lines_of(LINES)}
    assert first != second, "a request that comes again in another batch gets another decision"
    with server_process(tmp_path / "b", engine="instant", latency_seconds=0.01, faults=faults) as server:
        batch = submit(server.api, lines_of(LINES))
        wait_for_progress(server.api, batch.id, 20)
        server.kill()
    with serving(tmp_path / "b", engine="instant", faults=faults) as api:
        assert faults_of_lines(api, api.wait(batch.id)) == first


def test_the_connection_may_be_cut_after_a_batch_was_created(api: LocalApi, capfd: pytest.CaptureFixture[str]) -> None:
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
    assert capfd.readouterr().err == "", "uvicorn logs no error"


def test_a_cut_connection_ends_before_the_body(api: LocalApi) -> None:
    put_faults(api, {"cut_create": 1})
    body = {"input_file_id": upload(api, lines_of(1)), "endpoint": ENDPOINT, "completion_window": "24h"}
    parts = urlsplit(api.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    connection.request("POST", "/v1/batches", json.dumps(body), {"content-type": "application/json"})
    with pytest.raises(http.client.IncompleteRead):
        connection.getresponse().read()
    connection.close()


def test_a_500_may_be_the_response_to_a_batch_that_was_created(api: LocalApi) -> None:
    put_faults(api, {"error_create": 1})
    file_id = upload(api, lines_of(2))
    with pytest.raises(openai.InternalServerError, match="Sorry about that"):
        submit_file(api, file_id)
    assert len(made_from(api, file_id)) == 1
    submit_file(api, file_id)
    assert len(made_from(api, file_id)) == 2


def test_a_refused_creation_does_not_count_for_a_fault(api: LocalApi) -> None:
    put_faults(api, {"error_create": 1})
    with pytest.raises(openai.BadRequestError):
        api.client.batches.create(input_file_id="x", endpoint=ENDPOINT, completion_window="1h")  # type: ignore[arg-type]
    with pytest.raises(openai.InternalServerError):
        submit_file(api, "x")


def test_responses_to_uploads_fail_in_the_same_ways(api: LocalApi) -> None:
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


def test_result_files_have_their_contents_late_but_their_objects_at_once(api: LocalApi) -> None:
    put_faults(api, {"output_late": 3600})
    batch = api.wait(submit(api, lines_of(2)).id)
    assert batch.output_file_id is not None
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        api.client.files.content(batch.output_file_id)
    assert api.client.files.retrieve(batch.output_file_id).bytes > 0
    assert api.client.files.content(batch.input_file_id).content == jsonl(lines_of(2))
    put_faults(api, {})
    assert custom_ids(results(api, batch)[0]) == custom_ids(lines_of(2))


def test_faults_are_changed_while_the_server_runs(api: LocalApi) -> None:
    answer = put_faults(api, {"fail_share": 1, "fail_status": 429})
    assert read_fault_config(answer.json) == FaultConfig(fail_share=1, fail_status=429)
    assert http_request(api, "GET", "/control/faults").json == answer.json
    batch = api.wait(submit(api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 0, "failed": 2}
    assert read_fault_config(put_faults(api, {"list_lag": 0}).json) == FaultConfig(), "a fault without a value is off"
    batch = api.wait(submit(api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 2, "failed": 0}


def test_the_counts_of_faults_start_again_when_they_are_changed(api: LocalApi) -> None:
    file_id = upload(api, lines_of(1))
    for _ in range(2):
        put_faults(api, {"error_create": 1})
        with pytest.raises(openai.InternalServerError):
            submit_file(api, file_id)
        submit_file(api, file_id)


def test_without_the_option_control_no_client_can_change_faults(shared_api: LocalApi) -> None:
    assert http_request(shared_api, "GET", "/control/faults").status == 404
    assert put_faults(shared_api, {"fail_share": 1}).status == 404
    batch = shared_api.wait(submit(shared_api, lines_of(2)).id)
    assert counts(batch) == {"total": 2, "completed": 2, "failed": 0}


def test_a_refused_change_changes_nothing(api: LocalApi) -> None:
    put_faults(api, {"list_lag": 2})
    answer = put_faults(api, {"fail_share": 2})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert "more than 1" in answer.json["error"]["message"]
    assert http_request(api, "GET", "/control/faults").json["list_lag"] == 2
