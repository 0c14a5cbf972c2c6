"""What the assets work with: the tables, the source, the task, and OpenAI (or its local stand-in)."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import openai
from dagster_openai import OpenAIResource
from pydantic import Field

from batch_assets.batching.database import MEMORY_LIMIT, Database, is_url
from batch_assets.batching.ledger import Limits
from batch_assets.batching.task import SYSTEM_PROMPT, USER_TEMPLATE, Task
from batch_assets.local_api.discovery import running_url
from batch_assets.local_api.keys import NO_KEY, local_api_key
from batch_assets.settings import Settings


class Warehouse(dg.ConfigurableResource):
    """The DuckDB database with our tables, and the folder with request and result files."""

    data_dir: str = Field(description="Folder of the request files and result files.")
    database: str = Field(description="The DuckDB file (or a URL that DuckDB opens).")
    memory_limit: str = Field(
        default=MEMORY_LIMIT,
        description="How much memory DuckDB may take in a run. A day of a million articles does with the default; "
        "twice as much is a little faster. What doesn't fit is put beside the database file meanwhile.",
    )
    threads: int | None = Field(default=None, gt=0, description="Threads of DuckDB in a run. None: one per core.")

    @property
    def tables(self) -> Database:
        """Opens connections, for one short piece of work each."""
        return Database(self.database, memory_limit=self.memory_limit, threads=self.threads)

    @property
    def files(self) -> Path:
        return Path(self.data_dir)


class ArticleSource(dg.ConfigurableResource):
    """Where a day's articles come from."""

    source: str = Field(
        description="A path, glob or URL of JSONL, JSON, CSV or Parquet files. {partition} in it is replaced by the "
        "day; without it, the column published_at selects the day."
    )


class SummaryTask(dg.ConfigurableResource):
    """What is asked of the model, for every article. A change makes every request that it changes owed again."""

    model: str = Field(description="A model of OpenAI's that the Batch API takes.")
    system_prompt: str = Field(default=SYSTEM_PROMPT, description="The instructions.")
    user_template: str = Field(
        default=USER_TEMPLATE, description="The user's message: {title}, {body}, {url}, {published_at}."
    )
    max_output_tokens: int = Field(
        default=1024, gt=0, description="Bounds an answer, the thinking of a reasoning model included."
    )
    temperature: float | None = Field(default=None, description="Not sent to reasoning models: they refuse it.")
    top_p: float | None = Field(default=None, description="Not sent to reasoning models: they refuse it.")
    reasoning_effort: str | None = Field(default=None, description="Sent to reasoning models only.")
    max_rounds: int = Field(
        default=3,
        gt=0,
        description="How often a request may come back without an answer before it counts as failed.",
    )

    max_cost_usd: float | None = Field(
        default=None, ge=0, description="A day that is estimated dearer is not submitted."
    )
    max_enqueued_tokens: int | None = Field(
        default=None,
        gt=0,
        description="The model's limit of enqueued input tokens (OpenAI's page Limits), shared by all days in flight. "
        "What doesn't fit waits, and goes out as batches end.",
    )

    @property
    def limits(self) -> Limits:
        return Limits(max_enqueued_tokens=self.max_enqueued_tokens)

    def as_task(self) -> Task:
        """The task, checked. Raises TaskError."""
        return Task(
            model=self.model,
            system_prompt=self.system_prompt,
            user_template=self.user_template,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            reasoning_effort=self.reasoning_effort,
        )


class LocalOpenAIResource(OpenAIResource):
    """OpenAI's client, pointed at the local Batch API of a folder, wherever that listens just now."""

    folder: str = Field(description="The local Batch API's folder: its address is read there.")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Nothing yet: a sensor that has nothing to ask must not fail because the server is off."""

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Nothing: `get_client` closes what it opens."""

    @contextmanager
    def get_client(self, context: Any) -> Generator[openai.OpenAI, None, None]:
        """Find the server, and a client of it. Raises dagster.Failure with what to do if none runs."""
        url = running_url(Path(self.folder))
        if url is None:
            raise dg.Failure(
                "There is no OPENAI_API_KEY, and the local Batch API that stands in for OpenAI isn't running. Start "
                "it with `batch-assets serve` in the folder of the project (`batch-assets dev` does it for you), "
                "or set OPENAI_API_KEY."
            )
        with openai.OpenAI(api_key=local_api_key(Path(self.folder)), base_url=url) as client:
            yield client


def openai_resource(settings: Settings) -> OpenAIResource:
    """OpenAI where a key or a URL is set; the local Batch API otherwise. The key is named, never read, here."""
    if not settings.has_remote_api:
        return LocalOpenAIResource(api_key=NO_KEY, folder=str(settings.local_api_folder))
    key = dg.EnvVar("OPENAI_API_KEY")
    # without a base_url, the client itself reads OPENAI_BASE_URL
    return OpenAIResource(api_key=key if key.get_value() else NO_KEY)


def _named_if_url(value: str, variable: str) -> str | dg.EnvVar:
    """Of a URL, which may hold a signature or a token, only the variable is named: Dagster shows what it is given.

    A path stays: the variable's may be relative, and runs may start in another folder.
    """
    return dg.EnvVar(variable) if is_url(value) else value


def all_resources(settings: Settings) -> dict[str, dg.ConfigurableResource]:
    """Every resource, by the name that assets ask for."""
    return {
        "warehouse": Warehouse(
            data_dir=str(settings.data_folder), database=_named_if_url(settings.database, "BATCH_ASSETS_DUCKDB")
        ),
        "article_source": ArticleSource(source=_named_if_url(settings.source, "BATCH_ASSETS_SOURCE")),
        "task": SummaryTask(
            model=settings.model,
            max_rounds=settings.max_rounds,
            max_cost_usd=settings.max_cost_usd,
            max_enqueued_tokens=settings.max_enqueued_tokens,
        ),
        "openai": openai_resource(settings),
    }
