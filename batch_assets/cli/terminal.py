"""What goes to the terminal: text of others without effect, never as rich's markup, and failures in a sentence."""

import errno
import json
import os
import sqlite3
import sys
from contextlib import suppress
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from batch_assets.batching.counting import counted
from batch_assets.batching.safety.clean_errors import without_secrets_in
from batch_assets.batching.safety.outside_text import as_message, as_shown, printable
from batch_assets.batching.safety.secrets import without_secrets

MAX_MESSAGE_CHARACTERS = 600
WIDTH_OF_FILES = 200


def answer_as_text(value: Any, *, is_vector: bool) -> str:
    """A value of a field of an answer; of a vector, which is there by its length, how many numbers it has."""
    if is_vector:
        return f"a vector of {counted(value, 'number')}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_rich_text(text: str) -> Text:
    """A title or an answer for rich, without markup, emoji codes or highlighted numbers."""
    return Text(as_shown(text, lines=True))


def wide_console() -> Console:
    """A console for tables. Into a pipe or a file, it is as wide as a table needs to be."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


class CommandLine(click.Group):
    """Ends with one sentence and exit code 1 if a disk is full, or a folder or a database cannot be used.

    All that it prints is printable and without secrets, tracebacks of our own mistakes included.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises click.ClickException."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # an error of the output is raised here, and not when Python ends
            return result
        except click.ClickException as error:
            error.message = without_secrets(printable(error.message, lines=True))  # type: ignore[misc]
            raise
        except Exception as error:
            failure = _failure(error)
        raise failure


def _failure(error: Exception) -> BaseException:
    """The exception to raise in place of the error."""
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
    """What happened and what to do; None if it is a mistake of ours, whose traceback is needed."""
    what_to_do = "Fix the cause, and run the command again: the ledger has what was submitted."
    if isinstance(error, OSError) and error.strerror:
        where = f" ({as_message(str(error.filename))})" if error.filename is not None else ""
        what = (
            "what it prints could not be written" if _is_about_output(error) else "a file or folder could not be used"
        )
        return f"The command stopped, since {what}: {as_message(error.strerror)}{where}. {what_to_do}"
    import duckdb  # here, since `--help` needs none of them
    import httpx2
    import yaml  # Dagster reads its dagster.yaml with it
    from dagster import DagsterError
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    for kinds, what in (
        ((SQLAlchemyError, sqlite3.Error), "Dagster's own database could not be used"),
        ((duckdb.Error,), "DuckDB could not use the database or a file"),
        ((DagsterError,), "Dagster reported an error"),
        ((yaml.YAMLError,), "`dagster.yaml` could not be read"),
        ((httpx2.InvalidURL,), "the address in OPENAI_BASE_URL is not valid"),
        ((OSError, EOFError), "a file or folder could not be used"),  # click would answer an EOFError with "Aborted!"
    ):
        if isinstance(error, kinds):
            reason = error.orig if isinstance(error, DBAPIError) and error.orig else error
            message = as_message(str(reason))[:MAX_MESSAGE_CHARACTERS].rstrip(".")
            return f"The command stopped, since {what}: {message}. {what_to_do}"
    return None


def _is_about_output(error: Exception) -> bool:
    """Whether standard output could not be written: such an error names no file."""
    return (
        isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF)
    )


def _give_up_output() -> None:
    """Redirect standard output to /dev/null, so that Python does not try to write the rest at its end."""
    with suppress(OSError, ValueError):  # standard output may be no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
