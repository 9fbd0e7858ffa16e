"""One exchange of plain statistics between simulated schools: a device's own message, the aggregator's own release.

Only the network, the stores, and the yes that a person says at each device are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from homeroom.contract.signing import fingerprint, new_key, public_hex
from homeroom.contract.statistics.limits import letter_tasks
from homeroom.contract.statistics.messages import make_change, read_release
from homeroom.contract.statistics.sums import NOTHING, Statistics
from homeroom.data.tasks import score
from homeroom.data.tasks.metrics import Score
from homeroom.device.solved import TaughtVectors, with_moments
from homeroom.errors import InputError
from homeroom.federation.own_statistics import OwnTotal, own_total
from homeroom.federation.policy import scoped_layout
from homeroom.federation.statistics import LETTERS_STAY, less_own, policy_refuses, shared_tasks
from homeroom.train.features.dataset import Dataset
from homeroom.train.solve.combine import SolvedOutputs
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation.engine import AGGREGATOR_NAME, SchoolData

Whose = Literal["alone", "others", "together"]


@dataclass(frozen=True)
class SchoolStatistics:
    """One school's part. held: by task, why it sends nothing of it; of "", of all.

    scores: of heads that are solved from its own training samples alone, from the others' sums alone, and from both, on
        its validation samples, by task.
    """

    sent_bytes: int
    held: Mapping[str, str]
    scores: Mapping[Whose, Mapping[str, Score]] = field(default_factory=dict)


@dataclass(frozen=True)
class StatisticsFacts:
    """An exchange. release: bytes of the release; 0 where there is none, and `waits` says why.

    total: that was released.
    """

    release_bytes: int
    waits: str
    schools: Mapping[str, SchoolStatistics]
    total: Statistics = field(default=NOTHING, repr=False)


def exchange(aggregator: Rounds, schools: Sequence[SchoolData]) -> StatisticsFacts:
    """Sends each school's sums once, and scores what the release gives to each.

    Raises InputError where a school has none, as of a bundle without statistics.
    """
    sent, sizes, members = dict[str, OwnTotal](), dict[str, int](), dict[str, str]()
    held = dict[str, Mapping[str, str]]()
    for school in schools:
        key = new_key()
        members[school.name] = public_hex(key)
        sent[school.name], held[school.name] = own_part(aggregator, school)
        own, sizes[school.name] = sent[school.name], 0
        if own.total.cells:
            bundle_id = aggregator.bundle.bundle_id
            message = make_change(key, bundle_id, 1, None, own.total, own.subjects, takes_away=False)
            aggregator.take_statistics(message, public_hex(key))
            sizes[school.name] = len(message)
    body, waits, total = aggregator.statistics.totals.release().body, "", NOTHING
    if body:
        root = fingerprint(aggregator.certificate.root)
        _, total = read_release(body, bundle_id=aggregator.bundle.bundle_id, root_fingerprint=root)
    elif schools:
        waits = aggregator.statistics_status(members[schools[0].name]).waits
    found = {}
    for school in schools:
        included = sent[school.name].total if body else NOTHING
        scores = dict(_scores(school, less_own(total, included) or NOTHING))
        found[school.name] = SchoolStatistics(sizes[school.name], held[school.name], scores)
    return StatisticsFacts(len(body), waits, found, total)


def own_part(aggregator: Rounds, school: SchoolData) -> tuple[OwnTotal, dict[str, str]]:
    """What a school sends of all its samples, and by task why it sends nothing, as `federation.statistics` does."""
    configuration, manifest = aggregator.configuration, aggregator.bundle.manifest
    if school.taught is None:
        raise InputError("there are no statistics of its samples", where=school.name, remedy="export the bundle anew")
    if why := policy_refuses(school.policy, configuration.statistics):
        return OwnTotal(), {"": why}
    layout = aggregator.bundle.layout
    local = scoped_layout(layout, school.policy, configuration, AGGREGATOR_NAME, school.name)
    tasks, sums = shared_tasks(manifest, local, configuration), dict(school.taught.sums())
    own, held = own_total(tasks, sums, configuration.statistics.sample_limit)
    return own, held | dict.fromkeys(letter_tasks(manifest), LETTERS_STAY)


def _scores(school: SchoolData, others: Statistics) -> Iterator[tuple[Whose, Mapping[str, Score]]]:
    if school.validation is None or school.taught is None:
        return
    yield "alone", _by_task(school.validation, replace(school.taught, others=NOTHING).part(school.validation).outputs)
    if others.cells:
        part = _with_others(school.taught, others).part(school.validation)
        yield "others", _by_task(school.validation, part.others)
        yield "together", _by_task(school.validation, part.outputs)


def _with_others(taught: TaughtVectors, others: Statistics) -> TaughtVectors:
    return replace(taught, others=with_moments(others))


def _by_task(validation: Dataset, outputs: Mapping[str, SolvedOutputs]) -> dict[str, Score]:
    found = {}
    for column, task in enumerate(validation.manifest.tasks):
        rows = np.flatnonzero(validation.labelled[:, column] > 0)
        if task.name in outputs and len(rows):
            found[task.name] = score(task, outputs[task.name].values[rows], validation.targets[task.name][rows])
    return found
