"""The groups of the round under way, each as a round of its own: with its cohort, and slots in that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from homeroom.contract import secagg
from homeroom.errors import UpdateError
from homeroom.privacy.secagg.client import CohortView
from homeroom.privacy.secagg.encoding import Shape
from homeroom.privacy.secagg.groups import LEAST_GROUPS, groups_of
from homeroom_aggregator.secagg.round_store import ActiveRound, RoundStore


@dataclass(frozen=True)
class RoundParts:
    """The groups of one round's cohort; the cohort itself alone where rounds are not grouped."""

    round_id: str
    cohort: secagg.SecureCohort
    views: tuple[CohortView, ...]
    least: int  # groups that make a version

    def of(self, live: ActiveRound) -> list[ActiveRound]:
        """Each group as a round: sharers and survivors are slots in the group."""
        return [
            msgspec.structs.replace(
                live,
                cohort=view.cohort,
                sharers=self._within(view, live.sharers),
                survivors=self._within(view, live.survivors),
            )
            for view in self.views
        ]

    def view(self, part: ActiveRound) -> CohortView:
        """Parameters and graph of a group."""
        return next(view for view in self.views if view.cohort == part.cohort)

    def whole(self, chosen: Iterable[tuple[ActiveRound, Iterable[int]]]) -> tuple[int, ...]:
        """Slots in the cohort of slots in groups."""
        devices = {part.cohort.members[slot].device for part, slots in chosen if part.cohort for slot in slots}
        return tuple(slot for slot, one in enumerate(self.cohort.members) if one.device in devices)

    def _within(self, view: CohortView, slots: tuple[int, ...]) -> tuple[int, ...]:
        devices = {self.cohort.members[slot].device for slot in slots}
        return tuple(slot for slot, one in enumerate(view.cohort.members) if one.device in devices)


def split_round(round_id: str, cohort: secagg.SecureCohort, minimum: int, shape: Shape) -> RoundParts:
    """The groups of a cohort; TrustError where one cannot bear the promised drop-outs."""
    views = tuple(CohortView(round_id, group, shape) for group in groups_of(cohort, round_id, minimum, shape))
    return RoundParts(round_id, cohort, views, LEAST_GROUPS if shape.grouped else 1)


def inbox(store: RoundStore, view: CohortView, part: ActiveRound, index: int) -> secagg.Inbox:
    """What the neighbours of a device sealed for it."""
    sealed = []
    for other in sorted({*part.sharers} & {*view.graph.neighbours(index)}):
        body = store.body("shares", view.cohort.members[other].device.hex())
        shares = secagg.unpack(body or b"", secagg.Shares, where="shares", error=UpdateError)
        sealed.append(shares.sealed[view.graph.neighbours(other).index(index)])
    return secagg.Inbox(part.sharers, tuple(sealed))


def consents(store: RoundStore, view: CohortView, part: ActiveRound) -> secagg.Consents:
    """The survivors of a group, and their signatures so far."""
    signed, members = store.bodies("consent"), enumerate(view.cohort.members)
    found = ((slot, signed.get(one.device.hex())) for slot, one in members)
    each = tuple(secagg.SurvivorsConsent(slot, body) for slot, body in found if body is not None)
    return secagg.Consents(secagg.Survivors(part.survivors), each)
