"""What the commands that read days share: days from … to …, and JSON that has no effect on a terminal."""

import dataclasses
import json
from datetime import date, datetime, timedelta
from typing import Any

import click

from batch_assets.batching.safety.secrets import without_known_secrets

SEPARATOR = ".."
ALL_DAYS = ("0001-01-01", "9999-12-31")  # the first and the last that Python has

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def day_range(text: str) -> tuple[str, str]:
    """The first and the last day of `2026-01-05`, or of `2026-01-05..2026-01-09`. Raises click.UsageError."""
    first, separator, last = text.partition(SEPARATOR)
    try:
        days = date.fromisoformat(first), date.fromisoformat(last if separator else first)
    except ValueError:
        raise click.UsageError(f"{text!r} is no day and no range of days, such as 2026-01-05..2026-01-09.") from None
    if days[0] > days[1]:
        raise click.UsageError(f"{text!r} ends before it begins.")
    return days[0].isoformat(), days[1].isoformat()


def as_json_text(value: Any) -> str:
    """The value as JSON: data classes as objects, times in ISO 8601, in UTC. Strings are escaped, without secrets."""
    return without_known_secrets(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def days_between(first: str, last: str) -> list[str]:
    """All days from the first to the last."""
    start = date.fromisoformat(first)
    return [(start + timedelta(days=n)).isoformat() for n in range((date.fromisoformat(last) - start).days + 1)]
