"""Secure rounds over polling: asks devices for their part, ends phases, and merges each sum once or never.

Devices come when they can; nothing here waits. A phase ends when all have come, or when its time is over and those who
came suffice; where they do not, the round fails and nothing is opened. What is summed, and what becomes of the sum, is
said by `sums.Sums`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract import secagg
from homeroom.contract.roster import Roster
from homeroom.contract.signing import sign, verify
from homeroom.errors import TrustError, UpdateError
from homeroom.privacy.secagg.client import KEYS_PURPOSE, SURVIVORS_PURPOSE, CohortView
from homeroom.privacy.secagg.encoding import SumLayout, feeders
from homeroom.privacy.secagg.primitives import agree
from homeroom.system.printable import counted
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.progress import RoundProgress, round_progress
from homeroom_aggregator.secagg.round_store import SUMMED, ActiveRound, RoundStore
from homeroom_aggregator.secagg.sums import OpenedSum, Sums
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
        self._cached_view: tuple[str, CohortView] | None = None
        self._unmasking: Unmasking | None = None
        self._gathers = ""  # why those who came do not begin
        self.tell: Callable[[str], None] = lambda _: None  # of a roster that counts from now on
        self._told = 0  # serial of the roster that was told
        self.progress: RoundProgress | None = None  # replaced as a whole: any thread may read it
        for device, advertisement in self._advertised().items():  # kept in case the log has lost their claims
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
        index = self._index(live, device)
        if live.phase == "shares":
            return secagg.pack(live.cohort)
        if live.phase == "input":
            return secagg.pack(self._inbox(live, index))
        if live.phase == "consent":
            return secagg.pack(secagg.Survivors(live.survivors))
        signed = self.store.bodies("consent")
        consents = (secagg.SurvivorsConsent(self._index(live, sender), body) for sender, body in signed.items())
        return secagg.pack(
            secagg.Consents(
                secagg.Survivors(live.survivors), tuple(sorted(consents, key=lambda consent: consent.place))
            )
        )

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
        checks[secagg.PHASES.index(live.phase if phase != "consent" else phase)](live, device, body)
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
        advertisement = secagg.unpack(body, secagg.Advertisement, where="keys", error=UpdateError)
        if advertisement.device.hex() != device or device not in live.roster.devices:
            raise UpdateError("this device is not on the institution's roster", code="not_member")
        _check_signature(device, KEYS_PURPOSE, advertisement.statement(live.notice.round_id), advertisement.signature)
        member = self.rounds.members.name_of(device)
        self.sums.check(advertisement, member)
        others = [other for sender, other in self._advertised().items() if sender != device]
        if any(self.rounds.members.name_of(other.device.hex()) == member for other in others):
            raise UpdateError(
                "another key of this device is in the cohort", code="past_phase", remedy="sync again later"
            )
        keys = {advertisement.mask, advertisement.channel}
        if keys & {key for other in others for key in (other.mask, other.channel)}:
            raise UpdateError("its keys are another device's", code="malformed")
        try:  # what every other device would refuse must not spoil their round
            feeders(self.sums.shape, secagg.SecureCohort((advertisement,)))
            for key in (advertisement.mask, advertisement.channel):
                agree(X25519PrivateKey.generate(), key, b"", 16)
        except TrustError as problem:
            raise UpdateError(problem.what, code="malformed") from None
        if not self.sums.claim(advertisement, member):
            raise UpdateError("this device has offered too many updates", code="past_phase", remedy="sync again later")

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
        _check_signature(device, SURVIVORS_PURPOSE, statement, body)

    def _check_reveal(self, live: ActiveRound, device: str, body: bytes) -> None:
        reveal = secagg.unpack(body, secagg.Reveal, where="reveal", error=UpdateError)
        self._unmasking_of(live).add(self._index(live, device), reveal)

    def _advertised(self) -> dict[str, secagg.Advertisement]:
        bodies = self.store.bodies("keys").items()
        return {
            device: secagg.unpack(body, secagg.Advertisement, where="keys", error=UpdateError)
            for device, body in bodies
        }

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
        over, came = now - live.since >= self.rules.phase_s, self.store.senders(live.phase)
        if live.phase == "keys":
            return self._close_cohort(live, over)
        gone = self._gone(live)
        if live.phase in ("consent", "reveal") and not self.sums.opens_anyway and gone & set(live.survivors):
            return self._fail(live, "an update in it was withdrawn")
        if live.phase == "reveal":
            if not self._unmasking_of(live).missing:
                return self._sum(live)
            return over and self._fail(live, "too few devices revealed their shares")
        if live.phase == "consent":
            if len(came) >= self._view(live).parameters.quorum:
                return self._next(live, phase="reveal")
            return over and self._fail(live, "too few devices agreed on the survivors")
        for index in gone if live.phase == "input" else ():  # what it masked goes at once
            self.store.forget("input", self._view(live).cohort.members[index].device.hex())
        awaited = self._expected(live) - gone
        arrived = tuple(sorted(awaited & {self._index(live, device) for device in came}))
        if len(arrived) < len(awaited) and not over:
            return False
        if why := self._too_few(live, arrived):
            return self._fail(live, why)
        if live.phase == "shares":
            return self._next(live, phase="input", sharers=arrived)
        return self._next(live, phase="consent", survivors=arrived)

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
        gone, advertised = self.rounds.members.gone(), self._advertised()
        came = {device: one for device, one in sorted(advertised.items()) if not self._is_gone(one, gone)}
        everybody = came.keys() == set(live.roster.devices)
        came = self._within_schools(came)
        if not (len(came) >= self.rules.cohort or everybody or over):
            return False
        cohort = secagg.SecureCohort(tuple(came.values()))
        gathered = msgspec.structs.replace(live, cohort=cohort)
        try:
            view = CohortView(live.notice.round_id, cohort, self.sums.shape)
            self._gathers = "" if self._sum_layout(gathered, view).segments else "no segment is fed by enough of them"
            if len(came) - view.parameters.drops < self.minimum(live):
                self._gathers = f"they are too few for a sum of {self.minimum(live)} after drop-outs"
        except TrustError as problem:  # no graph of so few bears the promised drop-outs
            self._gathers = problem.what
        return over and self._next(live) if self._gathers else self._next(gathered, phase="shares")

    def _within_schools(self, came: dict[str, secagg.Advertisement]) -> dict[str, secagg.Advertisement]:
        """Of each school no more devices than the round allows, whatever the roster has; the others' updates wait."""
        limit, taken, members = self.rounds.configuration.school_devices, Counter[str](), self.rounds.members
        kept = dict[str, secagg.Advertisement]()
        for device, advertisement in came.items():
            school = members.school(members.name_of(device))
            taken[school] += 1
            if not (limit and school) or taken[school] <= limit:
                kept[device] = advertisement
        return kept

    def _sum_layout(self, live: ActiveRound, view: CohortView) -> SumLayout:
        return view.sum_layout(self.minimum(live))

    def _too_few(self, live: ActiveRound, indexes: tuple[int, ...]) -> str:
        """Why these devices of the cohort do not suffice to go on, or nothing."""
        view = self._view(live)
        try:
            view.check_survivors(secagg.Survivors(indexes), self.minimum(live))
            for index in indexes:
                view.graph.check_present(index, indexes)
        except TrustError as problem:
            return problem.what
        return ""

    def _sum(self, live: ActiveRound) -> bool:
        """Open the sum and merge it; the rest is forgotten once that is durable. Killed in between, it counts once."""
        view, unmasking, terms = self._view(live), self._unmasking_of(live), self._sum_layout(live, self._view(live))
        alive = {index: view.cohort.members[index].device.hex() for index in live.survivors}
        names = {index: self.rounds.members.name_of(device) for index, device in alive.items()}
        vectors = (bytes(self.store.body("input", device) or b"") for device in alive.values())
        fed = view.fed(self.minimum(live))
        try:
            self.sums.merge(
                OpenedSum(
                    round_id=live.notice.round_id,
                    roster_id=live.roster.roster_id,
                    roster=live.roster.serial,
                    view=view,
                    least=self.minimum(live) + view.parameters.drops,
                    terms=terms,
                    total=unmask_sum(vectors, terms, unmasking),
                    members={names[index]: view.cohort.members[index] for index in alive},
                    fed={name: [names[index] for index in alive if index in slots] for name, slots in fed.items()},
                    signatures={device: body.hex() for device, body in self.store.bodies("consent").items()},
                )
            )
        except UpdateError as problem:
            return self._fail(live, problem.what)
        return False

    def _fail(self, live: ActiveRound, why: str) -> bool:
        """End the round without a sum, as soon as those who had agreed to survivors can go on."""
        if live.phase in ("consent", "reveal") and not self.sums.let_go(live.notice.version):
            return False
        return self._end(live, f"failed: {why}")

    def _end(self, live: ActiveRound, outcome: str) -> bool:
        level = logging.INFO if outcome == SUMMED else logging.WARNING
        SECURE_LOGGER.log(level, "secure round %s in phase %s: %s", live.notice.round_id[:12], live.phase, outcome)
        self.store.end(live.notice.round_id, outcome)
        self._unmasking = None
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
            expected = {self._view(live).cohort.members[index].device.hex() for index in self._expected(live)}
            needed = self._view(live).parameters.quorum if live.phase == "consent" else len(expected)
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

    def _view(self, live: ActiveRound) -> CohortView:
        assert live.cohort is not None  # every phase after keys has one
        if self._cached_view is None or self._cached_view[0] != live.notice.round_id:
            self._cached_view = live.notice.round_id, CohortView(live.notice.round_id, live.cohort, self.sums.shape)
        return self._cached_view[1]

    def _unmasking_of(self, live: ActiveRound) -> Unmasking:
        """The shares revealed so far, read from the store after a restart."""
        if self._unmasking is None or self._unmasking.round_id != live.notice.round_id:
            self._unmasking = Unmasking(self._view(live), live.notice.round_id, live.sharers, live.survivors)
            for device, body in self.store.bodies("reveal").items():
                self._check_reveal(live, device, body)
        return self._unmasking

    def _index(self, live: ActiveRound, device: str) -> int:
        try:
            return self._view(live).slot(bytes.fromhex(device))
        except TrustError:
            raise UpdateError("this device is not in the cohort", code="not_member") from None

    def _inside(self, live: ActiveRound, device: str) -> bool:
        """Whether a device is in the round and has not dropped out of it."""
        if live.phase == "keys":
            return device in live.roster.devices
        return device in {self._view(live).cohort.members[index].device.hex() for index in self._expected(live)}

    def _inbox(self, live: ActiveRound, index: int) -> secagg.Inbox:
        view, sealed = self._view(live), []
        for other in sorted({*live.sharers} & {*view.graph.neighbours(index)}):
            body = self.store.body("shares", view.cohort.members[other].device.hex())
            shares = secagg.unpack(body or b"", secagg.Shares, where="shares", error=UpdateError)
            sealed.append(shares.sealed[view.graph.neighbours(other).index(index)])
        return secagg.Inbox(live.sharers, tuple(sealed))


def _check_signature(device: str, purpose: str, statement: bytes, signature: bytes) -> None:
    try:
        verify(device, purpose, statement, signature.hex(), where=purpose)
    except TrustError as problem:
        raise UpdateError(problem.what, code="bad_signature") from None
