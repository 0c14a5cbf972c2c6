"""The lines of a request file, and the custom_ids of the requests on them.

A line is constant but for the article, so DuckDB only joins and escapes the user's message. The custom_id, a sha256, is
computed in Python for each line that it writes: Python's sha256 is several times as fast as DuckDB's. An image is read
and encoded when its line is written.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, TextIO

import duckdb

from batch_assets.batching.ledger.database import release_cached_blocks
from batch_assets.batching.ledger.instances import ROW_GROUP_ROWS
from batch_assets.batching.planning.images import encoded
from batch_assets.batching.planning.task import Task

CUSTOM_ID_CHARACTERS = 40  # of 64 hexadecimal digits: 160 bits; some servers allow no more than 64 characters
IMAGE_COLUMNS = ", encode(to_json(reference)), reference, path, media_type, code"  # of the temp table `article_image`
FETCH_ROWS = 256  # about 700 kB: the block stays in the processor's cache until it is written
ROWS_AT_ONCE = 4 * ROW_GROUP_ROWS

# rowid in `raw_articles`, the text of the user's message as JSON and, of a task with images, IMAGE_COLUMNS
Message = tuple[Any, ...]


def name_requests(connection: duckdb.DuckDBPyConnection, task: Task, source: str, day: str) -> None:
    """Enter the requests of the day's present articles into `batch_request`. Writes no line."""
    custom_id, parameters = custom_id_sql(task, task.question_tail)
    connection.execute(
        f"""
        INSERT INTO batch_request (task, partition_date, article_id, custom_id, step)
        SELECT ?, partition_date, article_id, {custom_id}, 0 FROM raw_articles {join_of_image(task)}
        WHERE source = ? AND partition_date = CAST(? AS DATE)
        """,
        [task.name, *parameters, source, day],
    )


def custom_id_sql(task: Task, tail: str) -> tuple[str, list[str]]:
    """SQL for the custom_id of an article's request, and its parameters."""
    message, parameters = user_message_sql(task)
    asked, middle = f"? || to_json({message})", []
    if task.image is not None:
        asked, middle = f"{asked} || ? || to_json(reference)", [task.before_image]
    custom_id = f"left(sha256({asked} || ?), {CUSTOM_ID_CHARACTERS})"
    return custom_id, [_hashed_head(task), *parameters, *middle, tail]


def article_messages(
    connection: duckdb.DuckDBPyConnection,
    task: Task,
    source: str,
    day: str,
    *,
    only_pending: bool,
    rows_at_once: int,
    step: int = 0,
) -> Iterator[list[Message]]:
    """The messages of the day's articles in their order, in blocks.

    `only_pending`: one article for each request of this step in `request_to_send`.
    """
    message, parameters = user_message_sql(task)
    pending = """
        SELECT arg_min(article_id, batch_request.rowid) AS article_id  -- the first, as in the first plan of a day
        FROM batch_request JOIN request_to_send USING (custom_id)
        WHERE task = ? AND partition_date = CAST(? AS DATE) AND step = ? GROUP BY custom_id
    """
    statement = f"""
        SELECT raw_articles.rowid, encode(to_json({message})){IMAGE_COLUMNS if task.image else ""}
        FROM raw_articles {join_of_image(task)} {f"SEMI JOIN ({pending}) USING (article_id)" if only_pending else ""}
        WHERE source = ? AND partition_date = CAST(? AS DATE) AND raw_articles.rowid BETWEEN ? AND ?
        {"ORDER BY raw_articles.rowid" if task.image else ""}  -- a join does not keep the order
    """
    parameters = [*parameters, *((*task.on(day), step) if only_pending else ()), source, day]
    for first, last in article_rowid_ranges(connection, source, day, rows_at_once):
        rows = connection.execute(statement, [*parameters, first, last])
        while block := rows.fetchmany(1 if task.image else FETCH_ROWS):  # a line may have megabytes of an image
            yield block
        release_cached_blocks(connection)


