"""Neighbour graph of a cohort: a Harary graph over a random ring that follows from its keys (Bell et al. 2020)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property

from homeroom.contract.secagg import SecureCohort
from homeroom.errors import TrustError
from homeroom.privacy.secagg.parameters import GraphParameters


class NeighbourGraph:
    """The graph; the ring is ordered by SHA-256(cohort id, device key), which is random once the keys are fixed."""

    def __init__(self, cohort: SecureCohort, cohort_id: bytes, parameters: GraphParameters) -> None:
        self.size, self.parameters = len(cohort.members), parameters
        keys = [hashlib.sha256(cohort_id + client.device).digest() for client in cohort.members]
        self.ring = sorted(range(self.size), key=keys.__getitem__)  # slots in the order of the ring

    @cached_property
    def _position(self) -> dict[int, int]:
        return {slot: position for position, slot in enumerate(self.ring)}

    def neighbours(self, slot: int) -> list[int]:
        """Slots of the neighbours, rising; half of them on either side in the ring."""
        if self.parameters.complete:
            return [other for other in range(self.size) if other != slot]
        position, half = self._position[slot], self.parameters.degree // 2
        return sorted(self.ring[(position + step) % self.size] for step in range(-half, half + 1) if step)

    def check_present(self, slot: int, present: Collection[int]) -> None:
        """Raises TrustError if the clients in `present` are too few to hide `slot`, or leave too long a gap."""
        slots = set(present)
        if len(slots & set(self.neighbours(slot))) < self.parameters.threshold:
            raise TrustError("too few of this device's neighbours are left", where="secure round")
        if len(slots) < self.parameters.quorum:
            raise TrustError(f"{len(slots)} devices are no quorum of {self.parameters.quorum}", where="secure round")
        if self.gap(slots):
            raise TrustError("devices that stand together in the ring are left out together", where="secure round")

    def gap(self, present: Collection[int]) -> bool:
        """Whether more than `parameters.absent` of any `degree // 2` consecutive clients in the ring are missing."""
        if self.parameters.absent is None:
            return False
        half, slots = self.parameters.degree // 2, set(present)
        missing = [slot not in slots for slot in self.ring]
        count = sum(missing[:half])
        for position in range(self.size):
            if count > self.parameters.absent:
                return True
            count += missing[(position + half) % self.size] - missing[position]
        return False
