"""The built-in engine's brain: an extractive summariser and a token estimate, with the standard library alone.

Nothing here downloads, guesses at random or keeps state: equal input gives equal output, on any machine.
Every step is linear in the text, except the choice among the 60 best sentences.
The text is data: nothing in it is obeyed, and no expression here can be made to backtrack by it.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from itertools import islice
from math import fsum, log, log1p
from typing import NamedTuple

_MAX_CHARS = 600_000  # of a text that are read; what follows is too late to matter in a summary
_MAX_SENTENCES = 6_000  # of a text that are scored: some 500 KB of prose
_MAX_CANDIDATES = 60  # sentences that are compared with each other
_MIN_SCORE = 0.1  # of a sentence that is used; a good one has 0.5-1
_MAX_SENTENCE_CHARS = 2_000  # of a sentence that are scored

# --------------------------------------------------------------------------------------------- tokens

# Pieces about as long as o200k's, script by script. No piece looks further ahead than one character.
_ASCII_PIECE = re.compile(
    r" ?[A-Za-z]{1,8}|\d{1,3}| (?=\d)|[!-/:-@\[-`{-~]{1,2}\n*|\n+|[\t ]{2,}|[\x00-\x08\x0e-\x1f\x7f]"
)
_PIECE = re.compile(
    r" ?[A-Za-z]{1,8}(?:[ß-öø-ÿ][a-z]{0,3})?"
    r"| ?[\u0400-\u052f]{1,5}"
    r"| ?(?:ال)?[\u0590-\u06ff]{1,3}"
    r"| ?[\u0900-\u0dff]{1,4}"
    # Frequent characters mostly share a token with their neighbour.
    r"|[\u3400-\u9fff][的一是不了在人有我他这中大来上国个到们为子和地出要以时年得就那]?"
    r"|[\u3040-\u30ff]{1,2}"
    r"| ?[\uac00-\ud7a3][다는을를이에의가은로고도한하사지]?"
    r"|[เ-ไ]?[\u0e00-\u0e3f\u0e45-\u0eff]{1,2}[ะ-ฺ็-๎]?"
    r"| ?[\u0370-\u03ff\u1f00-\u1fff]{1,3}"
    r"|[À-ÿḀ-ỿ][a-z]{0,2}|[Ā-ɏ]"
    r"| (?=\d)|\d{1,3}"
    r"|\n+|[\t ]{2,}"
    r"|[\U0001f1e6-\U0001f1ff]"
    # An empty match and then the character itself: an emoji counts twice.
    r"|(?=[\U00010000-\U0010ffff])|[\U00010000-\U0010ffff]"
    r"|[^\w\s\U00010000-\U0010ffff]{1,2}\n*"
    r"|\S"
)


def _pieces(text: str) -> re.Pattern[str]:
    return _ASCII_PIECE if text.isascii() else _PIECE


def count_tokens(text: str) -> int:
    """Estimate the number of o200k tokens in ``text``; 0 for an empty text, linear, some 25 MB of English a second.

    Measured against the tokenizer itself on passages of about 1,200 characters (the Universal Declaration of Human
    Rights and our sample articles), the mean error in percent is: Vietnamese 1; Arabic 2; Chinese and French 3; Thai 4;
    Japanese and Korean 5; English, Greek, Spanish and Turkish 6; Russian 7; Hindi and Portuguese 8; and, always too
    low, German 11, Italian 14, Polish 16. Source code, tables and long runs of emoji are rougher.
    """
    return len(_pieces(text).findall(text))


def cut(text: str, max_tokens: int) -> tuple[str, bool]:
    """Return ``text`` within ``max_tokens`` by :func:`count_tokens`, and whether anything was cut off.

    What is cut ends after a word if one ends nearby, else between two graphemes, and with "…" if that fits.
    """
    if max_tokens <= 0:
        return "", bool(text)
    pieces = list(islice(_pieces(text).finditer(text), max_tokens + 1))
    if len(pieces) <= max_tokens:
        return text, False
    end = pieces[max_tokens - 1].end()
    # Not even one grapheme may fit: then half of one is better than nothing.
    shortened = text[: _boundary(text, end) or end].rstrip()
    while shortened and count_tokens(shortened) > max_tokens:
        shortened = shortened[:-1].rstrip()
    with_ellipsis = text[: _boundary(text, pieces[max_tokens - 2].end())] if max_tokens > 1 else ""
    with_ellipsis = with_ellipsis.rstrip(" \t\n,;:-–—(«“\"'、，；：،") + "…"
    if len(with_ellipsis) > 1 and count_tokens(with_ellipsis) <= max_tokens:
        return with_ellipsis, True
    return shortened, True


def _boundary(text: str, end: int) -> int:
    """The last place at or before ``end`` where ``text`` may be cut, 0 if there is none."""
    if end >= len(text):
        return len(text)
    if _is_spaced(text[end]) and _is_spaced(text[end - 1]):
        space = max(text.rfind(" ", max(0, end - 40), end), text.rfind("\n", max(0, end - 40), end))
        if space > 0:
            return space
    place = end
    while place > 0 and _joined(text, place):
        if end - place > 80:
            return end  # a pile of combining characters without end: cut it anywhere
        place -= 1
    return place


def _is_spaced(char: str) -> bool:
    """Whether ``char`` belongs to a word of a script that puts spaces between words."""
    return (char.isalnum() or unicodedata.category(char)[0] == "M") and not _UNSPACED.match(char)


def _joined(text: str, place: int) -> bool:
    """Whether the characters before and after ``place`` are one grapheme, as the reader sees it."""
    before, after = text[place - 1], text[place]
    if (
        after in "\u200d\ufe0e\ufe0f\u20e3"
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= after <= "\U000e007f"  # tags, of which the flag of Scotland is made
        or before == "\u200d"
        or unicodedata.category(after)[0] == "M"
        or unicodedata.combining(before) == 9  # a virama: the next consonant is part of the letter
    ):
        return True
    if _FLAG.match(before) and _FLAG.match(after):
        start = place
        while start > 0 and place - start < 80 and _FLAG.match(text[start - 1]):
            start -= 1
        return (place - start) % 2 == 1
    return False


_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_THAI = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")

# ---------------------------------------------------------------------------------- from feed to text


def _words(text: str) -> list[str]:
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
    _words(
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
_BULLET = re.compile(r"(?:[-*•·‣▪►–—>#]+|\(?\d{1,3}[.)]|\(?[a-z]\))\s+")


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


def _plain(text: str) -> str:
    """Text as a reader would see it: no markup, ordinary spaces and line ends, no invisible controls."""
    if "<" in text:
        text = _without_html(text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _LINE_END.sub("\n", text.replace("\u2029", "\n\n"))
    return _SPACES.sub(" ", _UNWANTED.sub("", text)).strip()


def _paragraphs(text: str) -> list[str]:
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
            if filled and not fits and not _BULLET.match(line) and (len(lines) > 2 or first_word[0].islower()):
                spaced = not (_UNSPACED.match(lines[number][-1]) and _UNSPACED.match(line[0]))
                joined.append(f" {line}" if spaced else line)
            else:
                paragraphs.append("".join(joined))
                joined = [line]
        paragraphs.append("".join(joined))
    return paragraphs


# --------------------------------------------------------------------------------- from text to sentences

_CLOSERS = "\"'”’»›)]}」』）】〉》"
_END = re.compile(rf"(?:[.!?…]+|[。！？｡．؟۔।॥;\u037e]+)(?: ?»|[{re.escape(_CLOSERS)}])*")
_OPENERS = "\"'“‘„‚«‹([{「『（【〈《¿¡ –—-"
# Before a capital: not the end of a sentence.
_ABBREVIATIONS = frozenset(
    _words(
        """
        adj adm approx apr asst aug av ave bldg brig bros bzw ca cap capt cf cie cllr cmdr co corp ct dec dept
        dipl dir div dr dra etc exc feb ff fri ft geb gen ggf gov hon hr hrsg inc ing inkl insp jan jr jul jun
        ltd maj messrs mio mlle mme mr mrs ms mt nat nov nr núm oct ord pag pp pres prof pvt pág rd rep resp rev
        rs sci sen sep sept sgt sr sra srta st ste str tel thu tsd tue univ usw vgl vol vs zb zzt δρ κ гг им кв
        млн млрд напр проф руб см стр тыс ул
        """
    )
)
_BEFORE_NUMBERS = frozenset(_words("abs al art ch fig max min no nr num núm op p para pp s sec vol"))
# Words with which sentences begin, and names don't.
_STARTERS = frozenset(
    _words(
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
        return not (paragraph[end - 1] in _CLOSERS and following[0] in "、，とはがのをにでも")
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


def _sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences, in any of the scripts that mark their ends, or Thai."""
    sentences: list[str] = []
    begin = 0
    for found in _END.finditer(paragraph):
        if len(sentences) >= _MAX_SENTENCES:
            break
        if _ends_sentence(paragraph, found.start(), found.end()):
            sentences.append(paragraph[begin : found.end()].strip())
            begin = found.end()
    sentences.append(paragraph[begin:].strip())
    return [part for sentence in sentences if sentence for part in _phrases(sentence)]


