"""Result lines of servers that imitate OpenAI, in the form that `result_lines` reads: their errors, wherever they are,
and the reason why a body with status 200 is no answer.

Compatible servers write: `error` as a string, or with a status of 200; `message` and `code` in the body itself (vLLM,
Alibaba Model Studio); `detail` (FastAPI); a list with one error (Gemini); `error` of a choice (OpenRouter); the body as
a string of JSON.
"""

import json
from contextlib import suppress
from typing import Any, NamedTuple

from batch_assets.batching.collection.answer_bodies import AnswerBody
from batch_assets.batching.safety.outside_text import as_message

NO_ANSWER = "no_answer"  # the code of a request whose line has status 200, and a body that is no answer
PLACES_OF_ERRORS = ("error", "errors")
PLACES_OF_WORDS = ("message", "detail", "msg")
MAX_DEPTH = 4  # of an error in an error
MAX_READ_CHARACTERS, MAX_SHOWN_CHARACTERS = 10_000, 500
MAX_FIELDS = 10


class ToldError(NamedTuple):
    """What a server says about a failure; code is None if it tells none."""

    code: str | None
    message: str


def in_known_form(result: dict[str, Any], expected: AnswerBody) -> tuple[dict[str, Any], str]:
    """The result with its body as an object and its error in `error` or `body.error`, and why it is no answer.

    The reason is empty, unless the status is 200 and the body is not the expected one and tells no error. Such a result
    gets an error with the code `no_answer` and this reason. Model and usage stay where they are.
    """
    if not isinstance(result.get("error"), dict) and (told := _told({**result, "response": None})):
        result = {**result, "error": told._asdict()}
    response = result.get("response")
    if not isinstance(response, dict):
        return result, ""
    is_ok = _is_ok(response)
    body, told = _body(response.get("body"), expected, is_ok=is_ok)
    reason = ""
    if is_ok and told is None and not _tells(result.get("error")) and (reason := _why_no_answer(body, expected)):
        told = ToldError(NO_ANSWER, reason)
    known = dict(body) if isinstance(body, dict) else {}
    if told:
        known["error"] = told._asdict()
    elif is_ok and not reason:
        # one without an answer, such as a chat completion without a choice, is an empty answer
        for name, value in expected.empty.items():
            known[name] = known[name] if isinstance(known.get(name), list) and known[name] else value
    return {**result, "response": {**response, "body": known}}, reason


def _is_ok(response: dict[str, Any]) -> bool:
    with suppress(ValueError):
        return float(str(response.get("status_code"))) == 200
    return False


def _body(body: object, expected: AnswerBody, *, is_ok: bool) -> tuple[object, ToldError | None]:
    """The body, parsed if it is a string of JSON, and the error that it tells."""
    if isinstance(body, str):
        with suppress(ValueError, RecursionError):
            body = json.loads(body)
    if isinstance(body, str):
        return body, None if is_ok or not body.strip() else ToldError(None, _shown(body))
    if isinstance(body, list):
        return body, next((told for item in body if isinstance(item, dict) and (told := _told(item))), None)
    if not isinstance(body, dict):
        return body, None
    error = body.get("error")
    if isinstance(error, dict) and isinstance(error.get("message"), str) and error["message"].strip():
        return body, ToldError(_code(error), error["message"])
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    whole = {} if expected.is_whole(body) else body
    return body, _told([{**whole, "error": error}, {"error": choice.get("error")}])


def _tells(error: object) -> bool:
    return isinstance(error, dict) and any(error.get(name) for name in ("code", "message"))


def _told(value: object, depth: int = 0) -> ToldError | None:
    """The error in this value, which is an error, an object with one, or a list of them; None if there is none."""
    if isinstance(value, str):
        return ToldError(None, value.strip()) if value.strip() else None
    if depth > MAX_DEPTH:
        return None
    found: list[ToldError | None] = []
    separator = ": "
    if isinstance(value, list):
        found, separator = [_told(item, depth + 1) for item in value], "; "
    elif isinstance(value, dict):
        errors = [_told(value.get(place), depth + 1) or _unknown(value.get(place)) for place in PLACES_OF_ERRORS]
        found = [*errors, *(_told(value.get(place), depth + 1) for place in PLACES_OF_WORDS)]
    told = [error for error in found if error]
    if not told:
        return None
    code = next((error.code for error in told if error.code), None) or _code(value)
    return ToldError(code, separator.join(dict.fromkeys(error.message for error in told)))


def _unknown(error: object) -> ToldError | None:
    """An error in a form that is not known, as JSON."""
    return ToldError(_code(error), _shown(json.dumps(error))) if isinstance(error, dict | list) and error else None


def _code(error: object) -> str | None:
    """The code of an error, or else its type, as `READ_LINES` reads them."""
    if not isinstance(error, dict):
        return None
    code, kind = error.get("code"), error.get("type")
    if isinstance(code, str | int) and not isinstance(code, bool) and str(code).strip():
        return str(code)
    return kind if isinstance(kind, str) and kind not in ("", "error") else None


def _why_no_answer(body: object, expected: AnswerBody) -> str:
    """Why this body has no answer, in a sentence; empty if it may have one."""
    if isinstance(body, dict) and expected.is_whole(body):
        return ""
    return f"The status is 200, but there is no answer: {_what_it_is(body, expected.noun)}."


def _what_it_is(body: object, noun: str) -> str:
    if body is None:
        return "the line has no body"
    if isinstance(body, str):
        if not body.strip():
            return "the body is an empty string"
        start = body.lstrip()[:500].lower()
        is_page = start.startswith("<") and any(tag in start for tag in ("<!doctype html", "<html", "<head", "<body"))
        return f'the body is {"a page of HTML" if is_page else "text"}, not JSON: "{_shown(body)}"'
    if isinstance(body, list):
        return "the body is a list, not an object"
    if not isinstance(body, dict):
        return f"the body is a {'boolean' if isinstance(body, bool) else 'number'}, not an object"
    if not body:
        return "the body is an empty object"
    fields = _shown(", ".join(list(body)[:MAX_FIELDS]))
    if "messages" in body or "instructions" in body or {"method", "url"} <= body.keys():
        return f"the body repeats the request; it has the fields {fields}"
    if body.get("choices"):
        return f"the first choice has no message; the body has the fields {fields}"
    return f"the body is no {noun}; it has the fields {fields}"


def _shown(text: str) -> str:
    """The beginning of a text of the server, safe to show. First without secrets: a part of one is not recognized."""
    safe = as_message(text.strip()[:MAX_READ_CHARACTERS])
    return safe if len(safe) <= MAX_SHOWN_CHARACTERS else safe[:MAX_SHOWN_CHARACTERS] + "…"
