"""News → messages: at most one of each kind, whatever the number of days. Pure functions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from itertools import groupby

from batch_assets.batching.counting import counted, usd
from batch_assets.batching.task_day import TaskDay
from batch_assets.day_events import DayEvent
from batch_assets.notifications.delivery import Message, clean
from batch_assets.notifications.news import Kind, News

NAMED_DAYS = 20
SENTENCE_CHARACTERS = 400  # of an error, which may be that of an API


def message_of(kind: Kind, news: Sequence[News], prefix: str) -> Message:
    """The message about this news of one kind. prefix: of the title, the code location."""
    ordered = sorted(news, key=lambda one: one.day)
    make = {Kind.DONE: _done, Kind.PROBLEM: _problems, Kind.BUDGET: _budget, Kind.ACCOUNT: _account}[kind]
    message = make(ordered)
    return Message(clean(f"{prefix}: {message.title}"), clean(message.body), message.urgency)


def _done(news: Sequence[News]) -> Message:
    events = [one.event for one in news if one.event is not None]
    failed = [one for one in news if one.event is not None and one.event.failed]
    title = f"{_subject(news)} done"
    if failed:
        title += f", {counted(sum(event.failed or 0 for event in events), 'article')} failed"
    lines = []
    for task, of_task in groupby(news, key=lambda one: one.day.task):
        done = list(of_task)
        days = [one.day for one in done]
        subject = f"{days[0].label} is done" if len(days) == 1 else f"{len(days):,} days done"
        named = [] if len(days) == 1 else [f"{_days([day.day for day in days])}{_of(task, days[0])}"]
        numbers = _numbers([one.event for one in done if one.event is not None])
        lines.append(f"{subject}: {', '.join([*named, *numbers])}." if named or numbers else f"{subject}.")
    lines += _named(failed, lambda one: _failure(one.day, one.event))
    return Message(title, "\n".join(lines), "warning" if failed else "success")


def _failure(day: TaskDay, event: DayEvent | None) -> str:
    assert event is not None
    return (
        f"- {day.label}: {event.failed or 0:,} of {counted(event.articles or 0, 'article')} failed. "
        f"`{day.task}.error_code` says why; `batch-assets retry {day.arguments}` sends them again."
    )


def _numbers(events: Sequence[DayEvent]) -> list[str]:
    """Articles, answers and costs, as far as the events have them."""
    known = [event for event in events if event.articles is not None]
    if not known:
        return []
    numbers = [
        counted(sum(event.articles or 0 for event in known), "article"),
        f"{sum(event.answered or 0 for event in known):,} answered",
    ]
    billed = sum(event.cost_usd or 0.0 for event in known)
    simulated = sum(event.simulated_cost_usd or 0.0 for event in known)
    unknown = sum(event.cost_usd is None for event in known)
    if billed or not (simulated or unknown):
        numbers.append(usd(billed))
    if simulated:
        numbers.append(f"{usd(simulated)} simulated by the built-in engine and not billed")
    if unknown:
        numbers.append(f"the cost of {counted(unknown, 'day')} is not known")
    return numbers


def _problems(news: Sequence[News]) -> Message:
    verb = "needs" if len(news) == 1 else "need"
    return Message(f"{_subject(news)} {verb} you", "\n".join(_sentences(news)), "failure")


def _budget(news: Sequence[News]) -> Message:
    what_next = (
        "A run checks the budgets again once a day. After you have raised a limit, materialize `openai_batch` of the "
        f"day; or give up what was not sent: `batch-assets cancel {news[0].day.arguments}`."
    )
    return Message(f"a budget stops {_subject(news)}", "\n".join([*_sentences(news), what_next]), "warning")


def _account(news: Sequence[News]) -> Message:
    waits = "waits" if len(news) == 1 else "wait"
    days = f"{_subject(news)} {waits}: {_labels(news)}." if len(news) > 1 else f"{_subject(news)} {waits}."
    what_next = (
        "A run tries again by itself, after 10 minutes to 4 hours. When the cause is removed, `batch-assets retry "
        f"{news[0].day.arguments}` sends the day at once. There is no other message until no day waits any more."
    )
    body = "\n".join([_short(news[0].sentence), days, what_next])
    return Message(f"an error of the account, {_subject(news)} {waits}", body, "failure")


def _sentences(news: Sequence[News]) -> list[str]:
    return list(_named(news, lambda one: f"- {_short(one.sentence)}"))


def _named(news: Sequence[News], line: Callable[[News], str]) -> Iterator[str]:
    """A line for each of the first days, and how many others there are."""
    for one in news[:NAMED_DAYS]:
        yield line(one)
    if len(news) > NAMED_DAYS:
        yield f"and {len(news) - NAMED_DAYS:,} more"


def _subject(news: Sequence[News]) -> str:
    """The day if it is the only one."""
    return news[0].day.label if len(news) == 1 else f"{len(news):,} days"


def _labels(news: Sequence[News]) -> str:
    return "; ".join(
        _days([one.day.day for one in of_task]) + _of(task, TaskDay(task, ""))
        for task, of_task in ((task, list(group)) for task, group in groupby(news, key=lambda one: one.day.task))
    )


def _of(task: str, day: TaskDay) -> str:
    """of TASK, unless it is the first one."""
    return day.label.removeprefix(day.day)


def _days(days: Sequence[str]) -> str:
    """Consecutive days as the first and the last; others by name, at most 20 and the number of the rest."""
    if len(days) > 2 and _are_consecutive(days):
        return f"{days[0]} … {days[-1]}"
    more = f" and {len(days) - NAMED_DAYS:,} more" if len(days) > NAMED_DAYS else ""
    return ", ".join(days[:NAMED_DAYS]) + more


def _are_consecutive(days: Iterable[str]) -> bool:
    dates = [date.fromisoformat(day) for day in days]
    return dates == [dates[0] + timedelta(days=number) for number in range(len(dates))]


def _short(text: str) -> str:
    cleaned = clean(" ".join(text.split()))
    return cleaned if len(cleaned) <= SENTENCE_CHARACTERS else cleaned[: SENTENCE_CHARACTERS - 1] + "…"
