"""Forecast of a rewind: what becomes void, which accuracy to expect, who cannot teach again."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from homeroom.contract.evaluation_counts import CountsShape, GroupCounts, accuracy, add_counts
from homeroom.federation.evaluation_shape import task_shapes
from homeroom.system.clock import now
from homeroom.system.printable import counted
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.evaluation_figures import percent
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import last_seen, rewinds, secure_sum
from homeroom_aggregator.state.evaluations import TaskSum, read_sums
from homeroom_aggregator.state.rewinds import WaitingRewind

AWAY_DAYS = 30
MOST_NAMED = 8  # keys in a sentence


def rewind_lines(rounds: Rounds, planned: WaitingRewind) -> list[str]:
    """What a rewind does to whom, in sentences."""
    newest = rounds.state.version
    sums = f", {counted(planned.sums, 'secure sum')} with all that is in it" if planned.sums else ""
    said = f"Version {newest + 1} will be version {planned.to} again, which no update that is to be unlearned is in"
    return [
        f"{said} ({len(planned.update_ids)} wait for it).",
        f"What came since then becomes void: {counted(planned.versions, 'version')}{sums} and "
        f"{counted(planned.updates, 'other update')}. Their bytes "
        "are erased, and each device that learned on such a version drops what it learned and trains anew from its "
        "samples.",
        *_accuracy(rounds, planned.to, newest),
        *_who_cannot_teach(rounds, planned),
    ]


def _accuracy(rounds: Rounds, to: int, newest: int) -> Iterator[str]:
    """By task, how version `to` did beside the newest one, as devices told."""
    sums, known = read_sums(rounds.log.database), False
    for task, shape in task_shapes(rounds.bundle.manifest).items():
        figures = _of_version(sums, shape, task, to)
        if figures is None:
            continue
        known = True
        present = sums.get(newest, {}).get(task)
        beside = f"; version {newest} has {_share(shape, present)}" if present else ""
        yield f"Accuracy to expect in {task} until devices have trained anew: {figures}, as version {to} had{beside}."
    if not known:
        yield (
            f"The accuracy to expect cannot be told: no counts of version {to} are shown here (evaluation.mode of "
            "district.toml asks devices for them). It is that of version "
            f"{to}{', the bundle as it came' if to == 0 else ''}, until devices have trained anew."
        )


def _of_version(sums: dict[int, dict[str, TaskSum]], shape: CountsShape, task: str, to: int) -> str | None:
    """How a version did: by its own counts, or by those of the next one, whose devices all came from it."""
    own, later = sums.get(to, {}).get(task), sums.get(to + 1, {}).get(task)
    if own:
        return _share(shape, own)
    return _share(shape, later, before=True) if later and later.since == (to, to) else None


def _share(shape: CountsShape, shown: TaskSum, *, before: bool = False) -> str:
    def of(group: GroupCounts) -> tuple[int, ...]:
        return group.before if before else group.now

    found = accuracy(shape, add_counts(map(of, shown.groups), shape.size))
    return f"{percent(found.share)} ({counted(found.samples, 'sample')} of {counted(shown.devices, 'device')})"


def _who_cannot_teach(rounds: Rounds, planned: WaitingRewind) -> Iterator[str]:
    taught = _taught(rounds.log.database, planned.after)
    gone = sorted(taught & rounds.members.gone())
    if gone:
        said = f"Of {counted(len(taught), 'device')} whose updates become void, {len(gone)} left and cannot teach again"
        yield f"{said}: {_named(gone)}."
    oldest = (now().date() - datetime.timedelta(days=AWAY_DAYS)).isoformat()
    days = last_seen.read_days(rounds.log.database)
    seen = {rounds.members.name_of(key) for key, day in days.items() if day >= oldest}
    away = sorted(taught - seen - set(gone)) if days else []
    if away:
        yield f"Not here for {AWAY_DAYS} days: {len(away)} more, {_named(away)}."
    yield "Samples that expired on a device since cannot teach again; only that device knows how many."


def _taught(database: Database, after: int) -> set[str]:
    """The members whose updates after an entry become void."""
    sql = f"SELECT DISTINCT device FROM log WHERE kind = 'update' AND number > ? AND {rewinds.not_void(database)}"
    found = {device for (device,) in database.rows(sql, (after,))}
    for header in secure_sum.headers(database, after, 1 << 62):
        found |= {member for members in header.fed.values() for member in members}
    return found


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return ", ".join(key[:8] for key in keys[:MOST_NAMED]) + more
