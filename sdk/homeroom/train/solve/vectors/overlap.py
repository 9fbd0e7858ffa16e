"""Overlap numbers of two texts: how much of one is in the other, by words, stems, letters, numbers and negation."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Set

import numpy as np

from homeroom.train.solve.vectors.surface import CUT, WORD, with_squares

RUN_WORDS = 300  # of each text that the longest common run is looked for in
STEM = 5  # letters of a word that stand for its stem
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NEGATIONS = {  # words that deny, by language; of a language that is not named here no text is taken to deny
    "de": {"nicht", "kein", "keine", "keinen", "keiner", "nie", "niemals", "nichts", "ohne"},
    "en": {"not", "no", "never", "none", "nothing", "without", "cannot", "t", "neither", "nor"},
    "es": {"no", "nunca", "ningún", "ninguna", "ninguno", "nada", "sin", "jamás", "tampoco"},
    "fr": {"ne", "n", "pas", "jamais", "aucun", "aucune", "rien", "sans", "non"},
    "it": {"non", "mai", "nessun", "nessuno", "nessuna", "niente", "nulla", "senza"},
    "nl": {"niet", "geen", "nooit", "niets", "zonder"},
    "pt": {"não", "nunca", "nenhum", "nenhuma", "nada", "sem", "jamais"},
}
DEFAULT_LANGUAGE = "en"  # of a sample that names none
# Usual value and spread of each number, in the order of `overlap_numbers`
SCALES = (*[(0.3, 0.3)] * 9, (0.3, 0.3), (0.0, 1.0), (2.0, 1.0), (0.5, 0.5), (0.1, 0.3), (0.1, 0.3), (0.1, 0.3))
WIDTH = 2 * len(SCALES)


def overlap_numbers(first: str, second: str, language: str = "") -> np.ndarray:
    """float32 [WIDTH]: each number less its usual value over its spread, cut to +-4, then their squares.

    Of words, stems and letter triples: the share of both, of the first and of the second text that the other has; then
    the longest common run of words, lengths, numbers, and who denies.
    """
    words = [[word.lower() for word in WORD.findall(text)] for text in (first, second)]
    numbers = [*_shares(set(words[0]), set(words[1]))]
    numbers += _shares(*({word[:STEM] for word in one} for one in words))
    numbers += _shares(*(_triples(" ".join(one)) for one in words))
    numbers.append(_longest_run(*(one[:RUN_WORDS] for one in words)) / max(1, min(len(one) for one in words)))
    numbers += [np.log1p(len(words[1])) - np.log1p(len(words[0])), np.log1p(len(words[1]))]
    figures = [set(NUMBER.findall(text)) for text in (first, second)]
    numbers.append(float(figures[0] == figures[1]) if any(figures) else 0.5)
    negations = NEGATIONS.get((language or DEFAULT_LANGUAGE).lower()[:2], set())
    denies = [bool(negations.intersection(one)) for one in words]
    numbers += [float(denies[0]), float(denies[1]), float(denies[0] != denies[1])]
    usual, spread = np.array(SCALES).T
    return with_squares(np.clip((np.array(numbers) - usual) / spread, -CUT, CUT))


def _shares(first: Set[str], second: Set[str]) -> tuple[float, float, float]:
    both = len(first & second)
    return both / max(1, len(first | second)), both / max(1, len(first)), both / max(1, len(second))


def _triples(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def _longest_run(first: list[str], second: list[str]) -> int:
    """Words of the longest run that both texts have."""
    places = defaultdict[str, list[int]](list)
    for place, word in enumerate(second):
        places[word].append(place)
    best, runs = 0, dict[int, int]()  # lengths of the runs that end with the last word, by place in the second text
    for word in first:
        runs = {place: runs.get(place - 1, 0) + 1 for place in places.get(word, ())}
        best = max(best, *runs.values(), 0)
    return best
