"""The service: everything that the handlers of one server share."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from starlette.requests import Request

from homeroom_aggregator.admin import learned_addresses
from homeroom_aggregator.admin.configuration import DistrictConfiguration
from homeroom_aggregator.admin.configuration_file import bring_into_force, read_configuration
from homeroom_aggregator.admin.folder import (
    BUNDLES_FOLDER,
    SECURE_EVALUATION_FILE,
    SECURE_ROUND_FILE,
    SECURE_STATISTICS_FILE,
    load_roster,
    open_log,
    open_rounds,
    read_facts,
    read_secret,
)
from homeroom_aggregator.admin.next_version import active_devices, automatic_buffer
from homeroom_aggregator.admin.offline import load_sealing_key
from homeroom_aggregator.merge.configuration_change import FieldChange
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.secagg.evaluation_sums import EvaluationSums
from homeroom_aggregator.secagg.statistics_sums import StatisticsSums
from homeroom_aggregator.secagg.sums import ThetaSums
from homeroom_aggregator.server import auth
from homeroom_aggregator.server.connections import Connections
from homeroom_aggregator.server.downloads import Downloads
from homeroom_aggregator.server.metrics import LOGGER, Metrics
from homeroom_aggregator.server.public_address import PublicAddresses
from homeroom_aggregator.server.rate_limits import MemoryBudget, RateMeter
from homeroom_aggregator.server.write_thread import WriteThread
from homeroom_aggregator.state.last_seen import LastSeen
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Members


def open_service(folder: Path, token: str | None = None, configuration: DistrictConfiguration | None = None) -> Service:
    """Open an aggregator's folder to serve it by a configuration, by default its own; that comes into force here.

    token: the operator's. Raises InputError, and changes nothing, where a field may not change so.
    """
    facts, configuration = read_facts(folder), configuration or read_configuration(folder)
    log = configuration.log
    rounds = open_rounds(
        folder, log.retain, checkpoint_entries=log.checkpoint_entries, checkpoint_bytes=log.checkpoint_mib << 20
    )
    try:
        changes = bring_into_force(folder, rounds, configuration)
    except BaseException:
        rounds.close()
        raise
    downloads = Downloads(rounds, open_log(folder), folder / BUNDLES_FOLDER / f"{facts.bundle_id}.homeroom")
    service = Service(
        rounds,
        facts.institution,
        read_secret(folder),
        load_sealing_key(folder),
        downloads,
        open_log(folder),
        token,
        configuration,
        changes,
    )
    service.fit_buffer()
    rounds.rewind_if_due()
    if rounds.configuration.secure:
        sums = ThetaSums(rounds, open_log(folder))
        service.secure_rounds = SecureRounds(folder / SECURE_ROUND_FILE, rounds, sums, lambda: load_roster(folder))
    if rounds.configuration.statistics.mode == "secure":
        path, shared = folder / SECURE_STATISTICS_FILE, StatisticsSums(rounds, open_log(folder))
        service.secure_statistics = SecureRounds(path, rounds, shared, lambda: load_roster(folder))
    if rounds.configuration.evaluation.mode == "secure":
        path, told = folder / SECURE_EVALUATION_FILE, EvaluationSums(rounds, open_log(folder))
        service.secure_evaluation = SecureRounds(path, rounds, told, lambda: load_roster(folder))
        told.begun = service.secure_evaluation.begun
    return service


@dataclass
class Service:
    """Shared by all handlers. `rounds` belongs to the writer's thread, `reader` to the event loop's.

    secret: proves invitation codes. sealing: opens those that come sealed. token: the operator's, if one is set.
    changes: of the round configuration that came with this start. secure_rounds, secure_statistics, secure_evaluation:
    of updates, statistics and counts, where they are summed so. addresses: it answers to; None for all.
    tls_pin: of the key with which it speaks TLS.
    tls_end: when its certificate ends. watch: looks after that.
    """

    rounds: Rounds
    institution: str
    secret: bytes
    sealing: X25519PrivateKey
    downloads: Downloads
    reader: Log
    token: str | None = None
    configuration: DistrictConfiguration = field(default_factory=DistrictConfiguration)
    changes: Sequence[FieldChange] = ()
    metrics: Metrics = field(default_factory=Metrics)
    secure_rounds: SecureRounds | None = None
    secure_statistics: SecureRounds | None = None
    secure_evaluation: SecureRounds | None = None
    addresses: PublicAddresses | None = None
    tls_pin: str = ""
    tls_end: datetime.datetime | None = None
    watch: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.nonces = auth.Nonces(life_s=self.configuration.request_limits.nonce_s)
        self.meter = RateMeter(self.configuration.device_limits)
        self.room = MemoryBudget(self.configuration.request_limits.bodies_mib << 20)
        self.connections = Connections(self.configuration.request_limits)
        self.sending = MemoryBudget(self.room.limit_bytes)
        self.at_once = Counter[str]()  # requests under way, by member
        self.writer = WriteThread(self.rounds, self.replay_outside)
        self.replays = ThreadPoolExecutor(1, "replays")
        self._replaying: asyncio.Task[None] | None = None
        self._tasks = set[asyncio.Task[None]]()  # the loop itself would forget them
        self.last_seen = LastSeen(self.rounds.log.database)
        self.members = Members(self.reader.database)

    def fit_buffer(self) -> None:
        """Let an automatic buffer follow the devices that come; in the writer's thread."""
        rounds = self.rounds
        if self.configuration.automatic_buffer:
            active = active_devices(rounds.members, self.last_seen.days(rounds.log.database))
            size = automatic_buffer(len(active), rounds.configuration.min_devices, rounds.configuration.rule)
            rounds.configure(msgspec.structs.replace(rounds.configuration, buffer_size=size))

    def learn_addresses(self) -> None:
        """Where the folder names no addresses yet: begin to learn them, or close what was learned; in the writer."""
        database = self.rounds.log.database
        if self.addresses and self.addresses.open_to_all:
            learned_addresses.begin(database)
            if learned_addresses.is_over(database, self.rounds.members, self.last_seen.days(database)):
                self.close_addresses()

    def close_addresses(self) -> None:
        """Answer to the addresses that were learned, and to no others; in the writer's thread."""
        database = self.rounds.log.database
        server = learned_addresses.close(database.path.parent, database)
        changed = msgspec.structs.replace(self.configuration.server, addresses=server.addresses)
        self.configuration = msgspec.structs.replace(self.configuration, server=changed)
        if self.addresses:
            self.addresses.take(changed)

    def note_address(self, request: Request) -> None:
        """Note by which address a member came, while they are learned; in the event loop."""
        if self.addresses and (address := self.addresses.new_address(request)):
            database = self.rounds.log.database
            noted = asyncio.create_task(self.writer.do(partial(learned_addresses.note, database, address)))
            self._tasks.add(noted)
            noted.add_done_callback(self._tasks.discard)

    async def look(self) -> None:
        """What is looked after again and again while it serves."""
        if self.addresses:
            self.addresses.look()
            if self.addresses.open_to_all:
                await self.writer.do(self.learn_addresses)
        if self.rounds.configuration.rewinds:
            await self.writer.do(self.rounds.rewind_if_due)
        if self.watch:
            await self.watch()

    def replay_outside(self) -> None:
        """Have a withdrawal's replay computed beside the writer, one after another; in the event loop."""
        self.rounds.replays_outside = True
        if self.rounds.stale and (self._replaying is None or self._replaying.done()):
            self._replaying = asyncio.create_task(self._replay())

    async def _replay(self) -> None:
        rounds, log, loop = self.rounds, open_log(self.rounds.log.database.path.parent), asyncio.get_running_loop()
        try:
            while rounds.stale:
                result = await loop.run_in_executor(self.replays, rounds.replayed, log)
                await self.writer.do(partial(rounds.adopt_replayed, result))
        except Exception as problem:  # bodies that it read were pruned meanwhile, or the disk failed
            LOGGER.warning("a replay beside the writer failed", exc_info=problem)
            await self.writer.do(rounds.settle)
        finally:
            log.close()

    def close(self) -> None:
        """Finish what is under way, and leave a checkpoint, so that the next start has nothing to compute."""
        self.writer.close()
        self.replays.shutdown()
        self.downloads.close()
        self.reader.close()
        self.last_seen.write(self.rounds.log.database)
        self.rounds.put_checkpoint()
        self.rounds.close()
        for secure in filter(None, (self.secure_rounds, self.secure_statistics, self.secure_evaluation)):
            secure.close()
