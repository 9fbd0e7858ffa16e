"""Statistics of small invented classes for tests: pupils, their sums, and the messages their device would send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from aggregator.institution import LABELS, SECTION, School
from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.round import StatisticsRules
from homeroom.contract.signing import fingerprint
from homeroom.contract.statistics.accumulate import BlockVectors, numbers_to_grid, sum_samples, to_grid
from homeroom.contract.statistics.messages import Support, make_change, read_release
from homeroom.contract.statistics.pooling import OTHERS, Pooling, pool
from homeroom.contract.statistics.sums import NOTHING, Statistics, add, difference
from homeroom.federation.own_statistics import OwnTotal, own_total, takes_away
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.members import StoredInvitation

LIMIT = 100_000
PLAIN = StatisticsRules(mode="plain", k=3, subjects=10)


def pupil_sums(seed: int, samples: int = 8, labels: tuple[str, ...] = LABELS) -> Statistics:
    """The sums of one pupil; the second block is absent in a few samples."""
    rng = np.random.default_rng(seed)
    rows = np.arange(samples) % len(labels)
    blocks = []
    for block, share in zip(SECTION.blocks, (1.0, 0.8), strict=True):
        present = rng.random(samples) < share
        vectors = to_grid(rng.normal(0, 0.4, (samples, block.dimension)) + rows[:, None] * 0.1)
        blocks.append(BlockVectors(block.statistics_id, vectors * present[:, None], present))
    every, by_label = np.ones(samples, bool), {name: rows == number for number, name in enumerate(labels)}
    numbers = numbers_to_grid(rng.normal(0, 1, samples))
    grades = sum_samples("grade", blocks, by_label, moments=every)
    return add(grades, sum_samples("size", blocks[:1], {"": every}, moments=every, numbers=numbers))


def tasks_of(manifest: Manifest) -> dict[str, Task]:
    return {task.name: task for task in manifest.tasks}


@dataclass
class Room:
    """A device with pupils, in a school. sent: what the aggregator has of it."""

    school: str
    device: School = field(default_factory=School)
    pupils: dict[str, Statistics] = field(default_factory=dict)
    sent: OwnTotal = field(default_factory=OwnTotal)
    sequence: int = 0

    @property
    def name(self) -> str:
        return self.device.name

    def enrol(self, rounds: Rounds) -> Room:
        rounds.members.join(self.name, StoredInvitation(f"code {self.name}", school=self.school))
        if self.school:
            rounds.members.consent(self.school, "the head")
        return self

    def teach(self, seed: int, pupils: int = 5, **lesson: object) -> Room:
        for number in range(pupils):
            self.pupils[f"{seed}.{number}"] = pupil_sums(1000 * seed + number, **lesson)  # type: ignore[arg-type]
        return self

    def own(self, rounds: Rounds) -> OwnTotal:
        return own_total(tasks_of(rounds.bundle.manifest), self.pupils, LIMIT)[0]

    def message(
        self,
        rounds: Rounds,
        total: Statistics | None = None,
        *,
        whole: bool = False,
        sequence: int = 0,
        base: Statistics | None = None,
        subjects: tuple[Support, ...] | None = None,
    ) -> bytes:
        after = self.own(rounds)
        before = None if whole or not self.sequence else self.sent.total
        return make_change(
            self.device.key,
            rounds.bundle.bundle_id,
            sequence or self.sequence + 1,
            base or before,
            after.total if total is None else total,
            after.subjects if subjects is None else subjects,
            takes_away=any(takes_away(self.sent, after, task) for task in ("grade", "size")),
        )

    def send(self, rounds: Rounds, *, whole: bool = False) -> None:
        message, after = self.message(rounds, whole=whole), self.own(rounds)
        assert rounds.take_statistics(message, self.name) == (self.sequence + 1, "accepted")
        self.sent, self.sequence = after, self.sequence + 1


def released(rounds: Rounds) -> tuple[int, Statistics] | None:
    """Number and total of the release that is served."""
    body = rounds.statistics.totals.release().body
    if not body:
        return None
    root = fingerprint(rounds.certificate.root)
    header, total = read_release(body, bundle_id=rounds.bundle.bundle_id, root_fingerprint=root)
    return header.number, total


@dataclass(frozen=True)
class Shown:
    """A release: what was shared of it, and what each unit had sent."""

    poolings: Mapping[str, Pooling]
    totals: Mapping[str, Statistics]


def shown_by_fewer(k: int, releases: list[Shown]) -> list[str]:
    """Numbers of releases, or of differences of two that follow each other, that fewer than k units fed.

    The rows without a name in either are one number where some row is in both, and else two.
    """
    found = []
    for number, (before, after) in enumerate(zip([Shown({}, {}), *releases], releases, strict=False), 1):
        fed = Counter(cell for one in after.totals.values() for cell in pool(one, after.poolings).cells)
        found += [f"release {number}: {cell} by {units}" for cell, units in fed.items() if units < k]
        changes = [difference(one, before.totals.get(unit, NOTHING)) for unit, one in after.totals.items()]
        for task in before.poolings.keys() & after.poolings.keys():
            old, new = before.poolings[task], after.poolings[task]
            rows = {row for one in (*before.totals.values(), *after.totals.values()) for row in one.rows(task)}
            first, second = rows - old.named, rows - new.named
            for nameless in (first | second,) if first & second else (first, second):
                same = Pooling(frozenset(rows - nameless), old.pairs & new.pairs)
                fed = Counter(cell for one in changes for cell in set(map(same.cell, one.of_task(task).cells)) if cell)
                shown = {cell for cell in fed if cell.row == OTHERS or cell.row not in first | second}
                found += [f"change {number}: {cell} by {fed[cell]}" for cell in shown if fed[cell] < k]
    return found


def isolates(
    k: int, poolings: Mapping[str, Pooling], tasks_of_rows: dict[str, dict[str, set[str]]]
) -> list[tuple[str, ...]]:
    """Sets of fewer than k - 1 units beside one member that a combination of released rows shows alone.

    A rank test: a combination of rows, whatever the samples are, that vanishes on all other units, and not on these.
    tasks_of_rows: by unit and label of its samples, the tasks that these have; all have the same blocks.
    """
    groups = [(unit, label, tasks) for unit, rows in tasks_of_rows.items() for label, tasks in sorted(rows.items())]
    cells = sorted({(task, _row(poolings, task, label)) for _, label, tasks in groups for task in tasks})
    columns = np.zeros((len(cells), len(groups)))
    for number, (_, label, tasks) in enumerate(groups):
        for task in tasks:
            columns[cells.index((task, _row(poolings, task, label))), number] = 1
    found = []
    for some in combinations(sorted(tasks_of_rows), k - 1):
        rest = columns[:, [unit not in some for unit, _, _ in groups]]
        if np.linalg.matrix_rank(columns) > np.linalg.matrix_rank(rest):
            found.append(some)
    return found


def _row(poolings: Mapping[str, Pooling], task: str, label: str) -> str:
    if task != "grade":
        return ""
    return label if label in poolings[task].named else OTHERS
