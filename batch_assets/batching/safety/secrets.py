"""Removes secrets from text: values of the environment by comparison, and secrets in URLs by their place.

A message of an API, of DuckDB or of a network library may repeat a key, a signature or a password that it received.
"""

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from batch_assets.batching.safety.notification_urls import secrets_of_url

HIDDEN = "…"
# The one list of variables whose values are secrets. Their names may be shown.
SECRET_VARIABLES = (
    "OPENAI_API_KEY",
    "OPENAI_ADMIN_KEY",
    "OPENAI_WEBHOOK_SECRET",
    "BATCH_ASSETS_UI_PASSWORD",
    "BATCH_ASSETS_SERVE_KEY",
    "BATCH_ASSETS_SERVE_ENGINE_KEY",
    "BATCH_ASSETS_SERVE_WEBHOOK_SECRET",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "MOTHERDUCK_TOKEN",
    "motherduck_token",
    "PGPASSWORD",
    "MYSQL_PWD",
    "HF_TOKEN",
)
# Variables with a URL or a connection string, which may contain secrets.
URL_VARIABLES = (
    "OPENAI_BASE_URL",
    "BATCH_ASSETS_SOURCE",
    "BATCH_ASSETS_DUCKDB",
    "AZURE_STORAGE_CONNECTION_STRING",
    *(name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (upper, upper.lower())),
)
NOTIFICATION_VARIABLE = "BATCH_ASSETS_NOTIFY"  # URLs that white space separates
MIN_SECRET_LENGTH = 8  # ordinary words would contain a shorter value
LONG_VALUE_LENGTH = 16  # a value in a query of at least this length counts as a secret, whatever its name

# How the name of a secret ends.
SENSITIVE_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|pwd|secret|token|signature|credentials?|(?<![a-z])sig|key(?:[_-]?id)?)"
)
QUOTED = r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*\""""
# host=h password='…' | AccountKey=…;EndpointSuffix=… | --api-key=…
NAMED_VALUE = re.compile(rf"(?<![\w.-])({SENSITIVE_NAME}\s?=\s?)({HIDDEN}|{QUOTED}|[^\s;\"<>`]+)", re.IGNORECASE)
# {"token": "…"}
NAMED_IN_JSON = re.compile(rf"(['\"]{SENSITIVE_NAME}['\"]\s*:\s*)({QUOTED})", re.IGNORECASE)
SQL_QUERY = re.compile(r"\s*(?:select|from|with)\s", re.IGNORECASE)  # BATCH_ASSETS_SOURCE may be one
SQL_STRING = re.compile(r"'((?:[^']|'')*)'")
AUTHORIZATION = re.compile(
    r"(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+|\b(?:bearer|basic)\s+(?=\S*\d))[\w.~+/=-]{8,}",
    re.IGNORECASE,
)
# The rest of a URL after its scheme, up to white space, a character that no URL has, or the next URL. JSON may escape
# slashes.
AFTER_SCHEME = re.compile(r"(?<=[a-z0-9]:)(\\?/\\?/)((?:(?!:\\?/\\?/)[^\s\"<>`])*)", re.IGNORECASE)
HOST_AND_PORT = re.compile(r"[^:@\\/?#]*(?::\d*)?|\[[0-9a-f:.%]*\](?::\d*)?", re.IGNORECASE)
# A query, of a URL or of a similar text: md:db?motherduck_token=… | /v1/files?key=…
QUERY_CHARACTER = r"(?:(?!'[\s,;:.)\]}]|'$)[^\s\"<>`?#])"  # a quote ends the query if it ends a quotation
QUERY = re.compile(rf"(?<=[^\s?])([?#])((?=[^\s?#]*=){QUERY_CHARACTER}+|[\w%~+-]{{16,}})")
PUNCTUATION = ".,;:!)]}'\\"  # after a URL: it belongs to the sentence around it


def without_secrets(text: str, *settings: str) -> str:
    """The text with `…` in place of secrets: those of the environment and of these `settings`, and those of URLs.

    `settings` are URLs or connection strings: their passwords, tokens and signatures are removed, too. In a URL, the
    user info and each value of the query are replaced. Never raises. A second call changes nothing more.
    """
    known = [_known_pattern(_environment()), _known_pattern(((), settings, "")) if settings else None]
    for _ in range(8):
        cleaned = _replace_once(text, [pattern for pattern in known if pattern])
        if cleaned == text:
            break
        text = cleaned
    return text


def without_known_secrets(text: str) -> str:
    """The text with `…` in place of the environment's secrets; URLs in it do not change."""
    pattern = _known_pattern(_environment())
    return pattern.sub(HIDDEN, text) if pattern else text


def bytes_without_known_secrets(content: bytes) -> bytes:
    """`without_known_secrets` for bytes, which need not be text."""
    pattern = _known_pattern(_environment())
    if pattern is None:
        return content
    text = content.decode("utf-8", "surrogateescape")
    return pattern.sub(HIDDEN, text).encode("utf-8", "surrogateescape") if pattern.search(text) else content


def known_secrets_pattern() -> str | None:
    """A regular expression, for Python or for DuckDB, of the environment's secrets in all their spellings.

    Use it without regard to case. None if there are no secrets.
    """
    pattern = _known_pattern(_environment())
    return pattern.pattern if pattern else None


