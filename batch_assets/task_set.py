"""The tasks of a code location, as its definitions declare them: what each asks, its articles, and its assets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import dagster as dg

from batch_assets.asset_keys import GROUP, RAW_ARTICLES, TaskKeys, keys_of_task
from batch_assets.batching.collection.day_results import ResultTable
from batch_assets.batching.ingest.source import Source
from batch_assets.batching.ledger.claims import Limits
from batch_assets.batching.ledger.spending import Budget
from batch_assets.batching.planning.task import Task
from batch_assets.batching.provider.prices import ModelPrice, check_own_prices
from batch_assets.batching.task_day import FIRST_SOURCE
from batch_assets.output_schema.columns import AnswerColumn, answer_columns
from batch_assets.resources import OPENAI, ArticleSource
from batch_assets.settings import Settings

ANSWER_COMMENT = "the answer; of an article without one, the last answer that it had"


@dataclass(frozen=True)
class Feed:
    """Articles that tasks read: an asset, and the source of its rows.

    deps: the assets that the source needs, for example one that writes its table.
    """

    source: ArticleSource
    key: dg.AssetKey = RAW_ARTICLES
    deps: tuple[dg.AssetKey, ...] = ()

    @property
    def name(self) -> str:
        """`raw_articles.source` of its rows."""
        return "/".join(self.key.path)

    @property
    def step(self) -> str:
        """The step that has the articles and the request files of their tasks. The key of its config has this name."""
        path = self.key.path
        return "submission" if self.key == RAW_ARTICLES else "__".join([*(path[:-1] or path), "submission"])


@dataclass(frozen=True)
class DeclaredTask:
    """A task, its articles, and where Dagster shows it.

    max_rounds: how often a request may end without an answer before it counts as failed.
    max_cost_usd: what the task may spend on a day, in USD; None: no limit of its own.
    prices: of models and APIs whose prices are not published.
    comments: on columns of the answers, by name: for users of the table, not for the model.
    image_folder: the folder with the images that are files; None: all images are URLs.
    key_prefix: of its assets, except of `raw_articles`. openai: the key of the resource with its API.
    """

    task: Task
    feed: Feed
    partitions_def: dg.DailyPartitionsDefinition
    max_rounds: int = 3
    max_cost_usd: float | None = None
    prices: tuple[ModelPrice, ...] = ()
    comments: Mapping[str, str] = field(default_factory=dict)
    image_folder: Path | None = None
    key_prefix: tuple[str, ...] = ()
    group_name: str = GROUP
    description: str | None = None
    owners: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    openai: str = OPENAI

    def __post_init__(self) -> None:
        check_own_prices(self.prices)
        columns = [column.name for column in self.results.columns]
        for name in self.comments:
            if name not in columns:
                raise ValueError(
                    f"The task {self.name}: `comments` has {name!r}, which is no column of the answers: these are "
                    f"{', '.join(columns)}."
                )

    @property
    def name(self) -> str:
        return self.task.name

    @cached_property
    def keys(self) -> TaskKeys:
        return keys_of_task(self.name, self.key_prefix)

    @cached_property
    def results(self) -> ResultTable:
        return self.table_of(self.task)

    def table_of(self, asked: Task) -> ResultTable:
        """The table for what the task asked in a plan: its configuration may have changed since."""
        return result_table(asked, self.feed.name, self.comments)


def result_table(
    task: Task, source: str = FIRST_SOURCE, comments: Mapping[str, str] = MappingProxyType({})
) -> ResultTable:
    """The table with the results of the task, which reads the articles of this source.

    comments: on columns; the description that the output schema has of a field is the comment of its column otherwise.
    """
    if task.output_schema is not None:
        columns = answer_columns(task.output_schema)
    elif task.is_vector:
        length = task.vector_length
        columns = (AnswerColumn(task.answer_column, ["FLOAT"] if length is None else f"FLOAT[{length}]"),)
    else:
        columns = (AnswerColumn(task.answer_column, "VARCHAR", ANSWER_COMMENT),)
    columns = tuple(column._replace(description=comments.get(column.name, column.description)) for column in columns)
    return ResultTable(task.name, source, columns, task.output_schema, task.version, task.is_vector)


@dataclass(frozen=True)
class TaskSet:
    """All tasks of a code location, and the limits that hold for them together.

    days_per_run: how many days of a backfill one run takes at most.
    """

    tasks: tuple[DeclaredTask, ...]
    limits: Limits = field(default_factory=Limits)
    days_per_run: int = 30

    def __post_init__(self) -> None:
        names = [declared.name for declared in self.tasks]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"Two tasks have the name {name}. Each task has a table with its name: rename one of them."
            )
        feeds: dict[dg.AssetKey, DeclaredTask] = {}
        for declared in self.tasks:
            first = feeds.setdefault(declared.feed.key, declared)
            if (first.feed, first.partitions_def, first.openai) != (
                declared.feed, declared.partitions_def, declared.openai,
            ):  # fmt: skip
                raise ValueError(
                    f"The tasks {first.name} and {declared.name} read {declared.feed.key.to_user_string()} with "
                    "different sources, partitions or APIs. Set `articles` of one of them to another name."
                )

    @property
    def keys(self) -> Mapping[str, TaskKeys]:
        """The keys of the assets of each task, by its name."""
        return {declared.name: declared.keys for declared in self.tasks}

    @property
    def feeds(self) -> list[Feed]:
        return list({declared.feed.key: declared.feed for declared in self.tasks}.values())

    def reading(self, feed: Feed) -> "list[DeclaredTask]":
        """The tasks that read the articles of this feed."""
        return [declared for declared in self.tasks if declared.feed.key == feed.key]

    def source_of(self, feed: Feed) -> Source:
        """The source of the feed, with all columns that its tasks use."""
        tasks = [declared.task for declared in self.reading(feed)]
        columns = {column for task in tasks for column in task.columns}
        needs_body = any(task.needs_body for task in tasks)
        return feed.source.as_source(feed.name, tuple(sorted(columns)), needs_body=needs_body)


def make_task_set(tasks: Sequence[DeclaredTask], settings: Settings) -> TaskSet:
    """The tasks with the limits of the environment. Raises ValueError."""
    own_prices = tuple(dict.fromkeys(price for declared in tasks for price in declared.prices))
    check_own_prices(own_prices)
    of_tasks = {declared.name: declared.max_cost_usd for declared in tasks if declared.max_cost_usd is not None}
    limits = Limits(
        max_enqueued_tokens=settings.max_enqueued_tokens,
        budget=Budget(settings.max_cost_usd, settings.max_cost_usd_per_month, of_tasks),
        own_prices=own_prices,
    )
    return TaskSet(tuple(tasks), limits, settings.days_per_run)
