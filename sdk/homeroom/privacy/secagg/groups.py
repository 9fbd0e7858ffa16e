"""Groups of a cohort, each with a sum of its own, so that a liar spoils one sum and the sums can be compared.

Aggregator and devices work out the same groups from the cohort that all of them were shown: by a hash of its id, which
depends on everybody's keys. A group is then a cohort like any other, with its own graph, survivors and signatures.
"""

from __future__ import annotations

import hashlib

from homeroom.contract.secagg import SecureCohort, SecureRules
from homeroom.privacy.secagg.encoding import Shape
from homeroom.privacy.secagg.parameters import bears_rates

LEAST_GROUPS = 3  # of two, a liar's may be the median


def group_count(devices: int, minimum: int, rules: SecureRules) -> int:
    """The most groups that so many devices make, each with a sum of `minimum` of them after all promised drop-outs.

    0 where they are fewer than LEAST_GROUPS. A group bears one drop-out at least, where any are promised.
    """
    for count in range(devices // minimum, LEAST_GROUPS - 1, -1):
        if all(_suffices(size, minimum, rules) for size in {devices // count, -(-devices // count)}):
            return count
    return 0


def _suffices(devices: int, minimum: int, rules: SecureRules) -> bool:
    drops = max(rules.drops(devices), int(rules.drop_rate > 0))
    return devices - drops >= minimum and bears_rates(devices, rules)


def groups_of(cohort: SecureCohort, round_id: str, minimum: int, shape: Shape) -> tuple[SecureCohort, ...]:
    """The groups of a cohort; itself where rounds are not grouped, and none where it is too small."""
    if not shape.grouped:
        return (cohort,)
    count, seed = group_count(len(cohort.members), minimum, shape.secure), cohort.cohort_id(round_id)
    order = sorted(cohort.members, key=lambda one: hashlib.sha256(b"homeroom/group\n" + seed + one.device).digest())
    return tuple(SecureCohort(tuple(sorted(order[n::count], key=lambda one: one.device))) for n in range(count))
