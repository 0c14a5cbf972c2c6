"""From a paragraph to its sentences, in many scripts: abbreviations, ordinals, quotations.

Linear in the text. No text can make an expression here backtrack.
"""

from __future__ import annotations

import re

from batch_assets.local_api.engines.tokens import THAI

MAX_SENTENCES = 6_000  # of a text: some 500 KB of prose


def words(text: str) -> list[str]:
    return text.split()


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
# Words that begin a sentence, and no name.
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
        # 「…。」と話す: the sentence continues after the quotation.
        return not (paragraph[end - 1] in CLOSERS and following[0] in "、，とはがのをにでも")
    if mark in "।॥۔":
        return True
    rest = following.lstrip(_OPENERS)
    if following[0] != " " or not rest or rest[0].islower() or rest[0] in "&+=/%,":
        return False
    if mark in ";\u037e":  # the Greek question mark
        return "\u0370" <= paragraph[max(0, start - 1) : start] <= "\u1fff" and rest[0].isupper()
    if mark != "." or paragraph.startswith("..", start):
        return True
    return _full_stop_ends_sentence(paragraph, start, end, rest)


def _full_stop_ends_sentence(paragraph: str, start: int, end: int, rest: str) -> bool:
    """The same for a single full stop before a space. rest: the text after it, from the first letter."""
    word = paragraph[max(0, start - 24) : start].rsplit(" ", 1)[-1].lstrip(_OPENERS)
    next_word = re.split(r"[^\w]", rest, maxsplit=1)[0]
    next_begins_sentence = next_word.lower() in _STARTERS
    if word.isdigit() and len(word) <= 2:
        if start == len(word):  # "1. A list"
            return False
        is_ordinal = _MONTHS.match(next_word) or _GERMAN.search(paragraph[max(0, start - 80) : end + 80])
        return not is_ordinal or next_begins_sentence
    if (len(word) == 1 and word.isalpha()) or (len(word) > 2 and word[-2] == "."):  # "J. Smith", "the U.S. Navy"
        return next_begins_sentence and not (len(word) == 1 and word.islower())
    if next_word[:1].isdigit() and word.lower() in _BEFORE_NUMBERS:
        return False
    return word.lower() not in _ABBREVIATIONS or next_begins_sentence


def sentences_of(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, in any script that marks their ends, and in Thai."""
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
        # There are spaces around numbers and in quotations, too.
        whole = len(current) >= 70 and THAI.match(current[-1]) and current.count('"') % 2 == 0
        if (whole and len(phrase) > 12 and THAI.match(phrase)) or len(current) > 500:
            phrases.append(current)
            current = phrase
        else:
            current = f"{current} {phrase}" if current else phrase
    return [*phrases, current]
