"""Outside text has no effect: it moves no cursor, changes no direction, and hides no part of itself."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.batching.safety.outside_text import as_code, as_message, as_shown, printable

FLAGS = "🏴󠁧󠁢󠁥󠁮󠁧󠁿🏴󠁧󠁢󠁳󠁣󠁴󠁿🏴󠁧󠁢󠁷󠁬󠁳󠁿"
CONTROLS = [
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
@given(st.text(st.one_of(st.characters(), st.characters(categories=["Cs", "Cc", "Cf"]), st.sampled_from(CONTROLS))))
def test_control_characters_are_removed_and_no_others_are_changed(text: str) -> None:
    safe = printable(text)
    assert not set(safe) & {*CONTROLS, "\u202e"}
    safe.encode("utf-8")
    assert printable(safe) == safe
    assert printable(text, lines=True).replace("\n", " ").split() == safe.split()
    # all ordinary characters are still there, in the same order
    ordinary = [
        character
        for character in text
        if not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    ]
    assert [c for c in safe if not c.isspace() and unicodedata.category(c) != "Cf"] == ordinary or "\ufffd" in safe


@pytest.mark.parametrize("character", CONTROLS, ids=ascii)
def test_each_control_character_is_removed(character: str) -> None:
    safe = printable(f"a{character}b")
    assert safe in ("ab", "a b", "a\ufffdb")
    assert printable(f"a{character}b", lines=True) == (f"a{character}b" if character == "\n" else safe)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_any_script_does_not_change(text: str) -> None:
    assert printable(text) == text
    assert as_shown(text) == text


@pytest.mark.parametrize("tags", ["\U000e0068\U000e0069\U000e007f", "\U000e0067\U000e0062\U000e0065", "\U000e0001"])
def test_tags_after_a_flag_are_removed(tags: str) -> None:
    assert printable(f"\U0001f3f4{tags}!") == "\U0001f3f4!"


@settings(deadline=None)  # the machine may be busy
@given(st.text())
def test_text_as_code_has_no_markdown(text: str) -> None:
    code = as_code(text)
    assert code[0] == code[-1] == "`"
    assert len(code) > 2
    assert not set("`\n\r") & set(code[1:-1])
    assert not code[1:-1].isspace()


def test_a_key_with_invisible_characters_in_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789")
    for shown in (as_message, as_shown):
        assert shown("It is sk-\u200bproj-\x1b012\u202e3456789.") == "It is ….."[:-1]
