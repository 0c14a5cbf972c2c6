"""Removes secrets and control characters from exceptions and log records, before they are stored or printed.

Dagster stores the messages of an exception and of its causes and contexts, so this module cleans the whole chain.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from batch_assets.batching.safety.outside_text import printable
from batch_assets.batching.safety.secrets import without_secrets

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
MAX_DEPTH = 8  # of the values of an error, which may come from JSON


def without_secrets_in_errors(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A decorator: what the function or the generator raises has no secrets, and its causes have none."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
            try:
                return (yield from function(*args, **kwargs))
            except BaseException as error:
                cleaned = without_secrets_in(error)
            raise cleaned  # not in the except block: there, the error that is not cleaned would become its context

        return cast(Callable[Parameters, Result], generate)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            cleaned = without_secrets_in(error)
        raise cleaned

    return call


def logger_without_secrets(name: str) -> logging.Logger:
    """The logger of this name. It cleans its records before any handler gets them."""
    logger = logging.getLogger(name)
    if _clean_record not in logger.filters:
        logger.addFilter(_clean_record)
    return logger


def _clean_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = _clean_text(record.getMessage()), None
    if record.exc_info and record.exc_info[1] is not None:
        error = without_secrets_in(record.exc_info[1])
        record.exc_info = (type(error), error, record.exc_info[2])
    return True


def without_secrets_in(error: BaseException) -> BaseException:
    """The same error, cleaned in place or, if its message cannot be changed, a RuntimeError with a clean message."""
    return _cleaned(error, {})


def _cleaned(error: BaseException, done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    _clean_in_place(error)
    clean = error
    if any(_clean_text(text) != text for text in _texts_of(error)):
        clean = RuntimeError(f"{type(error).__name__}: {_clean_text(_message_of(error))}").with_traceback(
            error.__traceback__
        )
        clean.__cause__, clean.__context__ = error.__cause__, error.__context__
    done[id(error)] = clean  # before its causes: a chain may lead back to its beginning
    suppressed = error.__suppress_context__
    for link in ("__cause__", "__context__"):
        if (before := getattr(error, link)) is not None:
            setattr(clean, link, _cleaned(before, done))
    clean.__suppress_context__ = suppressed  # setting a cause has set it
    return clean


def _clean_in_place(error: BaseException) -> None:
    for owner, name, value in [(error, "args", error.args), *((error, *item) for item in vars(error).items())]:
        cleaned = _clean_value(value, MAX_DEPTH)
        if cleaned is not value:
            try:
                setattr(owner, name, cleaned)
            except Exception:  # noqa: S112 - read-only; if its message still has a secret, the error is replaced
                continue


def _clean_value(value: Any, depth: int) -> Any:
    """The value with clean texts; the same object if there is nothing to clean."""
    cleaned: Any = value
    if isinstance(value, str):
        cleaned = _clean_text(value)
    elif isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
        cleaned = without_secrets(text).encode("utf-8", "surrogateescape")
    elif depth and type(value) in (list, tuple, set, frozenset):
        cleaned = type(value)(_clean_value(item, depth - 1) for item in value)
    elif depth and type(value) is dict:
        cleaned = {_clean_value(key, depth - 1): _clean_value(item, depth - 1) for key, item in value.items()}
    elif depth and isinstance(value, BaseException):  # of a group
        cleaned = without_secrets_in(value)
    return value if type(cleaned) is type(value) and cleaned == value else cleaned


def _clean_text(text: str) -> str:
    return without_secrets(printable(text, lines=True))


def _texts_of(error: BaseException) -> list[str]:
    return [_message_of(error), *(str(note) for note in getattr(error, "__notes__", ()))]


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__
