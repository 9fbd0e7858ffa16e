"""What a gate found wrong with an input."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_INPUT_WEIGHT = 0.5  # where too little is known; `docs/quality.md` says what it was chosen on


class QualityFinding(NamedTuple):
    """`why` in a few words; `empty`: there is nothing to be seen, heard or read in it, so that it never teaches."""

    why: str
    empty: bool = False