def article_rowid_ranges(
    connection: duckdb.DuckDBPyConnection, source: str, day: str, rows_at_once: int
) -> list[tuple[int, int]]:
    """(first, last) rowid of each range of the day's articles: a statement that reads one range needs little memory."""
    row = connection.execute(
        "SELECT min(rowid), max(rowid) FROM raw_articles WHERE source = ? AND partition_date = CAST(? AS DATE)",
        [source, day],
    ).fetchone()
    first, last = row or (None, None)
    if first is None:
        return []
    starts = range(first, last + 1, rows_at_once)
    return [(start, min(start + rows_at_once - 1, last)) for start in starts]


def join_of_image(task: Task) -> str:
    """Adds the columns of `article_image`. The name of the column is one of letters, digits and _."""
    return "" if task.image is None else f"JOIN article_image ON value = coalesce(extra['{task.image}'], '')"


class RequestLineBuilder:
    """Makes request lines from messages, and writes an index of the request of each row: `rowid,line,custom_id,code`.

    Lines count from `first_line`. A request that is too large has no line, and neither has one whose image cannot be
    sent: the code says why. `options` are sent and do not change the question; `old_names` are new custom_id → the
    custom_id of an earlier version.
    """

    def __init__(
        self,
        task: Task,
        index: TextIO,
        max_bytes: int,
        *,
        options: Mapping[str, Any],
        old_names: Mapping[str, str],
        first_line: int = 0,
    ) -> None:
        self._head_digest = sha256(_hashed_head(task).encode())
        self._question_tail = task.question_tail.encode()
        self._old_names = old_names
        self._before_id = b'{"custom_id":"'
        self._before_image = task.before_image.encode()
        self._before_message = f'","method":"POST","url":"{task.endpoint}","body":{task.body_head}'.encode()
        self._after_message = task.body_tail(options).encode() + b"}\n"
        self._index = index
        self._max_bytes = max_bytes
        self._written = first_line

    @property
    def next_line(self) -> int:
        """The number of the line after the last one."""
        return self._written

    @property
    def bytes_around_message(self) -> int:
        """How many bytes a line has beside the message of its article, without an image."""
        around = (self._before_id, self._before_message, self._after_message)
        return CUSTOM_ID_CHARACTERS + sum(len(part) for part in around)

    def lines(self, block: list[Message]) -> list[bytes]:
        """The lines of these rows, each with its newline. The index also has the requests that cannot be sent."""
        lines: list[bytes] = []
        entries: list[str] = []
        code = None
        for row, message, *image in block:
            digest = self._head_digest.copy()
            digest.update(message)
            if image:
                reference, *file, code = image
                digest.update(self._before_image + reference)
                picture = reference if code or file[1] is None else encoded(*file)
                message = b"".join((message, self._before_image, picture))
            digest.update(self._question_tail)
            custom_id = digest.hexdigest()[:CUSTOM_ID_CHARACTERS]
            if self._old_names:
                custom_id = self._old_names.get(custom_id, custom_id)
            line = b"".join((self._before_id, custom_id.encode(), self._before_message, message, self._after_message))
            if len(line) <= self._max_bytes and code is None:
                entries.append(f"{row},{self._written},{custom_id},\n")
                self._written += 1
                lines.append(line)
            else:
                entries.append(f"{row},,{custom_id},{code or ''}\n")
        self._index.write("".join(entries))
        return lines


def _hashed_head(task: Task) -> str:
    """The first of the hashed bytes; the message and the tail of the question follow."""
    return f"POST {task.endpoint}\n{task.body_head}"


def user_message_sql(task: Task) -> tuple[str, list[str]]:
    """SQL for the user's message of an article, and its parameters: texts of the template are bound parameters."""
    pieces, parameters = [], []
    for text, is_field in task.template_parts:
        if is_field and text in task.columns:
            pieces.append("coalesce(extra[CAST(? AS VARCHAR)], '')")
            parameters.append(text)
        elif is_field:
            pieces.append(f"coalesce(CAST({text} AS VARCHAR), '')")
        else:
            pieces.append("CAST(? AS VARCHAR)")
            parameters.append(text)
    return " || ".join(pieces), parameters
