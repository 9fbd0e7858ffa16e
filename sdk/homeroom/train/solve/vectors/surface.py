"""Surface numbers of a text: lengths, sentences, long words, syllables, variety and punctuation.

They know no language: what makes texts hard to read is in them without an encoder (Flesch 1948 counts words a sentence
and syllables a word; Herdan 1960 the logarithm of different words over that of all). The whole text counts, however
few of its tokens an encoder reads.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"[.!?。！？؟]+[\"'”’»)\]]*\s+|\n+")
VOWELS = re.compile(r"[aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýœаеёиоуыэюяіїєαάεέηήιίοόυύωώ]+")
LONG, VERY_LONG = 6, 9  # letters that a long word has more than
CUT = 4.0  # of a standardised number

# Name: usual value and spread in school texts, in units of the number; only their order of magnitude matters
SCALES = {
    "characters": (5.0, 2.0),  # logarithm of 1 + count, as the next two
    "words": (3.5, 2.0),
    "sentences": (1.5, 1.0),
    "letters_a_word": (4.5, 0.7),
    "spread_of_letters": (2.2, 0.6),
    "words_a_sentence": (2.7, 0.5),  # logarithm, as the next
    "longest_sentence": (3.2, 0.6),
    "spread_of_sentences": (0.45, 0.25),  # over their mean
    "long_words": (0.22, 0.1),
    "very_long_words": (0.07, 0.06),
    "syllables_a_word": (1.5, 0.25),
    "three_syllables": (0.12, 0.08),
    "variety": (0.9, 0.08),
    "said_once": (0.7, 0.2),
    "new_words": (0.65, 0.2),  # in stretches of 50 words, so that length counts less
    "commas": (0.05, 0.04),  # a word
    "stops": (0.1, 0.3),  # semicolons, colons and dashes a sentence
    "asides": (0.1, 0.3),  # brackets a sentence
    "quotes": (0.2, 0.4),  # a sentence
    "questions": (0.1, 0.2),  # a sentence
    "numbers": (0.02, 0.04),  # a word
    "capitals": (0.12, 0.1),  # a word
}
WIDTH = 2 * len(SCALES)
STRETCH = 50


def surface_numbers(text: str) -> np.ndarray:
    """float32 [WIDTH]: each number less its usual value over its spread, cut to +-4, then their squares."""
    words = WORD.findall(text)
    counted = [len(WORD.findall(part)) for part in SENTENCE_END.split(text)]
    lengths = np.array([count for count in counted if count] or [0], float)
    letters = np.array([len(word) for word in words] or [0], float)
    syllables = np.array([max(1, len(VOWELS.findall(word.lower()))) for word in words] or [0], float)
    plain = [word.lower() for word in words]
    total, sentences, often = max(1, len(words)), len(lengths), Counter(plain)
    numbers = (
        np.log1p(len(text)),
        np.log1p(len(words)),
        np.log1p(sentences),
        letters.mean(),
        letters.std(),
        np.log1p(lengths.mean()),
        np.log1p(lengths.max()),
        lengths.std() / max(1.0, lengths.mean()),
        (letters > LONG).mean(),
        (letters > VERY_LONG).mean(),
        syllables.mean(),
        (syllables >= 3).mean(),
        np.log1p(len(often)) / np.log1p(total),
        sum(count == 1 for count in often.values()) / max(1, len(often)),
        _new_words(plain),
        text.count(",") / total,
        sum(map(text.count, ";:–—")) / sentences,
        sum(map(text.count, "([")) / sentences,
        sum(map(text.count, '"“”«»„')) / sentences,
        sum(map(text.count, "?!")) / sentences,
        sum(word.isdecimal() for word in words) / total,
        sum(word[0].isupper() for word in words) / total,
    )
    usual, spread = np.array(list(SCALES.values())).T
    return with_squares(np.clip((np.array(numbers) - usual) / spread, -CUT, CUT))


def with_squares(numbers: np.ndarray) -> np.ndarray:
    """float32 [2 n]: the numbers, then their squares."""
    return np.concatenate([numbers, numbers * numbers]).astype(np.float32)


def _new_words(words: list[str]) -> float:
    """Different words over all, the mean over stretches of STRETCH words."""
    starts = [*range(0, max(1, len(words)), STRETCH), len(words)]
    stretches = [words[first:last] for first, last in pairwise(starts) if last > first]
    return float(np.mean([len(set(stretch)) / len(stretch) for stretch in stretches])) if stretches else 0.0
