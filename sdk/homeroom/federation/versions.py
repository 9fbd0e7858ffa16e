"""Versions of theta for the bundle in use: assembling them, where training starts, and the facts stored with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.canonical_json import identity
from homeroom.contract.continuation import carry_theta, growths_of, segment_bounds
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.round import RoundConfiguration
from homeroom.data.samples import StoredSample
from homeroom.federation.policy import local_segments
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredVersion
from homeroom.store.device_state import JUDGED_RECORD, json_record
from homeroom.store.versions import UnfinishedTraining
from homeroom.train.settings import Settings
from homeroom.train.solve.combine import Mix

FACTS_BY_TASK = ("temperatures", "mixes", "priors", "least", "far")  # of how a version answers
NOT_JUDGED_SINCE = "no labelled sample of it was left at the newest training, so nothing has judged it since"


@dataclass(frozen=True)
class TrainingStart:
    """Where a training starts. `theta`: float32 [P]; `base`: the global version below it; `subjects`: already in it.

    `learned`: the tasks that it ever learned; None where that is not known.
    """

    theta: np.ndarray
    base: int
    name: str
    subjects: tuple[str, ...] = ()
    learned: frozenset[str] | None = None


def version_facts(bundle: Bundle, **more: Any) -> dict[str, Any]:
    """The facts stored with a version; its segments by identity, so that a later bundle can use them."""
    bounds = {segment: [*where] for segment, where in segment_bounds(bundle.manifest.layout).items()}
    return {"bundle_id": bundle.bundle_id, "segments": bounds, **more}


def with_earlier_tasks(
    store: Store, bundle: Bundle, start: TrainingStart, facts: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Facts of a version with those of its start on tasks of which no sample was left, so that these answer on.

    Returns the names of such tasks too; none of their answers is sure. Only of a head that goes on as it was.
    start: where the version was trained from; facts: by name, of this training
    """
    before = next((one for one in store.versions.all() if one.version_id == start.name), None)
    learned = start.learned if before is not None else None
    gone = [name for name in sorted(learned or ()) if name not in facts["temperatures"]]
    gone = [name for name in gone if before is not None and _head_goes_on(bundle, before, name)]
    if before is None or not gone:
        return dict(facts), []
    merged = dict(facts)
    for fact in FACTS_BY_TASK:
        known = before.facts.get(fact, {})
        if kept := {name: known[name] for name in gone if name in known}:
            merged[fact] = {**merged.get(fact, {}), **kept}
    return merged | {"doubts": {**merged.get("doubts", {}), **dict.fromkeys(gone, NOT_JUDGED_SINCE)}}, gone


def _head_goes_on(bundle: Bundle, version: StoredVersion, task: str) -> bool:
    """Whether a version has the values of a task's head for this bundle."""
    manifest, head = bundle.manifest, f"head.{task}"
    if head not in manifest.layout.slices:
        return False
    earlier = {one.earlier for one in growths_of(manifest.continues) if one.segment == head}
    return bool({manifest.layout[head].segment_id, *earlier} & set(version.facts["segments"]))


def theta_of(store: Store, bundle: Bundle, version: StoredVersion | None) -> np.ndarray:
    """Theta float32 [P] of a version for this bundle's layout; the bundle's own where there is no version.

    In a global version, segments that never leave the device have the values of its newest training.
    """
    theta = stored_theta(store, bundle, version)
    return with_local_segments(store, bundle, theta) if version and version.kind == "global" else theta


def with_local_segments(store: Store, bundle: Bundle, theta: np.ndarray) -> np.ndarray:
    """A global theta [P] with this device's newest values in the segments that never leave it."""
    layout, local = bundle.manifest.layout, _source_of_local(store, bundle)
    if local is None:
        return theta
    values = layout.split(stored_theta(store, bundle, local))
    return layout.join({name: values[name] for name in local_segments(store, layout)}, theta)


