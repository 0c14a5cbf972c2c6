"""The estimate of tokens, and texts cut to a number of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.local_api.engines.tokens import count_tokens, cut
from batch_assets_tests.local_api.engines.texts import QUICK, TEXTS


@pytest.mark.parametrize(
    ("text", "o200k"),
    [
        ("", 0),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("In 2025, prices rose by 12.5 percent.", 15),
        ("Прибор не знает, что он врёт, а человек знает.", 14),
        ("山あいの村は自動運転バスの定期運行を始めると発表した。", 23),
        ("今天的天气很好，我们去公园散步吧。", 12),
        ("새 학기가 시작되었습니다. 학생들이 많이 왔습니다.", 16),
    ],
)
def test_the_token_estimate_is_near_the_tokenizer(text: str, o200k: int) -> None:
    assert abs(count_tokens(text) - o200k) <= 0.3 * o200k + 1


def test_cut_leaves_what_fits_alone() -> None:
    assert cut("It rained.", 10) == ("It rained.", False)
    assert cut("", 0) == ("", False)
    assert cut("It rained.", 0) == ("", True)


@pytest.mark.parametrize(
    ("text", "max_tokens", "shortened"),
    [
        ("It rained in the valley", 4, "It rained in…"),
        ("It rained in\nthe valley", 5, "It rained in…"),
        ("It rained, heavily", 3, "It rained…"),
        ("वर्षा घाटीमेंहुईऔरबहुत", 5, "वर्षा…"),
        ("a" * 100, 3, "a" * 16 + "…"),
        ("雨が降った雨が降った", 5, "雨が降った…"),
        ("🇧🇷" * 10, 4, "🇧🇷🇧…"),
        ("ab cd 雨が降った雨が降った", 8, "ab cd 雨が降った雨…"),
    ],
)
def test_a_cut_is_after_a_word_if_one_ends_nearby_otherwise_between_two_characters(
    text: str, max_tokens: int, shortened: str
) -> None:
    assert cut(text, max_tokens) == (shortened, True)


@QUICK
@given(text=TEXTS, max_tokens=st.integers(-1, 60))
def test_cut_is_a_prefix_within_the_budget(text: str, max_tokens: int) -> None:
    shortened, was_cut = cut(text, max_tokens)

    assert count_tokens(shortened) <= max(0, max_tokens)
    assert was_cut == (shortened != text)
    assert text.startswith(shortened.removesuffix("…") if was_cut else shortened)
