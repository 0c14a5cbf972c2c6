"""All methods of the official SDK for files and batches, and those for direct requests, sync and async."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import jsonl, lines_of, request_line, submit
from batch_assets_tests.local_api_client import ENDED, LocalApi

REQUESTS = jsonl([*lines_of(5), request_line("ü\u2028")])


def run(api: LocalApi, work: Callable[[AsyncOpenAI], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncOpenAI(base_url=api.url, api_key="unused", max_retries=0) as client:
            await work(client)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_files(local_api: LocalApi, tmp_path: Path) -> None:
    client = local_api.client
    path = tmp_path / "day.jsonl"
    path.write_bytes(REQUESTS)
    with path.open("rb") as handle:
        made = [
            client.files.create(file=file, purpose="batch")
            for file in (path, handle, REQUESTS, io.BytesIO(REQUESTS), ("a.jsonl", REQUESTS, "application/jsonl"))
        ]
    assert [file.filename for file in made] == ["day.jsonl", "day.jsonl", "upload", "upload", "a.jsonl"]
    assert {file.bytes for file in made} == {len(REQUESTS)}
    file = made[0]
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id, poll_interval=0.01, max_wait_seconds=5) == file
    assert [found.id for found in client.files.list(limit=2, order="asc")] == [each.id for each in made]
    assert [found.id for found in client.files.list(purpose="vision")] == []

    content = client.files.content(file.id)
    assert content.read() == REQUESTS
    assert [json.loads(line)["custom_id"] for line in content.content.split(b"\n")[:-1]][-1] == "ü\u2028"
    content.write_to_file(tmp_path / "whole")
    with client.files.with_streaming_response.content(file.id) as answer:
        answer.stream_to_file(tmp_path / "streamed")
    with client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join(answer.iter_bytes(100)) == REQUESTS
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "streamed").read_bytes() == REQUESTS
    raw = client.files.with_raw_response.retrieve(file.id)
    assert (raw.http_response.status_code, raw.parse(), raw.headers["x-request-id"][:4]) == (200, file, "req_")

    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as refusal:
        client.files.retrieve(file.id)
    assert refusal.value.request_id


def test_files_without_waiting(local_api: LocalApi, tmp_path: Path) -> None:
    async def work(client: AsyncOpenAI) -> None:
        made = [await client.files.create(file=("a.jsonl", REQUESTS), purpose="batch") for _ in range(3)]
        file = made[0]
        assert await client.files.retrieve(file.id) == file
        assert await client.files.wait_for_processing(file.id, poll_interval=0.01) == file
        assert [found.id async for found in client.files.list(limit=1, order="asc")] == [each.id for each in made]
        assert (await client.files.content(file.id)).content == REQUESTS
        async with client.files.with_streaming_response.content(file.id) as answer:
            await answer.stream_to_file(tmp_path / "streamed")
        assert (tmp_path / "streamed").read_bytes() == REQUESTS
        assert (await client.files.delete(file.id)).deleted

    run(local_api, work)


def test_batches(local_api: LocalApi) -> None:
    client = local_api.client
    file = client.files.create(file=("a.jsonl", REQUESTS), purpose="batch")
    made = [
        client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"number": str(number)},
            output_expires_after={"anchor": "created_at", "seconds": 3600},
        )
        for number in range(3)
    ]
    assert [batch.id for batch in client.batches.list(limit=1)] == [batch.id for batch in reversed(made)]
    batch = local_api.wait(made[0].id)
    assert (batch.status, batch.metadata) == ("completed", {"number": "0"})
    assert client.batches.with_raw_response.retrieve(batch.id).parse() == batch
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.retrieve("batch_unknown")
    with pytest.raises(openai.BadRequestError) as refusal:
        client.batches.create(input_file_id=file.id, endpoint="/v1/videos", completion_window="24h")
    assert (refusal.value.param, refusal.value.code) == ("endpoint", "invalid_value")


def test_batches_without_waiting(tmp_path: Path) -> None:
    async def wait(client: AsyncOpenAI, batch: Batch) -> Batch:
        while (batch := await client.batches.retrieve(batch.id)).status not in ENDED:
            await asyncio.sleep(0.01)
        return batch

    async def work(client: AsyncOpenAI) -> None:
        file = await client.files.create(file=("a.jsonl", jsonl(lines_of(50))), purpose="batch")
        made = [
            await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
            for _ in range(3)
        ]
        assert (await client.batches.cancel(made[2].id)).status in ("cancelling", "cancelled")
        ended = await asyncio.gather(*(wait(client, batch) for batch in made))
        assert [batch.status for batch in ended] == ["completed", "completed", "cancelled"]
        assert {batch.id async for batch in client.batches.list(limit=2)} == {batch.id for batch in made}

    with serving(tmp_path, engine="instant", latency_seconds=0.01) as api:
        run(api, work)


def test_answers_without_a_batch(shared_api: LocalApi) -> None:
    def check(chat: str | None, response: str, embedding: list[float], models: list[str]) -> None:
        assert chat == response == "One two."
        assert len(embedding) == 5
        assert "text-embedding-3-small" in models

    def ask(client: OpenAI) -> None:
        chat = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "One two."}])
        response = client.responses.create(model="m", input="One two.")
        embeddings = client.embeddings.create(model="text-embedding-3-small", input="One two.", dimensions=5)
        models = [model.id for model in client.models.list()]
        check(chat.choices[0].message.content, response.output_text, embeddings.data[0].embedding, models)
        assert client.models.retrieve(models[0]).id == models[0]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no such model")
        with pytest.raises(openai.BadRequestError, match="does not support true"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)

    async def work(client: AsyncOpenAI) -> None:
        chat = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "One two."}])
        response = await client.responses.create(model="m", input="One two.")
        embeddings = await client.embeddings.create(model="text-embedding-3-small", input="One two.", dimensions=5)
        models = [model.id async for model in client.models.list()]
        check(chat.choices[0].message.content, response.output_text, embeddings.data[0].embedding, models)
        assert (await client.models.retrieve(models[0])).id == models[0]

    ask(shared_api.client)
    run(shared_api, work)


def test_a_key_is_checked_by_the_sdks_errors(tmp_path: Path) -> None:
    with serving(tmp_path, api_key="right") as api:
        submit(api, lines_of(1))
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
            api.client.with_options(api_key="wrong").files.list()
