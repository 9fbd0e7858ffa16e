"""The rounds: which update is let in, when a version is released, what is withdrawn; imports log, replay, ledger.

The owner sees to it that one thread at a time is inside. Whatever raises has changed nothing: sums change in place, and
what cannot be made durable is taken out of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Certificate, fingerprint
from homeroom.contract.update import REFUSALS, Update, read_update
from homeroom.contract.version import VersionHeader, make_version, read_version
from homeroom.errors import StoreError, UpdateError
from homeroom.runtime.bundle import Bundle
from homeroom_aggregator.merge import checkpoint, correlated_noise, rollback
from homeroom_aggregator.merge import private_release as private
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.round_state import Made, Own, Rules, State, admit, admit_sum, due, go_back, release
from homeroom_aggregator.merge.segment_sums import Undo
from homeroom_aggregator.merge.synchronous import Cohort
from homeroom_aggregator.state import audit, school_segments
from homeroom_aggregator.state import secure_sum as sums
from homeroom_aggregator.state.log import BASES, Log
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.privacy_ledger import Ledger
from homeroom_aggregator.state.secure_sum import SecureSum

CHECKPOINT_ENTRIES, CHECKPOINT_BYTES = 1000, 256 << 20  # since the last one; the next start replays no more than that
PRUNED_AT_ONCE = 16


class Rounds:
    """One bundle's rounds over one log file. `state` is always what a replay of the log gives."""

    def __init__(
        self,
        path: Path,
        bundle: Bundle,
        configuration: RoundConfiguration,
        key: Ed25519PrivateKey,
        word: Certificate,
        *,
        retain: int = 0,
    ) -> None:
        """retain: versions whose updates are kept at least; 0 keeps everything."""
        self.retain, self._done, self._erased = retain, list[Undo](), False
        self.bundle, self.configuration, self.key, self.certificate = bundle, configuration, key, word
        self.cohort = Cohort(configuration.cohort, configuration.buffer_size) if configuration.cohort else None
        self.log = Log(path)
        self.members = Members(self.log.database)
        self.rules = Rules(bundle.layout, configuration, bundle.theta(), self.members.school)
        try:
            self.log.database.write(BASES)
            if configuration.by_school:
                self.log.database.write(school_segments.TABLE)
            self._check_identity(path)
            privacy, bits = configuration.privacy, configuration.scale_bits
            self.ledger = Ledger(self.log.database, privacy, bits) if privacy else None
            if self.ledger and self.ledger.missing():
                raise StoreError("ledger and log do not agree", where=str(path), remedy="restore the last backup")
            self.state, self._oldest = self._resumed(), self.log.last_restored()
            if self.state.version != self.log.newest():
                raise StoreError("versions and log do not agree", where=str(path), remedy="restore the last backup")
        except BaseException:
            self.log.close()
            raise

    def close(self) -> None:
        self.log.close()

    def _check_identity(self, path: Path) -> None:
        """A log belongs to one bundle and one configuration: with another, its replay would give other bits."""
        asked = self.configuration.configuration_id.encode()
        known = self.log.fact("configuration")
        if known is None:
            self.log.put_fact("configuration", asked)
            if self.configuration.privacy:
                promise = msgspec.to_builtins(self.configuration.privacy)
                audit.record(self.log.database, "private rounds", promise=promise)
        elif known != asked:
            raise StoreError(
                "was begun with another bundle or round configuration",
                where=str(path),
                remedy="serve it from a new folder",
            )

    def update(self, data: bytes, sender: str, member: str = "") -> tuple[str, Literal["accepted", "already"]]:
        """Let an update in and release a version if one is due; UpdateError with the reason's code otherwise.

        sender: the key that the request is signed with. member: whose that is, where it is not the member's first key.
        """
        if self.configuration.secure:
            raise UpdateError(REFUSALS["secure_only"], code="secure_only", remedy="update homeroom, then sync again")
        update, member = read_update(data, self.configuration, self.rules.layout), member or sender
        header = update.header
        if header.device != sender and header.device not in self.members.names(sender):
            raise UpdateError("it is signed by another device than the one that sends it", code="bad_signature")
        holder = self.log.sender(header.update_id)
        if holder not in (None, member):
            raise UpdateError("its id was used by another device", code="malformed", remedy="train again")
        if holder or self.log.withdrawn(header.update_id):
            return header.update_id, "already"
        self._check_base(header.base_version)
        own = sorted(self.configuration.apart(self.rules.layout) & update.values.keys())
        if own and not self.members.school(member):
            why = f"segment {own[0]} is merged by school, and this device is of none"
            raise UpdateError(why, code="personal_segment", remedy="sync, then train again")
        if self.cohort:
            self.cohort.check(member, self.state.version, self.fed())
        if self.ledger:
            private.once_a_release(self.state.sums, member)
            self.ledger.check(member, self.state.version + 1)
        self._check_first(member, header.base_version)
        self._take_in(update, data, member)
        return header.update_id, "accepted"

    def _check_base(self, base: int) -> None:
        if base > self.state.version:
            raise UpdateError(
                f"version {base} was never released here", code="unknown_version", remedy="sync, train again"
            )
        again = "sync, then train again"
        if self.state.version - base > self.configuration.max_staleness:
            why = f"version {base} is {self.state.version - base} behind"
            raise UpdateError(why, code="too_stale", remedy=again)
        if base < self._oldest:
            raise UpdateError(f"version {base} is of before a restore", code="too_stale", remedy=again)

    def _check_first(self, member: str, base: int) -> None:
        """A device counts once for each version that it trained on; what was taken back does not count."""
        sent = self.log.sent_on(member, base)
        taken_out = sent and self.log.withdrawn(sent) and (self.log.number(sent) or 0) > self.log.base
        if sent and not taken_out:
            raise UpdateError(
                f"this device has sent an update on version {base} already",
                code="once_a_version",
                remedy="sync; what it learned since goes into its update on the next version",
            )

    def _take_in(self, update: Update, data: bytes, member: str) -> None:
        """The update and the release that it brings are one durable step."""
        with self.change():
            version = self.state.version
            number = self.log.append("update", version, update_id=update.header.update_id, device=member, body=data)
            self.log.note_sent(member, update.header.base_version, update.header.update_id)
            self._done.append(admit(self.state, update, version, self.rules, member))
            if due(self.state, self.rules):
                number = self._release()
            self._note(number, len(data))

    def _note(self, number: int, size: int) -> None:
        """After so many bytes up to entry `number`: a checkpoint if it is time for one, and away with what is old."""
        self._since_bytes += size
        if number - self._mark >= CHECKPOINT_ENTRIES or self._since_bytes >= CHECKPOINT_BYTES:
            self._put_checkpoint(number)
        if self.retain:
            self.log.prune(PRUNED_AT_ONCE)
            if self.configuration.by_school and self.log.base:
                school_segments.prune(self.log.database, self.log.entry_version(self.log.base), PRUNED_AT_ONCE)

    def take_sum(self, found: SecureSum) -> None:
        """Merge a cohort's sum and release a version, in one durable step; a round that was merged is left alone."""
        if self.log.has("secure", found.header.round_id):
            return
        with self.change():
            body = sums.pack(found)
            if self.ledger:  # its noise is in it: the sum is the release, whatever becomes of it
                known = {key: self.members.find(key) for key in found.header.updates.values()}
                names = {member.name if member else key for key, member in known.items()}
                self.ledger.charge(self.state.version, sorted(names))
            number = self.log.append("secure", self.state.version, update_id=found.header.round_id, body=body)
            if not any(self.log.withdrawn(update_id) for update_id in found.header.updates):
                self._done.append(admit_sum(self.state, found))
            if self.state.sums.ready(self.configuration):
                number = self._release()
            self._note(number, len(body))

    def release_unchanged(self) -> None:
        """A new version with the present theta, so that devices whose update is spent may train anew."""
        with self.change():
            self._release()

    @contextmanager
    def change(self) -> Iterator[None]:
        """What is done inside is durable together at its end, or nothing of it happened, in the state neither.

        Inside another change a part of it, which may fail alone: so that many updates can share one fsync.
        """
        outer, self._done = self._done, []
        try:
            with self.log.step():
                yield
        except BaseException:
            for undo in reversed(self._done):
                undo()
            raise
        else:
            if self.log.stepping:
                outer.extend(self._done)
            elif self._erased:  # so that SQLite's write-ahead log does not keep what was erased
                self.log.database.empty_log()
                self._erased = False
        finally:
            self._done = outer

    def fed(self) -> set[str]:
        """Who is in the sums that wait."""
        return set().union(*self.state.sums.devices.values())

    def look_at_the_clock(self) -> None:
        """End a synchronous round whose deadline has passed: with a release, or by asking anew."""
        verdict = self.cohort.verdict(self.state.version, self.state.pending) if self.cohort else "wait"
        if self.cohort and verdict != "wait":
            before = self.state.version
            if verdict == "release":
                self.release_now()
            if self.state.version == before:  # too few, or no segment that enough devices fed
                self.cohort.begin_again()
                audit.record(self.log.database, "round asked anew", version=before, updates=self.state.pending)

    def release_now(self) -> int:
        """Release what is ready although the buffer is not full; return the newest version."""
        if self.state.sums.ready(self.configuration):
            with self.change():
                self._release()
        return self.state.version

    def roll_back(self, to: int, by: str, why: str) -> int:
        """A new version with the theta of the older version `to`; its number. InputError where one may not go back."""
        rollback.check_words(by, why)
        rollback.check(self.log.database, to)
        theta = self.rules.start if to == 0 else self._kept(to)[1]
        with self.change():
            self._done.append(go_back(self.state, theta))
            number = self.log.append("rollback", self.state.version, body=rollback.pack(to, theta))
            self._publish(number, "rolled back", to=to, by=by, why=why)
            self._note(number, 4 * len(theta))
        return self.state.version

    def _release(self) -> int:
        """Make the next version; the number of its entry."""
        state, sums = self.state, b""
        central = self.configuration.central
        if self.ledger and central:
            asked = private.in_force(self.configuration, state.clip)
            self.ledger.charge(state.version + 1, sorted(set().union(*state.sums.devices.values())), asked.privacy)
            sums = private.noised(state.sums, self.rules.layout, asked, self._correlated())
        made = release(state, self.rules, sums)
        self._done.append(made.undo)
        number = self.log.append("private_release" if central else "release", state.version, body=sums)
        if central:
            self.log.erase_updates()
            self._erased = True
        self._publish(number, "released", devices=made.devices, **({"schools": made.schools} if made.schools else {}))
        for school, devices in made.schools.items():
            school_segments.put(self.log.database, state.version, school, devices, state.own[school])
        return number

    def _publish(self, number: int, event: str, **about: Any) -> None:
        """Sign the state as the version that entry `number` made, and write down that it was."""
        state, devices = self.state, about.get("devices", {})
        theta, clip = state.theta, self.clip_norm(state.clip)
        body = make_version(self.key, self.certificate, self.bundle.bundle_id, state.version, theta, devices, clip)
        self.log.put_version(state.version, number, body)
        audit.record(self.log.database, event, version=state.version, sha256=digest(body), **about)
        self.log.forget_sent(state.version - self.configuration.max_staleness)
        if self.retain:
            left = self.log.checkpoint_before(versions=self.retain)
            if left is not None and left > self.log.base:
                self.log.move_base(left)

    def _correlated(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What adds the noise of the next version, where that is one of a stream."""
        privacy, bits, version = self.configuration.privacy, self.configuration.scale_bits, self.state.version + 1
        if privacy is None or privacy.bands is msgspec.UNSET:
            return None
        return lambda exact: correlated_noise.release(self.log.database, version, exact, privacy, bits)

    def clip_norm(self, clip_grid: int) -> float | msgspec.UnsetType:
        """What a version says of a clip that adapts."""
        return clip_grid * 2.0**-self.configuration.scale_bits if clip_grid else msgspec.UNSET

    def continue_at(self, version: int) -> None:
        """Release the present theta once more as `version`, which must be a higher number than any before."""
        before, theta = self.state.version, self.state.theta
        if version <= before:
            raise StoreError(
                f"its newest version is {before}, and the clock would give the next one {version}",
                where=str(self.log.database.path),
                remedy="set this machine's clock, then try again",
            )
        with self.change():
            number = self.log.append("restored", version)
            self._done.append(lambda: setattr(self.state, "version", before))
            self.state.version = self._oldest = version
            clip = self.clip_norm(self.state.clip)
            body = make_version(self.key, self.certificate, self.bundle.bundle_id, version, theta, {}, clip)
            self.log.put_version(version, number, body)
            audit.record(self.log.database, "restored", version=version, after=before, sha256=digest(body))

    def withdraw(self, update_id: str, member: str) -> bool:
        """Unlearn an update of this member; False where it is another's, or so old that its bytes are gone.

        An id never seen stays out should it come. What a private release holds is `bounded`, and stays in.
        """
        holder, number = self.log.sender(update_id), self.log.number(update_id)
        if holder is None:
            holder, number = self._in_a_sum(update_id, member)
        if holder not in (None, member) or self.bounded(update_id, member):
            return False
        if not self.log.withdrawn(update_id):
            with self.change():
                entry = self.log.append("withdraw", self.state.version, update_id=update_id, device=member)
                audit.record(self.log.database, "withdrawn", device=member)
                if self.ledger:
                    self.log.erase_updates(update_id)
                    self._erased = True
                if number is not None and number > self.log.base:
                    self.log.drop_checkpoints(number, entry)  # they hold it
                    before = self.state
                    self._done.append(lambda: setattr(self, "state", before))
                    self.state = self._resumed()
        return number is None or number > self.log.base

    def _in_a_sum(self, update_id: str, member: str) -> tuple[str | None, int | None]:
        """Whose an update is that went into a cohort's sum, and that entry's number; `member` if one of its keys."""
        for entry in self.log.sums():
            if key := sums.read_header(entry.body).updates.get(update_id):
                return member if key == member or member in self.members.names(key) else key, entry.number
        return None, None

    def _resumed(self) -> State:
        """The state that the log gives, from its newest checkpoint on."""
        known = self.log.checkpoints()
        after = known[-1] if known else 0
        self._mark, self._since_bytes = after, 0
        start, targets = self._checkpoint(after) if known else None, rollback.targets(self.log.database)
        gone = self.log.all_withdrawn()
        return replay(lambda: self.log.entries(after), self.rules, start=start, without=gone, targets=targets)

    def _checkpoint(self, number: int) -> State:
        return checkpoint.unpack(self.log.checkpoint(number), self.rules.layout)

    def settle(self) -> None:
        """Leave a checkpoint of where things stand."""
        if (last := self.log.last()) > self._mark:
            with self.change():
                self._put_checkpoint(last)

    def _put_checkpoint(self, number: int) -> None:
        if self.ledger and self.state.pending:
            return  # a sum without noise is never written down: the next release brings the checkpoint
        self.log.put_checkpoint(number, checkpoint.pack(self.state))
        self._mark, self._since_bytes = number, 0

    def bounded(self, update_id: str, member: str) -> bool:
        """Whether this member's update went into a private release: it cannot be taken out, only told little of."""
        number = self.log.number(update_id)
        if number is None or self.log.sender(update_id) != member or self.log.withdrawn(update_id):
            return False
        return number < self.log.last_private()

    def version(self, number: int, school: str = "") -> bytes | None:
        """The signed bytes of a released version, as a device of this school gets it, or None."""
        return self.version_in(self.log, number, school)

    def version_in(self, log: Log, number: int, school: str = "") -> bytes | None:
        """As `version`, through a connection of the caller's own."""
        body = log.version(number)
        if body is None or not school or not self.configuration.by_school:
            return body
        owned = school_segments.at(log.database, number, school)
        signer = school_segments.Signer(self.key, self.certificate, self.bundle.bundle_id, self.rules.layout)
        return body if owned is None else school_segments.assembled(signer, body, owned)

    def merges_for(self, school: str, members: Members) -> bool:
        """Whether enough devices of a school are enrolled for its own segments to be released."""
        least = self.configuration.min_devices
        return self.configuration.by_school and bool(school) and members.at_least(least, school)

    def _kept(self, number: int) -> tuple[VersionHeader, np.ndarray]:
        """A version that is kept, its signature checked, and its theta float32 [P]."""
        root, bundle_id = fingerprint(self.certificate.root), self.bundle.bundle_id
        body = self.log.version(number)
        assert body is not None
        return read_version(body, self.rules.layout, bundle_id=bundle_id, root_fingerprint=root)

    def verify(self) -> list[str]:
        """Compute every retained version and checkpoint again from the log; return what differs."""
        problems: list[str] = []

        def compare(state: State, made: Made) -> None:
            version = state.version
            if self.log.version(version) is None:
                problems.append(f"version {version} is missing")
                return
            header, stored = self._kept(version)
            if stored.tobytes() != state.theta.tobytes() or header.devices != made.devices:
                problems.append(f"version {version} is not what the log gives")
            for school, devices in made.schools.items():
                owned = school_segments.at(self.log.database, version, school)
                if owned is None or owned.devices != devices or not _same(owned.segments, state.own[school]):
                    problems.append(f"version {version} of {school} is not what the log gives")

        def compare_state(number: int, state: State) -> None:
            if checkpoint.pack(state) != self.log.checkpoint(number):
                problems.append(f"the checkpoint after entry {number} is not what the log gives")

        base = self.log.base
        state = replay(
            lambda: self.log.entries(base),
            self.rules,
            start=self._checkpoint(base) if base else None,
            released=compare,
            targets=rollback.targets(self.log.database),
            watched=frozenset(self.log.checkpoints()) - {base},
            watch=compare_state,
        )
        if checkpoint.pack(state) != checkpoint.pack(self.state):
            problems.append("the present state is not what the log gives")
        return problems

    def facts(self) -> dict[str, int | float]:
        """Counts for /health and /metrics."""
        private: dict[str, int | float] = {}
        if self.ledger:
            private = {"epsilon_spent": self.ledger.spent(), "epsilon_budget": self.ledger.privacy.epsilon}
        return private | {
            "version": self.state.version,
            "pending": self.state.pending,
            "devices": self.members.count(),
            "updates": self.log.count("update"),
            "withdrawn": self.log.count("withdraw"),
        }


def _same(some: Own, others: Own) -> bool:
    return some.keys() == others.keys() and all(some[name].tobytes() == others[name].tobytes() for name in some)
