"""Guards against text that acts: moves the cursor, turns what follows around, or says what is not to be seen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.batching.safety.outside_text import as_code, as_message, as_shown, printable

FLAGS = "🏴󠁧󠁢󠁥󠁮󠁧󠁿🏴󠁧󠁢󠁳󠁣󠁴󠁿🏴󠁧󠁢󠁷󠁬󠁳󠁿"
ACTS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\ufff9",
    *map(chr, range(0xE0000, 0xE0080)),
    *("\ud800", "\udbff", "\udc00", "\udfff"),
]
ORDINARY = [
    "Plain English, with 'quotes', [brackets], {braces}, <signs> & \\backslashes\\ | `ticks` :smile: [/b] [link=x]",
    "Straße, naïve, Ἀθῆναι, Привет, 東京の天気, 한국어, ไทย, हिन्दी, தமிழ், ქართული, ᠮᠣᠩᠭᠣᠯ",
    "שלום עולם، مرحبا بالعالم، می\u200cخواهم",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 ❤️ 🇯🇵 1️⃣ 🏳️\u200d🌈",
    FLAGS,
    "e\u0301 co\u00ador\u00addinate 50\u00a0€",
    "",
]


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.one_of(st.characters(), st.characters(categories=["Cs", "Cc", "Cf"]), st.sampled_from(ACTS))))
def test_nothing_of_it_acts_and_nothing_else_is_changed(text: str) -> None:
    fit = printable(text)
    assert not set(fit) & {*ACTS, "\u202e"}
    fit.encode("utf-8")
    assert printable(fit) == fit
    assert printable(text, lines=True).replace("\n", " ").split() == fit.split()
    # all that is ordinary is still there, in the same order
    ordinary = [sign for sign in text if not sign.isspace() and unicodedata.category(sign) not in ("Cc", "Cf", "Cs")]
    assert [s for s in fit if not s.isspace() and unicodedata.category(s) != "Cf"] == ordinary or "\ufffd" in fit


@pytest.mark.parametrize("sign", ACTS, ids=ascii)
def test_each_sign_that_acts_goes(sign: str) -> None:
    fit = printable(f"a{sign}b")
    assert fit in ("ab", "a b", "a\ufffdb")
    assert printable(f"a{sign}b", lines=True) == (f"a{sign}b" if sign == "\n" else fit)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_any_script_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert as_shown(text) == text


@pytest.mark.parametrize("tags", ["\U000e0068\U000e0069\U000e007f", "\U000e0067\U000e0062\U000e0065", "\U000e0001"])
def test_a_flag_is_no_hiding_place(tags: str) -> None:
    assert printable(f"\U0001f3f4{tags}!") == "\U0001f3f4!"


@settings(deadline=None)  # the machine may be busy
@given(st.text())
def test_in_code_nothing_is_markdown(text: str) -> None:
    code = as_code(text)
    assert code[0] == code[-1] == "`"
    assert len(code) > 2
    assert not set("`\n\r") & set(code[1:-1])
    assert not code[1:-1].isspace()


def test_a_key_is_found_though_signs_that_are_not_seen_stand_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789")
    for shown in (as_message, as_shown):
        assert shown("It is sk-\u200bproj-\x1b012\u202e3456789.") == "It is ….."[:-1]
