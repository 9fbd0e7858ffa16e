"""Secure rounds over polling: who is asked for what, when a phase ends, and that a sum is merged once or never.

Devices come when they can; nothing here waits. A phase ends when all have come, or when its time is over and those who
came suffice; where they do not, the round fails and nothing is opened. The sum alone goes into the log.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.contract.roster import Roster
from homeroom.contract.secagg import (
    PHASES,
    Advertisement,
    Consent,
    Consents,
    Inbox,
    Notice,
    Reveal,
    RoundStatus,
    SecureCohort,
    Shares,
    Survivors,
    pack,
    unpack,
)
from homeroom.contract.signing import sign, verify
from homeroom.errors import InputError, TrustError, UpdateError
from homeroom.privacy.secagg.client import KEYS, SURVIVORS, CohortView, secure_rules
from homeroom.privacy.secagg.encoding import feeders
from homeroom.privacy.secagg.parameters import choose_parameters
from homeroom.privacy.secagg.primitives import agree
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.round_store import Desk, Live
from homeroom_aggregator.secagg.unmask import Opening, read_sum, total
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.secure_sum import SecureSum, SumHeader, read_header

FAILED, SUMMED = "failed", "summed"
say = logging.getLogger("homeroom.secure")


class Cohorts:
    """The rounds of one aggregator, one after another. One thread at a time is inside."""

    def __init__(
        self,
        path: Path,
        rounds: Rounds,
        durable: Log,
        roster: Callable[[], Roster | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """durable: the same log through a connection of its own, which sees what cannot be lost any more."""
        self.rounds, self.durable, self.roster, self.clock = rounds, durable, roster, clock
        self.rules = secure_rules(rounds.configuration)
        self.desk = Desk(path)
        self._seen: tuple[str, CohortView] | None = None
        self._opening: Opening | None = None
        most = rounds.configuration.max_staleness + 1  # sums whose updates may still be offered
        self._past: deque[dict[str, str]] = deque(maxlen=most)  # the device of each update id
        for entry in reversed(list(islice(rounds.log.sums(), most))):
            self._past.append(read_header(entry.body).updates)

    def close(self) -> None:
        self.desk.close()
        self.durable.close()

    # What devices ask for

    def standing(self, device: str) -> dict[str, Any] | None:
        """The round under way, announced if there is none, as signed; and what it wants of this device.

        None while the institution has not given a roster.
        """
        live = self.advance() or self._announce()
        if live is None:
            return None
        notice = msgspec.to_builtins(live.notice)
        inside = self._inside(live, device)
        wanted = inside and self.desk.body(live.phase, device) is None
        summed = tuple(sorted(self._in_sums(device)))
        told = RoundStatus(live.notice.round_id, live.phase, wanted, inside, summed)
        return {
            "notice": notice,
            "signature": sign(self.rounds.key, "secure-round", notice),
            "certificate": msgspec.to_builtins(self.rounds.certificate),
            "roster": msgspec.to_builtins(live.roster),
            "standing": msgspec.to_builtins(told),
        }

    def get(self, round_id: str, device: str) -> bytes:
        """What the present phase's work needs, for a member of the cohort."""
        live = self._live_of(round_id)
        if live.phase == "keys" or live.cohort is None:
            raise UpdateError("the cohort is still being gathered", code="past_phase", remedy="sync again later")
        place = self._place(live, device)
        if live.phase == "shares":
            return pack(live.cohort)
        if live.phase == "input":
            return pack(self._inbox(live, place))
        if live.phase == "consent":
            return pack(Survivors(live.survivors))
        signed = self.desk.bodies("consent")
        consents = (Consent(self._place(live, d), body) for d, body in signed.items())
        return pack(Consents(Survivors(live.survivors), tuple(sorted(consents, key=lambda one: one.place))))

    def put(self, round_id: str, phase: str, device: str, body: bytes) -> None:
        """Take one device's part of a phase; given again it changes nothing."""
        live = self._live_of(round_id)
        allowed = ("consent", "reveal") if live.phase == "reveal" else (live.phase,)
        if phase not in allowed:
            raise UpdateError(f"phase {phase} is not the present one", code="past_phase", remedy="sync again")
        known = self.desk.body(phase, device)
        if known == body:
            return
        if known is not None and phase != "keys":
            raise UpdateError(f"another message of phase {phase} was sent before", code="past_phase")
        {"keys": self._check_keys, "shares": self._check_shares, "input": self._check_input}.get(
            phase, self._check_consent if phase == "consent" else self._check_reveal
        )(live, device, body)
        self.desk.put(phase, device, body)
        self.advance()

    def message_limit(self) -> int:
        """Bytes of the largest message of any phase."""
        layout = self.rounds.rules.layout
        return max(8 * (layout.size + len(layout.segments)), 64 * 10_000) + 1024

    def facts(self) -> dict[str, int]:
        """Counts for /metrics."""
        live = self.desk.live()
        return {
            "secure_sums": self.rounds.log.count("secure"),
            "secure_failed": self.desk.outcomes() - self.desk.ended(SUMMED),
            "secure_phase": PHASES.index(live.phase) + 1 if live else 0,
            "secure_arrived": len(self.desk.senders(live.phase)) if live else 0,
        }

    # What a message must be

    def _check_keys(self, live: Live, device: str, body: bytes) -> None:
        told = unpack(body, Advertisement, where="keys", error=UpdateError)
        if told.device.hex() != device or device not in live.roster.devices:
            raise UpdateError("this device is not on the institution's roster", code="not_member")
        try:
            verify(device, KEYS, told.statement(live.notice.round_id), told.signature.hex(), where="keys")
        except TrustError as problem:
            raise UpdateError(problem.what, code="bad_signature") from None
        if self.rounds.log.withdrawn(told.update_id.hex()):
            raise UpdateError("this update was withdrawn", code="past_phase")
        if told.update_id.hex() in self._in_sums(device):
            raise UpdateError("this update is in a sum already", code="past_phase", remedy="sync, then train again")
        if self.rounds.ledger:
            member = self.rounds.members.find(device)
            self.rounds.ledger.check(member.name if member else device, self.rounds.state.version)
        others = [other for known, other in self._advertised().items() if known != device]
        if {told.mask, told.channel} & {key for other in others for key in (other.mask, other.channel)}:
            raise UpdateError("its keys are another device's", code="malformed")
        try:  # what every other device would refuse must not spoil their round
            feeders(self.rounds.rules.layout, self.rounds.configuration, SecureCohort((told,)))
            for key in (told.mask, told.channel):
                agree(X25519PrivateKey.generate(), key, b"", 16)
        except TrustError as problem:
            raise UpdateError(problem.what, code="malformed") from None

    def _check_shares(self, live: Live, device: str, body: bytes) -> None:
        found = unpack(body, Shares, where="shares", error=UpdateError)
        wanted = len(self._view(live).graph.neighbours(self._place(live, device)))
        if len(found.sealed) != wanted:
            raise UpdateError(f"{len(found.sealed)} sealed shares in place of {wanted}", code="malformed")

    def _check_input(self, live: Live, device: str, body: bytes) -> None:
        if self._place(live, device) not in live.sharers:
            raise UpdateError("this device has not shared", code="not_member")
        terms = self._view(live).terms(self.rounds.rules.layout, self.rounds.configuration, self.minimum(live))
        if len(body) != terms.count * terms.width:
            raise UpdateError(f"{len(body):,} bytes in place of {terms.count * terms.width:,}", code="wrong_shape")

    def _check_consent(self, live: Live, device: str, body: bytes) -> None:
        if self._place(live, device) not in live.survivors:
            raise UpdateError("this device is not in the sum", code="not_member")
        statement = Survivors(live.survivors).statement(self._view(live).cohort_id)
        try:
            verify(device, SURVIVORS, statement, body.hex(), where="consent")
        except TrustError as problem:
            raise UpdateError(problem.what, code="bad_signature") from None

    def _check_reveal(self, live: Live, device: str, body: bytes) -> None:
        found = unpack(body, Reveal, where="reveal", error=UpdateError)
        self._opened(live).add(self._place(live, device), found)

    # How a round goes on

    def advance(self) -> Live | None:
        """End every phase that may end; the round under way, or None."""
        for _ in PHASES:
            live = self.desk.live()
            if live is None or not self._go_on(live):
                return live
        return self.desk.live()

    def _go_on(self, live: Live) -> bool:
        """End the phase if it may end, or the round if it must; whether anything changed."""
        now = self.clock()
        if now < live.since:  # it was set back: the phase's time begins anew, or it would never be over
            self.desk.save(msgspec.structs.replace(live, since=now))
        over = now - live.since >= self.rules.phase_s
        came = self.desk.senders(live.phase)
        if live.phase == "keys":
            return self._close_cohort(live, came, over)
        if live.phase == "reveal":
            if self.rounds.log.has("secure", live.notice.round_id):
                return self.durable.has("secure", live.notice.round_id) and self._end(live, SUMMED)
            if not self._opened(live).missing:
                return self._sum(live)
            return over and self._fail(live, "too few devices revealed their shares")
        if live.phase == "consent":
            if len(came) >= self._view(live).parameters.quorum:
                return self._next(live, phase="reveal")
            return over and self._fail(live, "too few devices agreed on the survivors")
        view = self._view(live)
        expected = live.sharers if live.phase == "input" else range(len(view.cohort.members))
        waited = {place for place in expected if not self._withdrawn(view, place)}
        here = tuple(sorted(waited & {self._place(live, device) for device in came}))
        if len(here) < len(waited) and not over:
            return False
        if why := self._too_few(live, here):
            return self._fail(live, why)
        if live.phase == "shares":
            return self._next(live, phase="input", sharers=here)
        return self._next(live, phase="consent", survivors=here)

    def _withdrawn(self, view: CohortView, place: int) -> bool:
        """Whether a device took its update back meanwhile: it then counts as a drop-out."""
        return self.rounds.log.withdrawn(view.cohort.members[place].update_id.hex())

    def _close_cohort(self, live: Live, came: list[str], over: bool) -> bool:
        enough = len(came) >= self.rules.cohort or set(came) == set(live.roster.devices) or over
        if not enough:
            return False
        try:
            drops = choose_parameters(len(came), self.rules.drop_rate, self.rules.corrupt_rate).drops if came else 0
        except InputError:
            drops = len(came)
        told = self._advertised()
        cohort = SecureCohort(tuple(told[device] for device in sorted(told)))
        if len(came) - drops < self.minimum(live) or not self._summed(live, cohort):
            return over and self._next(live, phase="keys")  # go on gathering
        return self._next(live, phase="shares", cohort=cohort)

    def _advertised(self) -> dict[str, Advertisement]:
        bodies = self.desk.bodies("keys").items()
        return {device: unpack(body, Advertisement, where="keys", error=UpdateError) for device, body in bodies}

    def _summed(self, live: Live, cohort: SecureCohort) -> bool:
        """Whether any segment is fed by enough of a cohort."""
        view = CohortView(live.notice.round_id, cohort, self.rules)
        return bool(view.terms(self.rounds.rules.layout, self.rounds.configuration, self.minimum(live)).segments)

    def _too_few(self, live: Live, here: tuple[int, ...]) -> str:
        """Why these devices do not suffice to go on, or nothing."""
        view, layout = self._view(live), self.rounds.rules.layout
        try:
            view.check_survivors(Survivors(here), layout, self.rounds.configuration, self.minimum(live))
            for place in here:
                view.graph.check_present(place, here)
        except TrustError as problem:
            return problem.what
        return ""

    def _sum(self, live: Live) -> bool:
        """Open the sum and merge it; the rest is forgotten once that is durable. Killed in between, it counts once."""
        view, opening = self._view(live), self._opened(live)
        layout, configuration = self.rounds.rules.layout, self.rounds.configuration
        terms = view.terms(layout, configuration, self.minimum(live))
        devices = [member.device.hex() for member in view.cohort.members]
        alive = [devices[place] for place in live.survivors]
        feeders = view.feeders(layout, configuration)
        fed = {name: [devices[p] for p in live.survivors if p in feeders[name]] for name in terms.segments}
        vectors = (bytes(self.desk.body("input", device) or b"") for device in alive)
        try:
            found = total(vectors, terms, opening)
            numerators, weights = read_sum(found, terms, {n: len(who) for n, who in fed.items()}, configuration)
        except UpdateError as problem:
            return self._fail(live, problem.what)
        header = SumHeader(
            round_id=live.notice.round_id,
            roster_id=live.roster.roster_id,
            cohort_id=view.cohort_id.hex(),
            updates={view.cohort.members[p].update_id.hex(): devices[p] for p in live.survivors},
            weights=weights,
            fed=fed,
            signatures={device: body.hex() for device, body in self.desk.bodies("consent").items()},
        )
        self.rounds.take_sum(SecureSum(header, numerators))
        return False

    def _fail(self, live: Live, why: str) -> bool:
        """End the round without a sum. Who had agreed to survivors trains anew, and needs a new version for that."""
        if live.phase in ("consent", "reveal") and self.durable.newest() == live.notice.version:
            if self.rounds.state.version == live.notice.version:
                self.rounds.release_unchanged()
            return False  # it ends once that is durable
        return self._end(live, f"{FAILED}: {why}")

    def _end(self, live: Live, outcome: str) -> bool:
        say.log(
            logging.INFO if outcome == SUMMED else logging.WARNING,
            "secure round %s in phase %s: %s",
            live.notice.round_id[:12],
            live.phase,
            outcome,
        )
        if outcome == SUMMED:
            self._past.append(read_header(next(self.rounds.log.sums()).body).updates)
        self.desk.end(live.notice.round_id, outcome)
        self._opening = None
        return True

    def _in_sums(self, device: str) -> set[str]:
        return {update_id for updates in self._past for update_id, owner in updates.items() if owner == device}

    def _announce(self) -> Live | None:
        roster = self.roster()
        if roster is None:
            return None
        notice = Notice(
            configuration_id=self.rounds.configuration.configuration_id,
            roster_id=roster.roster_id,
            version=self.rounds.state.version,
            nonce=secrets.token_hex(32),
        )
        live = Live(notice=notice, roster=roster, phase="keys", since=self.clock())
        self.desk.save(live)
        return live

    def _next(self, live: Live, **changes: Any) -> bool:
        self.desk.save(msgspec.structs.replace(live, since=self.clock(), **changes))
        return True

    # What is on disk, and what follows from it

    def minimum(self, live: Live) -> int:
        return max(self.rules.minimum, live.roster.minimum)

    def _live_of(self, round_id: str) -> Live:
        live = self.advance()
        if live is None or live.notice.round_id != round_id:
            raise UpdateError("that round is over", code="past_phase", remedy="sync again")
        return live

    def _view(self, live: Live) -> CohortView:
        assert live.cohort is not None  # every phase after keys has one
        if self._seen is None or self._seen[0] != live.notice.round_id:
            self._seen = live.notice.round_id, CohortView(live.notice.round_id, live.cohort, self.rules)
        return self._seen[1]

    def _opened(self, live: Live) -> Opening:
        """What was revealed so far, taken in again after a restart."""
        if self._opening is None or self._opening.round_id != live.notice.round_id:
            self._opening = Opening(self._view(live), live.notice.round_id, live.sharers, live.survivors)
            for device, body in self.desk.bodies("reveal").items():
                self._opening.add(self._place(live, device), unpack(body, Reveal, where="reveal", error=UpdateError))
        return self._opening

    def _devices(self, live: Live) -> set[str]:
        return {member.device.hex() for member in live.cohort.members} if live.cohort else set()

    def _place(self, live: Live, device: str) -> int:
        try:
            return self._view(live).place(bytes.fromhex(device))
        except TrustError:
            raise UpdateError("this device is not in the cohort", code="not_member") from None

    def _inside(self, live: Live, device: str) -> bool:
        """Whether a device is in the round and has not dropped out of it."""
        if live.phase == "keys":
            return device in live.roster.devices
        if device not in self._devices(live):
            return False
        place = self._place(live, device)
        return place in {"shares": {place}, "input": set(live.sharers)}.get(live.phase, set(live.survivors))

    def _inbox(self, live: Live, place: int) -> Inbox:
        view, sealed = self._view(live), []
        for other in view.graph.neighbours(place):
            if other in set(live.sharers):
                body = self.desk.body("shares", view.cohort.members[other].device.hex())
                told = unpack(body or b"", Shares, where="shares", error=UpdateError)
                sealed.append(told.sealed[view.graph.neighbours(other).index(place)])
        return Inbox(live.sharers, tuple(sealed))
