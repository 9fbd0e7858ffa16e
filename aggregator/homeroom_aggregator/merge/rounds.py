"""Rounds: lets updates in, releases versions, withdraws updates, each as one durable step.

The owner lets one thread at a time inside. Whatever raises has changed nothing: sums in place are taken back again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.evaluation_counts import DeviceCounts
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, fingerprint
from homeroom.contract.statistics.messages import StatisticsStatus, read_change
from homeroom.contract.update import Update
from homeroom.contract.version import VersionHeader, make_version, read_version
from homeroom.errors import StoreError
from homeroom.runtime.bundle import Bundle
from homeroom.system.clock import now
from homeroom_aggregator.merge import (
    bounded,
    checkpoint,
    configuration_change,
    correlated_noise,
    private_release,
    rollback,
    round_state,
    verification,
)
from homeroom_aggregator.merge.admission import Admission
from homeroom_aggregator.merge.bounded import UnreadableBodyError
from homeroom_aggregator.merge.configuration_change import FieldChange
from homeroom_aggregator.merge.evaluation import Evaluation
from homeroom_aggregator.merge.replay import Replayed, replay, replay_log
from homeroom_aggregator.merge.round_state import MergeRules
from homeroom_aggregator.merge.statistics import SharedStatistics, Signer
from homeroom_aggregator.merge.synchronous import SynchronousRound
from homeroom_aggregator.merge.withdrawals import Withdrawals
from homeroom_aggregator.state import audit, claims, rewinds, school_segments, secure_sum
from homeroom_aggregator.state.log import BASES_TABLE, EARLY_TABLE, Log
from homeroom_aggregator.state.members import MEMBERS_INDEX, Members
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger
from homeroom_aggregator.state.secure_sum import SecureSum
from homeroom_aggregator.state.set_apart import SetApart

CHECKPOINT_ENTRIES, CHECKPOINT_BYTES = 1000, 256 << 20  # since the last one; the next start replays no more than that
PRUNED_AT_ONCE = 16


class Rounds(Withdrawals):
    """One bundle's rounds over one log file. `state` is always what a replay of the log gives."""

    def __init__(
        self,
        path: Path,
        bundle: Bundle,
        configuration: RoundConfiguration,
        key: Ed25519PrivateKey,
        certificate: Certificate,
        *,
        retain: int = 0,
        checkpoint_entries: int | None = None,
        checkpoint_bytes: int | None = None,
    ) -> None:
        """Open the log and compute the state from it.

        path: of the log, or `:memory:`.
        bundle: whose segments are trained.
        configuration: of the rounds when the log was begun; `configure` changes it.
        key: signs rounds and versions; `certificate` is the root's word for it.
        retain: versions whose updates are kept at least; 0 keeps everything.
        checkpoint_entries, checkpoint_bytes: after which the state is written down.
        Raises StoreError where the log is damaged, or is of another bundle or configuration.
        """
        self._checkpoint_every = checkpoint_entries or CHECKPOINT_ENTRIES, checkpoint_bytes or CHECKPOINT_BYTES
        super().__init__()
        self.retain = retain
        self.bundle, self.key, self.certificate = bundle, key, certificate
        self.after_withdrawal = bool
        self.log = Log(path)
        self.members = Members(self.log.database)
        self._begun = MergeRules(bundle.layout, configuration, bundle.theta(), self.members.school, self.log.body)
        try:
            self.log.database.write(BASES_TABLE)
            self.log.database.write(EARLY_TABLE)
            self.log.database.write(MEMBERS_INDEX)
            if configuration.by_school:
                self.log.database.write(school_segments.OWNED_TABLE)
            if configuration.secure:
                claims.prepare(self.log.database, self.members.name_of)
            configuration_change.check_log(self.log, configuration)
            privacy, bits = configuration.privacy, configuration.scale_bits
            self.ledger = PrivacyLedger(self.log.database, privacy, bits) if privacy else None
            self._bands = privacy.min_separation if privacy else 1
            if configuration.central:
                waiting = self.log.keep_apart()
                if self._bands > 1:
                    correlated_noise.prepare(waiting, self.log.database)
            if self.ledger and self.ledger.missing():
                raise StoreError("ledger and log do not agree", where=str(path), remedy="restore the last backup")
            self.apart = SetApart(self.log.database, None if str(path) == ":memory:" else path.parent)
            self._set_entry_apart()
            signer = Signer(key, certificate, bundle.bundle_id, bundle.manifest)
            self.statistics = SharedStatistics(self.log, self.members, signer)
            self.evaluation = Evaluation(self.log, self.members, bundle.manifest)
            self._adopt(self._rules_at(None))
            self._resume()
            self.oldest_base = configuration_change.oldest_base(self.log, configuration)
            if self.state.version != self.log.newest():
                raise StoreError("versions and log do not agree", where=str(path), remedy="restore the last backup")
        except BaseException:
            self.log.close()
            raise

    def close(self) -> None:
        """Close the log, and let another process open it."""
        self.apart.close()
        self.log.close()

    @property
    def configuration(self) -> RoundConfiguration:
        """The round configuration in force."""
        return self.rules.configuration

    def _adopt(self, rules: MergeRules) -> None:
        self.rules, cohort = rules, rules.configuration.cohort
        self.synchronous = SynchronousRound(cohort, rules.configuration.buffer_size) if cohort else None
        self.admission = Admission(self.log, self.members, rules, self.ledger, self.apart, self.synchronous)

    def configure(self, wanted: RoundConfiguration) -> list[FieldChange]:
        """Merge by another configuration from the next version on; the fields that change, none if it is in force.

        A buffer that is full by the new configuration is released in the same durable step. Raises InputError, which
        names the field, where one may not change.
        """
        before, state, oldest = self.rules, self.state, self.oldest_base
        wanted = configuration_change.followed(before.configuration, wanted)
        changes = configuration_change.check_changes(before.configuration, wanted, str(self.log.database.path))
        if not changes:
            return []
        kept = state.moments, state.bounds

        def undo() -> None:
            self._adopt(before)
            (state.moments, state.bounds), self.oldest_base = kept, oldest

        with self.change():
            self._undos.append(undo)
            number = configuration_change.record(self.log, self._begun.configuration, wanted, changes)
            self._adopt(configuration_change.adopt(before, state, wanted))
            self.oldest_base = configuration_change.oldest_base(self.log, self._begun.configuration)
            self._note(number, 0, round_state.release_due(state, self.rules))
            self._undos.append(self.statistics.look_again)
            self._erased = self.statistics.follow(wanted.statistics, now()) or self._erased
            self._erased |= self.evaluation.follow(wanted.evaluation.mode)
        return changes

    def update(self, data: bytes, sender: str, member: str = "") -> tuple[str, Literal["accepted", "already"]]:
        """Let an update in and release a version if one is due; UpdateError with the reason's code otherwise.

        sender: the key that the request is signed with. member: whose that is, where it is not the member's first key.
        """
        member = member or sender
        update, known = self.admission.check(data, sender, member, self.state, self.oldest_base)
        if known:
            return update.header.update_id, "already"
        self._take_in(update, data, member)
        return update.header.update_id, "accepted"

    def _take_in(self, update: Update, data: bytes, member: str) -> None:
        """The update and the release that it brings are one durable step."""
        with self.change():
            version = self.state.version
            number = self.log.append("update", version, update_id=update.header.update_id, device=member, body=data)
            self.log.note_sent(member, update.header.base_version, update.header.update_id)
            self._undos.append(round_state.add_update(self.state, update, version, self.rules, member, number))
            self._note(number, len(data), round_state.release_due(self.state, self.rules))

    def take_statistics(self, data: bytes, sender: str, member: str = "") -> tuple[int, Literal["accepted", "already"]]:
        """Take a change of a device's statistics, and release them if they may be; UpdateError where it is refused.

        sender, member: as of `update`. Returns the change's sequence number and what became of it.
        """
        limit_bytes = self.configuration.update_limit_bytes
        with self.apart.reading(f"statistics {digest(data)}"):
            change = read_change(data, bundle_id=self.bundle.bundle_id, limit_bytes=limit_bytes)
        with self.change():
            self._undos.append(self.statistics.look_again)
            taken = self.statistics.take(*change, sender, member or sender, self.configuration.statistics, now())
            self._erased |= taken[1] == "accepted"  # the total before it
            return taken

    def take_counts(self, counts: DeviceCounts, member: str) -> Literal["accepted", "already"]:
        """Take what a member tells of a version; UpdateError where it is refused."""
        with self.change():
            self._undos.append(self.evaluation.look_again)
            return self.evaluation.take(counts, member, self.configuration.min_devices, self.configuration.k_of)

    def statistics_status(self, member: str) -> StatisticsStatus:
        """What is here of a member's statistics, and what is served; releases them first if they may be."""
        with self.change():
            self._undos.append(self.statistics.look_again)
            return self.statistics.status(member, self.configuration.statistics, now())

    def _note(self, number: int, size: int, due: bool = False) -> None:
        """Count `size` more bytes up to entry `number`; release, put a checkpoint and prune where due."""
        number = self._release() if due and not self.stale else number
        self._since_bytes += size
        entries, size_bytes = self._checkpoint_every
        if number - self._checkpoint_entry >= entries or self._since_bytes >= size_bytes:
            self._put_checkpoint(number)
        if self.retain:
            self.log.prune(PRUNED_AT_ONCE)
            if self.configuration.by_school and self.log.base:
                school_segments.prune(self.log.database, self.log.entry_version(self.log.base), PRUNED_AT_ONCE)

    def take_sum(self, total: SecureSum) -> None:
        """Merge a secure round's sum and release a version, in one durable step; a sum merged before is ignored.

        One that holds a withdrawn update moves nothing: the version is the present theta again, so that all train anew.
        """
        header = total.header
        if self.log.has("secure", header.round_id):
            return
        with self.change():
            body = secure_sum.pack(total)
            names = {update_id: self.members.name_of(key) for update_id, key in header.updates.items()}
            if self.ledger:  # its noise is in it: the sum is the release, whatever becomes of it
                self.ledger.charge(self.state.version, sorted(set(names.values())))
            claims.mark_summed(self.log.database, names, self.state.version)
            number = self.log.append("secure", self.state.version, update_id=header.round_id, body=body)
            discarded = any(self.log.withdrawn(update_id) for update_id in header.updates)
            if discarded:
                self.log.empty_body(number)
                self._erased = True
            else:
                self._undos.append(round_state.add_secure_sum(self.state, total))
            self._note(number, len(body), discarded or bool(round_state.ready(self.state, self.rules)))

    def release_unchanged(self) -> None:
        """A new version with the present theta, so that devices whose update is spent may train anew."""
        with self.change():
            self.settle()
            self._release()

    def end_overdue_round(self) -> None:
        """End a synchronous round whose deadline has passed: with a release, or by asking devices anew."""
        if self.synchronous is None:
            return
        before, pending = self.state.version, self.state.pending
        verdict = self.synchronous.verdict(before, pending)
        if verdict == "release":
            self.release_now()
        if verdict != "wait" and self.state.version == before:  # too few, or no segment that enough devices fed
            self.synchronous.begin_again()
            audit.record(self.log.database, "round asked anew", version=before, updates=pending)

    def release_now(self) -> int:
        """Release what is ready although the buffer is not full; return the newest version."""
        with self.change():
            self.settle()
            if round_state.ready(self.state, self.rules):
                self._release()
        return self.state.version

    def roll_back(self, to: int, by: str, why: str) -> int:
        """Release the theta of the older version `to` as a new version; its number.

        by, why: who goes back, and the reason, for the audit log. Raises InputError where one may not go back.
        """
        rollback.check_reason(by, why)
        rollback.check_target(self.log.database, to)
        theta = self.rules.start if to == 0 else self.kept(to)[1]
        with self.change():
            self._undos.append(round_state.replace_theta(self.state, theta))
            number = self.log.append("rollback", self.state.version, body=rollback.pack(to, theta))
            self._publish(number, "rolled back", to=to, by=by, why=why)
            self._note(number, 4 * len(theta))
        return self.state.version

    def to_unlearn(self) -> rewinds.WaitingRewind | None:
        """What the next rewind would do; None where nothing waits to be unlearned."""
        return rewinds.waiting(self.log.database, self.configuration.unlearning)

    def rewind_if_due(self) -> None:
        """Rewind if the day has come, and no more versions become void than may without a person's word."""
        day = rewinds.due(self.log.database, self.configuration.unlearning)  # asked often, and cheap
        if day is None or day > now().date():
            return
        planned = self.to_unlearn()
        if planned and planned.versions <= self.configuration.unlearning.most_versions:
            self.rewind()

    def rewind(self, **about: str) -> int:
        """Release the state of before the first update that is to be unlearned as a new version; the newest version.

        Updates, versions and checkpoints since then are void and their bytes go, in the same durable step. about: for
        the audit log.
        """
        if (planned := self.to_unlearn()) is None:
            return self.state.version
        with self.change():
            self._keep_state()
            oldest, version = self.oldest_base, self.state.version + 1
            self._undos.append(lambda: setattr(self, "oldest_base", oldest))
            state = replay_log(self.log, self._rules_at, self.log.all_withdrawn(), planned.after)
            self.state, self.stale = dataclasses.replace(state, version=version, moments={}), False
            self.oldest_base, body = version, checkpoint.pack(self.state)
            number = self.log.append("rewind", version, body=body)
            rewinds.make_void(self.log.database, rewinds.Rewind(planned.after, number, planned.to, version))
            more = {"to": planned.to, "unlearned": len(planned.update_ids), "void": planned.updates}
            self._publish(number, "rewound", **more, **about)
            self._note(number, len(body))
            self._erased = True
        self.after_withdrawal()
        return self.state.version

    def _release(self) -> int:
        """Make the next version; the number of its entry."""
        state, body, database = self.state, b"", self.log.database
        central = self.configuration.central
        if self.ledger and central:
            configuration = private_release.with_clip(self.configuration, state.clip)
            self.ledger.charge(state.version + 1, sorted(state.sums.all_devices()), configuration.privacy)
            body = private_release.pack_noised(state.sums, self.rules.layout, configuration, self._correlated())
        try:
            result = round_state.release(state, self.rules, body)
        except UnreadableBodyError as problem:
            self._keep_state()
            self._set_body_apart(problem)
            self.settle()
            return self._release() if round_state.ready(self.state, self.rules) else self.log.last()
        self._undos.append(result.undo)
        number = self.log.append("private_release" if central else "release", state.version, body=body)
        if central:
            self.log.erase_updates()
            self._erased = True
        about = bounded.about_release(result.bounds, self.configuration.scale_bits)
        about |= {"schools": result.schools} if result.schools else {}
        self._publish(number, "released", devices=result.devices, **about)
        for school, devices in result.schools.items():
            school_segments.put(database, state.version, school, devices, state.own[school])
        return number

    def _publish(self, number: int, event: str, **about: Any) -> None:
        """Sign the state as the version that entry `number` made, and record the event in the audit log."""
        state = self.state
        body = self._put_version(number, about.get("devices", {}))
        audit.record(self.log.database, event, version=state.version, sha256=digest(body), **about)
        self.log.forget_sent(state.version - self.configuration.max_staleness)
        if self.retain:
            base = self.log.checkpoint_before(versions=self.retain)
            due = rewinds.due(self.log.database, self.configuration.unlearning)
            if base is not None and base > self.log.base and due is None:
                self.log.move_base(base, checkpoint.waiting_entries(self.log.checkpoint(base)))

    def _put_version(self, number: int, devices: dict[str, int]) -> bytes:
        """Sign and keep the state's theta as a version; its bytes. devices: how many fed each segment."""
        state, signer = self.state, (self.key, self.certificate, self.bundle.bundle_id)
        clip_norm = state.clip * 2.0**-self.configuration.scale_bits if state.clip else msgspec.UNSET
        void = rewinds.told_void(self.log.database)
        body = make_version(*signer, state.version, state.theta, devices, clip_norm, void)
        self.log.put_version(state.version, number, body)
        return body

    def _correlated(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Adds the next version's noise to exact sums, int64 [n]; None unless noise is correlated between releases."""
        privacy, bits, version = self.configuration.privacy, self.configuration.scale_bits, self.state.version + 1
        if privacy is None or privacy.bands is msgspec.UNSET:
            return None
        database = self.log.waiting or self.log.database
        return lambda exact: correlated_noise.add_noise(database, version, exact, privacy, bits)

    def continue_at(self, version: int, **about: Any) -> None:
        """Release the present theta once more as `version`, a higher number than any before. about: for the audit."""
        before, where = self.state.version, str(self.log.database.path)
        if version <= before:
            why = f"its newest version is {before}, and the clock would give the next one {version}"
            raise StoreError(why, where=where, remedy="set this machine's clock, then try again")
        with self.change():
            number = self.log.append("restored", version)
            self._undos.append(lambda: setattr(self.state, "version", before))
            self.state.version = self.oldest_base = version
            body = self._put_version(number, {})
            audit.record(self.log.database, "restored", version=version, after=before, sha256=digest(body), **about)
            self.statistics.take_out_all(self.configuration.statistics, now(), above=version)

    def adopt_replayed(self, result: Replayed) -> bool:
        """Go on from a replayed state and what was logged since; False where that withdrew what the state holds."""
        withdrawn, targets = self.log.all_withdrawn(), rollback.targets(self.log.database)
        if any((self.log.number(one) or 0) <= result.last for one in withdrawn - result.without):
            return False
        entries, rules = partial(self.log.entries, result.last), self._rules_at(result.last)
        state = replay(entries, rules, start=result.state, without=withdrawn, targets=targets)
        with self.change():
            self._keep_state()
            self.state, self.stale = state, False
            self._checkpoint_entry = max(self.log.checkpoints(), default=0)
            secure_ready = self.configuration.secure and round_state.ready(state, self.rules)
            self._note(self.log.last(), 0, bool(secure_ready) or round_state.release_due(state, self.rules))
        return True

    def version(self, number: int, school: str = "") -> bytes | None:
        """The signed bytes of a released version, as a device of this school gets it, or None."""
        return self.version_in(self.log, number, school)

    def version_in(self, log: Log, number: int, school: str = "") -> bytes | None:
        """As `version`, through a connection of the caller's own."""
        body = log.version(number)
        if body is None or not school or not self.configuration.by_school:
            return body
        segments = school_segments.at(log.database, number, school)
        signer = school_segments.VersionSigner(self.key, self.certificate, self.bundle.bundle_id, self.rules.layout)
        return body if segments is None else school_segments.assemble_version(signer, body, segments)

    def merges_for(self, school: str, members: Members) -> bool:
        """Whether enough devices of a school are enrolled for its own segments to be released."""
        minimum = self.configuration.min_devices
        return self.configuration.by_school and bool(school) and members.at_least(minimum, school)

    def kept(self, number: int) -> tuple[VersionHeader, np.ndarray]:
        """A version that is kept, its signature checked, and its theta float32 [P]."""
        root, body = fingerprint(self.certificate.root), self.log.version(number)
        assert body is not None
        return read_version(body, self.rules.layout, bundle_id=self.bundle.bundle_id, root_fingerprint=root)

    def verify(self) -> list[str]:
        """Compute every retained version and checkpoint again from the log; return what differs."""
        apart = frozenset(update_id for update_id, _ in filter(None, map(self.log.update_at, self.apart.entries())))
        found = verification.differences(self.log, self._rules_at(self.log.base), self.state, self.kept, apart)
        return [*found, *filter(None, [self.statistics.differs()])]
