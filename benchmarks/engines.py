"""The summaries and the speed of each engine, for the five English reports of the sample's first morning.

    python -m benchmarks.engines                                     # the built-in one and the small model
    python -m benchmarks.engines extractive http://127.0.0.1:11434/v1 --model qwen3

Prints Markdown: a table of figures, then the summaries side by side. Each engine has a local Batch API of its own,
and one batch of five requests, made as the project makes them.
"""

import json
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from batch_assets.batching.planning.task import Task
from batch_assets_tests.conftest import serving
from batch_assets_tests.local_api.support import request_line, results, submit
from batch_assets_tests.rendered import rendered

SAMPLE = Path("batch_assets/sample/articles.jsonl")
ARTICLES = (
    "climate-farm-calendar",
    "ai-factory-floor",
    "remote-work-settles",
    "ecommerce-returns",
    "renewables-pass-coal",
)
_MOST_SECONDS = 3600.0
_MOST_CHARACTERS = 600


@dataclass(frozen=True)
class EngineResult:
    seconds: float
    output_tokens: int
    summaries: dict[str, str]


@click.command(help=__doc__)
@click.argument("engines", nargs=-1)
@click.option("--model", help="Model of another server.  [default: the request's]")
def main(engines: tuple[str, ...], model: str | None) -> None:
    articles = read_articles()
    outcomes = {
        engine: summarise(engine, articles, model if "://" in engine else None)
        for engine in engines or ("extractive", "smollm2")
    }
    click.echo("| engine | seconds | articles a minute | output tokens |\n|---|---|---|---|")
    for engine, outcome in outcomes.items():
        rate = len(articles) / outcome.seconds * 60
        click.echo(f"| `{engine}` | {outcome.seconds:.1f} | {rate:,.0f} | {outcome.output_tokens} |")
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    click.echo(f"\nLargest process beside the server (the small model's): {children} MB.")
    for name, article in articles.items():
        click.echo(f"\n**{article['title']}**\n")
        for engine, outcome in outcomes.items():
            click.echo(f"- `{engine}`: {shorten(outcome.summaries[name])}")


def shorten(summary: str) -> str:
    text = " ".join(summary.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters)"


def read_articles() -> dict[str, dict[str, str]]:
    with SAMPLE.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    found = {row["id"]: row for row in rows if row.get("id") in ARTICLES}
    return {name: found[name] for name in ARTICLES}


def summarise(engine: str, articles: dict[str, dict[str, str]], model: str | None) -> EngineResult:
    """One batch; the time includes the start of the small model."""
    task = Task(model="gpt-6-luna")
    lines = [request_line(name, body=rendered(task, article)) for name, article in articles.items()]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), engine=engine, engine_model=model, engine_timeout_seconds=_MOST_SECONDS) as api,
    ):
        start = time.monotonic()
        batch = api.wait(submit(api, lines).id, seconds=_MOST_SECONDS)
        seconds = time.monotonic() - start
        output, errors = results(api, batch)
    if errors or batch.usage is None:
        raise click.ClickException(f"{engine} failed: {errors}")
    summaries = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in output}
    return EngineResult(seconds, batch.usage.output_tokens, summaries)


if __name__ == "__main__":
    main()