def _phrases(sentence: str) -> list[str]:
    """Split a long Thai (Lao, Khmer, Burmese) passage at its spaces, since it has no full stops."""
    if len(sentence) < 120 or not _THAI.search(sentence[:120]):
        return [sentence]
    phrases: list[str] = []
    current = ""
    for phrase in sentence.split(" "):
        # Spaces stand around numbers and in quotations, too.
        whole = len(current) >= 70 and _THAI.match(current[-1]) and current.count('"') % 2 == 0
        if (whole and len(phrase) > 12 and _THAI.match(phrase)) or len(current) > 500:
            phrases.append(current)
            current = phrase
        else:
            current = f"{current} {phrase}" if current else phrase
    return [*phrases, current]


# ------------------------------------------------------------------------------------ from sentences to a summary

_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
    "|(?:(?![\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])"
    "[\\w\u0300-\u036f\u0590-\u06ff\u0900-\u0dff])+"
)
_STOP_WORDS = frozenset(
    _words(
        """
        the and for that with was were has have had his her its not but are from they their which who will
        would can this than been when what more also said says one two about into after over there some
        other only out all any even der die das und den dem des ein eine einen einem einer ist sind war mit
        von auf für nicht auch sich als bei aus nach wird werden hat haben dass wie oder aber noch nur zum
        zur über vor wer ihr ihre sie man durch les des une est dans que qui pour par sur pas plus avec son
        ses aux cette ont sont mais leur être nous elle los las una del que con por para como más pero sus
        este esta entre cuando sin sobre también fue hay desde uma dos das não com mais como mas foi são ser
        seu sua pelo pela isso quando nos tem che della delle dei gli per non sono con anche alla nel più
        что как это для его она они был была было были или при уже так все еще ещё где если чем того лет без
        και του της την των στο στη στην από για που δεν είναι ένα μια τους τις θα σε με το τα οι من في على
        إلى أن عن التي الذي هذا هذه كان كل بعد قبل كما وقد مع ما لم لا के की का में से है हैं और को पर ने यह
        वह भी एक इस कि नहीं था थी थे हो 그 이 수 등 및 것 더 한 있다 했다 있는
        """
    )
)
# Sentences that lean on the one before.
_LEANING = re.compile(
    r"[\"“«'‘]?(?:he|she|it|they|this|that|these|those|such|but|and|so|his|her|its|their|however|instead"
    r"|another|others|here|there|then|yet|also|neither|both|for example|now it"
    r"|the (?:other|rest|same|latter|former|second|third)"
    r"|er|sie|es|dies\w*|dort|darauf|damit|dadurch|deshalb|genau darauf|doch|aber|und|auch"
    r"|il|elle|ils|elles|cela|ce|mais|et|aussi|él|ella|ellos|esto|eso|pero|además|ele|ela|eles|isso|mas|também"
    r"|он|она|они|это|из-за этого|но|также|несмотря|αυτ\w+|όμως|لكن|وهي|وهو|यह|वह|उन्होंने|लेकिन|그러나|하지만"
    r"|(?:[a-z]+ ){1,2}(?:he|she|her|his|its|their))(?!\w)|他|她|它|但|しかし|また|その",
    re.I,
)
# At the beginning of a sentence. Whole phrases, since news is also made about newsletters and cookies.
_BOILERPLATE = re.compile(
    r"(?:subscribe\b|sign (?:up|in)\b|log in\b|read (?:more|also|next)\b|see also\b|click here|follow us\b|share this\b"
    r"|advertisement\b|sponsored (?:by|content)|(?:image|photos?|picture|credit|source|updated?|published) ?:"
    r"|photo(?:graph)?s? by |copyright (?:©|\d)|©|all rights reserved|terms of (?:use|service)\b|privacy policy\b"
    r"|(?:we|this (?:web)?site) uses? cookies|(?:accept|manage) (?:all )?cookies|cookie (?:policy|settings|notice)"
    r"|our newsletter|newsletter ?:|download (?:our|the) app\b|correction ?:|editor['’]s note"
    r"|abonnieren sie|jetzt (?:abonnieren|anmelden)|lesen sie|mehr zum thema|(?:foto|bild|quelle) ?:"
    r"|abonnez-vous|lire (?:aussi|la suite)|à lire aussi|crédits? ?:|suscríb[ea]|lea también|leer más|fuente ?:"
    r"|leia (?:também|mais)|assine (?:já|nossa)|fonte ?:|leggi anche|подпишитесь|читайте (?:также|ещё)|фото ?:"
    r"|διαβάστε (?:επίσης|ακόμη)|اقرأ أيض|यह भी पढ|続きを読む|関連記事|写真[:：]|阅读更多|相关阅读|关注我们"
    # Addressed to a language model, and not to a reader.
    r"|(?:ignore|disregard) (?:all |any |the )*(?:previous|prior|above) instructions)",
    re.I,
)
_DATELINE = re.compile(
    r"[^\W\d_][^!?()\n]{1,40}\([A-Za-z/]{2,12}\) ?(?:--?|[–—]) "  # Springfield, May 3 (NNA) --
    r"|[A-Z][A-Z .'’-]{4,40}(?:, [A-Z][a-z]{2,8}\.? \d{1,2})? ?(?:--|—) (?=[\"“]?[A-Z])"  # SPRINGFIELD —
)
_FULL_STOP = re.compile(rf"[.!?…。！？｡．؟۔।॥;\u037e:][{re.escape(_CLOSERS)} ]*$")
_QUESTION = re.compile(rf"[?？؟;\u037e][{re.escape(_CLOSERS)} ]*$")
_QUOTATION = re.compile('[“„«「]([^“”„«»「」]{15,600})[”“»」]|"([^"]{15,600})"')


