"""Who shares with whom: a Harary graph over a ring that everybody computes alike from the cohort's keys."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property

from homeroom.contract.secagg import SecureCohort
from homeroom.errors import TrustError
from homeroom.privacy.secagg.parameters import GraphParameters


class NeighbourGraph:
    """The ring's order is that of SHA-256(cohort id, device key), hence random once the keys are fixed."""

    def __init__(self, cohort: SecureCohort, cohort_id: bytes, parameters: GraphParameters) -> None:
        self.size, self.parameters = len(cohort.members), parameters
        keys = [hashlib.sha256(cohort_id + member.device).digest() for member in cohort.members]
        self.ring = sorted(range(self.size), key=keys.__getitem__)  # places in the order of the ring

    @cached_property
    def _spot(self) -> dict[int, int]:
        return {place: spot for spot, place in enumerate(self.ring)}

    def neighbours(self, place: int) -> list[int]:
        """Places, rising; of k neighbours half stand on either side of the ring."""
        if self.parameters.complete:
            return [other for other in range(self.size) if other != place]
        spot, half = self._spot[place], self.parameters.degree // 2
        return sorted(self.ring[(spot + step) % self.size] for step in range(-half, half + 1) if step)

    def check_present(self, place: int, present: Collection[int]) -> None:
        """TrustError if too few are there for the sum to hide `place`: a threshold of its neighbours, no long gap."""
        here = set(present)
        if len(here & set(self.neighbours(place))) < self.parameters.threshold:
            raise TrustError("too few of this device's neighbours are left", where="secure round")
        if len(here) < self.parameters.quorum:
            raise TrustError(f"{len(here)} devices are no quorum of {self.parameters.quorum}", where="secure round")
        if self.gap(here):
            raise TrustError("devices that stand together in the ring are left out together", where="secure round")

    def gap(self, present: Collection[int]) -> bool:
        """Whether more than `absent` of any half a neighbourhood in a row are missing."""
        if self.parameters.absent is None:
            return False
        half, here = self.parameters.degree // 2, set(present)
        missing = [place not in here for place in self.ring]
        count = sum(missing[:half])
        for spot in range(self.size):
            if count > self.parameters.absent:
                return True
            count += missing[(spot + half) % self.size] - missing[spot]
        return False
