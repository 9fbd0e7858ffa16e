"""What a gate found wrong with an input."""

from __future__ import annotations

from typing import NamedTuple


class Poor(NamedTuple):
    """`why` in a few words; `empty`: there is nothing to be seen, heard or read in it, so that it never teaches."""

    why: str
    empty: bool = False
