"""What is wrong with a task, when the definitions load: a sentence for each mistake, for the user who wrote it."""

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from batch_assets.batching.ledger.result_tables import reserved_columns, why_not_a_name
from batch_assets.batching.provider.endpoint import ENDPOINTS
from batch_assets.output_schema.columns import column_problems
from batch_assets.output_schema.strict import strict_problems

if TYPE_CHECKING:
    from batch_assets.batching.planning.task import Task

ARTICLE_FIELDS = ("title", "body", "url", "published_at")
PLACEHOLDER = re.compile(r"\{(\w+)\}")
DETAILS = ("low", "high", "original", "auto")


def mistakes_of(task: "Task") -> list[str]:
    """A sentence for each mistake."""
    mistakes = []
    if why := why_not_a_name(task.name):
        mistakes.append(why)
    if not task.model.strip():
        mistakes.append("The task has no model. Set BATCH_ASSETS_MODEL, or `model` of the task.")
    if task.endpoint not in ENDPOINTS:
        mistakes.append(f"The endpoint is {task.endpoint!r}; it must be one of {', '.join(ENDPOINTS)}.")
        return mistakes
    mistakes += _of_endpoint(task)
    mistakes += _of_template(task)
    if task.output_schema is not None:
        mistakes += [f"output_schema: {problem}" for problem in strict_problems(task.output_schema)]
        if not mistakes:
            problems = column_problems(task.output_schema, reserved_columns(has_schema=True))
            mistakes += [f"output_schema: {problem}" for problem in problems]
    else:
        column = {"type": "object", "properties": {task.answer_column: {"type": "string"}}}
        problems = column_problems(column, reserved_columns(has_schema=False))
        mistakes += [f"answer_column: {problem}" for problem in problems]
    return mistakes


def _of_endpoint(task: "Task") -> list[str]:
    """What the endpoint does not take."""
    endpoint, mistakes = task.of_endpoint, []
    if endpoint.limit_parameter is not None and task.max_output_tokens < 1:
        mistakes.append(f"max_output_tokens is {task.max_output_tokens}; it must be at least 1.")
    not_taken = {
        "system_prompt": bool(task.system_prompt) and not endpoint.has_instructions,
        "max_output_tokens": bool(task.max_output_tokens) and endpoint.limit_parameter is None,
        "output_schema": task.output_schema is not None and endpoint.schema_parameters is None,
        "image": task.image is not None and endpoint.image is None,
        "dimensions": task.dimensions is not None and not task.is_vector,
        **{
            name: getattr(task, name) is not None and task.is_vector
            for name in ("temperature", "top_p", "reasoning_effort")
        },
    }
    mistakes += [
        f"It has `{name}`, which {task.endpoint} does not take. Remove it, or choose another endpoint."
        for name, is_set in not_taken.items()
        if is_set
    ]
    if task.dimensions is not None and task.dimensions < 1:
        mistakes.append(f"dimensions is {task.dimensions}; it must be at least 1.")
    if task.image_detail is not None and task.image is None:
        mistakes.append("It has image_detail, but no `image`: name the column with the image.")
    if task.image_detail not in (None, *DETAILS):
        mistakes.append(f"image_detail is {task.image_detail!r}; it must be one of {', '.join(DETAILS)}.")
    return mistakes


def _of_template(task: "Task") -> list[str]:
    mistakes = []
    known = (*ARTICLE_FIELDS, *task.columns)
    for name in task.columns:
        if name in (*ARTICLE_FIELDS, "id") or not re.fullmatch(r"\w+", name):
            mistakes.append(
                f"`columns` has {name!r}; it must be another column of the source than id, title, body, url and "
                "published_at, of letters, digits and _."
            )
    used = set(PLACEHOLDER.findall(task.user_template))
    if task.image is not None and task.image not in task.columns:
        mistakes.append(f"`image` is {task.image!r}, which is no further column: add it to `columns`.")
    if task.image is None and not used.intersection(("body", *task.columns)):
        mistakes.append("The user template has no {body}, so no article would reach the model. Add it.")
    for name in sorted(used.difference(known)):
        if close := get_close_matches(name, known, n=1, cutoff=0.8):
            mistakes.append(
                f"The user template has {{{name}}}, which is no column of the task. Is it {{{close[0]}}}? Name a "
                "further column of the source in `columns`."
            )
    return mistakes
