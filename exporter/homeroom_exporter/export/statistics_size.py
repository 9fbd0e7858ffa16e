"""How many principal components a block of statistics may have, so that sharing them costs less than sharing theta."""

from __future__ import annotations

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.contract.round import StatisticsRules
from homeroom.contract.statistics.limits import largest_of_a_sample
from homeroom.contract.statistics.section import DIMENSION_LIMIT, Section
from homeroom.contract.statistics.secure import StatisticsSegments
from homeroom.privacy.secagg.encoding import ring_bytes

SHARE_OF_THETA = 0.5  # of an update of theta in `fixed32`
LEAST_DIMENSION = 24  # however small theta is
COHORT = 100  # devices of a sum, for the width of its numbers


def secure_bytes(manifest: Manifest, section: Section) -> int:
    """What a device sends in a secure round in which every row and pair of blocks of all tasks is summed.

    Of a cohort of COHORT devices under the default `sample_limit`.
    """
    segments = StatisticsSegments(msgspec.structs.replace(manifest, statistics=section))
    sizes = [segments.size(one) + 1 for task in segments.tasks.values() for one in segments.of_task(task, None)]
    largest = largest_of_a_sample(segments.tasks.values())
    return sum(sizes) * ring_bytes(2 * COHORT * StatisticsRules().sample_limit * largest)


def most_components(manifest: Manifest, section: Section, theta_values: int) -> int:
    """The most components of a block with which statistics take SHARE_OF_THETA of an update; LEAST_DIMENSION at least.

    theta_values: of theta.
    """
    for most in range(DIMENSION_LIMIT, LEAST_DIMENSION, -1):
        if secure_bytes(manifest, with_at_most(section, most)) <= SHARE_OF_THETA * 4 * theta_values:
            return most
    return LEAST_DIMENSION


def with_at_most(section: Section, most: int) -> Section:
    """The section with no block of more components."""
    blocks = (msgspec.structs.replace(block, dimension=min(block.dimension, most)) for block in section.blocks)
    return msgspec.structs.replace(section, blocks=tuple(blocks))


def statistics_sentence(manifest: Manifest, section: Section, theta_values: int) -> str:
    """What statistics cost to share, and how many components their blocks have, for who exports."""
    sent, theta = secure_bytes(manifest, section), 4 * theta_values
    dimensions = ", ".join(f"{block.name} {block.dimension}" for block in section.blocks)
    fewer = {} if section.components is msgspec.UNSET else section.components
    return (
        f"statistics: components of {dimensions}; at most {sent / 1000:,.0f} KB in a secure round, beside "
        f"{theta / 1000:,.0f} KB of an update of theta"
        + "".join(f"; the head of {name} reads {read} of each" for name, read in fewer.items())
    )
