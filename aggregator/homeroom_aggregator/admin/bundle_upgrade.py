"""Bundle upgrade: a folder for a newer bundle with the key, members and audit log of the old one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from homeroom.contract.signing import read_key
from homeroom.system.files import make_directory, read_small, write_durable
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin import configuration_file as file
from homeroom_aggregator.admin import folder as district
from homeroom_aggregator.admin.folder import FolderFacts
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger

CARRIED_FILES = (  # messages under way are sealed to the second, and devices know the server by the third
    *(district.ROSTER_FILE, district.SEALING_KEY_FILE),
    *(district.TLS_KEY_FILE, district.TLS_CERTIFICATE_FILE, district.LISTENING_FILE),
)
CARRIED_TABLES = ("devices", "invitations", "consents", "instances", "audit")


def upgrade_bundle(folder: Path, old: Path, bundle: Path) -> FolderFacts:
    """Make `folder`, to be served at the address of `old`: devices find the newer bundle there and stay enrolled.

    Its rounds have the old configuration and begin with the bundle's own theta. May be repeated if it was cut short.
    """
    facts = district.read_facts(old)
    make_directory(folder)
    with (
        contextlib.closing(district.open_log(old)) as before,
        contextlib.closing(Log(folder / district.LOG_FILE)) as log,
    ):
        if not log.database.one("SELECT 1 FROM audit"):
            with log.database.transaction():
                _take_over(log.database, before.database)
                if privacy := facts.configuration.privacy:  # which never changes
                    PrivacyLedger(log.database, privacy, facts.configuration.scale_bits).carry_over(before.database)
    for name in CARRIED_FILES:
        with contextlib.suppress(FileNotFoundError):
            write_durable(folder / name, read_small(old / name))
    configuration = msgspec.structs.replace(file.round_in_force(old, facts), earlier_codecs=())
    if (old / file.CONFIGURATION_FILE).exists():
        write_durable(folder / file.CONFIGURATION_FILE, read_small(old / file.CONFIGURATION_FILE))
        file.write_file(folder, msgspec.structs.replace(file.read_configuration(old), round=configuration))
    return district.create_folder(
        folder,
        bundle,
        institution=facts.institution,
        key=read_key(old / district.KEY_FILE),
        certificate=facts.certificate,
        configuration=configuration,
        secret=district.read_secret(old),
    )


def _take_over(new: Database, old: Database) -> None:
    """Copy members, invitations, consents and the audit log, whose chain goes on."""
    for table in CARRIED_TABLES:
        rows = old.rows(f"SELECT * FROM {table}")
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            new.write_many(f"INSERT INTO {table} VALUES ({marks})", rows)
    audit.record(new, "succeeded", members=len(old.rows("SELECT 1 FROM devices")))
