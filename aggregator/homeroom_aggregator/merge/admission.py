"""Which updates are let in: the checks before an update counts, and whose it is when it is withdrawn."""

from __future__ import annotations

from dataclasses import dataclass

from homeroom.contract.canonical_json import digest
from homeroom.contract.update import REFUSALS, Update
from homeroom.contract.update_checks import read_update
from homeroom.errors import UpdateError
from homeroom_aggregator.merge import private_release
from homeroom_aggregator.merge.round_state import MergeRules, RoundState
from homeroom_aggregator.merge.synchronous import SynchronousRound
from homeroom_aggregator.state import claims, secure_sum
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger
from homeroom_aggregator.state.set_apart import SetApart

TRAIN_AGAIN = "sync, then train again"


@dataclass(frozen=True)
class Admission:
    """Checks updates against the log, the members and the state of the rounds; changes none of them.

    ledger: of private rounds. apart: what is not read again. synchronous: of synchronous rounds.
    """

    log: Log
    members: Members
    rules: MergeRules
    ledger: PrivacyLedger | None
    apart: SetApart
    synchronous: SynchronousRound | None

    def check(self, data: bytes, sender: str, member: str, state: RoundState, oldest: int) -> tuple[Update, bool]:
        """The update, and whether it was let in or withdrawn before; UpdateError with a code if it is refused.

        sender: the key that the request is signed with.
        member: the name of the member that has this key.
        oldest: the oldest base version whose updates are taken, since the last restore.
        """
        configuration = self.rules.configuration
        if configuration.secure:
            raise UpdateError(REFUSALS["secure_only"], code="secure_only", remedy="update homeroom, then sync again")
        with self.apart.reading(f"update {digest(data)}"):
            update = read_update(data, configuration, self.rules.layout)
        header = update.header
        if header.device != sender and header.device not in self.members.names(sender):
            raise UpdateError("it is signed by another device than the one that sends it", code="bad_signature")
        owner = self.log.sender(header.update_id)
        mine = owner == member or self.log.withdrawn_by(header.update_id, member)
        if not mine and (owner or self.log.withdrawn(header.update_id)):
            raise UpdateError("its id was used by another device", code="malformed", remedy="train again")
        if mine:
            return update, True
        self._check_base(header.base_version, state.version, oldest)
        school_segments = sorted(configuration.school_segments(self.rules.layout) & update.values.keys())
        if school_segments and not self.members.school(member):
            why = f"segment {school_segments[0]} is merged by school, and this device is of none"
            raise UpdateError(why, code="personal_segment", remedy=TRAIN_AGAIN)
        if self.synchronous:
            self.synchronous.check(member, state.version, state.sums.all_devices())
        if self.ledger:
            private_release.check_once_a_release(state.sums, member)
            self.ledger.check(member, state.version + 1)
        self._check_once_a_version(member, header.base_version)
        return update, False

    def _check_base(self, base: int, version: int, oldest: int) -> None:
        code, why = "too_stale", ""
        if base > version:
            code, why = "unknown_version", "was never released here"
        elif version - base > self.rules.configuration.max_staleness:
            why = f"is {version - base} behind"
        elif base < oldest:
            why = "is of before a restore or a rewind, or was too old already"
        if why:
            raise UpdateError(f"version {base} {why}", code=code, remedy=TRAIN_AGAIN)

    def _check_once_a_version(self, member: str, base: int) -> None:
        """Refuse a second update on one version; a withdrawn one does not count."""
        sent = self.log.sent_on(member, base)
        taken_out = sent and self.log.has("withdraw", sent) and (self.log.number(sent) or 0) > self.log.base
        if sent and not taken_out:
            raise UpdateError(
                f"this device has sent an update on version {base} already",
                code="once_a_version",
                remedy="sync; what it learned since goes into its update on the next version",
            )

    def owner(self, update_id: str) -> tuple[str | None, int | None]:
        """The member whose update this is, and the number of the entry that holds it; None each where there is none.

        One that was offered to a secure round is its claimant's, also before and after the sum.
        """
        owner, number = self.log.sender(update_id), self.log.number(update_id)
        if owner is None and self.rules.configuration.secure:
            owner = claims.claimant(self.log.database, update_id)
            holding = (one.number for one in self.log.sums() if update_id in secure_sum.read_header(one.body).updates)
            number = next(holding, None) if owner else None
        return owner, number

    def bounded(self, update_id: str, member: str) -> bool:
        """Whether this member's update is in a private release: it stays in, its influence bounded by the noise."""
        if self.rules.configuration.secure and self.ledger:  # each sum is a release, since its noise is in it
            mine = claims.claimant(self.log.database, update_id) == member
            return mine and claims.is_summed(self.log.database, update_id) and not self.log.withdrawn(update_id)
        number = self.log.number(update_id)
        if number is None or self.log.sender(update_id) != member or self.log.withdrawn(update_id):
            return False
        return number < self.log.last_private()
