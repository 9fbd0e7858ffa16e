"""Bundle upgrade: a folder for a newer bundle whose rounds go on from the old one's, segment by segment."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from homeroom.contract.changed_encoders import changed_encoders
from homeroom.contract.signing import read_key
from homeroom.errors import InputError
from homeroom.runtime.bundle import Bundle, install
from homeroom.system.files import make_directory, read_small, removed_on_failure, write_durable
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin import configuration_file as file
from homeroom_aggregator.admin import folder as district
from homeroom_aggregator.admin.folder import FolderFacts
from homeroom_aggregator.merge.carry_over import CarriedOver, Successor, carry_rounds, later_configuration
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger

CARRIED_FILES = (  # messages under way are sealed to the second, and devices know the server by the third
    *(district.ROSTER_FILE, district.SEALING_KEY_FILE),
    *(district.TLS_KEY_FILE, district.TLS_CERTIFICATE_FILE, district.LISTENING_FILE),
)
CARRIED_TABLES = ("devices", "invitations", "consents", "instances", "audit")
TAKEN_OVER = "taken over"  # a fact of the new log: what it was made of


class _TakenOver(msgspec.Struct, frozen=True):
    """What a carry-over was made of, so that one which was cut short is finished with the same, and what came of it."""

    bundle_id: str
    entries: int
    audited: int
    carried: CarriedOver


class BundleUpgrade(NamedTuple):
    """The new folder, what goes on in it, and the encoders, before and now, of modalities whose features differ."""

    facts: FolderFacts
    carried: CarriedOver
    encoders: dict[str, tuple[str, str]]


def upgrade_bundle(folder: Path, old: Path, bundle: Path) -> BundleUpgrade:
    """Make `folder`, to be served at the address of `old`: devices find the newer bundle there and stay enrolled.

    Its rounds have the old configuration, and go on from the newest version of `old`, whose server must be stopped. May
    be repeated if it was cut short. Raises InputError where `folder` was begun with another bundle, or before `old`
    went on.
    """
    facts = district.read_facts(old)
    if (folder / district.FACTS_FILE).exists():
        raise InputError("is an aggregator's folder already", where=str(folder), remedy="choose a new folder")
    with removed_on_failure(folder), contextlib.closing(district.open_rounds(old)) as before:
        make_directory(folder)
        installed = install(bundle, folder / district.BUNDLES_FOLDER, root=facts.root)
        configuration = later_configuration(before, installed)
        district.check_statistics(configuration, installed, bundle)
        district.check_masked(configuration, installed, bundle)
        key = read_key(old / district.KEY_FILE)
        with contextlib.closing(Log(folder / district.LOG_FILE)) as log:
            taken = log.fact(TAKEN_OVER)
            if taken is None:
                with log.database.transaction():
                    carried = _take_over(before, log, Successor(installed, configuration, key, facts.certificate))
            else:
                carried = _check_same(msgspec.json.decode(taken, type=_TakenOver), before, installed, folder)
        for name in CARRIED_FILES:
            with contextlib.suppress(FileNotFoundError):
                write_durable(folder / name, read_small(old / name))
        if (old / file.CONFIGURATION_FILE).exists():
            write_durable(folder / file.CONFIGURATION_FILE, read_small(old / file.CONFIGURATION_FILE))
            people = msgspec.structs.replace(configuration, earlier_codecs=(), earlier_bundles=())
            file.write_file(folder, msgspec.structs.replace(file.read_configuration(old), round=people))
        made = district.create_folder(
            folder,
            bundle,
            institution=facts.institution,
            key=key,
            certificate=facts.certificate,
            configuration=configuration,
            secret=district.read_secret(old),
        )
        encoders = changed_encoders(before.bundle.manifest, installed.manifest)
    return BundleUpgrade(made, carried, encoders)


def _take_over(before: Rounds, log: Log, successor: Successor) -> CarriedOver:
    """Copy members, invitations, consents and the audit log, whose chain goes on; the rounds; the privacy ledger."""
    new, old = log.database, before.log.database
    for table in CARRIED_TABLES:
        rows = old.rows(f"SELECT * FROM {table}")
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            new.write_many(f"INSERT INTO {table} VALUES ({marks})", rows)
    if privacy := successor.configuration.privacy:  # which never changes
        PrivacyLedger(new, privacy, successor.configuration.scale_bits).carry_over(old)
    carried = carry_rounds(before, log, successor)
    log.put_fact(
        TAKEN_OVER,
        msgspec.json.encode(_TakenOver(successor.bundle.bundle_id, before.log.last(), _audited(old), carried)),
    )
    members = len(old.rows("SELECT 1 FROM devices"))
    audit.record(new, "succeeded", members=members, **msgspec.to_builtins(carried))
    return carried


def _audited(database: Database) -> int:
    return int(database.one("SELECT count(*) FROM audit")[0])


def _check_same(taken: _TakenOver, before: Rounds, bundle: Bundle, folder: Path) -> CarriedOver:
    """What was carried over; InputError unless it was the same as is asked for now."""
    now = bundle.bundle_id, before.log.last(), _audited(before.log.database)
    if (taken.bundle_id, taken.entries, taken.audited) != now:
        what = "was begun with another bundle, or before the old folder went on"
        raise InputError(what, where=str(folder), remedy="remove this unfinished folder, then try again")
    return taken.carried
