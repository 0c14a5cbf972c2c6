"""The built-in engine's algorithm: extractive summarization, with the standard library only.

It downloads nothing, uses no random numbers and keeps no state: the same input gives the same output, on any machine.
Each step is linear in the text, except the choice among the 60 best sentences. The text is data: the engine follows no
instruction in it, and no text can make an expression here backtrack.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import fsum, log, log1p
from typing import NamedTuple

from batch_assets.local_api.engines.plain_text import BULLET, paragraphs_of, plain_text
from batch_assets.local_api.engines.sentences import CLOSERS, MAX_SENTENCES, sentences_of, words
from batch_assets.local_api.engines.tokens import THAI, UNSPACED, count_tokens, cut

_MAX_CHARS = 600_000  # of a text; sentences after them would not be in a summary
_MAX_CANDIDATES = 60  # sentences that are compared with each other
_MIN_SCORE = 0.1  # of a sentence in a summary; a good sentence has 0.5 to 1
_MAX_SENTENCE_CHARS = 2_000  # of a sentence, for its score

_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
    "|(?:(?![\u3040-\u30ff\u3400-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])"
    "[\\w\u0300-\u036f\u0590-\u06ff\u0900-\u0dff])+"
)
_STOP_WORDS = frozenset(
    words(
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
# Sentences that can't be understood without the one before.
_DEPENDENT = re.compile(
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
    # Written for a language model, and not for a reader.
    r"|(?:ignore|disregard) (?:all |any |the )*(?:previous|prior|above) instructions)",
    re.I,
)
_DATELINE = re.compile(
    r"[^\W\d_][^!?()\n]{1,40}\([A-Za-z/]{2,12}\) ?(?:--?|[–—]) "  # Springfield, May 3 (NNA) --
    r"|[A-Z][A-Z .'’-]{4,40}(?:, [A-Z][a-z]{2,8}\.? \d{1,2})? ?(?:--|—) (?=[\"“]?[A-Z])"  # SPRINGFIELD —
)
_FULL_STOP = re.compile(rf"[.!?…。！？｡．؟۔।॥;\u037e:][{re.escape(CLOSERS)} ]*$")
_QUESTION = re.compile(rf"[?？؟;\u037e][{re.escape(CLOSERS)} ]*$")
_QUOTATION = re.compile('[“„«「]([^“”„«»「」]{15,600})[”“»」]|"([^"]{15,600})"')


class _Sentence(NamedTuple):
    text: str
    begins_paragraph: bool


class _Candidate(NamedTuple):
    """A sentence with its score. place: its number in the text. depends: on the sentence before."""

    place: int
    text: str
    terms: frozenset[str]
    score: float
    depends: bool


def _terms(text: str) -> frozenset[str]:
    """Content words cut down to a stem, or pairs of characters in a script without spaces."""
    terms: set[str] = set()
    for word in _WORD.findall(text[:_MAX_SENTENCE_CHARS].casefold()):
        if UNSPACED.match(word):
            terms.update(word[i : i + 2] for i in range(len(word) - 1))
        elif (len(word) > 2 or not word.isascii()) and word not in _STOP_WORDS:
            # Endings vary more than beginnings: this is a stem in all languages.
            terms.add(word[: max(4, min(7, len(word) - 2))] if len(word) > 4 else word)
    return frozenset(terms)


def _key(text: str) -> str:
    """Equal for two sentences with the same words."""
    return "".join(_WORD.findall(text[:_MAX_SENTENCE_CHARS].casefold()))


def _is_complete(sentence: str) -> bool:
    """Whether it is a whole sentence, and no headline, byline, caption or list item."""
    return bool(_FULL_STOP.search(sentence[-8:])) or sentence[-1] >= "\U0001f000" or len(sentence) > 250


def _candidate_sentences(paragraphs: list[str], title: str | None) -> list[_Sentence]:
    """The sentences that may be in a summary; all sentences if none may."""
    headline = _key(title) if title else ""
    everything: list[_Sentence] = []
    suitable: list[_Sentence] = []
    seen = {headline, ""}
    for number, paragraph in enumerate(paragraphs):
        if len(everything) >= MAX_SENTENCES:
            break
        begins = True
        for text in sentences_of(_without_prefix(paragraph, may_have_dateline=number < 2)):
            key = _key(text)
            everything.append(_Sentence(text, begins))
            if key not in seen and _is_suitable(text):
                suitable.append(_Sentence(text, begins))
                begins = False
            seen.add(key)
    return suitable or everything


def _without_prefix(paragraph: str, *, may_have_dateline: bool) -> str:
    """The paragraph without a dateline and without a bullet."""
    if may_have_dateline and _DATELINE.match(paragraph):
        paragraph = _DATELINE.sub("", paragraph, count=1)
    return BULLET.sub("", paragraph, count=1) if BULLET.match(paragraph) else paragraph


def _is_suitable(sentence: str) -> bool:
    is_boilerplate = len(sentence) < 250 and _BOILERPLATE.match(sentence)
    return not is_boilerplate and (_is_complete(sentence) or bool(THAI.search(sentence)))


def _rank(sentences: list[_Sentence], title: str | None) -> list[_Candidate]:
    """Score each sentence: terms that it shares with the text and the headline, its place, its form."""
    title_terms = _terms(title) if title else frozenset()
    terms_of = [_terms(sentence.text) for sentence in sentences]
    centrality = _centrality(terms_of)
    most_central = max(centrality, default=0.0) or 1.0
    candidates = []
    for place, sentence in enumerate(sentences):
        terms = terms_of[place]
        score = 0.45 * centrality[place] / most_central
        score += 0.30 / (1 + 0.30 * place) + (0.08 if sentence.begins_paragraph else 0.0)
        if title_terms:
            score += 0.40 * min(1.0, len(terms & title_terms) / min(4, len(title_terms)))
        for penalty in _penalties(sentence.text):
            score -= penalty
        follows_question = place > 0 and _QUESTION.search(sentences[place - 1].text[-4:])
        depends = place > 0 and bool(_DEPENDENT.match(sentence.text) or follows_question)
        candidates.append(_Candidate(place, sentence.text, terms, score, depends))
    return candidates


def _centrality(terms_of: list[frozenset[str]]) -> list[float]:
    """For each sentence, how much of the whole text its terms are about."""
    frequency = Counter(term for terms in terms_of for term in terms)
    count = len(terms_of)
    # A term weighs more the more sentences share it. A term of most sentences is a stop word, and weighs less.
    weights = {
        term: log(n) * min(1.0, 1.6 * log1p(count / n) / log1p(4)) if n > 1 else 0.05 for term, n in frequency.items()
    }
    # fsum, since the order of a set differs between processes, and with it the last digit of a sum.
    return [fsum(weights[t] for t in terms) / (len(terms) + 6) ** 0.8 for terms in terms_of]


def _penalties(sentence: str) -> Iterator[float]:
    """For the form of a sentence: too short or too long, a question, a quotation."""
    is_unspaced = UNSPACED.search(sentence[:40]) and not THAI.search(sentence[:40])
    size = len(sentence) * (3 if is_unspaced else 1)
    if size < 60:
        yield 0.30 * (1 - size / 60)
    elif size > 260:
        yield min(0.40, 0.0015 * (size - 260))
    if _QUESTION.search(sentence[-4:]):
        yield 0.50
    quoted = sum(len(a or b) for a, b in _QUOTATION.findall(sentence[:_MAX_SENTENCE_CHARS]))
    yield 0.35 * min(1.0, 1.5 * quoted / len(sentence))
    if sentence[0] in '"“„«「':
        yield 0.10


def _choose(candidates: list[_Candidate], max_tokens: int, max_sentences: int) -> list[_Candidate]:
    """Choose the best sentences that fit, best first. A sentence that is like a chosen one loses score."""
    chosen: list[_Candidate] = []
    # A shorter summary is better than one with a question or a fragment.
    rest = [c for c in candidates if c.score >= min(_MIN_SCORE, candidates[0].score)]
    while rest and len(chosen) < max_sentences:
        places = {c.place for c in chosen}

        def value(c: _Candidate, places: set[int] = places) -> float:
            similarity = max(
                (len(c.terms & d.terms) / (min(len(c.terms), len(d.terms)) or 1) for d in chosen), default=0.0
            )
            return c.score - 0.45 * similarity - (0.25 if c.depends and c.place - 1 not in places else 0.0)

        best = max(rest, key=value)
        rest.remove(best)
        if count_tokens(_join([*chosen, best])) <= max_tokens:
            chosen.append(best)
    return chosen


def _join(chosen: list[_Candidate]) -> str:
    summary = ""
    for candidate in sorted(chosen):
        follows_quotation = summary[-1:] in ("」", "』", "”") and UNSPACED.match(candidate.text)
        without_space = not summary or summary[-1] in "。！？｡．" or follows_quotation
        summary += candidate.text if without_space else " " + candidate.text
    return summary


def summarise(text: str, *, title: str | None = None, max_tokens: int, max_sentences: int = 3) -> str:
    """Up to ``max_sentences`` sentences of ``text``, in its order, unchanged but for white space and markup.

    ``text`` may be HTML, hard-wrapped, and in any language. Early sentences with words of the whole text or of its
    ``title`` are preferred to quotations, questions, headings and boilerplate. ``count_tokens(summary) <= max_tokens``
    always holds: the summary has fewer sentences or, if not even one fits, a part of one (see :func:`cut`). A text
    without whole sentences (a word, an emoji) is its own summary. Never raises.
    """
    if max_tokens <= 0 or max_sentences <= 0:
        return ""
    plain = plain_text(text[:_MAX_CHARS])
    headline = plain_text(title) if title else None
    sentences = _candidate_sentences(paragraphs_of(plain), headline)
    if not sentences:
        return cut(plain, max_tokens)[0]
    ranked = sorted(_rank(sentences, headline), key=lambda c: (-c.score, c.place))[:_MAX_CANDIDATES]
    chosen = _choose(ranked, max_tokens, max_sentences)
    return _join(chosen) if chosen else cut(ranked[0].text, max_tokens)[0]
