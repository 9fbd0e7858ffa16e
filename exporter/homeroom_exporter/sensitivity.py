"""Which layers must stay in higher precision: each is quantized alone, the worst are given back until a loss holds.

After the layer-wise sensitivity analysis of Dong et al. 2019 (HAWQ), measured on features in place of Hessians; numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homeroom_exporter.quantize import Candidate

Loss = Callable[[Sequence[str]], float]  # of the features when all but the nodes named are quantized


@dataclass(frozen=True)
class Sweep:
    """`kept`: nodes in higher precision, most sensitive first; `loss`: what then remains of the stated `limit`."""

    kept: tuple[str, ...]
    loss: float
    limit: float
    tried: int


def sweep(layers: Sequence[Candidate], loss: Loss, limit: float) -> Sweep:
    """The fewest layers, by their own harm, whose higher precision brings the loss to the limit; all where none does.

    loss: called once for everything quantized, then once a layer with that layer alone quantized, then a few times.
    """
    whole = loss(())
    if whole <= limit:
        return Sweep((), whole, limit, len(layers))
    names = [layer.name for layer in layers]
    harm = {name: loss([other for other in names if other != name]) for name in names}
    ranked = sorted(names, key=lambda name: (-harm[name], name))
    low, high, found = 1, len(ranked), loss(ranked)
    while low < high:
        middle = (low + high) // 2
        reached = loss(ranked[:middle])
        if reached <= limit:
            high, found = middle, reached
        else:
            low = middle + 1
    return Sweep(tuple(ranked[:high]), found, limit, len(layers))
