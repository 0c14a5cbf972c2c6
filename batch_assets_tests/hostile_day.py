"""A day whose titles, answers and messages are Markdown, HTML or instructions, which must have no effect."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from batch_assets.resources import BatchApi
from batch_assets_tests.batching.conftest import Call, Reply, proxy
from batch_assets_tests.first_task import openai_batch
from batch_assets_tests.nasty_texts import BAIT, ESCAPES, TEXTS
from batch_assets_tests.project import DAY, UPSTREAM, Project, api_at, write_articles

REFUSED_DAY, EXPENSIVE_DAY = "2026-01-06", "2026-01-07"
MESSAGE = f"Refused: ![image]({BAIT}/message) <img src={BAIT}/refusal> https://bait.example/help{ESCAPES}"
MODEL = f"![image]({BAIT}/model) https://bait.example/model `` ` ``"


def hostile_articles() -> list[dict[str, str]]:
    days = [DAY] * len(TEXTS) + [REFUSED_DAY, EXPENSIVE_DAY]
    return [
        {
            "id": f"a{number:02}",
            "title": TEXTS[number % len(TEXTS)] + ESCAPES,
            "body": f"Article {number}. It was long.",
            "published_at": f"{day}T12:00:00Z",
        }
        for number, day in enumerate(days)
    ]


@contextmanager
def hostile_api(project: Project) -> Iterator[BatchApi]:
    """The project's API. Each answer is one of the texts, or a failure with one as its message."""

    def answer(call: Call) -> Reply:
        if call.creates_batch and REFUSED_DAY in call.body.decode():
            return Reply.of({"error": {"message": MESSAGE, "code": MESSAGE, "type": MESSAGE}}, 400)
        reply = call.forward()
        if call.path.endswith("/content"):
            results = [json.loads(line) for line in reply.content.splitlines()]
            for text, result in zip(TEXTS, results, strict=False):
                if int(result["custom_id"], 36) % 2:
                    result["response"]["body"]["choices"][0]["message"]["content"] = text + ESCAPES
                else:
                    result["response"] |= {"status_code": 400, "body": {"error": {"message": text, "code": "no"}}}
            return Reply(200, b"".join(json.dumps(result).encode() + b"\n" for result in results))
        if call.method == "GET" and call.path.startswith("/v1/files/"):
            return Reply.of({**reply.json, "bytes": None})  # the proxy changes the size
        return reply

    with proxy(project.api.url, answer) as client:
        yield api_at(str(client.base_url))


def run_hostile_days(project: Project) -> dict[str, str]:
    """Submit, collect, and be refused with such texts; returns run ids by what the runs did."""
    project.source = write_articles(project.folder / "hostile.jsonl", hostile_articles())
    with hostile_api(project) as api:
        project.openai = api
        submitted = project.materialize(UPSTREAM)
        assert submitted.success
        collected = project.finish()
        assert collected.success
        refused = project.materialize(UPSTREAM, REFUSED_DAY)
        assert not refused.success
        project.model, project.max_cost_usd = MODEL, 0.0001
        expensive = project.materialize(UPSTREAM, EXPENSIVE_DAY)
        assert not expensive.success
        assert not project.materialize([openai_batch], EXPENSIVE_DAY).success
    runs = {"submitted": submitted, "collected": collected, "refused": refused, "expensive": expensive}
    return {name: run.run_id for name, run in runs.items()}