class _Candidate(NamedTuple):
    place: int
    text: str
    terms: frozenset[str]
    score: float
    leans: bool  # on the sentence before


def _terms(text: str) -> frozenset[str]:
    """Content words cut down to a stem, or pairs of characters in a script without spaces."""
    terms: set[str] = set()
    for word in _WORD.findall(text[:_MAX_SENTENCE_CHARS].casefold()):
        if _UNSPACED.match(word):
            terms.update(word[i : i + 2] for i in range(len(word) - 1))
        elif (len(word) > 2 or not word.isascii()) and word not in _STOP_WORDS:
            # Endings change more than beginnings: a stem for all languages at once.
            terms.add(word[: max(4, min(7, len(word) - 2))] if len(word) > 4 else word)
    return frozenset(terms)


def _key(text: str) -> str:
    """What two sentences that say the same verbatim have in common."""
    return "".join(_WORD.findall(text[:_MAX_SENTENCE_CHARS].casefold()))


def _is_complete(sentence: str) -> bool:
    """Whether ``sentence`` is one, and no headline, byline, caption or entry of a list."""
    return bool(_FULL_STOP.search(sentence[-8:])) or sentence[-1] >= "\U0001f000" or len(sentence) > 250


def _readable(paragraphs: list[str], title: str | None) -> list[tuple[str, bool]]:
    """Sentences worth a place in a summary, each with whether it begins a paragraph; all if none is."""
    headline = _key(title) if title else ""
    everything: list[tuple[str, bool]] = []
    worthwhile: list[tuple[str, bool]] = []
    seen: set[str] = set()
    for number, paragraph in enumerate(paragraphs):
        if len(everything) >= _MAX_SENTENCES:
            break
        body = _DATELINE.sub("", paragraph, count=1) if number < 2 and _DATELINE.match(paragraph) else paragraph
        begins = True
        for sentence in _sentences(_BULLET.sub("", body, count=1) if _BULLET.match(body) else body):
            key = _key(sentence)
            everything.append((sentence, begins))
            if (
                key
                and key not in seen
                and key != headline
                and not (len(sentence) < 250 and _BOILERPLATE.match(sentence))
                and (_is_complete(sentence) or _THAI.search(sentence))
            ):
                worthwhile.append((sentence, begins))
                begins = False
            seen.add(key)
    return worthwhile or everything


