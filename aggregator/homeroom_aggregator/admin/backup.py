"""Backup and restore: an aggregator's folder copied while it serves, and put back.

A backup is a folder of the same form with `backup.json` beside: the SHA-256 of every file. It appears whole or not at
all, and so does what is restored from it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from homeroom.contract.canonical_json import decode, digest_file
from homeroom.errors import InputError, StoreError
from homeroom.system.clock import now
from homeroom.system.files import make_directory, open_private, read_small, refusal, sync_directory, write_durable
from homeroom.system.sqlite import copy_database
from homeroom_aggregator.admin import folder as district
from homeroom_aggregator.admin import lost_log, withdrawal_log
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE
from homeroom_aggregator.admin.folder import BACKUP_FILE, LOG_FILE
from homeroom_aggregator.admin.withdrawal_log import KnownWithdrawals
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.rewinds import WaitingRewind
from homeroom_aggregator.state.schema import NEWEST_VERSION

REQUIRED_FILES = (district.FACTS_FILE, district.KEY_FILE, district.SECRET_FILE)
# the secure rounds' databases and waiting.db stay behind: secrets of a round, private updates must not outlive it
TLS_FILES = (district.TLS_KEY_FILE, district.TLS_CERTIFICATE_FILE, district.LISTENING_FILE)
CONTENTS_LIMIT_BYTES = 1 << 22  # of backup.json
OPTIONAL_FILES = (CONFIGURATION_FILE, district.ROSTER_FILE, district.SEALING_KEY_FILE, *TLS_FILES)


class BackupContents(msgspec.Struct, frozen=True, kw_only=True):
    """backup.json. `files`: SHA-256 by path; `version`: the newest version of theta in it; `at`: when it was made."""

    format: int = 1
    files: dict[str, str]
    version: int
    at: str = ""


@dataclass(frozen=True)
class Restored:
    """A restore. `version`: which it released. `since`: from when on the backup knows nothing, UTC, ISO 8601.

    done: acts of the lost log that were done again, by kind. unknown: kinds of acts since then that are lost.
    named: what a withdrawal log names; again: how many of them were done again beside those.
    waiting: the rewind that withdrawals wait for, if any does.
    """

    version: int
    since: str
    done: dict[str, int]
    unknown: tuple[str, ...]
    named: KnownWithdrawals
    again: int = 0
    waiting: WaitingRewind | None = None


def backup(folder: Path, out: Path) -> BackupContents:
    """Copy FOLDER as it stands, whether it is served or not; OUT must not exist. See also `withdrawal_log`."""
    bundle = Path(district.BUNDLES_FOLDER, district.read_facts(folder).bundle_id)
    if out.exists():
        raise InputError("is there already", where=str(out), remedy="name a new folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError("lies in the folder that it would copy", where=str(out), remedy="name one outside of it")
    if other := next((path for path in out.resolve().parents if (path / district.FACTS_FILE).exists()), None):
        raise InputError(f"lies in a district's folder, {other}", where=str(out), remedy="name one outside of it")
    begun = audit.timestamp()
    with _whole(out) as beside:
        make_directory(beside)
        for name in (*REQUIRED_FILES, *OPTIONAL_FILES):
            if name in REQUIRED_FILES or (folder / name).exists():
                write_durable(beside / name, read_small(folder / name))
        _copy_tree(folder / bundle, beside / bundle)
        version = 0
        if (folder / LOG_FILE).exists():
            with contextlib.closing(Log(folder / LOG_FILE, exclusive=False)) as log:
                copy_database(log.database, beside / LOG_FILE)
            version = _newest(beside / LOG_FILE)
        contents = BackupContents(files=_digests(beside), version=version, at=begun)
        write_durable(beside / BACKUP_FILE, msgspec.json.format(msgspec.json.encode(contents), indent=1))
    withdrawal_log.bring_up_to_date(folder, out)
    return contents


def restore(
    source: Path,
    folder: Path,
    lost: Path | None = None,
    *,
    uncharged: bool = False,
    withdrawals: Path | None = None,
) -> Restored:
    """Put a backup in place as FOLDER, which must not exist; StoreError if a byte of the backup has changed.

    Its theta is released once more there, under a number above all that devices may have seen since the backup.
    lost: the folder that it replaces, where its log is still there; what was taken away since is done again.
    withdrawals: the file of `withdrawal_log`, by default the one beside SOURCE; what it names is withdrawn again.
    uncharged: that releases of private rounds since the backup, which nobody can tell, are not charged here.
    Raises InputError where `uncharged` is not said and has to be, or the other way round.
    """
    contents = _read(source)
    if folder.exists():
        raise InputError("is there already", where=str(folder), remedy="move it away first; nothing is overwritten")
    if wrong := {name for name, _ in _digests(source).items() ^ contents.files.items()}:
        raise StoreError(f"{min(wrong)} is not as it was saved", where=str(source), remedy="take another backup")
    if LOG_FILE not in contents.files and lost:
        raise InputError("has no log, which --from-lost could go on from", where=str(source), remedy="leave it out")
    if LOG_FILE not in contents.files and withdrawals:
        raise InputError("has no log, so nothing in it is withdrawn", where=str(source), remedy="leave it out")
    private = district.read_facts(source).configuration.privacy is not None
    acts = (
        lost_log.read_lost_acts(lost, source / LOG_FILE, private=private)
        if lost
        else lost_log.LostActs(unknown=tuple(lost_log.act_kinds(private)))
    )
    named = withdrawal_log.known_to(source, withdrawals)
    _check_charges(source, lost_log.CHARGE_KIND in acts.unknown, uncharged)
    restored = Restored(contents.version, contents.at, {}, acts.unknown, named)
    with _whole(folder) as beside:
        _copy_tree(source, beside)
        (beside / BACKUP_FILE).unlink()
        if (beside / LOG_FILE).exists():
            with contextlib.closing(district.open_rounds(beside)) as rounds:
                since = contents.at or audit.newest_time(rounds.log.database)
                charged = {"charged": not uncharged} if private else {}
                number = restore_version_number(now())
                rounds.continue_at(number, since=since, unknown=list(acts.unknown), **charged)
                done = lost_log.do_again(rounds, acts)
                again = lost_log.withdraw_again(rounds, named.withdrawn)
                restored = Restored(rounds.state.version, since, done, acts.unknown, named, again, rounds.to_unlearn())
    return restored


def _check_charges(source: Path, unknown: bool, uncharged: bool) -> None:
    if unknown and not uncharged:
        says = "its rounds are private, and what they released since the backup would not be charged to any device here"
        remedy = "give --from-lost, or say --uncharged: each device counts for itself, and stops in time"
        raise InputError(says, where=str(source), remedy=remedy)
    if uncharged and not unknown:
        says = "--uncharged says nothing here: no private release is unknown"
        raise InputError(says, where="options", remedy="leave it out")


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write, which appears as `out` when all of it is there, or not at all."""
    beside = out.with_name(f"{out.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        yield beside
        os.replace(beside, out)
        sync_directory(out.parent)
    except OSError as problem:
        raise refusal(problem, out) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def restore_version_number(moment: datetime.datetime) -> int:
    """The version number of a restore at this moment, UTC: its digits to the second, and two more.

    It is above every number before, from whatever backup one restores, as long as the clock goes forward and there are
    fewer than a hundred releases a second; and it tells people when that was.
    """
    return 100 * int(moment.astimezone(datetime.UTC).strftime("%Y%m%d%H%M%S"))


def _read(source: Path) -> BackupContents:
    try:
        data = read_small(source / BACKUP_FILE, CONTENTS_LIMIT_BYTES)
    except OSError:
        remedy = "name a folder that `homeroom district backup` made"
        raise InputError("is no backup", where=str(source), remedy=remedy) from None
    return decode(
        data, BackupContents, limit_bytes=CONTENTS_LIMIT_BYTES, where=str(source / BACKUP_FILE), error=StoreError
    )


def _newest(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as copied:
        return int(copied.execute(NEWEST_VERSION).fetchone()[0])


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path) -> dict[str, str]:
    """By path, the SHA-256 of every file but the list itself."""
    return {
        path.relative_to(folder).as_posix(): digest_file(path) for path in _files(folder) if path.name != BACKUP_FILE
    }


def _copy_tree(source: Path, target: Path) -> None:
    """Every file, synced, and readable by this user only."""
    for path in _files(source):
        copy = target / path.relative_to(source)
        make_directory(copy.parent)
        with open_private(copy) as file, path.open("rb") as original:
            shutil.copyfileobj(original, file)
            file.flush()
            os.fsync(file.fileno())
