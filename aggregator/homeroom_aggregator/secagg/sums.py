"""What secure rounds sum, and what becomes of a sum: the side of `coordinator.SecureRounds` that knows its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from homeroom.contract.secagg import Advertisement
from homeroom.errors import UpdateError
from homeroom.privacy.secagg.client import CohortView
from homeroom.privacy.secagg.encoding import Shape, SumLayout, ThetaShape
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.unmask import decode_sum
from homeroom_aggregator.state import claims, rewinds
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.secure_sum import SecureSum, SumHeader

Merged = Literal["not", "here", "durably"]


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


class Sums(Protocol):
    """One kind of sums.

    opens_anyway: a round whose survivors are agreed on is opened, whoever of them leaves meanwhile.
    """

    opens_anyway: bool

    @property
    def shape(self) -> Shape:
        """What the present rounds sum."""
        ...

    def close(self) -> None:
        """Close what belongs to this alone."""
        ...

    def on_withdrawal(self, advance: Callable[[], object]) -> None:
        """Have `advance` called after an update was withdrawn, where that matters to a round."""
        ...

    def terms(self, rules_id: str) -> dict[str, Any]:
        """What the announcement of a round says beside its notice. rules_id: which that names."""
        ...

    def summed(self, member: str) -> list[str]:
        """Ids of what a member offered that is in sums."""
        ...

    def check(self, advertisement: Advertisement, member: str) -> None:
        """UpdateError where a member may not offer this."""
        ...

    def claim(self, advertisement: Advertisement, member: str) -> bool:
        """Note whose offer this is; False where the member has offered too many."""
        ...

    def withdrawn(self, advertisement: Advertisement, member: str) -> bool:
        """Whether a member took back what it offered."""
        ...

    def merged(self, round_id: str) -> Merged:
        """Whether a round's sum was merged, and cannot be lost any more."""
        ...

    def is_void(self, version: int) -> bool:
        """Whether what devices learned on versions up to this one may be void. version: of a round's notice."""
        ...

    def merge(self, opened: OpenedSum) -> None:
        """Take a sum in, once; UpdateError where no honest devices have such a sum."""
        ...

    def let_go(self, version: int) -> bool:
        """Let those who agreed to the survivors of a round that failed go on; False until that is durable.

        version: of the round's notice.
        """
        ...


class ThetaSums:
    """Sums of updates, which `Rounds` merges: each is a version. `durable` sees only what cannot be lost any more."""

    opens_anyway = False

    def __init__(self, rounds: Rounds, durable: Log) -> None:
        self.rounds, self.durable = rounds, durable

    @property
    def shape(self) -> ThetaShape:
        """The segments that are merged."""
        return ThetaShape(self.rounds.rules.layout, self.rounds.configuration)

    def close(self) -> None:
        """Close the second connection to the log."""
        self.durable.close()

    def on_withdrawal(self, advance: Callable[[], object]) -> None:
        """Who withdraws is a drop-out at once."""
        self.rounds.after_withdrawal = advance

    def terms(self, rules_id: str) -> dict[str, Any]:
        """Nothing: the configuration says all."""
        return {}

    def summed(self, member: str) -> list[str]:
        """Ids of a member's updates in sums that it may still offer."""
        return claims.summed(self.rounds.log.database, member, self._oldest)

    def check(self, advertisement: Advertisement, member: str) -> None:
        """Refuse an update that is another's, was withdrawn, is in a sum, or is beyond the promised noise."""
        database, update_id = self.rounds.log.database, advertisement.update_id.hex()
        if claims.claimant(database, update_id) not in (None, member):
            raise UpdateError("its id is another device's", code="malformed", remedy="train again")
        if self.withdrawn(advertisement, member):
            raise UpdateError("this update was withdrawn", code="past_phase")
        if claims.is_summed(database, update_id):
            raise UpdateError("this update is in a sum already", code="past_phase", remedy="sync, then train again")
        if self.rounds.ledger:
            self.rounds.ledger.check(member, self.rounds.state.version)

    def claim(self, advertisement: Advertisement, member: str) -> bool:
        """The member that offers an id first has it for good."""
        version = self.rounds.state.version
        with self.rounds.change():
            database = self.rounds.log.database
            return claims.claim(database, advertisement.update_id.hex(), member, version, self._oldest)

    @property
    def _oldest(self) -> int:
        """The oldest version in which an update was offered that may be offered still."""
        return self.rounds.state.version - self.rounds.configuration.max_staleness - 1

    def withdrawn(self, advertisement: Advertisement, member: str) -> bool:
        """Whether the update was withdrawn."""
        return self.rounds.log.withdrawn_by(advertisement.update_id.hex(), member)

    def is_void(self, version: int) -> bool:
        """Whether rounds were rewound since."""
        return rewinds.rewound_after(self.rounds.log.database, version)

    def merged(self, round_id: str) -> Merged:
        """Whether the log has the sum."""
        if not self.rounds.log.has("secure", round_id):
            return "not"
        return "durably" if self.durable.has("secure", round_id) else "here"

    def merge(self, opened: OpenedSum) -> None:
        """The sum alone goes into the log."""
        feeder_counts = {name: len(senders) for name, senders in opened.fed.items()}
        numerators, weights = decode_sum(opened.total, opened.terms, feeder_counts, self.rounds.configuration)
        header = SumHeader(
            round_id=opened.round_id,
            roster_id=opened.roster_id,
            cohort_id=opened.view.cohort_id.hex(),
            updates={one.update_id.hex(): one.device.hex() for one in opened.members.values()},
            weights=weights,
            fed=opened.fed,
            signatures=opened.signatures,
        )
        self.rounds.take_sum(SecureSum(header, numerators))

    def let_go(self, version: int) -> bool:
        """Who had agreed to survivors trains anew, and needs a new version for that."""
        if self.durable.newest() != version:
            return True
        if self.rounds.state.version == version:
            self.rounds.release_unchanged()
        return False
