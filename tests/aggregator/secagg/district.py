"""A served district with secure rounds: members that visit it, and a clock that tests turn forward."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from aggregator.institution import ROOT, START, School
from homeroom.contract.roster import Roster, make_roster
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update_checks import read_update
from homeroom.federation import secure_round
from homeroom.federation.agreement import renew_round
from homeroom.federation.network.client import Client, join
from homeroom.federation.secure_update import UpdateContribution
from homeroom.store import Store
from homeroom_aggregator.admin.folder import SECURE_ROUND_FILE, invite_devices, load_roster, open_log
from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.secagg.sums import ThetaSums
from homeroom_aggregator.server.routes import Service

RULES = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1, phase_s=3600)
SIGNER = new_key()


class Member:
    """A device's store, key and connection, with an update that waits; everything but the training."""

    def __init__(self, district: District, number: int) -> None:
        self.district, self.number, self.school = district, number, School()
        (invitation,) = invite_devices(district.folder, district.address, 1)
        self.client = Client(join(invitation, self.school.key), self.school.key)
        self.store = Store.open(district.tmp / f"device-{number}")
        self.update_id = self.queue()

    def queue(self, base: int = 0, subjects: tuple[str, ...] = ()) -> str:
        """A new update on a base; its id, or nothing if the one before stays."""
        rounds = self.district.service.rounds
        rng = np.random.default_rng(self.number)
        data = self.school.update(
            rounds.configuration, rng.normal(0, 0.1, START.shape), base, ladder_table=3 + self.number, head_grade=5
        )
        update_id = read_update(data, rounds.configuration, rounds.rules.layout).header.update_id
        return update_id if self.store.outbox.queue(update_id, data, base, subjects) else ""

    def visit(self) -> str:
        """What `Device.sync` does of a secure round."""
        configuration = self.client.round()
        renew_round(self.store, configuration)
        bundle, root = self.district.service.rounds.bundle, self.client.enrolment.root
        context = secure_round.SecureRoundContext(self.store, bundle, self.client, self.school.key, root, configuration)
        return secure_round.take_part(context, UpdateContribution(context))

    def power_cut(self) -> None:
        """The process is gone; what was stored is there."""
        self.store.close()
        self.store = Store.open(self.district.tmp / f"device-{self.number}")


class District:
    """A served aggregator with secure rounds, its devices, and a clock that tests turn forward."""

    def __init__(self, service: Service, address: str, tmp: Path) -> None:
        self.service, self.address, self.tmp, self.later_s = service, address, tmp, 0.0
        self.members: list[Member] = []
        self.secure_rounds.clock = self.now

    @property
    def secure_rounds(self) -> SecureRounds:
        assert self.service.secure_rounds is not None
        return self.service.secure_rounds

    def now(self) -> float:
        return time.time() + self.later_s

    @property
    def folder(self) -> Path:
        return self.service.rounds.log.database.path.parent

    @property
    def version(self) -> int:
        return self.service.rounds.state.version

    @property
    def theta(self) -> bytes:
        return self.service.rounds.state.theta.tobytes()

    @property
    def phase(self) -> str:
        live = self.secure_rounds.store.live()
        return live.phase if live else "none"

    def roster(self, members: list[Member], serial: int = 1) -> Roster:
        word = certify(ROOT, "roster", SIGNER, "tests")
        names = [member.school.name for member in members]
        return make_roster(SIGNER, word, names, serial=serial, minimum=3, institution="tests")

    def visit(self, *numbers: int) -> list[str]:
        return [self.members[number].visit() for number in numbers]

    def settled(self) -> None:
        """Waits until a withdrawal was replayed, which the server does outside its write thread."""
        while self.service.rounds.stale:
            time.sleep(0.05)

    def until(self, phase: str) -> None:
        """Everybody comes, one after another, until that phase has begun."""
        for _ in range(6):
            for number in range(4):
                if self.phase == phase:
                    return
                self.visit(number)
        raise AssertionError(f"phase {phase} never came")

    def restart(self) -> None:
        """The server is killed and comes back in the middle of what it did."""
        self.secure_rounds.close()
        self.service.secure_rounds = SecureRounds(
            self.folder / SECURE_ROUND_FILE,
            self.service.rounds,
            ThetaSums(self.service.rounds, open_log(self.folder)),
            lambda: load_roster(self.folder),
            self.now,
        )
