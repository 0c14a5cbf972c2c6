"""The steps of a task: what is asked again, with more tokens, another model or another prompt.

The first step is the task itself. A request whose answer was cut, invalid or refused goes to the next step, once: each
step has requests of its own, with other custom_ids, and those of other articles stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from batch_assets.batching.ledger.outcomes import INVALID_ANSWER
from batch_assets.batching.planning.task import Task, TaskError

CUT, INVALID, REFUSED = "cut", "invalid", "refused"
CODES: Mapping[str, tuple[str, ...]] = {
    CUT: ("max_output_tokens",),
    INVALID: (INVALID_ANSWER,),
    REFUSED: ("content_refused", "content_policy_violation", "content_filter"),
}
FIELDS = (
    "model", "system_prompt", "user_template", "max_output_tokens", "reasoning_effort", "temperature", "top_p",
    "image_detail",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A step, and what of the step before it goes on to this one: failures with these codes, and answers that were cut.

    The first step has no codes.
    """

    number: int
    task: Task
    codes: tuple[str, ...] = ()
    takes_cut_answers: bool = False


def steps_of(task: Task) -> list[Step]:
    """The steps of the task, from the first one. Raises TaskError with a sentence for each mistake."""
    if not task.escalation:  # most tasks: a copy would check the output schema once more
        return [Step(0, task)]
    first = replace(task, escalation=())
    steps = [Step(0, first)]
    for number, given in enumerate(task.escalation, start=1):
        steps.append(_step(number, first, given, steps))
    return steps


def _step(number: int, task: Task, given: Mapping[str, Any], earlier: list[Step]) -> Step:
    place = f"Step {number} of `escalation`"
    reasons = given.get("after", tuple(CODES))
    mistakes = [
        f"{place} has `{name}`; it may have `after` and {', '.join(FIELDS)}."
        for name in given
        if name not in (*FIELDS, "after")
    ]
    if not isinstance(reasons, list | tuple) or not reasons or not set(reasons) <= set(CODES):
        mistakes.append(f"{place} has after: {reasons!r}; it must be a list of {', '.join(CODES)}.")
    elif INVALID in reasons and "after" in given and task.output_schema is None:
        mistakes.append(f"{place} has after: invalid, but only an answer with an output schema can be invalid.")
    limit = given.get("max_output_tokens", task.max_output_tokens)
    if isinstance(limit, int) and limit < task.max_output_tokens:
        # below it, no answer of this step would count: `is_cut_below`
        mistakes.append(f"{place} has max_output_tokens {limit}; it must be at least that of the task.")
    if task.is_vector:
        mistakes.append("It has `escalation`, which a vector does not need. Remove it.")
    if mistakes:
        raise TaskError(" ".join(mistakes))
    try:
        asked = replace(task, **{name: value for name, value in given.items() if name != "after"})
    except (TaskError, TypeError) as error:
        raise TaskError(f"{place}: {error}") from error
    same = [step.task for step in earlier if replace(step.task, asks_limit=False).version == asked.version]
    if same and asked.max_output_tokens <= max(step.max_output_tokens for step in same):
        raise TaskError(f"{place} asks the same as an earlier one. Change its model, its prompt or max_output_tokens.")
    if same:  # with a higher limit, which makes it another request
        asked = replace(asked, asks_limit=True)
    return Step(number, asked, tuple(code for reason in reasons for code in CODES[reason]), CUT in reasons)
