"""From a feed's text to paragraphs of plain text: without markup and broken lines.

Linear in the text. No text can make an expression here backtrack.
"""

from __future__ import annotations

import html
import re

from batch_assets.local_api.engines.tokens import UNSPACED

_BLOCKS = (
    "address|article|aside|blockquote|body|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|head|header|hr|html|li|"
    "main|nav|ol|p|pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
_LOOKS_LIKE_HTML = re.compile(
    rf"</?(?:{_BLOCKS}|a|b|br|em|i|img|script|small|span|strong|style|sub|sup|u)\b[^<>]*>|<!--", re.I
)
_TAG = re.compile(rf"<(?:!--|(/?)(?:(br)|({_BLOCKS})|([a-z][\w:-]*+))\b[^<>]*>|[!?][^<>]*>)", re.I)
_WITHOUT_TEXT = frozenset(
    (
        *("audio", "button", "canvas", "figcaption", "iframe", "nav", "noscript", "object", "script"),
        *("select", "style", "svg", "template", "textarea", "video"),
    )
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_UNWANTED = re.compile("[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028]")
_SPACES = re.compile(r"[^\S\n]+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
BULLET = re.compile(r"(?:[-*•·‣▪►–—>#]+|\(?\d{1,3}[.)]|\(?[a-z]\))\s+")


def _without_html(text: str) -> str:
    """Remove tags, and put a line end where a browser would show one. A text that isn't HTML stays as it is."""
    if not _LOOKS_LIKE_HTML.search(text):
        return text
    parts: list[str] = []
    never_closed: set[str] = set()  # tags without an end: the text is searched for it once only
    place = 0
    while found := _TAG.search(text, place):
        parts.append(text[place : found.start()])
        place = found.end()
        closing, line_break, block, other = found.groups()
        name = "!--" if found[0] == "<!--" else (block or other or "").lower()
        if line_break:
            parts.append("\n")
        elif block:
            parts.append("\n\n")
        if (name == "!--" or (not closing and name in _WITHOUT_TEXT)) and name not in never_closed:
            end = re.compile("-->" if name == "!--" else rf"</{name}\b[^<>]*>", re.I).search(text, place)
            if end:
                place = end.end()
            else:
                never_closed.add(name)
    parts.append(text[place:])
    return "".join(parts)


def plain_text(text: str) -> str:
    """Text as a reader sees it: without markup and invisible characters, with ordinary spaces and line ends."""
    if "<" in text:
        text = _without_html(text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _LINE_END.sub("\n", text.replace("\u2029", "\n\n"))
    return _SPACES.sub(" ", _UNWANTED.sub("", text)).strip()


def paragraphs_of(text: str) -> list[str]:
    """Split a plain text into paragraphs. Lines that were broken to fit a column are joined."""
    paragraphs: list[str] = []
    for block in _PARAGRAPH_END.split(text):
        lines = [line for line in map(str.strip, block.split("\n")) if line]
        # Where lines were filled word by word, the first word of the next line did not fit into the widest line.
        width = max((len(line) for line in lines if " " in line), default=0)
        filled = 40 <= width <= 120
        joined = lines[:1]
        for number, line in enumerate(lines[1:]):
            first_word = line.split(" ", 1)[0]
            fits = len(lines[number]) + 1 + len(first_word) <= width
            if filled and not fits and not BULLET.match(line) and (len(lines) > 2 or first_word[0].islower()):
                spaced = not (UNSPACED.match(lines[number][-1]) and UNSPACED.match(line[0]))
                joined.append(f" {line}" if spaced else line)
            else:
                paragraphs.append("".join(joined))
                joined = [line]
        paragraphs.append("".join(joined))
    return paragraphs
