"""A built-in embedder: hashed character n-grams, deterministic, nothing to download.

It knows how words are written, not what they mean: texts that share words, or parts of words, lie near
each other, in any script; synonyms and translations don't. Good for tests of what handles vectors, for
finding near-duplicates, and as a stand-in; not for semantic search.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from zlib import crc32

_WORD = re.compile(r"\w+")
_GRAM_LENGTHS = (2, 3, 4)
# A whole word says more than a piece of one.
_WORD_WEIGHT = 2.0
_DECIMALS = 8  # what a 32-bit float holds of a number below 1


def embed_text(text: str, dimensions: int, size: int) -> list[float]:
    """A vector of length 1: the first `dimensions` of `size` components, lengthened to 1 again.

    That is how OpenAI shortens (spec, `dimensions`). Equal but for case and Unicode form means equal.
    """
    weights: dict[str, float] = defaultdict(float)
    for word, count in Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold())).items():
        weights[word] += _WORD_WEIGHT * count
        marked = f"<{word}>"
        for length in _GRAM_LENGTHS:
            for start in range(len(marked) - length + 1):
                weights[marked[start : start + length]] += count
    features = ((feature.encode("utf-8", "surrogatepass"), weight) for feature, weight in weights.items())
    return _project(features, dimensions, size)


def embed_tokens(tokens: Sequence[int], dimensions: int, size: int) -> list[float]:
    """The same for a text that comes as token ids, by ids and pairs of neighbours; no detokenizer here."""
    pairs = itertools.pairwise(tokens)
    counts = Counter([*(f"{token}" for token in tokens), *(f"{first},{second}" for first, second in pairs)])
    return _project(((feature.encode(), weight) for feature, weight in counts.items()), dimensions, size)


def _project(features: Iterable[tuple[bytes, float]], dimensions: int, size: int) -> list[float]:
    """Each feature adds to one component, with a sign, so that collisions cancel out on average."""
    vector = [0.0] * size
    vector[0] = 1.0  # no text is without direction, however little of it there is
    for feature, weight in features:
        # A CRC is linear; the multiplication makes its bits depend on each other.
        mixed = crc32(feature) * 0x9E3779B1 & 0xFFFFFFFF
        # Like the words of a text, its n-grams repeat: the tenth says little that the first did not.
        vector[(mixed >> 1) % size] += math.sqrt(weight) * (1 if mixed & 1 else -1)
    shortened = vector[:dimensions]
    length = math.sqrt(sum(component * component for component in shortened))
    if not length:  # the constant was cancelled out, and nothing else fell here
        shortened[0] = length = 1.0
    return [round(component / length, _DECIMALS) for component in shortened]
