"""Updates of theta in secure rounds: which one this device offers, how it is encoded, and when it is spent."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from homeroom.contract.update import Update
from homeroom.contract.update_checks import read_update
from homeroom.errors import TrustError, UpdateError
from homeroom.federation import privacy_ledger
from homeroom.federation.secure_round import Announcement, RoundRecords, SecureRoundContext, offered_id
from homeroom.privacy.secagg import noise
from homeroom.privacy.secagg.client import ClientState
from homeroom.privacy.secagg.encoding import SumLayout, ThetaShape, encode
from homeroom.store.device_state import SECURE, msgpack_record, text_record

UPDATE_ID, LEFT_ROUND = text_record("secure.update"), text_record("secure.left")  # ids: of the update in it, of a round
NOT_OPENED = text_record("secure.not_opened")  # id of the update that was signed for in vain, until another is offered
CLIENT = msgpack_record(SECURE, ClientState)  # under its update's id, so that `forget` finds it; backups leave it out
RECORDS = RoundRecords(UPDATE_ID, LEFT_ROUND, CLIENT)


class UpdateContribution:
    """The newest waiting update, as a `Contribution`."""

    path = "/v1/secure"
    records = RECORDS

    def __init__(self, context: SecureRoundContext) -> None:
        self.store, self.configuration, self.layout = context.store, context.configuration, context.bundle.layout

    @property
    def nothing(self) -> str:
        """What to do, and what became of the round before where it was not opened."""
        if NOT_OPENED.exists(self.store):
            return (
                "nothing to contribute yet: the round before was not opened, since devices left it after its members "
                "were agreed on; what was sent to it is spent, so train, then sync again"
            )
        return "nothing to contribute yet: train, then sync again"

    def shape(self, announced: Announcement) -> ThetaShape:
        """The segments that are merged."""
        return ThetaShape(self.layout, self.configuration)

    def offer(self, announced: Announcement) -> tuple[str, AbstractSet[str]] | None:
        """The newest waiting update that the round can take; those that it can take no more are marked refused."""
        version = announced.notice.version
        for update in reversed(self.store.outbox.pending()):
            try:
                checked = read_update(update.data, self.configuration, self.layout)
                privacy_ledger.ledger_with(self.store, update.update_id, self.configuration)
                if version - checked.header.base_version > self.configuration.max_staleness:
                    raise UpdateError("its base is too far behind", code="too_stale")
            except UpdateError:
                self.store.outbox.mark_refused(update.update_id)
                continue
            if checked.header.base_version <= version:
                return update.update_id, set(checked.values)
        return None

    def join(self, announced: Announcement, offered: str) -> None:
        """The update is not replaced any more."""
        self.store.outbox.mark_sending(offered)
        NOT_OPENED.write(self.store, None)

    def encode(self, announced: Announcement, state: ClientState, sum_layout: SumLayout) -> np.ndarray:
        """The encoded update, in a private round with this device's share of the noise."""
        assert state.cohort is not None
        configuration = self.configuration
        add, size = noise.noise_share(configuration, len(state.cohort.members), state.minimum), sum(sum_layout.sizes)
        version = announced.notice.version
        return encode(sum_layout, self._update(state), version, configuration, lambda vector: add(vector, size))

    def will_sign(self, state: ClientState) -> None:
        """Charges the update to this device's ledger, in a private round."""
        if self.configuration.privacy:
            self._charge(self._data(state), offered_id(state))

    def signed(self, state: ClientState) -> None:
        """The update is spent."""
        update_id = offered_id(state)
        if update_id in {update.update_id for update in self.store.outbox.pending()}:
            self.store.outbox.mark_sent(update_id)

    def refused(self, offered: str) -> None:
        """This update is not offered again."""
        self.store.outbox.mark_refused(offered)

    def finish(self, announced: Announcement, state: ClientState | None) -> None:
        """Updates that are in a sum are spent; notes whether the round that this device signed for was not opened."""
        if state and state.consent and state.round_id != announced.notice.round_id:
            # The aggregator names updates of so many versions: of an older round nobody can tell here.
            known = announced.notice.version <= state.notice.version + self.configuration.max_staleness + 1
            if known and offered_id(state) not in announced.status.summed:
                NOT_OPENED.write(self.store, offered_id(state))
        for update in self.store.outbox.pending():
            if update.update_id in announced.status.summed:
                self._charge(update.data, update.update_id)
                self.store.outbox.mark_sent(update.update_id)

    def _charge(self, data: bytes, update_id: str) -> None:
        privacy_ledger.charge_update(self.store, data, update_id, self.configuration, self.layout)

    def _update(self, state: ClientState) -> Update:
        return read_update(self._data(state), self.configuration, self.layout)

    def _data(self, state: ClientState) -> bytes:
        waiting = {update.update_id: update.data for update in self.store.outbox.pending()}
        if offered_id(state) not in waiting:
            raise TrustError("its update is gone", where="secure round", remedy="train again")
        return waiting[offered_id(state)]
