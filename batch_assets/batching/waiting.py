"""Why days wait, in sentences for the user who reads them in Dagster's UI. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from batch_assets.batching.counting import counted
from batch_assets.batching.next_step import Day, next_round_at
from batch_assets.batching.operations.abandon import abandon_command
from batch_assets.batching.provider.batches import MISSING, STATUSES, RemoteBatch
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.timing import Timing

SUMMARY_CHARACTERS = 600
QUOTED_CHARACTERS = 200  # of a message of another program
ERROR_CHARACTERS = 320  # why a run submitted nothing: of a budget, with what to do
STUCK_STATUSES = ("finalizing", "cancelling")


class Problem(NamedTuple):
    """What the user should know about a day.

    kind: `batch_missing`, `batch_late` or `runs_failed`. fact: what it is about, a batch or a step of the day; the same
    problem has the same kind and fact in each tick.
    """

    kind: str
    fact: str
    sentence: str


def why_waits(day: Day, polled: Mapping[str, RemoteBatch], now: datetime, timing: Timing) -> str:
    """What the day waits for, how far it is, and since when."""
    since = f"since {clock(day.at, now)}"
    if day.needs_next_round:
        cause = f" ({quoted(day.error, ERROR_CHARACTERS)})" if day.error else ""
        return f"requests are pending {since}{cause}, next round at {clock(next_round_at(day, timing), now)}"
    if day.blocked:
        return (
            f"the results of {counted(day.blocked, 'request')} are missing {since}, and may be billed; `batch-assets "
            f"retry {day.arguments}` buys them again"
        )
    if day.deferred:
        cause = quoted(day.error, ERROR_CHARACTERS) if day.error else "no capacity"
        attempt = f", next attempt at {clock(day.next_attempt_at, now)}" if day.next_attempt_at else ""
        return f"{counted(day.deferred, 'file')} deferred {since} ({cause}){attempt}"
    of_all = counted(len(day.batch_ids), "batch", "batches")
    progress = day.progress(polled)
    if progress is None:
        return f"the state of {of_all} is not known, {since}"
    requests = f"{progress.done:,} of {counted(progress.total, 'request')} done"
    return f"{progress.ended:,} of {of_all} ended, {requests}, {since}"


def missing_batches(days: Iterable[Day], polled: Mapping[str, RemoteBatch]) -> dict[str, Problem]:
    """day → the problem, for each day with a batch that the API does not find with the present key."""
    problems: dict[str, Problem] = {}
    for day in days:
        missing = [batch_id for batch_id in day.batch_ids if batch_id in polled and polled[batch_id].status == MISSING]
        if missing:
            others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            problems[day.label] = Problem(
                "batch_missing",
                missing[0],
                f"The API does not find {quoted(missing[0])}{others} of {day.label} with the present key. Which "
                "organization and project does OPENAI_API_KEY belong to? No run sends its requests again.",
            )
    return problems


def late_batches(
    days: Iterable[Day],
    polled: Mapping[str, RemoteBatch],
    unmoved_since: Mapping[str, datetime],
    now: datetime,
    timing: Timing,
) -> dict[str, Problem]:
    """day → the problem, for each day with a batch that is late, or that is ending for long.

    `unmoved_since`: since when no batch of the day has changed.
    """
    problems: dict[str, Problem] = {}
    for day in days:
        unmoved = now - unmoved_since.get(day.label, now)
        late = [
            (_age(batch, day, now), batch_id, batch)
            for batch_id in day.batch_ids
            if (batch := polled.get(batch_id)) and _is_late(batch, _age(batch, day, now), unmoved, timing)
        ]
        if late:
            age, batch_id, batch = max(late, key=lambda entry: entry[0])
            others = f" (and {len(late) - 1:,} more)" if len(late) > 1 else ""
            status = (
                f"`{batch.status}`" if batch.status in STATUSES else f"in an unknown status, `{quoted(batch.status)}`"
            )
            problems[day.label] = Problem(
                "batch_late",
                batch_id,
                f"{quoted(batch_id)}{others} of {day.label}, created {duration(age)} ago, is {status}. To cancel: `"
                f"batch-assets cancel {day.arguments}`. To give it up: `{abandon_command(batch_id)}`.",
            )
    return problems


def _age(batch: RemoteBatch, day: Day, now: datetime) -> timedelta:
    return now - (day.at if batch.created_at is None else batch.created_at.replace(tzinfo=UTC))


def _is_late(batch: RemoteBatch, age: timedelta, unmoved: timedelta, timing: Timing) -> bool:
    if batch.has_ended or batch.status == MISSING:
        return False
    is_ending = batch.status in STUCK_STATUSES or batch.status not in STATUSES
    return age > timing.late_after or (is_ending and unmoved > timing.stuck_after)


def summary(notes: Sequence[str], problems: Mapping[str, str], waiting: Mapping[str, str]) -> str:
    """The notes, then each waiting day: as many as fit into about 600 characters, and the number of the others.

    problems: day → a sentence that the user should read first. waiting: day → what the day waits for.
    """
    sentences = [*problems.values(), *(f"{day}: {why}." for day, why in waiting.items() if day not in problems)]
    if not sentences:
        return " ".join(notes) or "Nothing is pending."
    text = " ".join([*notes, _days_wait(len(sentences))])
    for number, sentence in enumerate(sentences):
        rest = len(sentences) - number
        if number and len(text) + len(sentence) + len(_more(rest)) > SUMMARY_CHARACTERS:
            return text + _more(rest)
        text += f" {sentence}"
    return text


def _days_wait(number: int) -> str:
    return "1 day waits." if number == 1 else f"{number:,} days wait."


def _more(days: int) -> str:
    return f" And {counted(days, 'more day')}." if days else ""


def quoted(text: str, characters: int = QUOTED_CHARACTERS) -> str:
    """A message or an id of another program, short, on one line and without secrets."""
    clean = as_message(text).strip()
    return clean if len(clean) <= characters else clean[: characters - 1] + "…"


def clock(moment: datetime, now: datetime) -> str:
    """The time of day; on another day with its date."""
    moment = moment.astimezone(UTC)
    return f"{moment:%H:%M} UTC" if moment.date() == now.astimezone(UTC).date() else f"{moment:%Y-%m-%d %H:%M} UTC"


def duration(age: timedelta) -> str:
    """In hours, from two days on in days."""
    hours = int(age.total_seconds() // 3600)
    return counted(hours // 24, "day") if hours >= 48 else counted(hours, "hour")