def _source_of_local(store: Store, bundle: Bundle) -> StoredVersion | None:
    """The newest local version, if any segment stays here."""
    if not local_segments(store, bundle.manifest.layout):
        return None
    return store.versions.newest_local()


def stored_theta(store: Store, bundle: Bundle, version: StoredVersion | None) -> np.ndarray:
    """A version's theta as it was stored (as released, if global), mapped to this bundle's layout."""
    if version is None:
        return bundle.theta()
    return _mapped(bundle, version, store.versions.theta(version.version_id))


def answering_theta(store: Store, bundle: Bundle, version: StoredVersion | None) -> np.ndarray:
    """Theta float32 [P] that answers for a version: of its fit on all samples, where there is one."""
    refit = store.versions.refit(version.version_id) if version else None
    return theta_of(store, bundle, version) if version is None or refit is None else _mapped(bundle, version, refit)


def fitted_on(store: Store, version: StoredVersion | None) -> str:
    """From how many samples the theta that answers was fitted, in words; empty where that is not known."""
    known = version.facts.get("fitted") if version else None
    if version is None or known is None:
        return ""
    first, every = known
    if first == every or store.versions.has_refit(version.version_id):
        return f"answers come from a fit on all {every} samples"
    left = store.versions.unfinished()
    goes_on = left is not None and left.version_id == version.version_id
    why = ": the one on all was cut off, and `homeroom device train` goes on with it" if goes_on else ""
    return f"answers come from a fit on {first} of {every} samples{why}"


def _mapped(bundle: Bundle, version: StoredVersion, theta: np.ndarray) -> np.ndarray:
    """A version's theta for this bundle's layout."""
    if version.facts["bundle_id"] == bundle.bundle_id:
        return theta
    return carry_theta(
        theta, version.facts["segments"], bundle.manifest.layout, bundle.theta(), growths_of(bundle.manifest.continues)
    )


def newest_global(store: Store, bundle: Bundle) -> StoredVersion | None:
    """The newest global version of this bundle."""
    ours = [v for v in store.versions.all() if v.kind == "global" and v.facts["bundle_id"] == bundle.bundle_id]
    return max(ours, key=lambda version: version.base, default=None)


def carry_over_global(store: Store, bundle: Bundle, configuration: RoundConfiguration) -> None:
    """Takes the newest global theta of an earlier bundle over, as the aggregator that goes on from it did.

    Where it serves that bundle no more, but its numbers go on (`RoundConfiguration.earlier_bundles`): the same version
    of this bundle has the same values, so what was trained from it is an update of that version. One step.
    """
    if newest_global(store, bundle) is not None or (before := store.versions.newest_global()) is None:
        return
    earlier = configuration.earlier_bundle(before.facts["bundle_id"])
    if earlier is None or before.base > earlier.version:
        return
    theta, more = stored_theta(store, bundle, before), {}
    if (clip := before.facts.get("clip_norm")) is not None:
        more["clip_norm"] = clip
    with store.step("global theta carried over", before.base):
        facts = version_facts(bundle, devices={}, **more)
        store.versions.put(theta, "global", before.base, facts, store.versions.subjects(before))


def start_of_training(store: Store, bundle: Bundle) -> TrainingStart:
    """The newest global theta, of an earlier bundle if need be, else the version in use, else the bundle's own."""
    return _start(store, bundle, _newest_start(store, bundle) or store.versions.current())


def answered_base(store: Store, bundle: Bundle) -> int:
    """The global version that the next training starts from, and its update answers; 0 for the bundle's own theta."""
    newest = _newest_start(store, bundle)
    return newest.base if newest else 0


def _newest_start(store: Store, bundle: Bundle) -> StoredVersion | None:
    return newest_global(store, bundle) or store.versions.newest_global()


def start_of_profile(store: Store, bundle: Bundle) -> TrainingStart:
    """The theta in use, which every person's profile starts from."""
    return _start(store, bundle, store.versions.current())


