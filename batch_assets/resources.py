"""The resources: the tables, the source, and OpenAI or its stand-in, the local Batch API.

They are plain objects, built from the environment variables: a run's config cannot set them. Dagster resolves
`{"env": "OPENAI_API_KEY"}` in any string of a run's config, so a `base_url` or a prompt there could send the key to
another server. To set a field that has no environment variable, change this file.
"""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import openai
from dagster_openai import OpenAIResource

from batch_assets.batching.ingest.source import DEFAULT_MALFORMED_SHARE, Source
from batch_assets.batching.ledger.database import MEMORY_LIMIT, Database
from batch_assets.batching.provider.batches import error_message
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE, ApiIdentity, identify, normalized_url
from batch_assets.batching.timing import Timing
from batch_assets.local_api.serving.discovery import running_url
from batch_assets.local_api.serving.keys import NO_KEY, local_api_key
from batch_assets.settings import Settings

IDENTIFY_SECONDS = 20.0
# The keys of our resources. A project with our assets may have others with common names, such as `openai`.
WAREHOUSE, OPENAI = "batch_assets_warehouse", "batch_assets_openai"


@dataclass(frozen=True)
class Warehouse:
    """The DuckDB database with our tables, and the folder with request and result files.

    database: a DuckDB file, or a URL that DuckDB opens.
    memory_limit: of DuckDB in a run. A day of a million articles needs no more than the default; twice as much is a
        little faster. DuckDB writes data that exceeds it beside the database file.
    threads: DuckDB's threads in a run; None: one per core.
    """

    data_dir: str
    database: str
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None

    @property
    def tables(self) -> Database:
        """The database. Open a connection for each short piece of work."""
        return Database(self.database, memory_limit=self.memory_limit, threads=self.threads)

    @property
    def files(self) -> Path:
        return Path(self.data_dir)


@dataclass(frozen=True)
class ArticleSource:
    """Where a day's articles come from.

    source: a path, glob or URL of JSONL, JSON, CSV or Parquet files; a query or a `.sql` file, with the parameter
        `$day`; or `table:NAME`. The run replaces `{partition}` in it by the day. Without `{partition}` and `$day`, the
        column `published_at` selects the day's rows.
    columns: the source's names for our columns: `{"body": "content"}`.
    newest_by: which of several rows with one id counts: the last by `published_at`, or by the order of the rows.
    max_malformed_share: how many of the source's rows may be malformed (0 … 1); with more, the day fails.
    look_back_days: how many earlier days the schedule `daily_submission` reads again each night, for late articles.
    """

    source: str
    columns: Mapping[str, str] = field(default_factory=dict)
    newest_by: Literal["published_at", "order"] = "published_at"
    max_malformed_share: float = DEFAULT_MALFORMED_SHARE
    look_back_days: int = 2

    def as_source(self, name: str, extra: tuple[str, ...] = (), *, needs_body: bool = True) -> Source:
        """The source with this name, with further columns."""
        share = self.max_malformed_share
        return Source(self.source, self.columns, self.newest_by, share, name, extra, needs_body=needs_body)


@dataclass(frozen=True)
class BatchApi:
    """The API that runs the batches.

    connect: returns Dagster's resource of OpenAI's client, with the present address and key. Raises dagster.Failure,
        which says what to do, if there is no API.
    is_stand_in: neither a key nor an address is set, so the local Batch API of the data folder stands in.
    timing: how long runs and the sensor wait for the API.
    """

    connect: Callable[[], OpenAIResource]
    is_stand_in: bool = False
    timing: Timing = field(default_factory=Timing)

    @contextmanager
    def get_client(self, context: Any) -> Generator[openai.OpenAI, None, None]:
        """A client, which is closed at the end. `context` is that of an asset, an op or a sensor."""
        # without an instance, Dagster would make a new one in memory, for a tenth of a second each time
        init_context = dg.build_init_resource_context(instance=context.instance)
        # For an asset, the resource would record the usage of each call in its one materialization.
        of_op = context.op_execution_context if isinstance(context, dg.AssetExecutionContext) else context
        with (
            self.connect().yield_for_execution(init_context) as resource,
            resource.get_client(of_op) as client,
        ):
            yield client

    def identify(self, context: Any, warehouse: Warehouse) -> ApiIdentity:
        """The API and the account that answer. If none answers, the configured address, and a warning in the log."""
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
    """OpenAI if the environment has a key or a URL; otherwise the local Batch API of the data folder."""
    if not settings.has_remote_api:
        return BatchApi(lambda: _local_api(settings.local_api_folder), is_stand_in=True)
    return BatchApi(_remote_api)


def _remote_api() -> OpenAIResource:
    # without a base_url, the client itself reads OPENAI_BASE_URL
    return OpenAIResource(api_key=os.environ.get("OPENAI_API_KEY", "").strip() or NO_KEY)


def _local_api(folder: Path) -> OpenAIResource:
    """The local Batch API of this folder, at its present address. Raises dagster.Failure if none runs."""
    url = running_url(folder)
    if url is None:
        raise dg.Failure(
            "There is no OPENAI_API_KEY, and the local Batch API that stands in for OpenAI isn't running. Start "
            "it with `batch-assets serve` in the folder of the project (`batch-assets dev` does it for you), "
            "or set OPENAI_API_KEY."
        )
    return OpenAIResource(api_key=local_api_key(folder), base_url=url)


def fixed(value: object) -> dg.ResourceDefinition:
    """A resource that is this object. Dagster refuses a run whose config sets a part of it."""
    return dg.ResourceDefinition(resource_fn=lambda _: value, config_schema={})


def all_resources(settings: Settings) -> Mapping[str, dg.ResourceDefinition]:
    """Every resource of this project, by its key; a run cannot configure them."""
    return {
        **our_resources(settings),
        # Dagster's own IO manager accepts any folder from a run's config. Our assets do not use one.
        "io_manager": dg.IOManagerDefinition(resource_fn=_in_memory, config_schema={}),
    }


_made: dict[str, Mapping[str, dg.ResourceDefinition]] = {}


def our_resources(settings: Settings) -> Mapping[str, dg.ResourceDefinition]:
    """The resources of our assets, by key. For equal settings, they are the same objects each time: Dagster merges
    definitions only if they have the same ones.
    """
    name = repr(settings)
    if name not in _made:
        warehouse = Warehouse(data_dir=str(settings.data_folder), database=settings.database)
        _made[name] = {WAREHOUSE: fixed(warehouse), OPENAI: fixed(openai_resource(settings))}
    return _made[name]


def _in_memory(_: dg.InitResourceContext) -> dg.InMemoryIOManager:
    return dg.InMemoryIOManager()  # type: ignore[no-untyped-call]
