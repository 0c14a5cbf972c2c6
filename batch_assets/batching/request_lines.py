"""The lines of a request file, and the names of the requests on them.

A line is constant but for the article, so DuckDB only puts the user's message together and escapes it. The name, a
sha256, is made here for what is written anyway: Python's is several times as fast as DuckDB's.
"""

from collections.abc import Iterator
from hashlib import sha256
from typing import TextIO

import duckdb

from batch_assets.batching.task import ENDPOINT, Task

CUSTOM_ID_CHARACTERS = 40  # of 64 hexadecimal ones: 160 bits; some servers allow no more than 64
FETCH_ROWS = 256  # some 700 kB: a block stays in the processor's cache on its way from DuckDB to the file


def name_requests(connection: duckdb.DuckDBPyConnection, task: Task) -> None:
    """Enter the day's requests into `batch_request`, from the articles as they are now. Writes no line."""
    message, parameters = user_message_sql(task)
    connection.execute(
        f"""
        INSERT INTO batch_request
        SELECT partition_date, article_id, left(sha256(? || to_json({message}) || ?), {CUSTOM_ID_CHARACTERS})
        FROM raw_articles WHERE partition_date = getvariable('day')
        """,
        [_asked_head(task), *parameters, task.body_tail],
    )


def article_messages(connection: duckdb.DuckDBPyConnection, task: Task, *, only_owed: bool) -> Iterator[list[tuple]]:
    """(rowid in `raw_articles`, the user's message as JSON) of the day's articles in their order, in blocks.

    `only_owed`: one article for each request that `request_state` has in one of the variable `sent_states`.
    """
    message, parameters = user_message_sql(task)
    owed = "SELECT article_id FROM request_state WHERE state IN (SELECT unnest(getvariable('sent_states')))"
    rows = connection.execute(
        f"""
        SELECT raw_articles.rowid, encode(to_json({message}))
        FROM raw_articles {f"SEMI JOIN ({owed}) USING (article_id)" if only_owed else ""}
        WHERE partition_date = getvariable('day')
        """,
        parameters,
    )
    while block := rows.fetchmany(FETCH_ROWS):
        yield block


class LineMaker:
    """Makes request lines from messages, and notes which row has which request: `rowid,custom_id,is_written`."""

    def __init__(self, task: Task, notes: TextIO, max_bytes: int) -> None:
        self._asked = sha256(_asked_head(task).encode())
        self._tail = task.body_tail.encode()
        self._before_id = b'{"custom_id":"'
        self._before_message = f'","method":"POST","url":"{ENDPOINT}","body":{task.body_head}'.encode()
        self._after_message = self._tail + b"}\n"
        self._notes = notes
        self._max_bytes = max_bytes

    def lines(self, block: list[tuple[int, bytes]]) -> list[bytes]:
        """The lines of these rows, each with its newline. One that fits into no file is noted, and left out."""
        lines: list[bytes] = []
        notes: list[str] = []
        for row, message in block:
            asked = self._asked.copy()
            asked.update(message)
            asked.update(self._tail)
            custom_id = asked.hexdigest()[:CUSTOM_ID_CHARACTERS]
            line = b"".join((self._before_id, custom_id.encode(), self._before_message, message, self._after_message))
            is_written = len(line) <= self._max_bytes
            if is_written:
                lines.append(line)
            notes.append(f"{row},{custom_id},{is_written}\n")
        self._notes.write("".join(notes))
        return lines


def _asked_head(task: Task) -> str:
    """What the hash of a request begins with; the message and the body's tail follow."""
    return f"POST {ENDPOINT}\n{task.body_head}"


def user_message_sql(task: Task) -> tuple[str, list[str]]:
    """SQL for the user's message of an article, and its parameters: literal pieces are bound, never pasted."""
    pieces, parameters = [], []
    for text, is_field in task.template_parts:
        if is_field:
            pieces.append(f"coalesce(CAST({text} AS VARCHAR), '')")
        else:
            pieces.append("CAST(? AS VARCHAR)")
            parameters.append(text)
    return " || ".join(pieces), parameters
