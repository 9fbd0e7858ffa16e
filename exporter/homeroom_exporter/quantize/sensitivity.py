"""Layer sensitivity: quantizes each layer alone, and gives the worst back until a loss holds.

After the layer-wise sensitivity analysis of Dong et al. 2019 (HAWQ), measured on features in place of Hessians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TRIALS = 64  # of layers alone: where a network has more, neighbours are tried together
QUIET_S = 2.0  # between two words of progress

Loss = Callable[[Sequence[str]], float]  # of the features when all but the nodes named are quantized
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """`kept`: nodes in higher precision, most sensitive first; `loss`: what then remains of the stated `limit`."""

    kept: tuple[str, ...]
    loss: float
    limit: float
    tried: int


def sweep(layers: Sequence[str], loss: Loss, limit: float, *, progress: Progress = lambda stage: None) -> Sweep:
    """The fewest layers, by their own harm, whose higher precision brings the loss to the limit; all where none does.

    loss: called once for everything quantized, then at most TRIALS times with one layer (or a few neighbours) alone
    quantized, then once for each halving of what may be kept: a bound in trials, since one in seconds would not give
    the same bytes twice. progress: told every QUIET_S at most, and nothing where all is done by then.
    """
    clock = _Clock(progress)
    everything = loss(())
    if everything <= limit:
        return Sweep((), everything, limit, len(layers))
    together = -(-len(layers) // TRIALS)
    groups = [layers[i : i + together] for i in range(0, len(layers), together)]
    harm: dict[str, float] = {}
    for number, group in enumerate(groups, 1):
        alone = loss([other for other in layers if other not in group])
        harm.update(dict.fromkeys(group, alone))
        clock.say(number, len(groups))
    ranked = sorted(layers, key=lambda name: (-harm[name], name))
    low, high, reached_with_all = 1, len(ranked), loss(ranked)
    while low < high:
        middle = (low + high) // 2
        reached = loss(ranked[:middle])
        if reached <= limit:
            high, reached_with_all = middle, reached
        else:
            low = middle + 1
        clock.say_text(f"a drift of {reached:.3f} with {middle} of {len(layers)} layers in higher precision")
    return Sweep(tuple(ranked[:high]), reached_with_all, limit, len(layers))


class _Clock:
    """Speaks when QUIET_S have passed since the start, or since it last did."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.began = self.last = time.monotonic()

    def say(self, done: int, total: int) -> None:
        left = (time.monotonic() - self.began) / (done + 1) * (total - done)
        self.say_text(f"how much each layer suffers from quantization: {done} of {total}, about {left:.0f} s left")

    def say_text(self, text: str) -> None:
        if (now := time.monotonic()) - self.last >= QUIET_S:
            self.last = now
            self.progress(text)
