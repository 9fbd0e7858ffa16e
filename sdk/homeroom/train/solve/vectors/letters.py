"""Letters of a text: hashed character n-grams, in any script, without the text's length.

Words that sound alike are spelt alike, and names and loanwords in many languages: an encoder of meanings knows neither.
Subwords as n-grams with the word's ends marked: Bojanowski et al. 2017 (section 3.2); signed hashing: Weinberger et al.
2009. Square roots keep a frequent n-gram from hiding the others. *Letters can be guessed from the vector*: it leaves a
device in sums of secure rounds alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np

from homeroom.errors import BundleError

BUCKETS = 1024  # a power of two
LONGEST = 3  # characters of an n-gram
END = " "  # before and after a word
CODES, WRITTEN = "letters.codes", "letters.written"  # the spelling's arrays in the bundle


@dataclass(frozen=True)
class Spelling:
    """How characters are written before they are counted; the bundle's, since libraries know different Unicode.

    codes: uint32 [n], rising; written: uint8, the UTF-8 of what stands for each, line by line
    """

    codes: np.ndarray
    written: np.ndarray

    @cached_property
    def table(self) -> Mapping[int, str]:
        """As `str.translate` wants it."""
        return dict(zip(self.codes.tolist(), self.written.tobytes().decode().split("\n"), strict=True))

    @property
    def sha256(self) -> str:
        """The digest that enters the block's `statistics_id`."""
        return hashlib.sha256(self.codes.astype("<u4").tobytes() + self.written.tobytes()).hexdigest()


def read_spelling(arrays: Mapping[str, np.ndarray], where: str) -> Spelling:
    """The spelling among a bundle's arrays; BundleError where it is none."""
    codes, written = arrays.get(CODES), arrays.get(WRITTEN)
    if codes is None or written is None or codes.dtype != np.uint32 or written.dtype != np.uint8:
        raise BundleError(f"{CODES} and {WRITTEN} are not there as uint32 and uint8", where=where)
    spelling = Spelling(codes, written)
    try:
        table = spelling.table
    except ValueError:
        raise BundleError(f"{WRITTEN} is not a line for each of {CODES}", where=where) from None
    if len(table) != len(codes):
        raise BundleError(f"{CODES} names a character twice", where=where)
    return spelling


def letter_numbers(text: str, spelling: Spelling) -> np.ndarray:
    """float32 [BUCKETS], norm 1 or zeros: signed roots of the hashed n-grams of 1 to LONGEST characters of each word.

    text: as the tokenizer reads it. An n-gram adds 1 or -1 (bit 10) to a bucket (lowest bits of CRC-32).
    """
    found = Counter[str]()
    for word in text.translate(spelling.table).split(END):
        marked = f"{END}{word}{END}"
        if word:
            found.update(word)
            for size in range(2, LONGEST + 1):
                found.update(marked[start : start + size] for start in range(len(marked) - size + 1))
    counts = np.zeros(BUCKETS, np.int64)
    for gram, times in found.items():
        hashed = crc32(gram.encode("utf-8", "surrogatepass"))
        counts[hashed % BUCKETS] += -times if hashed & BUCKETS else times
    roots = np.sign(counts) * np.sqrt(np.abs(counts))
    return np.asarray(roots / max(1.0, np.sqrt(np.abs(counts).sum())), np.float32)
