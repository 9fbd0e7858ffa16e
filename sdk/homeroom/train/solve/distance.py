"""How far features lie from those that a solved head was made of: Mahalanobis distance to the nearest class.

Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
equation 2, by the covariance that the classes share and that is shrunk as for the answers. It sees another kind of
content; it does not see noise, which may bring features nearer.
"""

from __future__ import annotations

import numpy as np

from homeroom.train.solve.discriminant import Discriminant
from homeroom.train.solve.task_vectors import TaskVectors, joined


def nearest_class(head: Discriminant, vectors: TaskVectors) -> np.ndarray:
    """float64 [n]: squared distance to the nearest class with samples; NaN where an input is missing."""
    present = np.all([block.present for block in vectors.blocks], axis=0)
    found, taught = np.full(len(vectors), np.nan), head.taught > 0
    if present.any() and taught.any():
        inverse, spread = head.metric(range(len(vectors.blocks)))
        root = np.linalg.cholesky(inverse / head.scale)
        rows = np.flatnonzero(present)
        x = joined([block.subset(rows) for block in vectors.blocks]) / spread @ root
        means = head.means[taught] / spread @ root
        found[rows] = np.min([np.square(x - mean).sum(1) for mean in means], axis=0)
    return found
