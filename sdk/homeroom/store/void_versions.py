"""What was learned on versions of the shared theta that became void goes: they held an update that was unlearned."""

from __future__ import annotations

from collections.abc import Callable

from homeroom.store.context import StoreContext
from homeroom.store.device_state import JUDGED_RECORD, RESIDUAL
from homeroom.store.outbox import Outbox
from homeroom.store.profiles import read_profile, remove_profile
from homeroom.store.records import VoidReport
from homeroom.store.versions import Versions


def drop_void(context: StoreContext, is_void: Callable[[int], bool]) -> VoidReport:
    """Removes versions that are void or were trained on one, with their updates, residuals and profiles; in a step.

    A profile stays where the theta that it grew from is known and not void.
    is_void: of the number of a shared version.
    """
    database, versions = context.database, Versions(context)
    held = versions.all()
    gone = [one for one in held if is_void(one.base)]
    residuals = [(RESIDUAL + u,) for u, base in database.rows("SELECT update_id, base FROM updates") if is_void(base)]
    database.write_many("DELETE FROM secrets WHERE name = ?", residuals)
    waiting = [update for update in Outbox(context).pending() if is_void(update.base)]
    for update in waiting:
        Outbox(context).call_off(update.update_id)
    if not gone:
        return VoidReport(updates=len(waiting))
    for version in gone:
        database.write("DELETE FROM versions WHERE version_id = ?", (version.version_id,))
        context.unlink("version", version.version_id)
    versions.drop_state()
    database.write("DELETE FROM secrets WHERE name = ?", (JUDGED_RECORD,))
    sound = {"bundle", *(one.version_id for one in held if one not in gone)}
    profiles = 0
    for subject in list(context.keys.sound()[0].values()):
        profile = read_profile(context, subject.name)
        if profile is not None and profile.facts.get("start") not in sound:
            remove_profile(context, subject.subject_id)
            profiles += 1
    return VoidReport(sum(one.kind == "local" for one in gone), len(waiting), profiles)
