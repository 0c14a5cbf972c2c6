"""The server's log: a line for each event, and from time to time a line for all batches in progress.

Events are INFO records of the loggers in this package, which only `print_events` makes visible. They hold ids and
counts, but no texts and no keys. Text that a client has chosen, such as a path in an error, is made printable.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TextIO

from batch_assets.local_api.batches.execution import Executor
from batch_assets.local_api.storage.database import Store
from batch_assets.local_api.wire.printable import printable

logger = logging.getLogger(__name__)


def print_events(stream: TextIO) -> None:
    """Write events to the stream from now on, each with its time of day, and warnings of all other packages."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Printable(datefmt="%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("batch_assets.local_api").setLevel(logging.INFO)
    logging.captureWarnings(True)


class _Printable(logging.Formatter):
    """A record is one line, with an indented traceback below it. A client's text can look like neither."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [printable(f"{self.formatTime(record, self.datefmt)} {record.getMessage()}")]
        # Not record.exc_text, which the formatter of another handler may have written.
        below = self.formatException(record.exc_info) if record.exc_info else ""
        for text in (below, record.stack_info or ""):
            lines += [f"    {printable(line)}" for line in text.split("\n") if text]
        return "\n".join(lines)


def printable_stream(stream: TextIO) -> TextIO:
    """The same stream, which writes only printable text, whichever code writes it.

    A stream that isn't a file or a terminal is returned unchanged.
    """
    if not isinstance(stream, TextIOWrapper):
        return stream
    stream.flush()
    return _PrintableStream(
        stream.buffer, stream.encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )


class _PrintableStream(TextIOWrapper):
    def close(self) -> None:
        """The file belongs to the other stream, which closes it."""
        self.flush()

    def write(self, text: str) -> int:
        super().write(printable(text, keep="\n\t"))
        return len(text)


@contextlib.contextmanager
def reporting(store: Store, executor: Executor, interval_seconds: float) -> Iterator[None]:
    """Within the block, log the progress of the batches at intervals, if it has changed."""
    stop = threading.Event()
    thread = threading.Thread(
        target=_report_until, args=(stop, store, executor, interval_seconds), name="local-api-events", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _report_until(stop: threading.Event, store: Store, executor: Executor, interval_seconds: float) -> None:
    last = ""
    while not stop.wait(interval_seconds):
        try:
            line = progress(store, executor)
        except Exception:
            logger.exception("Could not read the progress of the batches.")
            continue
        if line != last:
            logger.info(line or "no batch in progress")
            last = line


def progress(store: Store, executor: Executor) -> str:
    """`2 batches in progress: 12 of 40 requests done`; empty when there is none."""
    with store.read() as connection:
        rows = connection.execute("SELECT id, total FROM batch WHERE status = 'in_progress'").fetchall()
    if not rows:
        return ""
    done = sum(sum(executor.progress(row["id"]) or ()) for row in rows)
    total = sum(row["total"] for row in rows)
    return f"{len(rows)} batch{'es' if len(rows) > 1 else ''} in progress: {done:,} of {total:,} requests done"
