"""Graph parameters of a cohort: degree, secret-sharing threshold and quorum, computed from the rules' rates.

After Bell et al. 2020, section 3: on a Harary graph over a random ring the neighbours of a device are a random sample
of the cohort, so that corrupted and absent ones among them follow hypergeometric laws; a union bound over the cohort
gives these conditions. n devices, of which c are corrupted and d drop out; k neighbours, half of them on each side.

    no device has a threshold of corrupted neighbours   n P[H(n-1, c, k) >= t]        <= 2^-SECURITY
    honest survivors stay connected                     n P[H(n, c, k/2) >= k/2 - m]  <= 2^-SECURITY
    the secrets can be opened                           n P[H(n-1, d, k) > k - t]     <= 2^-CORRECTNESS
    at most m of k/2 in a row are absent                n P[H(n, d, k/2) > m]         <= 2^-CORRECTNESS

Bell et al. take absentees for random too. Here the server may choose them: each device looks at the ring itself, and
refuses if more than m of any k/2 in a row are absent, so only corrupted ones could still cut it (second line).
In a cohort of up to MOST_COMPLETE_DEVICES devices, or where no such k is below n - 1, the graph is complete: then
t = n - 1 - d, the most that drop-outs allow, which is above c, and nothing is left to chance.

The quorum is Byzantine: two sets of more than (n + c) / 2 signers share an honest device, and that signs once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError

SECURITY_BITS = 40
CORRECTNESS_BITS = 20
MOST_COMPLETE_DEVICES = 32


@dataclass(frozen=True)
class GraphParameters:
    """Parameters of a cohort's graph.

    degree: neighbours of each device.
    threshold: shares that open a secret.
    absent: most missing of each `degree // 2` in a row; None where the graph is complete.
    quorum: signers that must agree on the survivors.
    drops, corrupted: most drop-outs and corrupt devices for which the round is correct and secure.
    """

    devices: int
    degree: int
    threshold: int
    absent: int | None
    quorum: int
    drops: int
    corrupted: int

    @property
    def complete(self) -> bool:
        """Whether every device is every other's neighbour."""
        return self.absent is None


def hypergeometric_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """P[X >= least], exactly up to one rounding: X marked ones among `drawn` of `population` without replacement."""
    draws = sum(
        comb(marked, hits) * comb(population - marked, drawn - hits)
        for hits in range(max(least, 0, drawn - (population - marked)), min(marked, drawn) + 1)
    )
    return draws / comb(population, drawn)


def least_quorum(devices: int, rules: SecureRules) -> int:
    """The fewest signers of which any two sets share an honest device."""
    return (devices + rules.corrupted(devices)) // 2 + 1


def bears_rates(devices: int, rules: SecureRules) -> bool:
    """Whether a quorum, and shares of honest devices, are left in a cohort after its drop-outs."""
    left = devices - rules.drops(devices)
    return least_quorum(devices, rules) <= left and rules.corrupted(devices) + 1 <= left - 1


@lru_cache(maxsize=256)
def choose_parameters(devices: int, drop_rate: float, corrupt_rate: float) -> GraphParameters:
    """The sparsest graph that meets the conditions above for a cohort; InputError where none does."""
    rules = SecureRules(drop_rate=drop_rate, corrupt_rate=corrupt_rate)
    corrupted, drops, quorum = rules.corrupted(devices), rules.drops(devices), least_quorum(devices, rules)
    if not bears_rates(devices, rules):
        why = f"{devices} devices cannot bear {drops} drop-outs and {corrupted} corrupted ones at once"
        raise InputError(why, where="secure rounds", remedy="choose lower rates, or a larger cohort")
    for degree in range(2, devices - 1, 2) if devices > MOST_COMPLETE_DEVICES else ():
        absent = _absent(devices, degree // 2, drops, corrupted)
        threshold = _threshold(devices, degree, drops, corrupted) if absent is not None else None
        if threshold is not None:
            return GraphParameters(devices, degree, threshold, absent, quorum, drops, corrupted)
    return GraphParameters(devices, devices - 1, devices - 1 - drops, None, quorum, drops, corrupted)


def _absent(devices: int, half: int, drops: int, corrupted: int) -> int | None:
    """The most absent devices in a row of `half` that drop-outs explain, if corrupted ones cannot cut it then."""
    for absent in range(half):
        if devices * hypergeometric_tail(devices, drops, half, absent + 1) <= 2.0**-CORRECTNESS_BITS:
            cut = devices * hypergeometric_tail(devices, corrupted, half, half - absent)
            return absent if cut <= 2.0**-SECURITY_BITS else None
    return None


def _threshold(devices: int, degree: int, drops: int, corrupted: int) -> int | None:
    """The lowest safe threshold, if enough neighbours remain for it."""
    for threshold in range(1, degree + 1):
        if devices * hypergeometric_tail(devices - 1, corrupted, degree, threshold) <= 2.0**-SECURITY_BITS:
            short = devices * hypergeometric_tail(devices - 1, drops, degree, degree - threshold + 1)
            return threshold if short <= 2.0**-CORRECTNESS_BITS else None
    return None
