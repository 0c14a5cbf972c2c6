"""How a day is planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_assets.batching.planning.request_lines import ROWS_AT_ONCE
from batch_assets.batching.planning.shards import FileLimits
from batch_assets.batching.provider.identity import BUILT_IN_ENGINE
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.task_day import FIRST_SOURCE


@dataclass(frozen=True)
class PlanOptions:
    """Everything about a plan but the task.

    max_rounds: how often a request may end without an answer before it counts as failed.
    source: whose rows of `raw_articles` the task reads.
    api: the name of the configured API. Answers of the built-in engine count only if it is the built-in engine.
    max_enqueued_tokens: the limit of the API. Two files together fit into it.
    refresh: send all requests again, answered or not; the old answers stay until the new ones are loaded.
    resume_cancelled: whether to send what the user has cancelled.
    retry_failed: send the requests again that failed for good.
    respect_pauses: leave out requests that are blocked until the end of the pause after an account error (billing, key,
        access).
    planned_by: the id of the run, or of the first run that it retries; the ledger records it.
    optional_parameters: parameters that do not change the question; None: those that this API is known to accept for
        the model.
    own_prices: prices that the user set; they take precedence over the published ones.
    image_folder: with the images of articles that are files; None: all are URLs.
    rows_at_once: how many articles a statement reads; bounds the memory.
    """

    max_rounds: int
    source: str = FIRST_SOURCE
    api: str = BUILT_IN_ENGINE
    max_enqueued_tokens: int | None = None
    refresh: bool = False
    resume_cancelled: bool = True
    retry_failed: bool = False
    respect_pauses: bool = False
    planned_by: str | None = None
    optional_parameters: Mapping[str, Any] | None = None
    own_prices: tuple[ModelPrice, ...] = ()
    file_limits: FileLimits = field(default_factory=FileLimits)
    image_folder: Path | None = None
    rows_at_once: int = ROWS_AT_ONCE