def _rank(sentences: list[tuple[str, bool]], title: str | None) -> list[_Candidate]:
    """Score every sentence by what it shares with the document and the headline, its place and its form."""
    of_title = _terms(title) if title else frozenset()
    terms_of = [_terms(sentence) for sentence, _ in sentences]
    frequency = Counter(term for terms in terms_of for term in terms)
    count = len(sentences)
    # A word weighs more the more sentences share it, until most of them do: then it is a stop word.
    weights = {
        term: log(n) * min(1.0, 1.6 * log1p(count / n) / log1p(4)) if n > 1 else 0.05 for term, n in frequency.items()
    }
    # fsum, since sets have another order in every process, and sums of floats another last digit.
    centrality = [fsum(weights[t] for t in terms) / (len(terms) + 6) ** 0.8 for terms in terms_of]
    most_central = max(centrality, default=0.0) or 1.0
    candidates = []
    for place, (sentence, begins) in enumerate(sentences):
        terms = terms_of[place]
        size = len(sentence) * (3 if _UNSPACED.search(sentence[:40]) and not _THAI.search(sentence[:40]) else 1)
        score = 0.45 * centrality[place] / most_central
        score += 0.30 / (1 + 0.30 * place) + (0.08 if begins else 0.0)
        if of_title:
            score += 0.40 * min(1.0, len(terms & of_title) / min(4, len(of_title)))
        if size < 60:
            score -= 0.30 * (1 - size / 60)
        elif size > 260:
            score -= min(0.40, 0.0015 * (size - 260))
        if _QUESTION.search(sentence[-4:]):
            score -= 0.50
        quoted = sum(len(a or b) for a, b in _QUOTATION.findall(sentence[:_MAX_SENTENCE_CHARS]))
        score -= 0.35 * min(1.0, 1.5 * quoted / len(sentence))
        if sentence[0] in '"“„«「':
            score -= 0.10
        leans = place > 0 and bool(_LEANING.match(sentence) or _QUESTION.search(sentences[place - 1][0][-4:]))
        candidates.append(_Candidate(place, sentence, terms, score, leans))
    return candidates


