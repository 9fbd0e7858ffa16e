"""When the trunk, all that belongs to no task, has all but stopped moving and may stay as it is; imports runtime.

Early layers come to rest first, and then need no backward pass (FreezeOut, Brock et al. 2017). Here that is told from
how far the trunk went in an epoch, against the epoch in which it went furthest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.runtime.graphs import Graphs

STILL = 0.4  # of the furthest way


def places_of(graphs: Graphs, segments: Collection[str]) -> np.ndarray:
    """bool: which of the values that the graphs' tier has of theta stand in these segments."""
    layout = graphs.bundle.layout
    inside = np.zeros(layout.size, np.float32)
    for name in segments:
        inside[layout.slices[name]] = 1.0
    return graphs.narrow(inside) > 0


def trunk(layout: Layout) -> tuple[str, ...]:
    """The segments whose gradient a `grad_heads` graph leaves at zero."""
    return tuple(segment.name for segment in layout if segment.task is None)


def settled_after(ways: Sequence[float], epochs: int) -> int | None:
    """How many of the `epochs` moved the trunk; None where it has not settled. ways: how far it went in each so far.

    Never in the first half: after a long first epoch others look short, though the rate is still high.
    """
    for done, way in enumerate(ways, 1):
        if 2 * done >= epochs and way < STILL * max(ways[:done]):
            return done
    return None
