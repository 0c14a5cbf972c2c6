"""JSON of hostile depth, size or content: refused with OpenAI's errors, and the server continues."""

from __future__ import annotations

import json

import pytest

from batch_assets_tests.local_api.bodies import REQUESTS
from batch_assets_tests.local_api.support import chat_body, http_request, lines_of, request_line, results, submit
from batch_assets_tests.local_api_client import LocalApi

PATHS = [*REQUESTS, "/v1/batches"]
DEEP = b"[" * 100_000
HUGE_INTEGER = b"9" * 5_001
# Python's parser can read this depth. Code that walks over the value must be able to as well.
DEEPEST = b'{"a":' * 900 + b"1" + b"}" * 900


def nested(value: bytes) -> bytes:
    """Bodies with the value in fields that an endpoint may read or repeat."""
    return b'{"model": "m", "metadata": {"a": %s}, "messages": %s, "input": %s, "n": %s}' % ((value,) * 4)


HOSTILE = {
    "deep": DEEP,
    "deep and closed": DEEP + b"]" * 100_000,
    "deep within": nested(DEEP + b"]" * 100_000),
    "deepest that parses": nested(DEEPEST),
    "deepest list that parses": nested(b"[" * 900 + b"]" * 900),
    "huge integer": HUGE_INTEGER,
    "huge integer within": nested(HUGE_INTEGER),
    "largest integer that parses": nested(b"9" * 4_300),
    "infinite": nested(b"1e400"),
    "minus infinite": nested(b"-1e400"),
    "NaN": nested(b"NaN"),
    "Infinity": nested(b"Infinity"),
    "half a surrogate pair": nested(rb'"\ud800"'),
    "half a surrogate pair as a name": b'{"\\udfff": 1, "model": "m"}',
    "null character": nested(rb'"\u0000"'),
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "many keys": json.dumps({f"key {number}": number for number in range(100_000)}).encode(),
    "same key again and again": b"{" + b'"model": "m", ' * 100_000 + b'"model": 1}',
    "16 MB string": b'{"model": "' + b"x" * (16 * 1024 * 1024 - 20) + b'"}',
    "16 MB of brackets": b"[" + b"[]," * (5 * 1024 * 1024) + b"[]]",
    "16 MB of custom text": nested(b'"' + b"a" * (4 * 1024 * 1024 - 100) + b'"'),
    "more than 16 MB": b" " * (17 * 1024 * 1024),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_body_is_refused(shared_api: LocalApi, body: bytes) -> None:
    for path in PATHS:
        answer = http_request(shared_api, "POST", path, body, {"content-type": "application/json"})
        if answer.status == 200:
            assert b"Infinity" not in answer.content
            assert b"NaN" not in answer.content
            continue
        assert answer.status in (400, 404, 413), answer.content[:500]
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}
        assert len(answer.content) < 10_000, "the error does not repeat the whole request"


def test_a_hostile_line_fails_its_batch_and_no_other(shared_api: LocalApi) -> None:
    for name, body in HOSTILE.items():
        if len(body) > 2_000_000 or b"\n" in body:
            continue
        line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": %s}' % body
        batch = shared_api.wait(submit(shared_api, [request_line("first"), line]).id)
        assert batch.status in ("failed", "completed"), name
        if batch.status == "completed":
            output, errors = results(shared_api, batch)
            assert len(output) + len(errors) == 2, name
    assert shared_api.wait(submit(shared_api, lines_of(3)).id).status == "completed"


@pytest.mark.parametrize("digits", ["9" * 5_001, "9" * 60_000, "٣٦٠٠", "3_600", "+3600", " 3600", "1e4"])
def test_numbers_in_forms_and_queries_are_plain_digits(shared_api: LocalApi, digits: str) -> None:
    parts = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": digits}
    body = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts.items()
    )
    body += '--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = http_request(shared_api, "POST", "/v1/files", body.encode(), headers)
    assert (answer.status, answer.json["error"]["param"]) == (400, "expires_after.seconds")
    if digits.isascii() and " " not in digits and len(digits) < 10_000:
        for path in ("/v1/files", "/v1/batches"):
            answer = http_request(shared_api, "GET", f"{path}?limit={digits}")
            assert (answer.status, answer.json["error"]["param"]) == (400, "limit")


def test_a_result_is_always_valid_json(shared_api: LocalApi) -> None:
    line = request_line("a", body=chat_body(temperature=1e308, user="\ud800"))
    _, (failure,) = results(shared_api, shared_api.wait(submit(shared_api, [line]).id))
    assert failure["response"]["body"]["error"]["param"] == "temperature"
