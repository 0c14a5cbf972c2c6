"""What the tables must have after a source was read: an independent model, in Python."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from batch_assets_tests.batching.ingest.generated_files import FURTHER, Found

SPACES = "".join(sign for sign in map(chr, range(0x3001)) if unicodedata.category(sign) == "Zs")


@dataclass
class Expected:
    """The articles of a day, its rejected rows, and the rows of no day. Each list is sorted.

    articles: id, title, body, url, time, further columns. rejected: file, row, line, id, title, body, url, reason.
    without_day: file, row, line, reason.
    """

    articles: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[Any, ...]] = field(default_factory=list)
    without_day: list[tuple[Any, ...]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    undated: int = 0
    malformed: int = 0
    is_refused: bool = False


def expect(
    rows: Sequence[Found], day: str, *, newest_by: str, max_malformed_share: float, extra: Sequence[str] = ()
) -> Expected:
    """rows: those of all files, in the order of the files."""
    expected = Expected()
    by_id: dict[str, list[tuple[Any, int, Found]]] = {}
    for number, row in enumerate(rows):
        if row.is_malformed:
            expected.malformed += 1
            expected.without_day.append((*row.place, "malformed"))
        elif row.time is None:
            expected.undated += 1
            expected.without_day.append((*row.place, "undated"))
        elif str(row.time.date()) == day and not row.is_text:
            _reject(expected, row, "not_text")
        elif str(row.time.date()) == day and not _has_text(row.body):
            _reject(expected, row, "empty_body")
        elif str(row.time.date()) == day:
            by_id.setdefault(identity(row), []).append((row.time if newest_by == "published_at" else 0, number, row))
    for versions in by_id.values():
        *older, (_, _, newest) = sorted(versions, key=lambda version: version[:2])
        further = {name: text for name, text in zip(FURTHER, newest.further, strict=True) if name in extra}
        columns = (newest.title, newest.body, newest.url, newest.time, comparable(further))
        expected.articles.append((identity(newest), *columns))
        for _, _, row in older:
            is_same = (row.title, row.body, row.url) == (newest.title, newest.body, newest.url)
            _reject(expected, row, "duplicate_id" if is_same else "older_version")
    none_has_a_day = expected.undated and expected.undated == len(rows) - expected.malformed
    expected.is_refused = bool(none_has_a_day or expected.malformed > max_malformed_share * len(rows))
    for found in (expected.articles, expected.rejected, expected.without_day):
        found.sort(key=str)
    return expected


def comparable(extra: Mapping[str, str | None] | None) -> dict[str, Any] | None:
    """The further columns of an article, lists and objects as values: JSON can be written in several ways."""
    values: dict[str, Any] = {}
    for name, text in (extra or {}).items():
        if text is not None:
            with suppress(ValueError):
                values[name] = json.loads(text) if text[:1] in ("[", "{") else text
            values.setdefault(name, text)
    return values or None


def identity(row: Found) -> str:
    """The id of a row, or one that is made from its text."""
    trimmed = (row.id or "").strip(SPACES)
    if trimmed:
        return trimmed
    parts = [row.title or "", row.body or "", *([row.url] if row.url is not None else [])]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:20]


def _reject(expected: Expected, row: Found, reason: str) -> None:
    expected.reasons[reason] += 1
    expected.rejected.append((*row.place, identity(row), row.title, row.body, row.url, reason))


def _has_text(body: str | None) -> bool:
    return any(not sign.isspace() and unicodedata.category(sign)[0] not in "ZC" for sign in body or "")
