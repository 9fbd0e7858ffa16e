"""The service: everything that the handlers of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from homeroom_aggregator.admin.folder import (
    BUNDLES_FOLDER,
    SECURE_ROUND_FILE,
    load_roster,
    open_log,
    open_rounds,
    read_facts,
    read_secret,
)
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.server import auth
from homeroom_aggregator.server.downloads import Downloads
from homeroom_aggregator.server.metrics import Metrics
from homeroom_aggregator.server.rate_limits import DeviceLimits, MemoryBudget, RateMeter
from homeroom_aggregator.server.write_thread import WriteThread
from homeroom_aggregator.state.last_seen import LastSeen
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members

BODIES_LIMIT_BYTES = 512 << 20  # of all bodies in memory at once; further requests are told to come back


def open_service(folder: Path, token: str | None = None, retain: int = 0) -> Service:
    """Open an aggregator's folder to serve it.

    token: the operator's. retain: versions whose updates are kept at least; 0 keeps everything.
    """
    facts = read_facts(folder)
    rounds = open_rounds(folder, retain)
    downloads = Downloads(rounds, open_log(folder), folder / BUNDLES_FOLDER / f"{facts.bundle_id}.homeroom")
    service = Service(rounds, facts.institution, read_secret(folder), downloads, open_log(folder), token)
    if facts.configuration.secure:
        service.secure_rounds = SecureRounds(
            folder / SECURE_ROUND_FILE, rounds, open_log(folder), lambda: load_roster(folder)
        )
    return service


@dataclass
class Service:
    """Shared by all handlers. `rounds` belongs to the writer's thread, `reader` to the event loop's.

    secret: proves invitation codes. token: the operator's, if one is set. secure_rounds: where rounds are secure.
    """

    rounds: Rounds
    institution: str
    secret: bytes
    downloads: Downloads
    reader: Log
    token: str | None = None
    limits: DeviceLimits = field(default_factory=DeviceLimits)
    nonces: auth.Nonces = field(default_factory=auth.Nonces)
    metrics: Metrics = field(default_factory=Metrics)
    room: MemoryBudget = field(default_factory=lambda: MemoryBudget(BODIES_LIMIT_BYTES))
    secure_rounds: SecureRounds | None = None

    def __post_init__(self) -> None:
        self.meter = RateMeter(self.limits)
        self.writer = WriteThread(self.rounds)
        self.last_seen = LastSeen(self.rounds.log.database)
        self.members = Members(self.reader.database)

    def close(self) -> None:
        """Finish what is under way, and leave a checkpoint, so that the next start has nothing to compute."""
        self.writer.close()
        self.downloads.close()
        self.reader.close()
        self.last_seen.write(self.rounds.log.database)
        self.rounds.put_checkpoint()
        self.rounds.close()
        if self.secure_rounds:
            self.secure_rounds.close()
