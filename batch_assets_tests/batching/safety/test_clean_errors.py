"""An exception and its causes have no secrets: Dagster stores the whole chain."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator

import openai
import pytest

from batch_assets.batching.safety.clean_errors import logger_without_secrets, without_secrets_in_errors

KEY = "sk-proj-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class FixedMessageError(Exception):
    """Its message cannot be changed."""

    def __str__(self) -> str:
        return f"refused {KEY}"


class SlottedError(Exception):
    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = KEY

    def __str__(self) -> str:
        return self.text


def raise_with_cause() -> None:
    try:
        raise ValueError(f"the server said {KEY}\x1b[2J")
    except ValueError as error:
        raise RuntimeError(f"refused: {KEY}") from error


def raise_with_context() -> None:
    try:
        raise KeyError(KEY)
    except KeyError:
        raise RuntimeError("no key") from None


def raise_with_fixed_cause() -> None:
    try:
        raise FixedMessageError
    except FixedMessageError as error:
        raise RuntimeError("refused") from error


def raise_fixed_message() -> None:
    raise FixedMessageError


def raise_slotted() -> None:
    raise SlottedError


def raise_with_a_note() -> None:
    error = ValueError("refused")
    error.add_note(f"with {KEY}")
    raise error


def raise_a_group() -> None:
    raise ExceptionGroup(f"two of {KEY}", [ValueError(KEY), FixedMessageError()])


def raise_error_of_the_api() -> None:
    body = {"message": f"Incorrect API key provided: {KEY}", "details": [{"Authorization": f"Bearer {KEY}"}]}
    raise openai.OpenAIError(f"Error code: 401 - {body}", body)


def raise_with_circular_causes() -> None:
    one, other = ValueError(KEY), FixedMessageError()
    one.__cause__, other.__cause__ = other, one
    raise one


def raise_bytes() -> None:
    raise ValueError(b"refused " + KEY.encode(), {KEY: (KEY, [KEY])})


RAISERS = [
    raise_with_cause, raise_with_context, raise_with_fixed_cause, raise_fixed_message, raise_slotted, raise_with_a_note,
    raise_a_group, raise_error_of_the_api, raise_with_circular_causes, raise_bytes,
]  # fmt: skip


def chain_of(error: BaseException | None, seen: set[int] | None = None) -> Iterator[BaseException]:
    """The error with all its causes and contexts, including those that Python does not print."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    for link in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
        yield from chain_of(link, seen)


def generator(raiser: Callable[[], None]) -> Callable[[], None]:
    @without_secrets_in_errors
    def generate() -> Iterator[int]:
        yield 1
        raiser()

    return lambda: print(list(generate()))


@pytest.mark.parametrize("wrap", [without_secrets_in_errors, generator])
@pytest.mark.parametrize("raiser", RAISERS)
def test_no_link_of_the_chain_has_a_secret_in_it(
    raiser: Callable[[], None], wrap: Callable[[Callable[[], None]], Callable[[], None]]
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - of any kind
        wrap(raiser)()
    shown = "".join(traceback.format_exception(raised.value))
    for error in chain_of(raised.value):
        shown += f"{error} {error!r} {error.args!r} {vars(error)!r} {getattr(error, '__notes__', '')}"
    assert KEY not in shown
    assert "\x1b" not in shown
    assert "…" in shown or raiser is raise_with_context
    assert raiser.__name__ in shown  # the traceback still has the function


def test_an_error_without_secrets_is_raised_as_it_is() -> None:
    error = ValueError("plain", 7, object())
    args = error.args

    @without_secrets_in_errors
    def fail() -> None:
        raise error from KeyError("cause")

    with pytest.raises(ValueError, match="plain") as raised:
        fail()
    assert raised.value is error
    assert error.args is args
    assert repr(error.__cause__) == "KeyError('cause')"


def test_a_decorated_function_returns_and_yields_the_same() -> None:
    @without_secrets_in_errors
    def generate(limit: int) -> Iterator[int]:
        """Its docstring."""
        yield from range(limit)

    @without_secrets_in_errors
    def double(number: int, *, times: int = 2) -> int:
        return number * times

    assert list(generate(3)) == [0, 1, 2]
    assert (generate.__name__, generate.__doc__) == ("generate", "Its docstring.")
    assert double(3, times=3) == 9
    generate(3).close()  # type: ignore[attr-defined]


def test_a_record_is_clean_before_any_handler_gets_it() -> None:
    logger, written = logger_without_secrets("batch_assets.batching.a_test"), io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger("batch_assets").addHandler(handler)
    try:
        for raiser in (raise_fixed_message, raise_with_cause):
            try:
                raiser()
            except Exception:
                logger.exception("It said %s, and %d\x1b[2J", KEY, 7)
    finally:
        logging.getLogger("batch_assets").removeHandler(handler)
    assert "It said …, and 7" in written.getvalue()
    assert "raise_fixed_message" in written.getvalue()
    assert KEY not in written.getvalue()
    assert "\x1b" not in written.getvalue()
