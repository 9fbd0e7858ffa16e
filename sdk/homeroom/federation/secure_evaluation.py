"""Counts of this device in secure rounds: the aggregator has their sum over a cohort, never those of one device.

Each version is summed once. A round that too few devices open in time ends without a sum; its counts go into the next
one. When it does not hold: an aggregator that opened such a sum in secret, and asks again without one device, learns
that one's counts by subtraction.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec
import numpy as np

from homeroom.contract.evaluation_counts import DeviceCounts
from homeroom.errors import TrustError, UpdateError
from homeroom.federation import evaluation
from homeroom.federation.evaluation import EvaluationOutcome, ToldVersion, why_not
from homeroom.federation.evaluation_shape import EvaluationShape, encode_counts, segment_name
from homeroom.federation.secure_round import (
    Announcement,
    RoundRecords,
    SecureRoundContext,
    offered_id,
    take_part,
)
from homeroom.privacy.secagg.client import ClientState, CohortView
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.store.device_state import json_record, msgpack_record, text_record

CountVersion = Callable[[int], DeviceCounts | None]  # of a version's number; None where it is not here


class OfferedCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts that are offered to a round. offered: their id."""

    round_id: str
    offered: str
    counts: DeviceCounts


OFFERED, LEFT_ROUND = text_record("secure.evaluation_offered"), text_record("secure.evaluation_left")
COUNTING_CLIENT = msgpack_record("secure.evaluation.", ClientState)
OFFER = json_record("secure.evaluation_counts", OfferedCounts)
ROUND_RECORDS = RoundRecords(OFFERED, LEFT_ROUND, COUNTING_CLIENT)


class EvaluationContribution:
    """Counts of the version that the aggregator asks for, as a `Contribution`."""

    path = "/v1/secure-evaluation"
    records, nothing = ROUND_RECORDS, "no version to tell of, or told already"

    def __init__(self, context: SecureRoundContext, count: CountVersion) -> None:
        self.store, self.bundle, self.configuration = context.store, context.bundle, context.configuration
        self.place = f"{context.client.enrolment.institution} {context.bundle.bundle_id}"
        self.device, self.count = context.key.public_key().public_bytes_raw(), count
        self._made: OfferedCounts | None = None

    def shape(self, announced: Announcement) -> EvaluationShape:
        """The counts that the round sums."""
        shape = EvaluationShape(self.bundle.manifest, self.configuration, announced.counted_version)
        if shape.rules_id != announced.notice.configuration_id:  # else devices could be told different versions
            raise TrustError("the notice is for another version than the one shown", where="secure round")
        return shape

    def offer(self, announced: Announcement) -> tuple[str, AbstractSet[str]] | None:
        """Counts of the version; None where it was told of, is not here, or there is nothing to count."""
        version = announced.counted_version
        told = ToldVersion(place=self.place, version=version)
        if not version or evaluation.TOLD.read(self.store) == told or OFFER.exists(self.store):
            return None
        counts, possible = self.count(version), set(self.shape(announced).announced)
        if counts is None:
            return None
        names = {segment_name(task, group.group) for task, groups in counts.tasks.items() for group in groups}
        if not names or not names <= possible:
            return None
        self._made = OfferedCounts(round_id=announced.notice.round_id, offered=secrets.token_hex(16), counts=counts)
        return self._made.offered, names

    def join(self, announced: Announcement, offered: str) -> None:
        """What is offered stays as it is until it is known whether it is in the sum."""
        OFFER.write(self.store, self._made)

    def encode(self, announced: Announcement, state: ClientState, sum_layout: SumLayout) -> np.ndarray:
        """The counts as they are summed, with those of groups that too few have added up."""
        offer, shape = OFFER.read(self.store), self.shape(announced)
        if offer is None or offer.offered != offered_id(state) or state.cohort is None:
            raise TrustError("its counts are gone", where="secure round", remedy="sync again")
        view = CohortView(state.round_id, state.cohort, shape)
        fed, least = view.announced(), state.minimum + view.parameters.drops
        names = {task: shape.names(task, fed, least) for task in shape.shapes}
        return encode_counts(shape, sum_layout, offer.counts.tasks, names)

    def will_sign(self, state: ClientState) -> None:
        """Nothing: a sum of counts costs nothing of a promise."""

    def signed(self, state: ClientState) -> None:
        """Nothing: what was offered is kept until it is known whether it is in the sum."""

    def refused(self, offered: str) -> None:
        """They are counted anew."""
        OFFER.write(self.store, None)

    def finish(self, announced: Announcement, state: ClientState | None) -> None:
        """What was offered is in the sum, or its round is over without it."""
        offer = OFFER.read(self.store)
        if offer is None:
            return
        if offer.offered in announced.status.summed:
            with self.store.step("evaluation summed"):
                evaluation.TOLD.write(self.store, ToldVersion(place=self.place, version=offer.counts.version))
                OFFER.write(self.store, None)
        elif offer.round_id != announced.notice.round_id:
            OFFER.write(self.store, None)


def take_part_in_evaluation(context: SecureRoundContext, count: CountVersion) -> EvaluationOutcome:
    """Takes part in the round of counts; what was told, and how the round stands. NetworkError without a connection."""
    if reason := why_not(context.store, context.configuration):
        return EvaluationOutcome(why_not=reason)
    part = EvaluationContribution(context, count)
    try:
        words = take_part(context, part)
    except UpdateError as problem:
        words = f"refused: {problem}"
    told = evaluation.TOLD.read(context.store)
    return EvaluationOutcome(told.version if told and told.place == part.place else None, round=words)
