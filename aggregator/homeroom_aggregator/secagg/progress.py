"""Progress of the secure round under way: its phase, who has come, and who is missing."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from homeroom.contract.secagg import MOST_MISSING, Phase, RoundStatus
from homeroom_aggregator.secagg.round_store import ActiveRound, RoundStore


@dataclass(frozen=True)
class RoundProgress:
    """How far the secure round under way is, for devices and the dashboard.

    arrived, missing: keys of the devices whose part of the phase has come, or is awaited.
    needed: parts with which the phase ends at once.
    minimum: least number of devices in its sum.
    ends_s: when the phase ends without those that are missing, if enough came; seconds since 1970.
    hindrance: why those who came do not suffice to begin; empty where they do, or more are awaited.
    last_failure: why the newest round that failed did; empty where the newest was summed.
    """

    phase: Phase
    arrived: tuple[str, ...]
    missing: tuple[str, ...]
    needed: int
    minimum: int
    ends_s: float
    hindrance: str
    last_failure: str

    def status(self, round_id: str, wanted: bool, member: bool, summed: list[str], now_s: float) -> RoundStatus:
        """What one device is told.

        round_id: of the round.
        wanted: the device's message is missing; member: it is in the cohort.
        summed: ids of its updates in earlier sums.
        now_s: seconds since 1970.
        """
        return RoundStatus(
            round_id=round_id,
            phase=self.phase,
            wanted=wanted,
            member=member,
            summed=tuple(summed),
            arrived=len(self.arrived),
            needed=self.needed,
            missing=self.missing[:MOST_MISSING],
            left_s=max(0, round(self.ends_s - now_s)),
            hindrance=self.hindrance,
        )


def round_progress(
    live: ActiveRound,
    store: RoundStore,
    expected: AbstractSet[str],
    needed: int,
    minimum: int,
    phase_s: int,
    hindrance: str,
) -> RoundProgress:
    """The progress of a round.

    live, store: the round under way, and its messages.
    expected: keys of the devices that the phase is for.
    needed, minimum, hindrance: as in `RoundProgress`.
    phase_s: seconds after which a phase ends.
    """
    came = set(store.senders(live.phase))
    return RoundProgress(
        phase=live.phase,
        arrived=tuple(sorted(came)),
        missing=tuple(sorted(expected - came)),
        needed=needed,
        minimum=minimum,
        ends_s=live.since + phase_s,
        hindrance=hindrance,
        last_failure=store.last_failure(),
    )
