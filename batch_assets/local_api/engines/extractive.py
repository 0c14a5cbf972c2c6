"""The built-in engine's brain: an extractive summariser, with the standard library alone.

Nothing here downloads, guesses at random or keeps state: equal input gives equal output, on any machine.
Every step is linear in the text, except the choice among the 60 best sentences.
The text is data: nothing in it is obeyed, and no expression here can be made to backtrack by it.
"""

from __future__ import annotations

import re
from collections import Counter
from math import fsum, log, log1p
from typing import NamedTuple

from batch_assets.local_api.engines.sentences import (
    BULLET,
    CLOSERS,
    MAX_SENTENCES,
    paragraphs_of,
    plain_text,
    sentences_of,
    words,
)
from batch_assets.local_api.engines.tokens import THAI, UNSPACED, count_tokens, cut

_MAX_CHARS = 600_000  # of a text that are read; what follows is too late to matter in a summary
_MAX_CANDIDATES = 60  # sentences that are compared with each other
_MIN_SCORE = 0.1  # of a sentence that is used; a good one has 0.5-1
_MAX_SENTENCE_CHARS = 2_000  # of a sentence that are scored

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
_FULL_STOP = re.compile(rf"[.!?…。！？｡．؟۔।॥;\u037e:][{re.escape(CLOSERS)} ]*$")
_QUESTION = re.compile(rf"[?？؟;\u037e][{re.escape(CLOSERS)} ]*$")
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
        if UNSPACED.match(word):
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
        if len(everything) >= MAX_SENTENCES:
            break
        body = _DATELINE.sub("", paragraph, count=1) if number < 2 and _DATELINE.match(paragraph) else paragraph
        begins = True
        for sentence in sentences_of(BULLET.sub("", body, count=1) if BULLET.match(body) else body):
            key = _key(sentence)
            everything.append((sentence, begins))
            if (
                key
                and key not in seen
                and key != headline
                and not (len(sentence) < 250 and _BOILERPLATE.match(sentence))
                and (_is_complete(sentence) or THAI.search(sentence))
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
        size = len(sentence) * (3 if UNSPACED.search(sentence[:40]) and not THAI.search(sentence[:40]) else 1)
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
        glued = summary and (summary[-1] in "。！？｡．" or (summary[-1] in "」』”" and UNSPACED.match(candidate.text)))
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
    plain = plain_text(text[:_MAX_CHARS])
    headline = plain_text(title) if title else None
    sentences = _readable(paragraphs_of(plain), headline)
    if not sentences:
        return cut(plain, max_tokens)[0]
    ranked = sorted(_rank(sentences, headline), key=lambda c: (-c.score, c.place))[:_MAX_CANDIDATES]
    chosen = _choose(ranked, max_tokens, max_sentences)
    return _join(chosen) if chosen else cut(ranked[0].text, max_tokens)[0]
