"""Layer sensitivity: quantizes groups of layers alone, halves the worst, and gives layers back until a loss holds.

After the layer-wise sensitivity analysis of Dong et al. 2019 (HAWQ), measured on features in place of Hessians.
"""

from __future__ import annotations

import heapq
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

    loss: called for everything quantized, for what `_Ranking` quantizes alone, and for each doubling and halving of
    what may be kept: a bound in trials, since one in seconds would not give the same bytes twice.
    progress: told every QUIET_S at most, and nothing where all is done by then.
    """
    clock = _Clock(progress)
    everything = loss(())
    if everything <= limit:
        return Sweep((), everything, limit, len(layers))
    ranking = _Ranking(layers, loss, clock)

    def with_kept(count: int) -> float:
        reached = loss(ranking.first(count))
        clock.say_text(f"a drift of {reached:.3f} with {count} of {len(layers)} layers in higher precision")
        return reached

    low, high = 1, 1
    while (reached_with_all := with_kept(high)) > limit and high < len(layers):
        low, high = high + 1, min(2 * high, len(layers))
    while low < high:
        middle = (low + high) // 2
        reached = with_kept(middle)
        if reached <= limit:
            high, reached_with_all = middle, reached
        else:
            low = middle + 1
    return Sweep(ranking.first(high), reached_with_all, limit, len(layers))


class _Ranking:
    """Layers by their own harm, found by halving the most harmful group as long as that is less work than each alone.

    A group quantized alone harms at least as much as its worst layer does; so a group that harms less than a layer
    holds nothing worse. TRIALS groups of neighbours at most, the smallest that are tried; their layers go by name.
    """

    def __init__(self, layers: Sequence[str], loss: Loss, clock: _Clock) -> None:
        self.layers, self.loss, self.clock = layers, loss, clock
        self.together = -(-len(layers) // TRIALS)
        self.ranked: list[str] = []
        self.waiting: list[tuple[float, str, Sequence[str]]] = []  # a heap: the most harmful first
        self.trials, self.halvings = 0, len(layers) // self.together // 2  # trials that are spent on halving
        self.waiting.append((0.0, "", layers))

    def first(self, count: int) -> tuple[str, ...]:
        """The `count` most harmful layers."""
        while len(self.ranked) < count:
            self._next()
        return tuple(self.ranked[:count])

    def _next(self) -> None:
        _, _, group = heapq.heappop(self.waiting)
        if len(group) <= self.together:
            self.ranked += sorted(group)
        elif self.trials < self.halvings:
            middle = -(-len(group) // self.together // 2) * self.together
            self._try(group[:middle])
            self._try(group[middle:])
        else:
            for whole in [group, *(other for _, _, other in self._take_groups())]:
                for start in range(0, len(whole), self.together):
                    self._try(whole[start : start + self.together])

    def _take_groups(self) -> list[tuple[float, str, Sequence[str]]]:
        """Takes out every group that waits with more than one smallest group in it."""
        large = [one for one in self.waiting if len(one[2]) > self.together]
        self.waiting = [one for one in self.waiting if len(one[2]) <= self.together]
        heapq.heapify(self.waiting)
        return large

    def _try(self, group: Sequence[str]) -> None:
        harm = self.loss([other for other in self.layers if other not in group])
        heapq.heappush(self.waiting, (-harm, min(group), group))
        self.trials += 1
        self.clock.say(self.trials, self.halvings + -(-len(self.layers) // self.together))


class _Clock:
    """Speaks when QUIET_S have passed since the start, or since it last did."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.began = self.last = time.monotonic()

    def say(self, done: int, most: int) -> None:
        left = (time.monotonic() - self.began) / (done + 1) * (most - done)
        self.say_text(
            f"which layers suffer from quantization: {done} of at most {most} trials, at most {left:.0f} s left"
        )

    def say_text(self, text: str) -> None:
        if (now := time.monotonic()) - self.last >= QUIET_S:
            self.last = now
            self.progress(text)
