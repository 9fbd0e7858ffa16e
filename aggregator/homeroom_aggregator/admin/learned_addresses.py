"""The addresses of a folder from before there were any (0.1.0), learned from its members' requests.

Meanwhile every authority is taken, as in 0.1.0, so that a newer server shuts no school out. The audit log notes each
address by which a member came; after LEARNING_DAYS, and once half of the devices have come, these are written into the
file, and no other counts.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import msgspec

from homeroom.contract.address import is_address
from homeroom.system.clock import now
from homeroom.system.files import read_small, write_durable
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_configuration, write_file
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.members import Members

LEARNING_DAYS = 14
ADDRESSES_LIMIT = 16  # a member may claim any
BEGUN, CAME, LEARNED = "addresses are learned", "member came by", "addresses learned"


def begin(database: Database) -> None:
    """Note when learning began, once."""
    if not _entries(database, BEGUN):
        audit.record(database, BEGUN, days=LEARNING_DAYS)


def note(database: Database, address: str) -> None:
    """Note an address by which a member came, once."""
    known = came(database)
    if is_address(address) and address not in known and len(known) < ADDRESSES_LIMIT:
        audit.record(database, CAME, address=address)


def came(database: Database) -> tuple[str, ...]:
    """The addresses by which members came, the first one first."""
    return tuple(str(entry.about["address"]) for entry in _entries(database, CAME))


def is_over(database: Database, members: Members, days: Mapping[str, str]) -> bool:
    """Whether enough was learned. days: by key, the day of the last visit (`LastSeen.days`)."""
    began = next(iter(_entries(database, BEGUN)), None)
    if began is None or now() < datetime.datetime.fromisoformat(began.at) + datetime.timedelta(days=LEARNING_DAYS):
        return False
    devices = [row["device"] for row in members.every() if row["role"] == "device" and not row["revoked"]]
    return 2 * sum(days.get(device, "") >= began.at[:10] for device in devices) >= len(devices)


def close(folder: Path, database: Database) -> ServerSection:
    """Write what was learned into the folder's file, after a copy of it; no other authority counts from then on."""
    path, addresses = folder / CONFIGURATION_FILE, came(database)
    if path.exists():
        write_durable(path.with_name(f"{CONFIGURATION_FILE}.before"), read_small(path))
    configuration = read_configuration(folder)
    server = msgspec.structs.replace(configuration.server, addresses=addresses)
    write_file(folder, msgspec.structs.replace(configuration, server=server))
    audit.record(database, LEARNED, addresses=", ".join(addresses) or "none but this machine's own")
    return server


def _entries(database: Database, event: str) -> list[audit.AuditRecord]:
    return [entry for entry in audit.records(database) if entry.event == event]
