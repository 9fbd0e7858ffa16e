"""Opened sums of a secure round, and what becomes of several: the sums of groups are bounded by each other.

A group's mean is as long as the others' allow: no longer than the lower median of the groups' means, segment by
segment. So liars in fewer than half of the groups, by weight, move theta by no more than their groups' share, as one
of the rule `bounded` does. Everything is an integer. **When it does not hold**: against liars in half of the groups or
more; and a liar pulls with its whole group's weight, since the honest of its group are lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import Advertisement
from homeroom.errors import UpdateError
from homeroom.privacy.secagg.client import CohortView
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.privacy.secagg.groups import LEAST_GROUPS
from homeroom_aggregator.merge.bounded import add_shortened, bound_of, norm_of
from homeroom_aggregator.secagg.unmask import decode_sum

OPENED_LOGGER = logging.getLogger("homeroom.secure")


@dataclass(frozen=True)
class OpenedSum:
    """The sum of a round's survivors.

    view: the cohort. least: devices that feed a segment before drop-outs. terms: the sum's layout.
    total: int64 [terms.count]. members: what each survivor advertised, by its first key.
    roster: the serial of the roster that the cohort is of.
    fed: by segment, the members that fed it. signatures: by device, its signature over the survivors, if it gave one.
    """

    round_id: str
    roster_id: str
    roster: int
    view: CohortView
    least: int
    terms: SumLayout
    total: np.ndarray
    members: dict[str, Advertisement]
    fed: dict[str, list[str]]
    signatures: dict[str, str]


Decoded = tuple[Sequence[OpenedSum], dict[str, np.ndarray], dict[str, int]]


def decode_one(groups: Sequence[OpenedSum], configuration: RoundConfiguration) -> Decoded:
    """Numerators and weights of the sum of a round without groups; UpdateError where no honest devices have it."""
    (opened,) = groups
    return (groups, *_decode(opened, configuration))


def decode_groups(groups: Sequence[OpenedSum], configuration: RoundConfiguration) -> Decoded:
    """The groups that are taken, and numerators and weights of their bounded means together.

    A group whose sum no honest devices have is left out. UpdateError where fewer than LEAST_GROUPS remain.
    """
    kept, decoded = list[OpenedSum](), list[tuple[dict[str, np.ndarray], dict[str, int]]]()
    for opened in groups:
        try:
            decoded.append(_decode(opened, configuration))
            kept.append(opened)
        except UpdateError as problem:
            members = ", ".join(sorted(one.device.hex()[:12] for one in opened.members.values()))
            said = "secure round %s: the group of %s is left out: %s"
            OPENED_LOGGER.warning(said, opened.round_id[:12], members, problem.what)
    numerators, weights = dict[str, np.ndarray](), dict[str, int]()
    for name in sorted({name for _, fed in decoded for name in fed}):
        sums = [(values[name], units[name]) for values, units in decoded if name in units]
        if len(sums) >= LEAST_GROUPS:
            numerators[name], weights[name] = bounded_groups(sums)
    if len(kept) < LEAST_GROUPS or not numerators:
        raise UpdateError(f"fewer than {LEAST_GROUPS} groups have a sum that honest devices have", code="too_large")
    return kept, numerators, weights


def bounded_groups(sums: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Numerators, int64 [size], and weight of the groups' means, none longer than their lower median.

    sums: of each group its numerators, int64 [size], and weight, above 0.
    """
    means = [(_rounded(values, units), units) for values, units in sums]
    norms = [norm_of(mean) for mean, _ in means]
    bound = bound_of([(norm, units) for norm, (_, units) in zip(norms, means, strict=True)], 0)
    total = np.zeros(len(means[0][0]), np.int64)
    for norm, (mean, units) in zip(norms, means, strict=True):
        add_shortened(total, mean, units, bound, norm)
    return total, sum(units for _, units in means)


def _rounded(values: np.ndarray, units: int) -> np.ndarray:
    """The mean on the grid of updates, int32 [size]: rounded half away from zero, so that no sign is favoured."""
    rounded: np.ndarray = (np.sign(values) * ((np.abs(values) + units // 2) // units)).astype(np.int32)
    return rounded


def _decode(opened: OpenedSum, configuration: RoundConfiguration) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    feeder_counts = {name: len(senders) for name, senders in opened.fed.items()}
    return decode_sum(opened.total, opened.terms, feeder_counts, configuration)
