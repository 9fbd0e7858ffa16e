"""Unmasking: from the shares that devices reveal to their sum, as pure functions.

The secret that shares should open is known beforehand: a self-mask's seed by its digest, a drop-out's key by its public
half. So a wrong share is noticed, and a sum that could be wrong is never given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import combinations, islice

import numpy as np

from homeroom.contract.codecs import ENCODED_LIMIT
from homeroom.contract.round import UNITS_AN_EXAMPLE, RoundConfiguration
from homeroom.contract.secagg import Reveal
from homeroom.errors import UpdateError
from homeroom.privacy.secagg.client import CohortView, mask_private_key, pair_mask_key, self_mask_key
from homeroom.privacy.secagg.encoding import SumLayout, decode
from homeroom.privacy.secagg.masks import add_masks, ring_dtype, signed, unpack
from homeroom.privacy.secagg.primitives import combine

COMBINATION_TRIES = 32  # sets of shares tried for a secret, each time one more has come


class Unmasking:
    """Collects shares until every secret that the sum needs is open; `secrets` by index in the cohort."""

    def __init__(self, view: CohortView, round_id: str, sharers: Iterable[int], survivors: Iterable[int]) -> None:
        self.view, self.round_id = view, round_id
        self.sharers, self.survivors = set(sharers), set(survivors)
        self.secrets: dict[int, bytes] = {}
        self._shares: dict[int, list[tuple[int, bytes]]] = {index: [] for index in self.sharers}

    @property
    def missing(self) -> set[int]:
        """Indexes of the devices whose secret is not open yet."""
        return self.sharers - self.secrets.keys()

    def add(self, index: int, reveal: Reveal) -> None:
        """Take a device's shares; UpdateError unless it is one share for each neighbour that shared."""
        owners = sorted(self.sharers & {*self.view.graph.neighbours(index)})
        if index not in self.survivors or len(reveal.shares) != len(owners):
            raise UpdateError(f"{len(reveal.shares)} shares are not {len(owners)}", code="malformed")
        for owner, share in zip(owners, reveal.shares, strict=True):
            if owner not in self.secrets:
                number = self.view.graph.neighbours(owner).index(index) + 1
                self._shares[owner].append((number, share))
                self._try(owner)

    def _try(self, owner: int) -> None:
        """Open a secret with the newest share and any others, if that gives what was announced."""
        *others, newest = self._shares[owner]
        threshold = self.view.parameters.threshold
        for chosen in islice(combinations(reversed(others), threshold - 1), COMBINATION_TRIES):
            secret = combine([newest, *chosen])
            if self._right(owner, secret):
                self.secrets[owner] = secret
                del self._shares[owner]
                return

    def _right(self, owner: int, secret: bytes) -> bool:
        advertisement = self.view.cohort.members[owner]
        if owner in self.survivors:
            return hashlib.sha256(secret).digest() == advertisement.seed_digest
        return mask_private_key(secret, self.round_id).public_key().public_bytes_raw() == advertisement.mask

    def keys(self) -> tuple[list[bytes], list[bytes]]:
        """The keys of the masks to add to the sum and of those to subtract, so that the plain sum remains."""
        added, subtracted = list[bytes](), list[bytes]()
        for index in sorted(self.sharers):
            if index in self.survivors:
                subtracted.append(self_mask_key(self.secrets[index], self.view))
                continue
            secret = mask_private_key(self.secrets[index], self.round_id)
            for other in self.view.graph.neighbours(index):
                if other in self.survivors:  # the lower index of a pair had added
                    (subtracted if other < index else added).append(pair_mask_key(secret, self.view, other))
        return added, subtracted


def unmask_sum(inputs: Iterable[bytes], terms: SumLayout, unmasking: Unmasking) -> np.ndarray:
    """The sum of the survivors' vectors, int64 [count].

    inputs: their masked vectors as bytes, one in memory at a time. terms: the sum's layout.
    """
    masked = np.zeros(terms.count, ring_dtype(terms.width))
    for data in inputs:
        masked += unpack(data, terms.count, terms.width)
    add_masks(masked, *unmasking.keys())
    return signed(masked, terms.width)


def decode_sum(
    total: np.ndarray, terms: SumLayout, fed: dict[str, int], configuration: RoundConfiguration
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Numerators, int64 [size], and weights by segment; UpdateError if no set of honest devices has such a sum.

    total: int64 [count], unmasked.
    terms: the sum's layout.
    fed: by segment, how many of the survivors feed it.
    configuration: of the rounds.
    """
    numerators, weights = decode(terms, total)
    if privacy := configuration.privacy:  # every update weighs 1, and noise has no bound but its scale
        limit = max(fed.values(), default=0) * (ENCODED_LIMIT + 12 * privacy.noise_grid(configuration.scale_bits))
        if weights != fed or any(_largest(values) > limit for values in numerators.values()):
            raise UpdateError("no such sum comes of honest devices", code="too_large")
        return numerators, weights
    squares = 0.0
    for name, values in numerators.items():
        if not fed[name] <= weights[name] <= fed[name] * UNITS_AN_EXAMPLE * configuration.cap_examples:
            raise UpdateError(f"segment {name} has an impossible weight", code="too_large")
        if _largest(values) > weights[name] * ENCODED_LIMIT:
            raise UpdateError(f"segment {name} has an impossible sum", code="too_large")
        squares += float(np.square(values / weights[name] * 2.0**-configuration.scale_bits).sum())
    if squares**0.5 > configuration.max_norm * len(numerators) ** 0.5:
        raise UpdateError(f"the mean's norm {squares**0.5:.3g} is beyond an honest one", code="too_large")
    return numerators, weights


def _largest(values: np.ndarray) -> int:
    """The largest magnitude of int64 [n]; `np.abs` has none of -2**63."""
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))
