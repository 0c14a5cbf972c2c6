"""Strings for an example answer: words of a text, by the name of the field, a format or a pattern."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b
from typing import Any

import rstr

_MAX_TEXT = 1_000  # characters of a text of which words are taken
_UNWANTED = re.compile("[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]")
_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n")
_PUNCTUATION = " .,;:!?()[]\"“”„«»'‘’–—-"
_TITLES = ("title", "headline")
_SUMMARIES = ("summary", "abstract")
_NAMES = ("name", "author", "city", "country", "place", "person", "people", "company", "organi")
_LONG_WORD = re.compile(r"[^\W\d_]\w{5,29}")
_CAPITALISED = re.compile(r"(?<=[\w,;] )[A-ZÀ-ÞΑ-ΩА-Я]\w{1,29}")  # within a sentence: mostly names
_MAX_TITLE_WORDS = 12
_SUMMARY_CHARACTERS = 300
_PHRASE_CHARACTERS = 60  # also of a text without spaces
_MAX_PATTERN_STEPS = 2_000
_MAX_REPEATS = 5  # more than a pattern's least number


class Source:
    """Choices and strings for one answer. They depend on the text and the attempt only."""

    def __init__(self, text: str, summary: Callable[[], str] | None, attempt: int) -> None:
        self._text = _UNWANTED.sub(" ", text[:_MAX_TEXT]).strip()
        self._summary = summary
        self._seed = blake2b(f"{attempt} {self._text}".encode(), digest_size=16).digest()
        self._draws = self._values = 0

    def below(self, count: int) -> int:
        """A number from 0 to count - 1."""
        self._draws += 1
        drawn = blake2b(self._seed + self._draws.to_bytes(8, "big"), digest_size=16).digest()
        return int.from_bytes(drawn, "big") % count

    def count_value(self, most: int) -> None:
        self._values += 1
        if self._values > most:
            raise ValueError(f"The schema asks for an answer of more than {most} values.")

    def one_of(self, values: list[Any], name: str) -> Any:
        """One of the values of an enum. A language is English, if that is one."""
        if "lang" in name.lower():
            english = [value for value in values if isinstance(value, str) and value.lower().startswith("en")]
            values = english[:1] or values
        return values[self.below(len(values))]

    def topic(self, number: int) -> str:
        """A frequent long word of the text; another one for each number."""
        word = self._topics[number % len(self._topics)]
        again = number // len(self._topics)
        return f"{word} {again + 1}" if again else word

    def string(self, schema: dict[str, Any], name: str, index: int | None) -> str:
        """index: the place in a list of strings."""
        if "pattern" in schema:
            return self._matching(schema["pattern"])
        text = self._formatted(schema.get("format")) or self._named(name.lower(), index)
        fewest, most = schema.get("minLength", 0), schema.get("maxLength")
        if fewest > _MAX_TEXT:
            raise ValueError(f"The schema asks for a text of {fewest} characters, more than {_MAX_TEXT}.")
        while len(text) < fewest:
            text += " " + self._phrase()
        return text if most is None else text[: int(most)]

    def _named(self, name: str, index: int | None) -> str:
        if any(word in name for word in _NAMES) and self._capitalised:
            if index is None:
                return self._capitalised[self.below(100) % len(self._capitalised)]
            if index < len(self._capitalised):  # each once in a list
                return self._capitalised[index]
        if index is not None:
            return self.topic(index)
        if any(word in name for word in _TITLES):
            return self._beginning_words
        if any(word in name for word in _SUMMARIES):
            return self._summary() if self._summary is not None else self._beginning
        return "en" if "lang" in name else self._phrase()

    def _phrase(self) -> str:
        """Some words that follow each other in the text."""
        length = 2 + self.below(5)
        start = self.below(max(1, len(self._words) - length))
        phrase = " ".join(self._words[start : start + length])[:_PHRASE_CHARACTERS]
        return phrase.strip(_PUNCTUATION) or "text"

    def _formatted(self, name: object) -> str | None:
        """A text of one of OpenAI's formats; None for another one."""
        day, second, byte = 1 + self.below(28), self.below(60), 1 + self.below(254)
        match name:
            case "date":
                return f"2026-01-{day:02}"
            case "time":
                return f"10:15:{second:02}Z"
            case "date-time":
                return f"2026-01-{day:02}T10:15:{second:02}Z"
            case "duration":
                return f"P{day}DT{second}M"
            case "email":
                return f"{self._ascii_word}{day}@example.com"
            case "hostname":
                return f"{self._ascii_word}{day}.example.com"
            case "ipv4":
                return f"192.0.2.{byte}"
            case "ipv6":
                return f"2001:db8::{byte:x}"
            case "uri":
                return f"https://example.com/{self._ascii_word}/{day}"
            case "uuid":
                digits = f"{self.below(16**32):032x}"
                return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
        return None

    def _matching(self, pattern: str) -> str:
        try:
            return rstr.Rstr(_FewRepeats(self.below(2**63))).xeger(pattern)
        except Exception as error:  # of Python's parser for expressions, or of rstr for one with other features
            raise ValueError(f"No text was found for the pattern {pattern[:100]!r}: {error}") from error

    @cached_property
    def _words(self) -> list[str]:
        return self._text.split()

    @cached_property
    def _topics(self) -> list[str]:
        counts = Counter(_LONG_WORD.findall(self._text.lower()) or [self._phrase()])
        return [word for word, _ in counts.most_common(20)]

    @cached_property
    def _capitalised(self) -> list[str]:
        return list(dict.fromkeys(_CAPITALISED.findall(self._text)))

    @cached_property
    def _ascii_word(self) -> str:
        return next((word for word in self._topics if word.isascii() and word.isalpha()), "text")

    @cached_property
    def _beginning_words(self) -> str:
        first = _SENTENCE_END.split(self._text, maxsplit=1)[0].split()[:_MAX_TITLE_WORDS]
        return " ".join(first).rstrip(".")[:_SUMMARY_CHARACTERS] or "text"

    @cached_property
    def _beginning(self) -> str:
        beginning = ""
        for sentence in _SENTENCE_END.split(self._text[: 2 * _SUMMARY_CHARACTERS]):
            if beginning and len(beginning) + len(sentence) > _SUMMARY_CHARACTERS:
                break
            beginning = f"{beginning} {sentence}".strip()
        return beginning or "text"


class _FewRepeats(random.Random):
    """Python's random numbers, of which rstr makes a short text, the same one each time, and never a huge one."""

    _steps = 0

    def randint(self, a: int, b: int) -> int:
        """The number of repeats of a part of a pattern, between a and b."""
        self._count(1 + a)
        return a if b <= a else super().randint(a, min(b, a + _MAX_REPEATS))

    def choice(self, seq: Any) -> Any:
        """One of the characters of a class, in a fixed order, or one of the branches of a pattern."""
        self._count(len(seq) // 100)
        is_class = isinstance(seq, list) and all(isinstance(one, str) for one in seq)
        return super().choice(sorted(seq) if is_class else seq)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MAX_PATTERN_STEPS:
            raise ValueError("it is too long")
