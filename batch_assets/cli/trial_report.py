"""What `batch-assets try` prints: the answers, what they cost, and what the whole day costs as a batch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch_assets.batching.counting import counted, usd
from batch_assets.batching.ledger.database import Database
from batch_assets.batching.ledger.expected_cost import FileSize, calibration_for, expected_cost
from batch_assets.batching.provider.identity import ApiIdentity
from batch_assets.batching.provider.prices import ModelPrice
from batch_assets.batching.safety.outside_text import printable
from batch_assets.batching.synchronous.answers import Answer
from batch_assets.batching.synchronous.ask import Asked, AskResult, Settled
from batch_assets.batching.synchronous.pending import PendingDay
from batch_assets.cli.day_range import as_json_text
from batch_assets.cli.terminal import answer_as_text, as_rich_text
from batch_assets.task_set import DeclaredTask

COLUMN_CHARACTERS = 20  # a terminal that has fewer for each column shows an answer in one column
BILLED = (AskResult.ANSWERED, AskResult.FAILED)


@dataclass(frozen=True)
class BatchPrice:
    """What requests cost as a batch: USD, None if the price is not known.

    is_measured: by the tokens of answered requests; otherwise by size and the limit on output.
    """

    requests: int
    usd: float | None
    is_measured: bool


@dataclass(frozen=True)
class Trial:
    """What was asked, and what a batch costs. not_asked: how many were left out after an error of the API.

    counts: the requests of the day by state, before anything was asked.
    """

    declared: DeclaredTask
    day: str
    api: ApiIdentity
    asked: Sequence[Asked]
    not_asked: int
    counts: dict[str, int]
    settled: Settled
    whole_day: BatchPrice
    left: BatchPrice

    @property
    def unanswered(self) -> int:
        """How many of the requests that were to be asked have no answer."""
        return self.not_asked + sum(one.result is not AskResult.ANSWERED for one in self.asked)

    @property
    def billed(self) -> list[Answer]:
        """The answers, those of failed requests included."""
        return [one.answer for one in self.asked if one.result in BILLED and one.answer is not None]

    @property
    def fields(self) -> list[str]:
        """The names of the columns of an answer."""
        return [column.name for column in self.declared.results.columns]

    def values(self, asked: Asked) -> dict[str, Any] | None:
        """The answer by column; None if there is none. Of a vector, its length."""
        if asked.result is not AskResult.ANSWERED or asked.answer is None:
            return None
        if asked.answer.vector_length is not None:
            return {self.fields[0]: asked.answer.vector_length}
        if self.declared.results.schema is None:
            return {self.fields[0]: asked.answer.text}
        values: dict[str, Any] = json.loads(asked.answer.text or "{}")
        return {name: values.get(name) for name in self.fields}


def make_trial(
    database: Database,
    declared: DeclaredTask,
    day: str,
    api: ApiIdentity,
    asked: Sequence[Asked],
    pending: PendingDay,
    left: PendingDay,
    settled: Settled,
    own_prices: tuple[ModelPrice, ...],
) -> Trial:
    """The trial with the prices of a batch, which the tokens of the answers tell. left: the day after it."""
    with database.reading() as connection:

        def price(size: FileSize) -> BatchPrice:
            usd = expected_cost(connection, size, api.name, own_prices)
            return BatchPrice(size.requests, usd, calibration_for(connection, size, api.name) is not None)

        prices = price(pending.all), price(left.pending)
    return Trial(declared, day, api, asked, len(pending.requests) - len(asked), pending.counts, settled, *prices)


def print_trial(console: Console, trial: Trial) -> None:
    """Print the answers as a table, and the sums below."""
    if trial.asked:
        console.print(_table(trial, in_columns=console.width >= COLUMN_CHARACTERS * (len(trial.fields) + 2)))
    for line in (*_notes(trial), *_sums(trial)):
        console.print(Text(printable(line)), soft_wrap=True)


def _table(trial: Trial, *, in_columns: bool) -> Table:
    """in_columns: each field of an answer has a column; otherwise, a line in one column."""
    title = Text(printable(f"{trial.declared.name} of {trial.day}, asked at {trial.api.name}"))
    table = Table(show_lines=True, title=title, title_justify="left", expand=True)
    table.add_column("article", ratio=2, overflow="fold")
    for name in trial.fields if in_columns else ["answer"]:
        table.add_column(Text(printable(name)), ratio=3, overflow="fold")
    table.add_column("tokens", justify="right")
    table.add_column("cost", justify="right")
    for asked in trial.asked:
        title = as_rich_text(asked.request.title or asked.request.article_id)
        values = trial.values(asked)
        cells: list[Text | str]
        if values is None:
            cells = [_why_not(asked), *([""] * (len(trial.fields) - 1) if in_columns else [])]
        elif in_columns:
            cells = [as_rich_text(_shown(trial, value)) for value in values.values()]
        else:
            cells = [as_rich_text("\n".join(f"{name}: {_shown(trial, value)}" for name, value in values.items()))]
        table.add_row(title, *cells, *_usage(asked))
    return table


def _why_not(asked: Asked) -> Text:
    reason = ": ".join(part for part in (asked.code, asked.message) if part)
    return Text.assemble((asked.result.replace("_", " "), "red"), ": ", as_rich_text(reason))


def _shown(trial: Trial, value: Any) -> str:
    return answer_as_text(value, is_vector=trial.declared.results.is_vector)


def _usage(asked: Asked) -> tuple[str, str]:
    answer = asked.answer
    if answer is None or asked.result not in BILLED:
        return "", ""
    cost = answer.cost_usd if answer.cost_usd is not None else answer.simulated_cost_usd
    tokens = f"{answer.input_tokens or 0:,} + {answer.output_tokens or 0:,}"
    return tokens, "unknown" if cost is None else f"${cost:.6f}"


def _notes(trial: Trial) -> list[str]:
    """What is not in the table."""
    notes = []
    if not trial.asked:
        counts = ", ".join(f"{count} {state}" for state, count in trial.counts.items())
        none = f"The source has no article for {trial.day}. Name a day that it has with --day."
        notes.append(f"No request of {trial.day} is pending. Requests: {counts}." if counts else none)
    if trial.not_asked:
        notes.append(f"{counted(trial.not_asked, 'request')} not asked, since the API refused the last one.")
    lost = sum(one.lost for one in trial.asked) + len(trial.settled.lost)
    if lost:
        notes.append(
            f"{counted(lost, 'answer')} lost: OpenAI may bill them. `synchronous_call` has them as possibly_billed, "
            "and budgets count them."
        )
    if trial.settled.loaded:
        notes.append(f"{counted(len(trial.settled.loaded), 'answer')} of an earlier command loaded.")
    if trial.settled.running:
        notes.append(f"{counted(len(trial.settled.running), 'request')} left out: another process asks them now.")
    return notes


def _sums(trial: Trial) -> list[str]:
    lines = []
    if trial.billed:
        inputs = sum(answer.input_tokens or 0 for answer in trial.billed)
        outputs = sum(answer.output_tokens or 0 for answer in trial.billed)
        lines.append(f"{inputs:,} input and {outputs:,} output tokens. {_billed(trial)}")
    lines.append(f"The whole day as a batch: {_price(trial.whole_day)}.")
    if trial.left.requests != trial.whole_day.requests:
        lines.append(f"Left to buy: {_price(trial.left)}.")
    return lines


def _billed(trial: Trial) -> str:
    simulated, billed = _total(trial, "simulated_cost_usd"), _total(trial, "cost_usd")
    if trial.api.is_built_in_engine:
        cost = "an unknown amount" if simulated is None else usd(simulated)
        return f"Billed: nothing. The built-in engine simulated {cost} at OpenAI's standard price."
    if billed is None:
        return (
            "Billed: an unknown amount. The standard price of the model is not published for this API; prices of a "
            "task are those of batches."
        )
    return f"Billed at the standard price: {usd(billed)}."


def _total(trial: Trial, name: str) -> float | None:
    """The sum of the answers that tell tokens; None if one of these has no known cost."""
    costs = [
        getattr(one, name) for one in trial.billed if one.input_tokens is not None or one.output_tokens is not None
    ]
    return None if None in costs else sum(costs)


def _price(price: BatchPrice) -> str:
    how = "by the tokens of answered requests" if price.is_measured else "by size and the limit on output"
    cost = "unknown price" if price.usd is None else f"{usd(price.usd)}, estimated {how}"
    return f"{counted(price.requests, 'request')}, {cost}"


def print_json(console: Console, trial: Trial) -> None:
    """Print all of it as one JSON object."""
    report = {
        "task": trial.declared.name,
        "day": trial.day,
        "api": trial.api.name,
        "model": trial.declared.task.model,
        "requests": [_as_json(trial, asked) for asked in trial.asked],
        "not_asked": trial.not_asked,
        "lost_answers": sum(one.lost for one in trial.asked) + len(trial.settled.lost),
        "cost_usd": None if trial.api.is_built_in_engine else _total(trial, "cost_usd"),
        "simulated_cost_usd": _total(trial, "simulated_cost_usd") if trial.api.is_built_in_engine else None,
        "states_before": trial.counts,
        "whole_day_as_batch": vars(trial.whole_day),
        "left_as_batch": vars(trial.left),
    }
    click.echo(as_json_text(report))


def _as_json(trial: Trial, asked: Asked) -> dict[str, Any]:
    answer = asked.answer
    return {
        "article_id": asked.request.article_id,
        "title": asked.request.title,
        "custom_id": asked.request.custom_id,
        "result": asked.result,
        "answer": trial.values(asked),
        "error_code": asked.code,
        "error_message": asked.message,
        "input_tokens": None if answer is None else answer.input_tokens,
        "output_tokens": None if answer is None else answer.output_tokens,
        "cost_usd": None if answer is None else answer.cost_usd,
        "simulated_cost_usd": None if answer is None else answer.simulated_cost_usd,
    }
