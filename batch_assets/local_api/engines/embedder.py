"""A built-in embedder: hashed character n-grams, deterministic, nothing to download.

It compares how words are written, not what they mean. Texts that share words, or parts of words, have near vectors, in
any script; synonyms and translations have not. It is good for tests of code that handles vectors, and for finding
near-duplicates. It is not good for semantic search.
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
# A whole word means more than a part of a word.
_WORD_WEIGHT = 2.0
_DECIMALS = 8  # what a 32-bit float holds of a number below 1


def embed_text(text: str, dimensions: int, size: int) -> list[float]:
    """A vector of length 1: the first `dimensions` of `size` components, scaled to length 1 again.

    OpenAI shortens vectors in the same way (spec, `dimensions`). Texts that differ only in case and Unicode form have
    the same vector.
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
    """The same for token ids, by the ids and the pairs of neighbours, since there is no detokenizer here."""
    pairs = itertools.pairwise(tokens)
    counts = Counter([*(f"{token}" for token in tokens), *(f"{first},{second}" for first, second in pairs)])
    return _project(((feature.encode(), weight) for feature, weight in counts.items()), dimensions, size)


def _project(features: Iterable[tuple[bytes, float]], dimensions: int, size: int) -> list[float]:
    """Feature hashing: each feature adds to one component, with a sign, so that collisions cancel out on average."""
    vector = [0.0] * size
    vector[0] = 1.0  # so that the empty text has a direction too
    for feature, weight in features:
        # A CRC is linear; the multiplication makes its bits depend on each other.
        mixed = crc32(feature) * 0x9E3779B1 & 0xFFFFFFFF
        # The n-grams of a text repeat like its words: the tenth means little more than the first.
        vector[(mixed >> 1) % size] += math.sqrt(weight) * (1 if mixed & 1 else -1)
    shortened = vector[:dimensions]
    length = math.sqrt(sum(component * component for component in shortened))
    if not length:  # features cancelled out the constant, and all other components are 0
        shortened[0] = length = 1.0
    return [round(component / length, _DECIMALS) for component in shortened]