def start_of_unfinished(store: Store, bundle: Bundle) -> TrainingStart | None:
    """Where the version in use was trained from, if the budget ended before it, or its second fit, was finished."""
    present, left = store.versions.current(), store.versions.unfinished()
    if present is None or left is None:
        return None
    if present.facts.get("finished", True) and left.version_id != present.version_id:
        return None
    before = next((v for v in store.versions.all() if v.version_id == present.facts["start"]), None)
    return _start(store, bundle, before)


def _start(store: Store, bundle: Bundle, version: StoredVersion | None) -> TrainingStart:
    if version is None:
        return TrainingStart(bundle.theta(), 0, "bundle")
    base, subjects = (version.base, store.versions.subjects(version)) if version.kind == "global" else (0, ())
    local = _source_of_local(store, bundle) if version.kind == "global" else version
    subjects += store.versions.subjects(local) if local else ()
    learned = learned_tasks(store, version)
    kept = None if learned is None else frozenset(learned)
    return TrainingStart(theta_of(store, bundle, version), base, version.version_id, subjects, kept)


def temperatures(store: Store, version: StoredVersion | None) -> dict[str, float]:
    """Calibration temperatures by task; a global version uses those of the newest local one."""
    return dict(_local_facts(store, version).get("temperatures", {}))


def input_weights(store: Store, version: StoredVersion | None) -> dict[str, float]:
    """Weight of a low-quality input by modality, as learned with a version; of a global one as in `temperatures`."""
    return dict(_local_facts(store, version).get("weights", {}))


def learned_tasks(store: Store, version: StoredVersion | None) -> set[str] | None:
    """The tasks that a version of this device alone ever learned; None where that is not known."""
    is_own = version is not None and version.kind == "local" and version.base == 0
    return set(temperatures(store, version)) if is_own else None


def doubts(store: Store, version: StoredVersion | None) -> dict[str, str]:
    """Why no answer of a task is sure, by task, where this device alone taught the version in use."""
    is_own = version is not None and version.kind == "local" and version.base == 0
    return dict(version.facts.get("doubts", {})) if version and is_own else {}


def least_sure(store: Store, version: StoredVersion | None) -> dict[str, float]:
    """From which probability on an answer is sure, by task; of a global version as it was judged here."""
    if (found := judged(store, version)) is not None:
        return found.least
    return dict(_local_facts(store, version).get("least", {}))


def far_limits(store: Store, version: StoredVersion | None) -> dict[str, float]:
    """From which distance on features are unlike all that was learned, by task; as of `least_sure`."""
    if (found := judged(store, version)) is not None:
        return found.far
    return dict(_local_facts(store, version).get("far", {}))


class JudgedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What this device's validation samples say of a global version.

    local_id: the newest local version, whose validation samples they are; without it nothing of this holds.
    release: of the statistics that came with it.
    mixes: how solved heads count beside it, by task; priors: as of `own_priors`.
    worse: what it answers clearly worse than the newest local version, or than one part alone; a sentence by task.
    least, far: as of `least_sure`, `far_limits`.
    unlettered: as of `unlettered`.
    unjudged: one more than the samples of which none was kept for validation; 0 where it was judged.
    """

    version_id: str
    local_id: str
    release: int
    mixes: dict[str, Mix]
    worse: dict[str, str]
    priors: dict[str, float] = {}
    least: dict[str, float] = {}
    far: dict[str, float] = {}
    unlettered: tuple[str, ...] = ()
    unjudged: int = 0


JUDGED = json_record(JUDGED_RECORD, JudgedVersion, made_again=True)


def judged(store: Store, version: StoredVersion | None) -> JudgedVersion | None:
    """What validation samples say of a version; None where they were not asked, or not since the newest training."""
    found = judged_or_not(store, version)
    return None if found and found.unjudged else found


def judged_or_not(store: Store, version: StoredVersion | None) -> JudgedVersion | None:
    """As `judged`; also the record that there was nothing to judge by."""
    found, local = JUDGED.read(store), store.versions.newest_local()
    if found is None or version is None or local is None:
        return None
    return found if (found.version_id, found.local_id) == (version.version_id, local.version_id) else None


def mixes(store: Store, version: StoredVersion | None) -> dict[str, Mix]:
    """How solved heads count beside a version by task; of a global one as it was judged here.

    Of one that was not, as chosen beside the newest local training; none where that knew no other school yet.
    """
    if (found := judged(store, version)) is not None:
        return found.mixes
    local = store.versions.newest_local() if version and version.kind == "global" else version
    if local is None or (local is not version and local.base == 0):
        return {}
    return {name: msgspec.convert(mix, Mix) for name, mix in local.facts.get("mixes", {}).items()}


def own_priors(store: Store, version: StoredVersion | None) -> dict[str, float]:
    """As how many samples a class other schools' statistics count, by task, with a version; else own ones are added."""
    if (found := judged(store, version)) is not None:
        return found.priors
    return dict(_local_facts(store, version).get("priors", {}))


