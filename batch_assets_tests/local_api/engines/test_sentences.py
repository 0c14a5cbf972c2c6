"""Plain text, paragraphs and sentences, in many scripts."""

from __future__ import annotations

import pytest

from batch_assets.local_api.engines.plain_text import paragraphs_of, plain_text
from batch_assets.local_api.engines.sentences import sentences_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("It rained. We left.", ["It rained.", "We left."], id="plain"),
        pytest.param(
            "Dr. Vell met Mr. J. Quill. They spoke.", ["Dr. Vell met Mr. J. Quill.", "They spoke."], id="titles"
        ),
        pytest.param(
            "The U.S. Navy left. It was 3.5 km away.", ["The U.S. Navy left.", "It was 3.5 km away."], id="U.S."
        ),
        pytest.param(
            "He moved to the U.S. The house stayed.", ["He moved to the U.S.", "The house stayed."], id="U.S. ends"
        ),
        pytest.param(
            "Open at 10 a.m. and 2 p.m. daily. Bring e.g. Bread.",
            ["Open at 10 a.m. and 2 p.m. daily.", "Bring e.g. Bread."],
            id="e.g.",
        ),
        pytest.param("“I left.” She smiled.", ["“I left.”", "She smiled."], id="quote after the stop"),
        pytest.param(
            '"Why?" she asked. "No!" Then silence.',
            ['"Why?" she asked.', '"No!"', "Then silence."],
            id="quoted question",
        ),
        pytest.param(
            "Am 3. Mai fuhr der 2. Zug z. B. nach Wien. Er war voll.",
            ["Am 3. Mai fuhr der 2. Zug z. B. nach Wien.", "Er war voll."],
            id="German ordinals",
        ),
        pytest.param(
            "Es kostet 2,6 Mio. Euro, u. a. für Dr. Sand. Gut so.",
            ["Es kostet 2,6 Mio. Euro, u. a. für Dr. Sand.", "Gut so."],
            id="German abbreviations",
        ),
        pytest.param("It began in 1945. The war was over.", ["It began in 1945.", "The war was over."], id="year"),
        pytest.param(
            "He waited… Nobody came... Then it rained.",
            ["He waited…", "Nobody came...", "Then it rained."],
            id="ellipsis",
        ),
        pytest.param("« Nous partons. » Puis il sort.", ["« Nous partons. »", "Puis il sort."], id="French quotation"),
        pytest.param(
            "La Sra. Robledo llegó. ¿Quién más? Nadie.",
            ["La Sra. Robledo llegó.", "¿Quién más?", "Nadie."],
            id="Spanish",
        ),
        pytest.param(
            "雨が降った。「行こう。」と彼は言った。誰もいない！",
            ["雨が降った。", "「行こう。」と彼は言った。", "誰もいない！"],
            id="Japanese",
        ),
        pytest.param(
            "他来了。“真的吗？”她问。没有人回答。", ["他来了。", "“真的吗？”", "她问。", "没有人回答。"], id="Chinese"
        ),
        pytest.param(
            "هل جاء؟ نعم جاء. ثم ذهب۔ انتهى.", ["هل جاء؟", "نعم جاء.", "ثم ذهب۔", "انتهى."], id="Arabic, Urdu"
        ),
        pytest.param("वह आया। वह गया। क्यों?", ["वह आया।", "वह गया।", "क्यों?"], id="Devanagari"),
        pytest.param("Ποιος ήρθε; Κανείς. Έφυγαν.", ["Ποιος ήρθε;", "Κανείς.", "Έφυγαν."], id="Greek question mark"),
        pytest.param(
            "Он родился в 1937 г. и жил там. Потом уехал.",
            ["Он родился в 1937 г. и жил там.", "Потом уехал."],
            id="Russian",
        ),
        pytest.param(
            "She said no. Then he sat. The No. 7 bus came.",
            ["She said no.", "Then he sat.", "The No. 7 bus came."],
            id="not abbreviations",
        ),
        pytest.param("雨だ。でも行った。", ["雨だ。", "でも行った。"], id="Japanese conjunction"),
        pytest.param("비가 왔다. 우리는 갔다.", ["비가 왔다.", "우리는 갔다."], id="Korean"),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences_of(text) == expected


def test_thai_has_no_full_stops_so_it_is_split_at_spaces() -> None:
    clause = "ตลาดน้ำกลับมาคึกคักอีกครั้งหลังจากเงียบเหงามานานเกือบสิบปีแล้ว"
    phrases = sentences_of(" ".join([clause] * 6))

    assert len(phrases) > 2
    assert all(len(phrase) < 200 for phrase in phrases)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("One.\n\nTwo.", ["One.", "Two."], id="blank line"),
        pytest.param(
            "A heading\nThe text under the heading is much longer than it.",
            ["A heading", "The text under the heading is much longer than it."],
            id="heading",
        ),
        pytest.param("- apples\n- pears\n- plums", ["- apples", "- pears", "- plums"], id="list"),
        pytest.param(
            "A mill that last ground flour in 1911 is\nat work again, but it is electricity and\nnot flour.",
            ["A mill that last ground flour in 1911 is at work again, but it is electricity and not flour."],
            id="hard-wrapped",
        ),
        pytest.param(
            "One.\u2029Two.\u2028Three.\r\n\r\nFour.", ["One.", "Two.", "Three.", "Four."], id="other line ends"
        ),
    ],
)
def test_paragraphs(text: str, expected: list[str]) -> None:
    assert paragraphs_of(plain_text(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "<p>Fish &amp; chips&nbsp;&mdash; &#163;8.</p><p>Two.</p>", "Fish & chips — £8.\n\n\n\nTwo.", id="entities"
        ),
        pytest.param(
            "<p>One.</p><SCRIPT>if (a < b) { x('<p>no</p>') }</SCRIPT ><style>p{}</style>Two.",
            "One.\n\nTwo.",
            id="script",
        ),
        pytest.param("<!-- <p>no</p> -->One<br/>two", "One\ntwo", id="comment"),
        pytest.param("If a < b and c > d, then x<y.", "If a < b and c > d, then x<y.", id="not HTML"),
        pytest.param("&lt;p&gt; is a tag.", "<p> is a tag.", id="escaped markup is text"),
        pytest.param("<script>never closed", "never closed", id="unclosed"),
        pytest.param("lone \ud83d surrogate\x00, soft\u00adhyphen", "lone surrogate, softhyphen", id="invisible"),
    ],
)
def test_plain_text(text: str, expected: str) -> None:
    assert plain_text(text) == expected
