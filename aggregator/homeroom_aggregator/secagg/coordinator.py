"""Secure rounds over polling: asks devices for their part, ends phases, and merges each sum once or never.

Devices come when they can; nothing here waits. A phase ends when all have come, or when its time is over and those who
came suffice; where they do not, the round fails and nothing is opened. What is summed, and what becomes of the sum, is
said by `sums.Sums`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract import secagg
from homeroom.contract.roster import Roster
from homeroom.contract.signing import sign
from homeroom.errors import TrustError, UpdateError
from homeroom.privacy.secagg.client import SURVIVORS_PURPOSE, CohortView
from homeroom.privacy.secagg.encoding import SumLayout
from homeroom.system.printable import counted
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.advertised import advertised, check_keys, check_signature, within_schools
from homeroom_aggregator.secagg.opened import OpenedSum
from homeroom_aggregator.secagg.parts import RoundParts, consents, inbox, split_round
from homeroom_aggregator.secagg.progress import RoundProgress, round_progress
from homeroom_aggregator.secagg.round_store import SUMMED, ActiveRound, RoundStore
from homeroom_aggregator.secagg.sums import Sums
from homeroom_aggregator.secagg.unmask import Unmasking, unmask_sum

SECURE_LOGGER = logging.getLogger("homeroom.secure")


class SecureRounds:
    """One aggregator's secure rounds, one after another. One thread at a time is inside."""

    def __init__(
        self,
        path: Path,
        rounds: Rounds,
        sums: Sums,
        roster: Callable[[], Roster | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the store and go on with the round under way.

        path: of the round's own database.
        rounds: whose members take part.
        sums: what is summed; closed with this.
        roster: the institution's newest, or None.
        clock: seconds since 1970.
        """
        self.rounds, self.sums, self.roster, self.clock = rounds, sums, roster, clock
        self.rules = sums.shape.secure
        self.store = RoundStore(path)
        self._cached_parts: RoundParts | None = None
        self._unmasking: dict[bytes, Unmasking] = {}  # by a group's cohort id
        self._gathers = ""  # why those who came do not begin
        self.tell: Callable[[str], None] = lambda _: None  # of a roster that counts from now on
        self._told = 0  # serial of the roster that was told
        self.progress: RoundProgress | None = None  # replaced as a whole: any thread may read it
        for device, advertisement in advertised(self.store).items():  # kept in case the log has lost their claims
            self.sums.claim(advertisement, self.rounds.members.name_of(device))
        self.sums.on_withdrawal(self.advance)

    def close(self) -> None:
        """Close the store and what is summed."""
        self.store.close()
        self.sums.close()

    def begun(self) -> int | None:
        """The version of the round under way, once its cohort is closed."""
        live = self.store.live()
        return live.notice.version if live and live.phase != "keys" else None

    # Requests of devices

    def status(self, device: str) -> dict[str, Any] | None:
        """The round under way, signed, and the device's status in it; announces a round if there is none.

        None while the institution has not given a roster.
        """
        live = self.advance()
        roster = self.roster() if live is None or live.phase == "keys" else live.roster
        if live and roster and roster.roster_id != live.roster.roster_id:
            self._end(live, "failed: a newer roster is here")
            live = None
        live = live or self._announce(roster)
        if live is None:
            return None
        progress = self._note_progress(live)
        notice, inside = msgspec.to_builtins(live.notice), self._inside(live, device)
        wanted = inside and self.store.body(live.phase, device) is None
        summed = self.sums.summed(self.rounds.members.name_of(device))
        status = progress.status(live.notice.round_id, wanted, inside, summed, self.clock())
        return {
            "notice": notice,
            "signature": sign(self.rounds.key, "secure-round", notice),
            "certificate": msgspec.to_builtins(self.rounds.certificate),
            "roster": msgspec.to_builtins(live.roster),
            "standing": msgspec.to_builtins(status),
            **self.sums.terms(live.notice.configuration_id),
        }

    def get(self, round_id: str, device: str) -> bytes:
        """The message that a device of the cohort needs for the present phase."""
        live = self._live_of(round_id)
        if live.phase == "keys" or live.cohort is None:
            raise UpdateError("the cohort is still being gathered", code="past_phase", remedy="sync again later")
        part = self._part_of(live, device)
        if live.phase == "shares":
            return secagg.pack(live.cohort)
        if live.phase == "input":
            return secagg.pack(inbox(self.store, self._view(part), part, self._index(part, device)))
        if live.phase == "consent":
            return secagg.pack(secagg.Survivors(part.survivors))
        return secagg.pack(consents(self.store, self._view(part), part))

    def put(self, round_id: str, phase: str, device: str, body: bytes) -> None:
        """Take a device's message of a phase; the same one again changes nothing. UpdateError if it is refused."""
        live = self._live_of(round_id)
        allowed = ("consent", "reveal") if live.phase == "reveal" else (live.phase,)
        if phase not in allowed:
            raise UpdateError(f"phase {phase} is not the present one", code="past_phase", remedy="sync again")
        known = self.store.body(phase, device)
        if known == body:
            return
        if known is not None and phase != "keys":
            raise UpdateError(f"another message of phase {phase} was sent before", code="past_phase")
        checks = (self._check_keys, self._check_shares, self._check_input, self._check_consent, self._check_reveal)
        part = live if phase == "keys" else self._part_of(live, device)
        checks[secagg.PHASES.index(live.phase if phase != "consent" else phase)](part, device, body)
        self.store.put(phase, device, body)
        self.advance()

    def facts(self) -> dict[str, int]:
        """Counts for /metrics."""
        live = self.store.live()
        return {
            "secure_sums": self.rounds.log.count("secure"),
            "secure_failed": self.store.failed(),
            "secure_phase": secagg.PHASES.index(live.phase) + 1 if live else 0,
            "secure_arrived": len(self.store.senders(live.phase)) if live else 0,
        }

    # Checks of messages

    def _check_keys(self, live: ActiveRound, device: str, body: bytes) -> None:
        check_keys(live, device, body, advertised(self.store), self.rounds.members, self.sums)

    def _check_shares(self, live: ActiveRound, device: str, body: bytes) -> None:
        shares = secagg.unpack(body, secagg.Shares, where="shares", error=UpdateError)
        wanted = len(self._view(live).graph.neighbours(self._index(live, device)))
        if len(shares.sealed) != wanted:
            raise UpdateError(f"{len(shares.sealed)} sealed shares in place of {wanted}", code="malformed")

    def _check_input(self, live: ActiveRound, device: str, body: bytes) -> None:
        if self._index(live, device) not in live.sharers:
            raise UpdateError("this device has not shared", code="not_member")
        terms = self._sum_layout(live, self._view(live))
        if len(body) != terms.count * terms.width:
            raise UpdateError(f"{len(body):,} bytes in place of {terms.count * terms.width:,}", code="wrong_shape")

    def _check_consent(self, live: ActiveRound, device: str, body: bytes) -> None:
        if self._index(live, device) not in live.survivors:
            raise UpdateError("this device is not in the sum", code="not_member")
        statement = secagg.Survivors(live.survivors).statement(self._view(live).cohort_id)
        check_signature(device, SURVIVORS_PURPOSE, statement, body)

    def _check_reveal(self, live: ActiveRound, device: str, body: bytes) -> None:
        reveal = secagg.unpack(body, secagg.Reveal, where="reveal", error=UpdateError)
        self._unmasking_of(live).add(self._index(live, device), reveal)

    # Phases

    def advance(self) -> ActiveRound | None:
        """End every phase that may end; the round under way, or None."""
        for _ in secagg.PHASES:
            live = self.store.live()
            if live is None or not self._go_on(live):
                return live
        return self.store.live()

    def _go_on(self, live: ActiveRound) -> bool:
        """End the phase if it may end, or the round if it must; whether anything changed."""
        now = self.clock()
        if now < live.since:  # it was set back: the phase's time begins anew, or it would never be over
            self.store.save(msgspec.structs.replace(live, since=now))
        round_id = live.notice.round_id
        if (merged := self.sums.merged(round_id)) != "not":
            return merged == "durably" and self._end(live, SUMMED)
        if live.notice.configuration_id != self.sums.shape.rules_id:
            return self._fail(live, "the round configuration has changed")
        if self.sums.is_void(live.notice.version):
            return self._fail(live, "an update in a version was unlearned")
        over = now - live.since >= self.rules.phase_s
        if live.phase == "keys":
            return self._close_cohort(live, over)
        return self._gather(live, over) if live.phase in ("shares", "input") else self._open(live, over)

    def _gather(self, live: ActiveRound, over: bool) -> bool:
        """End a phase for which all are awaited that have not gone; a group below its minimum is left out."""
        parts = [(part, self._gone(part)) for part in self._parts(live).of(live)]
        for part, gone in parts if live.phase == "input" else ():  # what they masked goes at once
            for index in gone:
                self.store.forget("input", self._key(part, index))
        came, kept, short, why = set(self.store.senders(live.phase)), list[tuple[ActiveRound, tuple[int, ...]]](), 0, ""
        for part, gone in parts:
            expected = self._expected(part)
            arrived = tuple(slot for slot in sorted(expected - gone) if self._key(part, slot) in came)
            short += len(expected - gone) - len(arrived)
            reason = self._too_few(part, arrived) if expected else ""  # else it was left out before
            why = why or reason
            if expected and not reason:
                kept.append((part, arrived))
        if short and not over:
            return False
        if not self._enough(live, len(kept), why):
            return self._fail(live, why)
        those = self._parts(live).whole(kept)
        if live.phase == "shares":
            return self._next(live, phase="input", sharers=those)
        return self._next(live, phase="consent", survivors=those)

    def _open(self, live: ActiveRound, over: bool) -> bool:
        """End the phases after survivors are named; a group of which too few come is not opened."""
        standing = [part for part in self._parts(live).of(live) if part.survivors]
        if not self.sums.opens_anyway and any(self._gone(part) & set(part.survivors) for part in standing):
            return self._fail(live, "an update in it was withdrawn")
        done = [part for part in standing if self._is_done(part)]
        if len(done) < len(standing) and not over:
            return False
        did = "agreed on the survivors" if live.phase == "consent" else "revealed their shares"
        if not self._enough(live, len(done), why := f"too few devices {did}" if len(done) < len(standing) else ""):
            return self._fail(live, why)
        if live.phase == "reveal":
            return self._sum(live, done)
        return self._next(live, phase="reveal", survivors=self._parts(live).whole((one, one.survivors) for one in done))

    def _is_done(self, part: ActiveRound) -> bool:
        if part.phase == "reveal":
            return not self._unmasking_of(part).missing
        came = set(self.store.senders("consent"))
        return sum(self._key(part, slot) in came for slot in part.survivors) >= self._view(part).parameters.quorum

    def _enough(self, live: ActiveRound, groups: int, why: str) -> bool:
        """Whether so many groups make a version; tells why another, if any, is not opened."""
        least, number = self._parts(live).least, live.notice.round_id[:12]
        if why and groups >= least:
            SECURE_LOGGER.warning("secure round %s in phase %s: a group is not opened: %s", number, live.phase, why)
        return groups >= least

    def _expected(self, live: ActiveRound) -> set[int]:
        """Indexes of the devices whose message the phase is for."""
        everybody = set(range(len(self._view(live).cohort.members)))
        return {"shares": everybody, "input": set(live.sharers)}.get(live.phase, set(live.survivors))

    def _gone(self, live: ActiveRound) -> set[int]:
        """Indexes of the devices that took their update back, or whose key or consent went: they are drop-outs."""
        members, gone = enumerate(self._view(live).cohort.members), self.rounds.members.gone()
        return {index for index, advertisement in members if self._is_gone(advertisement, gone)}

    def _is_gone(self, advertisement: secagg.Advertisement, gone: frozenset[str]) -> bool:
        member = self.rounds.members.name_of(advertisement.device.hex())
        return member in gone or self.sums.withdrawn(advertisement, member)

    def _close_cohort(self, live: ActiveRound, over: bool) -> bool:
        gone, offers = self.rounds.members.gone(), advertised(self.store)
        came = {device: one for device, one in sorted(offers.items()) if not self._is_gone(one, gone)}
        everybody = came.keys() == set(live.roster.devices)
        came = within_schools(came, self.rounds)
        if not (len(came) >= self.rules.cohort or everybody or over):
            return False
        cohort = secagg.SecureCohort(tuple(came.values()))
        gathered = msgspec.structs.replace(live, cohort=cohort)
        try:
            parts = split_round(live.notice.round_id, cohort, self.minimum(live), self.sums.shape)
            fed = [view for view in parts.views if self._sum_layout(gathered, view).segments]
            self._gathers = "" if len(fed) >= parts.least else "no segment is fed by enough of them"
            if parts.least > 1 and not parts.views:
                self._gathers = f"they are too few for {parts.least} groups of {self.minimum(live)} after drop-outs"
            elif any(len(v.cohort.members) - v.parameters.drops < self.minimum(live) for v in parts.views):
                self._gathers = f"they are too few for a sum of {self.minimum(live)} after drop-outs"
        except TrustError as problem:  # no graph of so few bears the promised drop-outs
            self._gathers = problem.what
        return over and self._next(live) if self._gathers else self._next(gathered, phase="shares")

    def _sum_layout(self, live: ActiveRound, view: CohortView) -> SumLayout:
        return view.sum_layout(self.minimum(live))

    def _too_few(self, live: ActiveRound, indexes: tuple[int, ...]) -> str:
        """Why these devices of the cohort do not suffice to go on, or nothing."""
        view = self._view(live)
        try:
            if not self._sum_layout(live, view).segments:
                return "no segment is fed by enough of them"
            view.check_survivors(secagg.Survivors(indexes), self.minimum(live))
            for index in indexes:
                view.graph.check_present(index, indexes)
        except TrustError as problem:
            return problem.what
        return ""

    def _sum(self, live: ActiveRound, parts: list[ActiveRound]) -> bool:
        """Open and merge the sums; the rest is forgotten once that is durable. Killed in between, they count once."""
        try:
            self.sums.merge([self._opened(part) for part in parts])
        except UpdateError as problem:
            return self._fail(live, problem.what)
        return False

    def _opened(self, live: ActiveRound) -> OpenedSum:
        view, unmasking, terms = self._view(live), self._unmasking_of(live), self._sum_layout(live, self._view(live))
        alive = {index: view.cohort.members[index].device.hex() for index in live.survivors}
        names = {index: self.rounds.members.name_of(device) for index, device in alive.items()}
        vectors = (bytes(self.store.body("input", device) or b"") for device in alive.values())
        fed = view.fed(self.minimum(live))
        signed = self.store.bodies("consent")
        return OpenedSum(
            round_id=live.notice.round_id,
            roster_id=live.roster.roster_id,
            roster=live.roster.serial,
            view=view,
            least=self.minimum(live) + view.parameters.drops,
            terms=terms,
            total=unmask_sum(vectors, terms, unmasking),
            members={names[index]: view.cohort.members[index] for index in alive},
            fed={name: [names[index] for index in alive if index in slots] for name, slots in fed.items()},
            signatures={device: signed[device].hex() for device in alive.values() if device in signed},
        )

    def _fail(self, live: ActiveRound, why: str) -> bool:
        """End the round without a sum, as soon as those who had agreed to survivors can go on."""
        if live.phase in ("consent", "reveal") and not self.sums.let_go(live.notice.version):
            return False
        return self._end(live, f"failed: {why}")

    def _end(self, live: ActiveRound, outcome: str) -> bool:
        level = logging.INFO if outcome == SUMMED else logging.WARNING
        SECURE_LOGGER.log(level, "secure round %s in phase %s: %s", live.notice.round_id[:12], live.phase, outcome)
        self.store.end(live.notice.round_id, outcome)
        self._unmasking.clear()
        return True

    def _announce(self, roster: Roster | None) -> ActiveRound | None:
        if roster is None:
            return None
        notice = secagg.Notice(
            configuration_id=self.sums.shape.rules_id,
            roster_id=roster.roster_id,
            version=self.rounds.state.version,
            nonce=secrets.token_hex(32),
        )
        live, self._gathers = ActiveRound(notice=notice, roster=roster, phase="keys", since=self.clock()), ""
        self.store.save(live)
        if roster.serial != self._told:
            self._told = roster.serial
            self.tell(
                f"roster {roster.serial}: {counted(len(roster.devices), 'device')}, at least {roster.minimum} in a sum"
            )
        return live

    def _next(self, live: ActiveRound, **changes: Any) -> bool:
        self.store.save(msgspec.structs.replace(live, since=self.clock(), **changes))
        return True

    # The round under way

    def _note_progress(self, live: ActiveRound) -> RoundProgress:
        expected, needed = set(live.roster.devices), min(self.rules.cohort, len(live.roster.devices))
        if live.cohort:
            expected, standing = self._awaited(live), [one for one in self._parts(live).of(live) if one.survivors]
            quorums = sum(self._view(part).parameters.quorum for part in standing)
            needed = quorums if live.phase == "consent" else len(expected)
        minimum = self.minimum(live)
        hindrance = self._gathers if live.phase == "keys" else ""
        self.progress = round_progress(live, self.store, expected, needed, minimum, self.rules.phase_s, hindrance)
        return self.progress

    def minimum(self, live: ActiveRound) -> int:
        """Devices that a sum needs at least: the larger of the rules' and the roster's."""
        return max(self.rules.minimum, live.roster.minimum)

    def _live_of(self, round_id: str) -> ActiveRound:
        live = self.advance()
        if live is None or live.notice.round_id != round_id:
            raise UpdateError("that round is over", code="past_phase", remedy="sync again")
        return live

    def _parts(self, live: ActiveRound) -> RoundParts:
        assert live.cohort is not None  # every phase after keys has one
        if self._cached_parts is None or self._cached_parts.round_id != live.notice.round_id:
            round_id, minimum = live.notice.round_id, self.minimum(live)
            self._cached_parts = split_round(round_id, live.cohort, minimum, self.sums.shape)
        return self._cached_parts

    def _part_of(self, live: ActiveRound, device: str) -> ActiveRound:
        """The group of a device; UpdateError where it is in none."""
        for part in self._parts(live).of(live):
            if any(one.device.hex() == device for one in self._view(part).cohort.members):
                return part
        raise UpdateError("this device is not in the cohort", code="not_member")

    def _view(self, part: ActiveRound) -> CohortView:
        return self._parts(part).view(part)

    def _key(self, part: ActiveRound, index: int) -> str:
        return self._view(part).cohort.members[index].device.hex()

    def _unmasking_of(self, live: ActiveRound) -> Unmasking:
        """The shares revealed so far, read from the store after a restart."""
        view = self._view(live)
        if view.cohort_id not in self._unmasking:
            self._unmasking[view.cohort_id] = Unmasking(view, live.notice.round_id, live.sharers, live.survivors)
            keys = {one.device.hex() for one in view.cohort.members}
            for device, body in self.store.bodies("reveal").items():
                if device in keys:
                    self._check_reveal(live, device, body)
        return self._unmasking[view.cohort_id]

    def _index(self, live: ActiveRound, device: str) -> int:
        try:
            return self._view(live).slot(bytes.fromhex(device))
        except TrustError:
            raise UpdateError("this device is not in the cohort", code="not_member") from None

    def _inside(self, live: ActiveRound, device: str) -> bool:
        """Whether a device is in the round and has not dropped out of it."""
        if live.phase == "keys":
            return device in live.roster.devices
        return device in self._awaited(live)

    def _awaited(self, live: ActiveRound) -> set[str]:
        """Keys of the devices, of all groups, whose message the phase is for."""
        return {self._key(part, slot) for part in self._parts(live).of(live) for slot in self._expected(part)}
