"""What a user sets as the source of articles: files, a query, or a table, and how its rows are read."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from batch_assets.batching.ingest.errors import SourceError, shortened
from batch_assets.batching.safety.outside_text import as_message
from batch_assets.batching.task_day import FIRST_SOURCE

ARTICLE_COLUMNS = ("id", "title", "body", "url", "published_at")
PARTITION = "{partition}"  # stands for the day in a path or a query
TABLE_PREFIX = "table:"
# After comments. No query: the path from/a.csv.
IS_QUERY = re.compile(
    r"""(\s+|--[^\n]*\n|/\*.*?\*/)*(\(\s*)*(select|from|with)(?=[\s(*"'\[])""", re.IGNORECASE | re.DOTALL
)
DEFAULT_MALFORMED_SHARE = 0.01


class Kind(Enum):
    """How the location of a source is read."""

    FILES = "files"
    QUERY = "query"
    SQL_FILE = "SQL file"
    TABLE = "table"


@dataclass(frozen=True)
class Source:
    """Where articles come from, and how their rows are read.

    location: a path, glob or URL of JSONL, JSON, CSV or Parquet files; a query, which begins with SELECT, FROM or WITH;
        the path of a `.sql` file; or `table:NAME` for a table or view of the warehouse. `{partition}` in a path, a
        query or a `.sql` file stands for the day; the latter two may also use the parameter `$day`, a DATE.
    columns: the source's name for our column, by our name: `{"body": "content"}`. `content.rendered` is the field
        `rendered` of the column `content`.
    newest_by: which of several rows of one id counts: the last by `published_at` or, with `order`, the last in the
        order of the files (by name) and of their rows.
    max_malformed_share: how many of the source's rows may be malformed (0 … 1); with more, the day fails.
    name: whose rows these are in the tables. Sources with different names never change each other's rows.
    extra: further columns of the source, by our name, which `columns` may map: they are kept as text.
    needs_body: whether a row without a text in its body is no article; if not, the source need not have a body.

    Raises SourceError for a name in `extra` that a column of ours has, or that is there twice.
    """

    location: str
    columns: Mapping[str, str] = field(default_factory=dict)
    newest_by: Literal["published_at", "order"] = "published_at"
    max_malformed_share: float = DEFAULT_MALFORMED_SHARE
    name: str = FIRST_SOURCE
    extra: tuple[str, ...] = ()
    needs_body: bool = True

    def __post_init__(self) -> None:
        for name in self.extra:
            if name in ARTICLE_COLUMNS or self.extra.count(name) > 1:
                ours = ", ".join(ARTICLE_COLUMNS)
                raise SourceError(f"{shortened(name, 40)} is no further column: it is one of {ours}, or named twice.")

    @property
    def kind(self) -> Kind:
        if IS_QUERY.match(self.location):
            return Kind.QUERY
        if self.location.startswith(TABLE_PREFIX):
            return Kind.TABLE
        return Kind.SQL_FILE if self.location.lower().endswith(".sql") else Kind.FILES

    @property
    def has_partition(self) -> bool:
        """Whether the location itself selects the day."""
        return PARTITION in self.location

    def of_day(self, day: str) -> str:
        """The location, with the day in it."""
        return self.location.replace(PARTITION, day)

    def column(self, name: str) -> str:
        """The source's name for our column."""
        return self.columns.get(name, name)

    @property
    def extra_names(self) -> tuple[str, ...]:
        """The further columns as our SQL calls them: their own names may be any text."""
        return tuple(f"extra_{place}" for place in range(len(self.extra)))

    @property
    def sql_names(self) -> Mapping[str, str]:
        """Our names of all columns, by the names that they have in our SQL."""
        return dict(zip((*ARTICLE_COLUMNS, *self.extra_names), (*ARTICLE_COLUMNS, *self.extra), strict=True))


def parse_columns(text: str) -> dict[str, str]:
    """`body=content published_at=date` as a dict. Names with spaces are quoted: `body="Article text"`.

    Other names than ours are those of further columns, which a task uses. Raises SourceError.
    """
    try:
        parts = [part.partition("=") for part in shlex.split(text)]
    except ValueError:
        raise SourceError(f"{as_message(text)} has a quote that is not closed.") from None
    columns: dict[str, str] = {}
    for ours, equals, theirs in parts:
        if not equals or not theirs:
            raise SourceError(f"{as_message(ours + equals)} is no pair such as body=content.")
        if not re.fullmatch(r"\w+", ours) or (ours not in ARTICLE_COLUMNS and ours.lower() in ARTICLE_COLUMNS):
            raise SourceError(
                f"{as_message(ours)} is none of our columns: {', '.join(ARTICLE_COLUMNS)}. A further column, for a "
                "task, has a name of letters, digits and _."
            )
        if ours in columns:
            raise SourceError(f"{ours} is named twice.")
        columns[ours] = theirs
    for ours, theirs in columns.items():
        # content=body: the source's column would be our text, and a further column as well
        if ours not in ARTICLE_COLUMNS and theirs in ARTICLE_COLUMNS and theirs not in columns:
            raise SourceError(f"{as_message(f'{ours}={theirs}')}: our name comes first, as in {theirs}={ours}.")
    return columns
