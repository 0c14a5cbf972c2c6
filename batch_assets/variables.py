"""What each environment variable means, as text: docs/configuration.md and the README's table are made of it.

`settings` reads those of the pipeline, which are a public contract. Markdown is allowed, without links.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One environment variable, or several that belong together."""

    names: tuple[str, ...]
    meaning: str
    default: str


PIPELINE = (
    Variable(
        ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
        "as for every OpenAI client",
        "not set: the local Batch API is used",
    ),
    Variable(
        ("BATCH_ASSETS_DATA_DIR",),
        "the folder of all data: tables, request and result files, the Dagster home. Only you can read it",
        "`data`",
    ),
    Variable(("BATCH_ASSETS_DUCKDB",), "the database, a path or a URL", "`batch_assets.duckdb` in the data folder"),
    Variable(
        ("BATCH_ASSETS_SOURCE",),
        "the source of the articles: a path, a glob, a URL, a query, a `.sql` file or `table:NAME`",
        "the bundled sample",
    ),
    Variable(
        ("BATCH_ASSETS_COLUMNS",),
        "the source's names of our columns: `body=content published_at=date`",
        "our names",
    ),
    Variable(
        ("BATCH_ASSETS_START_DATE",),
        "the first day; `demo` and `try` take it by default, and yesterday for the bundled sample",
        "the sample's: `2026-01-05`",
    ),
    Variable(("BATCH_ASSETS_MODEL",), "the model", "`gpt-6-luna`"),
    Variable(
        ("BATCH_ASSETS_MAX_COST_USD",),
        "the limit of all spending of a day; a day whose estimate is above it is not submitted",
        "none",
    ),
    Variable(
        ("BATCH_ASSETS_MAX_COST_USD_PER_MONTH",), "the limit of all spending of a UTC month of submission", "none"
    ),
    Variable(
        ("BATCH_ASSETS_MAX_ENQUEUED_TOKENS",),
        "your limit of enqueued tokens for the model (OpenAI's page *Limits*), shared by all days: files that exceed "
        "it wait until batches have ended",
        "none",
    ),
    Variable(
        ("BATCH_ASSETS_MAX_ROUNDS",),
        "how many times a request is sent; without an answer after that, it counts as failed",
        "3",
    ),
    Variable(
        ("BATCH_ASSETS_POLL_SECONDS",),
        "seconds between two polls of the sensor",
        "30; 4 with the local Batch API",
    ),
    Variable(
        ("BATCH_ASSETS_DAYS_PER_RUN",),
        "how many days a run takes at most, in a backfill and of the sensor",
        "30",
    ),
    Variable(
        ("BATCH_ASSETS_NOTIFY",),
        "who gets messages: URLs of apprise for Slack, Discord, mail and others, separated by white space",
        "none",
    ),
)
PROCESSES = (
    Variable(
        ("DAGSTER_HOME",),
        "where Dagster keeps its runs and events",
        "`dagster_home` in the data folder, for our commands; plain `dagster dev` keeps nothing without it",
    ),
    Variable(
        ("BATCH_ASSETS_UI_PASSWORD",),
        "the password of the UI of `batch-assets dev`, for `--host` with another address than 127.0.0.1",
        "none",
    ),
    Variable(
        ("BATCH_ASSETS_SERVE_KEY",),
        "the key that the local Batch API asks for",
        "one that it makes, in the file `local_api/key` of the data folder",
    ),
    Variable(
        ("BATCH_ASSETS_SERVE_ENGINE_KEY",),
        "the key of the server behind `batch-assets serve --engine URL`",
        "none",
    ),
    Variable(
        ("BATCH_ASSETS_SERVE_WEBHOOK_SECRET",),
        "the secret that signs what `batch-assets serve --webhook` sends",
        "one that it makes, in a file of its folder",
    ),
)
