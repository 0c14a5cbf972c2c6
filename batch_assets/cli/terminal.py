"""What goes to the terminal: outside text as it is, never as rich's markup, and failures in a sentence."""

import errno
import os
import sqlite3
import sys
from contextlib import suppress
from typing import Any

import click
from rich.text import Text

from batch_assets.batching.safety.clean_errors import without_secrets_in
from batch_assets.batching.safety.outside_text import as_message, as_shown, printable
from batch_assets.batching.safety.secrets import without_secrets

LONGEST_MESSAGE = 600


def shown(text: str) -> Text:
    """A title or an answer for rich, which reads no markup, emoji codes or numbers into it."""
    return Text(as_shown(text, lines=True))


class CommandLine(click.Group):
    """Ends in one sentence and exit code 1 where a disk is full, a folder can't be written, or a database can't be had.

    Whatever it says is printable and without secrets, tracebacks of our own mistakes included.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.ClickException."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # what can't be written is to be known here, and not when Python ends
            return result
        except click.ClickException as error:
            error.message = without_secrets(printable(error.message, lines=True))  # type: ignore[misc]
            raise
        except Exception as error:
            failure = _failure(error)
        raise failure


def _failure(error: Exception) -> BaseException:
    """What is to be raised in place of the error."""
    if isinstance(error, BrokenPipeError):  # the program that reads our output has ended
        _give_up_output()
        return SystemExit(1)
    if isinstance(error, (click.exceptions.Exit, click.Abort)):
        return error
    sentence = _sentence(error)
    if sentence is None:
        return without_secrets_in(error)
    if _is_about_output(error):
        _give_up_output()
    return click.ClickException(sentence)


def _sentence(error: Exception) -> str | None:
    """What happened and what to do; None where it is a mistake of ours, whose traceback is needed."""
    after = "What was submitted is in the ledger: fix the cause, and run the command again."
    if isinstance(error, OSError) and error.strerror:
        where = f" ({as_message(str(error.filename))})" if error.filename is not None else ""
        what = (
            "what it prints could not be written" if _is_about_output(error) else "a file or folder could not be used"
        )
        return f"The command stopped, since {what}: {as_message(error.strerror)}{where}. {after}"
    import duckdb  # only here: `--help` needs none of them
    import httpx2
    import yaml  # type: ignore[import-untyped]  # Dagster reads its dagster.yaml with it
    from dagster import DagsterError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    for kinds, whose in (
        ((SQLAlchemyError, sqlite3.Error), "Dagster's own database could not be used"),
        ((duckdb.Error,), "DuckDB could not use the database or a file"),
        ((DagsterError,), "Dagster could not go on"),
        ((yaml.YAMLError,), "`dagster.yaml` could not be read"),
        ((httpx2.InvalidURL,), "the address in OPENAI_BASE_URL is none"),
        ((OSError,), "a file or folder could not be used"),
    ):
        if isinstance(error, kinds):
            said = error.orig if isinstance(error, DBAPIError) and error.orig else error
            return f"The command stopped, since {whose}: {as_message(str(said))[:LONGEST_MESSAGE].rstrip('.')}. {after}"
    return None


def _is_about_output(error: Exception) -> bool:
    """Whether it was standard output that could not be written: such an error names no file."""
    return (
        isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF)
    )


def _give_up_output() -> None:
    """Let Python end without trying again to write what it still has for standard output."""
    with suppress(OSError, ValueError):  # it may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