def _replace_once(text: str, known: Iterable[re.Pattern[str]]) -> str:
    for pattern in known:
        text = pattern.sub(HIDDEN, text)
    text = AFTER_SCHEME.sub(lambda match: match[1] + _without_user(match[2]), text)
    text = QUERY.sub(lambda match: match[1] + _without_values(match[2]), text)
    for named in (NAMED_VALUE, NAMED_IN_JSON):
        text = named.sub(lambda match: match[1] + _hidden(match[2]), text)
    return AUTHORIZATION.sub(lambda match: match[1] + HIDDEN, text)


def _without_user(rest: str) -> str:
    """The rest of a URL after its scheme, without user and password."""
    end = _end_of_user(rest)
    return rest if end < 0 else HIDDEN + rest[end:]


def _end_of_user(rest: str) -> int:
    """The index of the `@` after the password; -1 if there is none. A password may contain `@`, `/` and `?`."""
    before_query = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority = re.split(r"\\?/", before_query, maxsplit=1)[0]
    is_plain = HOST_AND_PORT.fullmatch(authority) is not None
    if is_plain and ":" not in authority:
        return -1
    # If there is a user, a later `@` belongs to the password, except in a value of the query. After a possible port, an
    # `@` in the query does not count.
    is_query = is_plain or ("@" in before_query and re.match("[^@]*=", rest[len(before_query) :]) is not None)
    return (before_query if is_query else rest).rfind("@")


def _without_values(query: str) -> str:
    stripped = query.rstrip(PUNCTUATION)
    end = query[len(stripped) :]
    return "&".join(_without_value(part) for part in stripped.split("&")) + end


def _without_value(part: str) -> str:
    name, equals, value = part.partition("=")
    if not equals:
        return HIDDEN if name else ""
    return f"{name}={HIDDEN if value else ''}"


def _hidden(value: str) -> str:
    if value[0] in "'\"" and value[-1] == value[0]:
        return f"{value[0]}{HIDDEN}{value[0]}"
    return HIDDEN + value[len(value.rstrip(PUNCTUATION)) :]


def _environment() -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Secrets, URLs with secrets, and the URLs of notifications."""
    values, urls = ([os.environ.get(name, "").strip() for name in names] for names in (SECRET_VARIABLES, URL_VARIABLES))
    return tuple(filter(None, values)), tuple(filter(None, urls)), os.environ.get(NOTIFICATION_VARIABLE, "")


@lru_cache(maxsize=16)
def _known_pattern(known: tuple[tuple[str, ...], tuple[str, ...], str]) -> re.Pattern[str] | None:
    """A pattern of these secrets, and of those in these URLs, with the longest spelling first."""
    values, urls, notify = known
    secrets = {*values, *(secret for url in urls for secret in _secrets_of(url))}
    secrets.update(secret for url in notify.split() for secret in secrets_of_url(url))
    spellings = {spelling for secret in secrets if len(secret) >= MIN_SECRET_LENGTH for spelling in _spellings(secret)}
    longest_first = sorted(spellings, key=lambda spelling: (-len(spelling), spelling))
    return re.compile("|".join(map(_escaped, longest_first)), re.IGNORECASE) if spellings else None


def _secrets_of(url: str) -> Iterator[str]:
    """The passwords, tokens and signatures in a URL, a connection string, or a query of SQL with such strings."""
    strings = [text.replace("''", "'") for text in SQL_STRING.findall(url)] if SQL_QUERY.match(url) else [url]
    for string in strings:
        for part in _parts_of(string):
            yield from {part, unquote(part), unquote_plus(part)}
    for match in NAMED_VALUE.finditer(url):
        yield match[2].strip("'\"")


def _parts_of(url: str) -> Iterator[str]:
    _, is_url, after = url.partition("://")
    rest = after if is_url else url  # the address of a proxy may have no scheme
    if (end := _end_of_user(rest)) > 0:
        user, has_password, password = rest[:end].partition(":")
        yield rest[:end]
        yield password if has_password else user
    for query in re.split(r"[?#]", url)[1:]:
        for part in query.split("&"):
            name, equals, value = part.partition("=")
            if re.fullmatch(SENSITIVE_NAME, name, re.IGNORECASE) or len(value or name) >= LONG_VALUE_LENGTH:
                yield value if equals else name


def _spellings(secret: str) -> Iterable[str]:
    """The secret as it is; as in a URL, in JSON, in Python and in HTML; in Base64 after any text, as in Basic auth."""
    raw = secret.encode("utf-8", "surrogatepass")
    with suppress(UnicodeEncodeError):  # a variable may contain any bytes
        raw = secret.encode("utf-8", "surrogateescape")
    yield secret
    yield from (quote(raw), quote(raw, safe=""), quote_plus(raw))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    yield json.dumps(secret)[1:-1].replace("/", "\\/")
    yield from (html.escape(secret), html.escape(secret, quote=False))
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        # only the characters that depend on the secret alone
        first, last = (0, 2, 3)[before], (before + len(raw)) * 8 // 6
        for alphabet in (encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))):
            yield alphabet[first:last].decode()


def _escaped(text: str) -> str:
    """For Python and RE2. Half of a surrogate pair, which stands for a byte, is no text in DuckDB: it becomes `.`."""
    return "".join("." if "\ud800" <= character <= "\udfff" else re.escape(character) for character in text)