def unlettered(store: Store, version: StoredVersion | None) -> tuple[str, ...]:
    """The tasks that solved heads answer without the letters of their texts, with a version."""
    if (found := judged(store, version)) is not None:
        return found.unlettered
    return tuple(_local_facts(store, version).get("unlettered", ()))


def worse_tasks(store: Store, version: StoredVersion | None) -> dict[str, str]:
    """What a version is known to answer clearly worse than something else here: a sentence by task."""
    if (found := judged(store, version)) is not None:
        return found.worse
    return dict(version.facts.get("worse", {})) if version else {}


def _local_facts(store: Store, version: StoredVersion | None) -> Mapping[str, Any]:
    if version is not None and version.kind == "global":
        version = store.versions.newest_local()
    return version.facts if version else {}


def training_tag(
    bundle: Bundle,
    start: TrainingStart,
    settings: Settings,
    ids: Sequence[str],
    weights: Mapping[str, float],
    tier: str = FULL_TIER,
) -> str:
    """Identity of an unfinished training, which is resumed only if all of these are the same.

    bundle: in use.
    start: where it began.
    settings: of the training.
    ids: of its samples, marked where inputs are left out or weighted.
    weights: of low-quality inputs, by modality.
    tier: of the adapter.
    """
    more = [*([dict(weights)] if weights else []), *([tier] if tier != FULL_TIER else [])]
    facts = msgspec.to_builtins(settings)
    if not settings.distillation:  # as before there was such a setting
        del facts["distillation"]
    return identity([bundle.bundle_id, start.name, facts, [*ids], *more])


def find_start(
    store: Store, bundle: Bundle, graphs: Graphs, settings: Settings, samples: Sequence[StoredSample]
) -> tuple[TrainingStart, str, UnfinishedTraining | None]:
    """Finds where a training starts, its tag, and the one to resume if it was cut short.

    store: whose versions and unfinished state are looked at.
    bundle: in use.
    graphs: of the tier to train.
    settings: of the training.
    samples: that it trains on.
    """
    start = start_of_training(store, bundle)
    for candidate in filter(None, (start, start_of_unfinished(store, bundle))):
        tag = tag_from(store, bundle, graphs, settings, samples, candidate)
        if (left := store.versions.unfinished()) and left.tag == tag:
            return candidate, tag, left
    return start, tag_from(store, bundle, graphs, settings, samples, start), None


def tag_from(
    store: Store,
    bundle: Bundle,
    graphs: Graphs,
    settings: Settings,
    samples: Sequence[StoredSample],
    start: TrainingStart,
) -> str:
    """The tag of a training from `start` with the input weights of the version in use; the others as `find_start`."""
    ids = [sample.sample_id + ("-" if sample.left_out or sample.weighed else "") for sample in samples]
    weights = input_weights(store, store.versions.current())
    return training_tag(bundle, start, settings, ids, weights, graphs.tier)
