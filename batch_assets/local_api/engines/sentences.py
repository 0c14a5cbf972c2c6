"""From a feed's text to its sentences: markup, broken lines and abbreviations, in many scripts.

Linear in the text; no expression here can be made to backtrack by it.
"""

from __future__ import annotations

import html
import re

from batch_assets.local_api.engines.tokens import THAI, UNSPACED

MAX_SENTENCES = 6_000  # of a text: some 500 KB of prose


def words(text: str) -> list[str]:
    return text.split()


_BLOCKS = (
    "address|article|aside|blockquote|body|dd|div|dl|dt|fieldset|figure|footer|form|h[1-6]|head|header|hr|html|li|"
    "main|nav|ol|p|pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul"
)
_LOOKS_LIKE_HTML = re.compile(
    rf"</?(?:{_BLOCKS}|a|b|br|em|i|img|script|small|span|strong|style|sub|sup|u)\b[^<>]*>|<!--", re.I
)
_TAG = re.compile(rf"<(?:!--|(/?)(?:(br)|({_BLOCKS})|([a-z][\w:-]*+))\b[^<>]*>|[!?][^<>]*>)", re.I)
_WITHOUT_TEXT = frozenset(
    words(
        """
        audio button canvas figcaption iframe nav noscript object script
        select style svg template textarea video
        """
    )
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_UNWANTED = re.compile("[\ud800-\udfff\x00-\x08\x0e-\x1f\x7f\u00ad\u200b\u2060\ufeff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028]")
_SPACES = re.compile(r"[^\S\n]+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
BULLET = re.compile(r"(?:[-*•·‣▪►–—>#]+|\(?\d{1,3}[.)]|\(?[a-z]\))\s+")


def _without_html(text: str) -> str:
    """Replace tags by nothing, or by a line end where one would be seen; leave a text that isn't HTML alone."""
    if not _LOOKS_LIKE_HTML.search(text):
        return text
    parts: list[str] = []
    never_closed: set[str] = set()  # so that a text is not searched again for each tag that nobody closes
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
    """Text as a reader would see it: no markup, ordinary spaces and line ends, no invisible controls."""
    if "<" in text:
        text = _without_html(text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _LINE_END.sub("\n", text.replace("\u2029", "\n\n"))
    return _SPACES.sub(" ", _UNWANTED.sub("", text)).strip()


def paragraphs_of(text: str) -> list[str]:
    """Split a plain text into paragraphs, joining lines that were only broken to fit a column."""
    paragraphs: list[str] = []
    for block in _PARAGRAPH_END.split(text):
        lines = [line for line in map(str.strip, block.split("\n")) if line]
        # Where lines were filled word by word, the next word did not fit into the widest of them.
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


CLOSERS = "\"'”’»›)]}」』）】〉》"
_END = re.compile(rf"(?:[.!?…]+|[。！？｡．؟۔।॥;\u037e]+)(?: ?»|[{re.escape(CLOSERS)}])*")
_OPENERS = "\"'“‘„‚«‹([{「『（【〈《¿¡ –—-"
# Before a capital: not the end of a sentence.
_ABBREVIATIONS = frozenset(
    words(
        """
        adj adm approx apr asst aug av ave bldg brig bros bzw ca cap capt cf cie cllr cmdr co corp ct dec dept
        dipl dir div dr dra etc exc feb ff fri ft geb gen ggf gov hon hr hrsg inc ing inkl insp jan jr jul jun
        ltd maj messrs mio mlle mme mr mrs ms mt nat nov nr núm oct ord pag pp pres prof pvt pág rd rep resp rev
        rs sci sen sep sept sgt sr sra srta st ste str tel thu tsd tue univ usw vgl vol vs zb zzt δρ κ гг им кв
        млн млрд напр проф руб см стр тыс ул
        """
    )
)
_BEFORE_NUMBERS = frozenset(words("abs al art ch fig max min no nr num núm op p para pp s sec vol"))
# Words with which sentences begin, and names don't.
_STARTERS = frozenset(
    words(
        """
        a after all although an and another any as at because before both but by each even every for from he
        her his how however i if in it its many more most no nobody none not now of on one only other our
        she since so some such that the their then there these they this those to two under until we what
        when where while who why with yet you am auch auf aus bei das dem den der die dies diese doch ein
        eine er es für im in mit nach nun seit sie und von vor wir zu au avec ce ces cette dans de des elle
        en et il ils la le les leur mais on par pour sur un une al con del desde el ella ello esta este los
        las lo para pero por se según su sus y ao as com da do e em na no o os para
        """
    )
)
_GERMAN = re.compile(r"\b(?:der|die|das|und|ist|am|im|zum)\b")
_MONTHS = re.compile("jan|feb|m[aä]r|apr|ma[ijy]|jun|jul|aug|sep|o[kc]t|nov|de[czs]|janv|févr|avr|juin|juil|août", re.I)


def _ends_sentence(paragraph: str, start: int, end: int) -> bool:
    """Whether the punctuation ``paragraph[start:end]`` ends a sentence, and not an abbreviation or a number."""
    mark = paragraph[start]
    if end == len(paragraph):
        return True
    following = paragraph[end : end + 40]
    if mark in "。！？｡．":
        # 「…。」と話す: the sentence goes on behind the quotation.
        return not (paragraph[end - 1] in CLOSERS and following[0] in "、，とはがのをにでも")
    if mark in "।॥۔":
        return True
    if following[0] != " ":
        return False
    rest = following.lstrip(_OPENERS)
    if not rest or rest[0].islower() or rest[0] in "&+=/%,":
        return False
    before = paragraph[max(0, start - 24) : start]
    if mark in ";\u037e":  # the Greek question mark
        return "\u0370" <= before[-1:] <= "\u1fff" and rest[0].isupper()
    if mark != "." or paragraph.startswith("..", start):
        return True
    word = before.rsplit(" ", 1)[-1].lstrip(_OPENERS)
    next_word = re.split(r"[^\w]", rest, maxsplit=1)[0]
    if word.isdigit() and len(word) <= 2:
        if start == len(word):  # "1. A list"
            return False
        is_ordinal = _MONTHS.match(next_word) or _GERMAN.search(paragraph[max(0, start - 80) : end + 80])
        return not is_ordinal or next_word.lower() in _STARTERS
    if (len(word) == 1 and word.isalpha()) or (len(word) > 2 and word[-2] == "."):  # "J. Smith", "the U.S. Navy"
        return next_word.lower() in _STARTERS and not (len(word) == 1 and word.islower())
    if next_word[:1].isdigit() and word.lower() in _BEFORE_NUMBERS:
        return False
    return word.lower() not in _ABBREVIATIONS or next_word.lower() in _STARTERS


def sentences_of(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, in any of the scripts that mark their ends, or Thai."""
    sentences: list[str] = []
    begin = 0
    for found in _END.finditer(paragraph):
        if len(sentences) >= MAX_SENTENCES:
            break
        if _ends_sentence(paragraph, found.start(), found.end()):
            sentences.append(paragraph[begin : found.end()].strip())
            begin = found.end()
    sentences.append(paragraph[begin:].strip())
    return [part for sentence in sentences if sentence for part in _phrases(sentence)]


def _phrases(sentence: str) -> list[str]:
    """Split a long Thai (Lao, Khmer, Burmese) passage at its spaces, since it has no full stops."""
    if len(sentence) < 120 or not THAI.search(sentence[:120]):
        return [sentence]
    phrases: list[str] = []
    current = ""
    for phrase in sentence.split(" "):
        # Spaces stand around numbers and in quotations, too.
        whole = len(current) >= 70 and THAI.match(current[-1]) and current.count('"') % 2 == 0
        if (whole and len(phrase) > 12 and THAI.match(phrase)) or len(current) > 500:
            phrases.append(current)
            current = phrase
        else:
            current = f"{current} {phrase}" if current else phrase
    return [*phrases, current]
