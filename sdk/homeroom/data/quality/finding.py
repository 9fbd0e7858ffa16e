"""Quality finding: the reason why an input is poor."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_INPUT_WEIGHT = 0.5  # of a poor input, until one is learned; chosen in `docs/quality.md`


class QualityFinding(NamedTuple):
    """`reason` in a few words; `empty`: nothing can be seen, heard or read in it, so that it is never trained on."""

    reason: str
    empty: bool = False
