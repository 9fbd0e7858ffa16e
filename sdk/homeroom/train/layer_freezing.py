"""Layer freezing: stops training the shared layers, those of no task, once they have all but stopped moving.

Early layers converge first, and then need no backward pass (FreezeOut, Brock et al. 2017). The criterion here is the
distance that the shared layers moved in an epoch, compared with the epoch in which they moved furthest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from homeroom.contract.layout import Layout
from homeroom.runtime.graphs import Graphs

FREEZE_BELOW = 0.4  # share of the largest move


def segment_mask(graphs: Graphs, segments: Collection[str]) -> np.ndarray:
    """Bool [P], P the size of the graphs' tier: True for the values of theta in the segments with these names."""
    layout = graphs.bundle.layout
    mask = np.zeros(layout.size, np.float32)
    for name in segments:
        mask[layout.slices[name]] = 1.0
    return graphs.narrow(mask) > 0


def shared_segments(layout: Layout) -> tuple[str, ...]:
    """Names of the segments of the shared layers, whose gradient a `grad_heads` graph leaves at zero."""
    return tuple(segment.name for segment in layout if segment.task is None)


def frozen_after(moves: Sequence[float], epochs: int) -> int | None:
    """Number of epochs, of the `epochs` planned, after which the shared layers are frozen; None while they are not.

    moves: Euclidean distance that the shared layers moved in each epoch so far. They are never frozen in the first
    half: after a long first move others look short, though the learning rate is still high.
    """
    for done, move in enumerate(moves, 1):
        if 2 * done >= epochs and move < FREEZE_BELOW * max(moves[:done]):
            return done
    return None
