"""Text from outside, made safe for a terminal or a log. Standard library only."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    r"""The text, with an escape such as `\x1b` for each character that is not printable, but for those in `keep`.

    `str.isprintable` refuses control characters (C0, DEL, C1), bidirectional and zero-width marks, line and paragraph
    separators, unpaired surrogates, and spaces other than the ASCII space.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in keep else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
