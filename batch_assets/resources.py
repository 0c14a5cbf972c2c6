"""What the assets work with: the tables, the source, the task, and OpenAI (or its local stand-in).

All of them are plain objects, built from the environment of the process: a run's config can set nothing of them.
Dagster resolves `{"env": "OPENAI_API_KEY"}` in any string that a run's config may set, so a `base_url` or a prompt
that could be set there would carry the key out. What the environment does not offer is changed in this file.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import openai
from dagster_openai import OpenAIResource

from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.database import MEMORY_LIMIT, Database
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.planning.task import SYSTEM_PROMPT, USER_TEMPLATE, Task
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE, ApiIdentity, identify, normalized_url
from batch_assets.batching.provider.prices import ModelPrice, check_own_prices
from batch_assets.batching.timing import Timing
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.keys import NO_KEY, local_api_key
from batch_assets.settings import Settings

IDENTIFY_SECONDS = 20.0


@dataclass(frozen=True)
class Warehouse:
    """The DuckDB database with our tables, and the folder with request and result files.

    database: a DuckDB file, or a URL that DuckDB opens.
    memory_limit: how much memory DuckDB may take in a run. A day of a million articles needs no more than the
        default; twice as much is a little faster. DuckDB writes what does not fit beside the database file.
    threads: DuckDB's threads in a run; None: one per core.
    """

    data_dir: str
    database: str
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None

    @property
    def tables(self) -> Database:
        """Opens connections, for one short piece of work each."""
        return Database(self.database, memory_limit=self.memory_limit, threads=self.threads)

    @property
    def files(self) -> Path:
        return Path(self.data_dir)


@dataclass(frozen=True)
class ArticleSource:
    """Where a day's articles come from.

    source: a path, glob or URL of JSONL, JSON, CSV or Parquet files. `{partition}` in it is replaced by the day;
        without it, the column `published_at` selects the day.
    """

    source: str


@dataclass(frozen=True)
class SummaryTask:
    """What is asked of the model, for every article. A change makes every request that it changes pending again.

    user_template: the user's message, with `{title}`, `{body}`, `{url}` and `{published_at}`.
    max_output_tokens: the limit of an answer; a reasoning model's thinking counts. It is no part of what is asked:
        raised, it makes only the answers pending that were cut.
    temperature, top_p: left out for reasoning models, which refuse them.
    reasoning_effort: sent to reasoning models only.
    max_rounds: how often a request may come back without an answer before it counts as failed.
    max_cost_usd, max_cost_usd_per_month: what may be spent on a day, and in a UTC month, everything counted.
    prices: the user's own, for models and APIs whose prices are not published.
    max_enqueued_tokens: the model's limit of enqueued input tokens (OpenAI's page Limits), shared by all days in
        flight. What does not fit waits, and goes out as batches end.
    """

    model: str
    system_prompt: str = SYSTEM_PROMPT
    user_template: str = USER_TEMPLATE
    max_output_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    max_rounds: int = 3
    max_cost_usd: float | None = None
    max_cost_usd_per_month: float | None = None
    max_enqueued_tokens: int | None = None
    prices: tuple[ModelPrice, ...] = ()

    def __post_init__(self) -> None:
        check_own_prices(self.prices)

    @property
    def limits(self) -> Limits:
        return Limits(
            max_enqueued_tokens=self.max_enqueued_tokens,
            budget=Budget(self.max_cost_usd, self.max_cost_usd_per_month),
            own_prices=self.prices,
        )

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


@dataclass(frozen=True)
class BatchApi:
    """The API that batches are sent to.

    connect: returns Dagster's resource of OpenAI's client, with the address and the key of now. Raises
        dagster.Failure with what to do if there is none.
    is_stand_in: neither a key nor an address is set, so the local Batch API of the data folder stands in.
    timing: how long runs and the sensor wait for the API.
    """

    connect: Callable[[], OpenAIResource]
    is_stand_in: bool = False
    timing: Timing = field(default_factory=Timing)

    @contextmanager
    def get_client(self, context: Any) -> Generator[openai.OpenAI, None, None]:
        """A client, closed at the end. `context` is that of an asset, an op or a sensor."""
        with (
            self.connect().yield_for_execution(dg.build_init_resource_context()) as resource,
            resource.get_client(context) as client,
        ):
            yield client

    def identify(self, context: Any, warehouse: Warehouse) -> ApiIdentity:
        """Which API and account answer. Where none answers, what the configured address says, with a warning."""
        try:
            with self.get_client(context) as client:
                address = ApiIdentity(normalized_url(str(client.base_url)), is_assumed=True)
                return identify(client.with_options(timeout=IDENTIFY_SECONDS), warehouse.tables.warehouse_id())
        except openai.OpenAIError as error:
            context.log.warning(f"The API at {address.name} does not answer: {error_message(error)}.")
            return address
        except dg.Failure as failure:
            if not self.is_stand_in:
                raise
            context.log.warning(failure.description)
            return ApiIdentity(BUILT_IN_ENGINE, is_assumed=True)


def openai_resource(settings: Settings) -> BatchApi:
    """OpenAI where a key or a URL is set in the environment; the local Batch API of the data folder otherwise."""
    if not settings.has_remote_api:
        return BatchApi(lambda: _local_api(settings.local_api_folder), is_stand_in=True)
    return BatchApi(_remote_api)


def _remote_api() -> OpenAIResource:
    # without a base_url, the client itself reads OPENAI_BASE_URL
    return OpenAIResource(api_key=os.environ.get("OPENAI_API_KEY", "").strip() or NO_KEY)


def _local_api(folder: Path) -> OpenAIResource:
    """The local Batch API of this folder, wherever it listens now. Raises dagster.Failure if none runs."""
    url = running_url(folder)
    if url is None:
        raise dg.Failure(
            "There is no OPENAI_API_KEY, and the local Batch API that stands in for OpenAI isn't running. Start "
            "it with `batch-assets serve` in the folder of the project (`batch-assets dev` does it for you), "
            "or set OPENAI_API_KEY."
        )
    return OpenAIResource(api_key=local_api_key(folder), base_url=url)


def fixed(value: object) -> dg.ResourceDefinition:
    """A resource that is this object. Dagster refuses a run whose config has anything for it."""
    return dg.ResourceDefinition(resource_fn=lambda _: value, config_schema={})


def all_resources(settings: Settings) -> Mapping[str, dg.ResourceDefinition]:
    """Every resource, by the name that assets ask for; none can be configured at launch."""
    task = SummaryTask(
        model=settings.model,
        max_rounds=settings.max_rounds,
        max_cost_usd=settings.max_cost_usd,
        max_cost_usd_per_month=settings.max_cost_usd_per_month,
        max_enqueued_tokens=settings.max_enqueued_tokens,
    )
    resources = {
        "warehouse": Warehouse(data_dir=str(settings.data_folder), database=settings.database),
        "article_source": ArticleSource(source=settings.source),
        "task": task,
        "openai": openai_resource(settings),
    }
    return {
        **{name: fixed(value) for name, value in resources.items()},
        # Dagster's own would take any folder that a run's config names. Our assets store nothing with it.
        "io_manager": dg.IOManagerDefinition(resource_fn=_in_memory, config_schema={}),
    }


def _in_memory(_: dg.InitResourceContext) -> dg.InMemoryIOManager:
    return dg.InMemoryIOManager()  # type: ignore[no-untyped-call]
