"""A component's fields, with the defaults of the environment → a declared task."""

from typing import Any, NamedTuple

import dagster as dg

from batch_assets.asset_keys import GROUP, RAW_ARTICLES
from batch_assets.batching.planning.steps import steps_of
from batch_assets.batching.planning.task import (
    IMAGE_PROMPT,
    IMAGE_TEMPLATE,
    SYSTEM_PROMPT,
    USER_TEMPLATE,
    Task,
    TaskError,
)
from batch_assets.batching.provider.endpoint import EMBEDDINGS
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.component import BatchTask
from batch_assets.partitions import daily_partitions
from batch_assets.resources import OPENAI, ArticleSource
from batch_assets.settings import Settings, read_settings
from batch_assets.task_set import DeclaredTask, Feed


def declare(component: BatchTask) -> DeclaredTask:
    """The task. Raises TaskError with a sentence for each mistake."""
    settings = read_settings()
    key_prefix = [component.name] if component.key_prefix is None else component.key_prefix
    partitions: Any = component.partitions_def or daily_partitions
    return DeclaredTask(
        task=_task(component, settings),
        feed=_feed(component, settings),
        partitions_def=partitions,
        max_rounds=settings.max_rounds if component.max_rounds is None else component.max_rounds,
        max_cost_usd=component.max_cost_usd,
        prices=_prices(component),
        comments=component.comments,
        image_folder=component.image_folder,
        key_prefix=tuple(key_prefix),
        group_name=component.group_name or (component.name if key_prefix else GROUP),
        description=component.description,
        owners=tuple(component.owners),
        tags=component.tags,
        openai=component.openai_resource or OPENAI,
    )


def _task(component: BatchTask, settings: Settings) -> Task:
    prompt = component.system_prompt if component.system_prompt_file is None else component.system_prompt_file
    default = _defaults(component)
    image, columns = component.image, list(component.columns)
    if image is not None and image not in columns:
        columns.append(image)
    try:
        task = Task(
            model=settings.model if component.model_name is None else component.model_name,
            system_prompt=default.system_prompt if prompt is None else prompt,
            user_template=default.user_template if component.user_template is None else component.user_template,
            max_output_tokens=default.max_output_tokens
            if component.max_output_tokens is None
            else component.max_output_tokens,
            temperature=component.temperature,
            top_p=component.top_p,
            reasoning_effort=component.reasoning_effort,
            name=component.name,
            columns=tuple(columns),
            output_schema=component.output_schema,
            answer_column=default.answer_column if component.answer_column is None else component.answer_column,
            endpoint=component.endpoint,
            image=image,
            image_detail=component.image_detail,
            dimensions=component.dimensions,
            escalation=tuple(component.escalation),
        )
        steps_of(task)  # raises TaskError
        return task
    except TaskError as error:
        raise TaskError(f"The task {component.name}: {error}") from error


class _Defaults(NamedTuple):
    """What a task has that the user has not set."""

    system_prompt: str
    user_template: str
    max_output_tokens: int = 1024
    answer_column: str = "answer"


def _defaults(component: BatchTask) -> _Defaults:
    if component.endpoint == EMBEDDINGS.path:
        return _Defaults("", USER_TEMPLATE, max_output_tokens=0, answer_column="embedding")
    if component.image is not None:
        return _Defaults(IMAGE_PROMPT, IMAGE_TEMPLATE)
    return _Defaults(SYSTEM_PROMPT, USER_TEMPLATE)


def _prices(component: BatchTask) -> tuple[ModelPrice, ...]:
    try:
        return tuple(ModelPrice(**price) for price in component.prices)
    except (TypeError, ValueError) as error:
        raise TaskError(f"The task {component.name}: `prices`: {error}") from error


def _feed(component: BatchTask, settings: Settings) -> Feed:
    own = component.source is not None
    source = ArticleSource(
        source=settings.source if component.source is None else component.source,
        columns=component.source_columns or ({} if own else settings.columns),
    )
    default = dg.AssetKey([component.name, "raw_articles"]) if own else RAW_ARTICLES
    return Feed(source, component.articles or default, tuple(component.deps))
