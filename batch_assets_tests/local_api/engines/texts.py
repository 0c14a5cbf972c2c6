"""Texts for property tests: of any characters, and of characters that the engine treats in a special way."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FAMILY = "👨‍👩‍👧‍👦"
# Characters that the code treats in a special way, more often than at random.
AWKWARD = st.text(
    st.sampled_from("ab AB1.!?;,\"'“”«»()-–…<>/&#\n\r\t\u2028\u00a0\u200d\u0301\ufe0f\ud83d👩🇧🏽漢。」のไท กक्ा।ع؟ά;é"),
    max_size=200,
)
PIECES = st.lists(
    st.sampled_from(
        [
            "It rained. ",
            "Dr. ",
            "U.S. ",
            "<p>",
            "</p>",
            "<script>",
            "<!--",
            "&amp;",
            "3. ",
            "\n\n",
            "雨が降った。",
            "वह आया। ",
            "“Yes?” ",
            "(nna) - ",
            "Read more",
            FAMILY,
            "a" * 300,
            "- ",
            "ไทยแลนด์ ",
            "{title} ",
        ]
    ),
    max_size=40,
).map("".join)
TEXTS = st.one_of(st.text(max_size=300), st.text(st.characters(), max_size=300), AWKWARD, PIECES)
QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
