"""Secrets are removed in all spellings, from the text of any API or library, before it is logged, stored or printed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_assets.batching.safety.secrets import (
    SECRET_VARIABLES,
    URL_VARIABLES,
    bytes_without_known_secrets,
    known_secrets_pattern,
    without_known_secrets,
    without_secrets,
)

SECRET = 'sk-A+b/c=d&e f"gü\\h'
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "percent": lambda secret: quote(secret, safe=""),
    "percent, lower case": lambda secret: quote(secret, safe="").lower(),
    "percent, with slashes": quote,
    "form": quote_plus,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json, not ascii": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "json, slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "repr": lambda secret: repr(secret)[1:-1],
    "html": lambda secret: secret.replace("&", "&amp;").replace('"', "&quot;"),
}


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRET_VARIABLES, *URL_VARIABLES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", SECRET_VARIABLES)
def test_the_value_of_each_secret_variable_is_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f" {SECRET}\n")
    assert without_secrets(f"Incorrect key provided: {SECRET}.") == "Incorrect key provided: …."
    assert bytes_without_known_secrets(b"\xff\x00 " + SECRET.encode() + b"\xfe") == b"\xff\x00 \xe2\x80\xa6\xfe"


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("clean", [without_secrets, without_known_secrets])
def test_a_secret_is_found_in_each_of_its_spellings(
    spelling: str, clean: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert clean(f"before {SPELLINGS[spelling](SECRET)} after") == "before … after"


@settings(deadline=None)  # the machine may be busy
@given(user=st.text("abc:", max_size=9), after=st.text("xyz", max_size=5))
def test_a_secret_is_found_in_base64_beside_any_text(user: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", SECRET)
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(f"{user}{SECRET}{after}".encode()).decode()
            left = without_known_secrets(f"basic {text}")
            assert "…" in left
            kept = left.removeprefix("basic ").split("…")
            assert len("".join(kept)) <= (len(user) + len(after)) * 4 / 3 + 8


def test_short_values_of_variables_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", "https://x.org/a.jsonl?feed=articles&page=1")
    text = "the local table raw_articles, page 1"
    assert without_secrets(text) == text
    assert known_secrets_pattern() is None


def test_secrets_in_the_strings_of_a_query_are_found_and_its_other_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    query = (
        "SELECT content AS body FROM read_csv('https://me:pass-word1@x.org/a.csv?sig=abcdefgh12') "
        "WHERE mail LIKE '%@%' "
        "AND lang = 'en-of-great-britain' AND name = 'it''s' UNION ALL FROM read_csv('s3://b/c.csv?token=it''s-secret')"
    )
    monkeypatch.setenv("BATCH_ASSETS_SOURCE", query)
    assert without_secrets("abcdefgh12 pass-word1 it's-secret") == "… … …"
    words = "SELECT content AS body FROM read_csv, WHERE mail LIKE '%@%' AND lang = 'en-of-great-britain'"
    assert without_secrets(words) == words


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://me:pass-word@x.org/a.csv", "user me with pass-word was refused"),
        ("https://me:pa%40ss%2Fword@x.org/a.csv", "pa@ss/word"),
        ("https://me:pa@ss/wo?rd@x.org/a.csv", "not allowed: pa@ss/wo?rd"),
        ("https://a-token-as-user@x.org/", "a-token-as-user"),
        ("https://x.org/a.csv?X-Amz-Signature=0123456789abcdef0", "bad signature 0123456789ABCDEF0"),
        ("https://x.org/a.csv?sv=1&sig=ab%2Bcd%3Def0", "sig was ab+cd=ef0"),
        ("https://x.org/a.csv?sv=1&whatever=0123456789abcdef0", "0123456789abcdef0"),
        ("https://x.org/a.csv?0123456789abcdef0", "0123456789abcdef0"),
        ("md:db?motherduck_token=eyJhbGciOi.J9", "invalid token eyJhbGciOi.J9"),
        ("postgres:host=h user=u password='it is secret'", "it is secret"),
        ("ducklake:postgres:dbname=x password=geheim123", "geheim123"),
        ("s3://AKIAKEY:sec/ret+key1@bucket/a", "sec/ret+key1"),
        ("me:pass-word@proxy:3128", "pass-word"),
    ],
)
@pytest.mark.parametrize("variable", URL_VARIABLES)
def test_the_secrets_of_a_url_in_a_setting_are_found_anywhere(
    url: str, text: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert without_secrets(text) == text
    monkeypatch.setenv(variable, url)
    assert "…" in without_secrets(text)
    monkeypatch.delenv(variable)
    assert "…" in without_secrets(text, url)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@x.org/a", "https://…@x.org/a"),
        ("HTTPS://ME:PW@X.ORG/a", "HTTPS://…@X.ORG/a"),
        ("https://token@x.org", "https://…@x.org"),
        ("https://me:p@ss/w@rd@x.org:8443/a?b=c", "https://…@x.org:8443/a?b=…"),
        ("https://me:p?ss@x.org/a", "https://…@x.org/a"),
        ("https://me:p@ss/w?rd@x.org/a?b=c", "https://…@x.org/a?b=…"),
        ("https://me:pw@x.org/a?b=c@d&e=f@g", "https://…@x.org/a?b=…&e=…"),
        ("https://me:p%40ss@x.org/a", "https://…@x.org/a"),
        ("https://me:pw@[::1]:8000/a", "https://…@[::1]:8000/a"),
        ("http://[fe80::1%25eth0]:8000/v1", "http://[fe80::1%25eth0]:8000/v1"),
        (
            "https://x.org/a?X-Amz-Signature=abc&sig=d&token=e&x#f",
            "https://x.org/a?X-Amz-Signature=…&sig=…&token=…&…#f",
        ),
        ("https://x.org/a#access_token=abc", "https://x.org/a#access_token=…"),
        ("https://x.org/a?0123456789abcdef0", "https://x.org/a?…"),
        ("('https://x.org/a?b=c', \"https://y.org/?d=e\")", "('https://x.org/a?b=…', \"https://y.org/?d=…\")"),
        ("<https://x.org/a?b=c>", "<https://x.org/a?b=…>"),
        ("See https://x.org/a?b=c. Or (https://y.org/?d=e).", "See https://x.org/a?b=…. Or (https://y.org/?d=…)."),
        ("https://x.org/a,https://me:pw@y.org/b", "https://x.org/a,https://…@y.org/b"),
        ("https:\\/\\/me:pw@x.org\\/a?b=c", "https:\\/\\/…@x.org\\/a?b=…"),
        ("s3://key:sec/ret@bucket/a/*.parquet", "s3://…@bucket/a/*.parquet"),
        ("md:db?motherduck_token=abc", "md:db?motherduck_token=…"),
        ("GET /v1/files?key=abc 401", "GET /v1/files?key=… 401"),
        ("postgres:host=h password=geheim dbname=d", "postgres:host=h password=… dbname=d"),
        ("postgres:host=h password='it is' dbname=d", "postgres:host=h password='…' dbname=d"),
        ("AccountName=a;AccountKey=abc==;EndpointSuffix=s", "AccountName=a;AccountKey=…;EndpointSuffix=s"),
        ("ATTACH 'x' (SECRET_KEY = 'abc')", "ATTACH 'x' (SECRET_KEY = '…')"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "…", "n": 1}'),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer …"),
        ("{'authorization': 'Basic dXNlcjpwdw=='}", "{'authorization': 'Basic …'}"),
        ("sent bearer abcd1234efgh", "sent bearer …"),
    ],
)
def test_secrets_are_found_by_their_place(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "s3://feeds/{partition}/articles?.jsonl",
        "https://news.example/@reporter/2026",
        "/data/feeds/*.parquet",
        "Rate limit reached for gpt-6-luna in organization org-x on tokens per day (TPD): Limit 200, Used 201.",
        "Unrecognized token '=' at line 3: expected a key. What now?",
        "basic information for the bearer certificates",
        "mail to desk@example.com",
    ],
)
def test_text_without_a_secret_does_not_change(text: str) -> None:
    assert without_secrets(text) == text


PIECES = [
    *("https://", "HTTP://", "s3://", "md:", "user", "token", "sig", "password=", "[::1]", "%40", "\\/", "Bearer "),
    *("abc12345", "x.org", "\ud800", *"…:@/?#&='\" (),."),
]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=25).map("".join))
@example("https://a@https://b:c@d")
def test_it_never_raises_and_a_second_call_changes_nothing(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "abc12345abc12345")
        patch.setenv("BATCH_ASSETS_SOURCE", "https://user:token…abc12345@x.org/?sig=abc12345")
        clean = without_secrets(text, text)
        assert without_secrets(clean) == clean
        assert "abc12345abc12345" not in clean


@pytest.mark.parametrize("long", ["a" * 300_000, "a:" * 100_000, "https://" * 40_000, "?a" * 100_000, "'=" * 100_000])
def test_a_long_text_takes_no_quadratic_time(long: str) -> None:
    assert without_secrets(f"{long} https://me:pw@x.org").endswith(" https://…@x.org")


def test_duckdb_accepts_the_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("PGPASSWORD", "with a byte \udcff, ( and .*")
    with duckdb.connect(":memory:") as connection:
        for spell in SPELLINGS.values():
            parameters = [f"Say {spell(SECRET)}!", known_secrets_pattern()]
            cleaned = connection.execute("SELECT regexp_replace(?, ?, '…', 'gi')", parameters).fetchone()
            assert cleaned == ("Say …!",)