def _choose(candidates: list[_Candidate], max_tokens: int, max_sentences: int) -> list[_Candidate]:
    """Pick the best of the ``candidates``, best first, that fit, each as unlike the others as its score allows."""
    chosen: list[_Candidate] = []
    # A shorter summary is better than one that ends in a question or a scrap.
    rest = [c for c in candidates if c.score >= min(_MIN_SCORE, candidates[0].score)]
    while rest and len(chosen) < max_sentences:
        places = {c.place for c in chosen}

        def value(c: _Candidate, places: set[int] = places) -> float:
            likeness = max(
                (len(c.terms & d.terms) / (min(len(c.terms), len(d.terms)) or 1) for d in chosen), default=0.0
            )
            return c.score - 0.45 * likeness - (0.25 if c.leans and c.place - 1 not in places else 0.0)

        best = max(rest, key=value)
        rest.remove(best)
        if count_tokens(_join([*chosen, best])) <= max_tokens:
            chosen.append(best)
    return chosen


def _join(chosen: list[_Candidate]) -> str:
    summary = ""
    for candidate in sorted(chosen):
        glued = summary and (summary[-1] in "。！？｡．" or (summary[-1] in "」』”" and _UNSPACED.match(candidate.text)))
        summary += candidate.text if not summary or glued else " " + candidate.text
    return summary


def summarise(text: str, *, title: str | None = None, max_tokens: int, max_sentences: int = 3) -> str:
    """Return up to ``max_sentences`` sentences of ``text``, in its order, verbatim but for white space and markup.

    ``text`` may be HTML, hard-wrapped, and in any language. Sentences that carry the words of the whole text or of
    its ``title``, and stand early, are preferred; quotations, questions, headings and boilerplate are not.
    ``count_tokens(summary) <= max_tokens`` always holds: by fewer sentences, or, if not even one fits, by
    :func:`cut`. A text without anything to choose from (a word, an emoji) is its own summary. Never raises.
    """
    if max_tokens <= 0 or max_sentences <= 0:
        return ""
    plain = _plain(text[:_MAX_CHARS])
    headline = _plain(title) if title else None
    sentences = _readable(_paragraphs(plain), headline)
    if not sentences:
        return cut(plain, max_tokens)[0]
    ranked = sorted(_rank(sentences, headline), key=lambda c: (-c.score, c.place))[:_MAX_CANDIDATES]
    chosen = _choose(ranked, max_tokens, max_sentences)
    return _join(chosen) if chosen else cut(ranked[0].text, max_tokens)[0]
