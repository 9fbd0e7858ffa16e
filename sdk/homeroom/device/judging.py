"""Judges a global version by this device's validation samples: how heads count beside it, and what it makes worse."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from homeroom.data.tasks.metrics import Score, clearly_worse
from homeroom.device.local_samples import to_examples, training_samples
from homeroom.device.solved import mixes_beside, taught_vectors, validated_part
from homeroom.federation import versions
from homeroom.federation.statistics import release_mark
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store, StoredVersion
from homeroom.train.features.dataset import Dataset
from homeroom.train.selective import choose_far, choose_least
from homeroom.train.settings import Settings
from homeroom.train.solve.combine import SolvedPart
from homeroom.train.solve.evaluate import evaluate_both
from homeroom.train.solve.paired import LEAST_PAIRS


def judge_in_use(store: Store, bundle: Bundle, graphs: Graphs) -> dict[str, str]:
    """Judges the global version in use, once for each training here and each release of statistics.

    Returns what it answers clearly worse, a sentence by task; nothing of a version that was trained here, or where no
    subject was kept for validation.
    """
    version, local = store.versions.current(), store.versions.newest_local()
    if version is None or version.kind != "global" or local is None:
        return {}
    known = versions.judged_or_not(store, version)
    more = known is not None and known.unjudged and known.unjudged != 1 + store.count()
    if known is None or more or known.release != release_mark(store):
        known = _judge(store, bundle, graphs, version, local)
        versions.JUDGED.write(store, known)
    return known.worse


def _judge(
    store: Store, bundle: Bundle, graphs: Graphs, version: StoredVersion, local: StoredVersion
) -> versions.JudgedVersion:
    """`unjudged` where no subject was kept for validation: until there are other samples, none is loaded again."""
    nothing = versions.JudgedVersion(
        version_id=version.version_id,
        local_id=local.version_id,
        release=release_mark(store),
        mixes={},
        worse={},
        unjudged=1 + store.count(),
    )
    samples = training_samples(store, bundle)
    if not samples:
        return nothing
    examples = to_examples(store, bundle, graphs, samples)
    settings = msgspec.convert(local.facts["settings"], Settings)
    validation = Dataset(bundle.manifest, examples).split(settings.validation, settings.seed)[1]
    if validation is None:
        return nothing
    taught = taught_vectors(store, bundle, samples, examples)
    theta = versions.theta_of(store, bundle, version)
    part = validated_part(graphs, taught, validation, theta, version.base)
    calibrated = versions.temperatures(store, local)  # of a global version too
    now = evaluate_both(graphs, validation, theta, part, calibrated)
    own = versions.theta_of(store, bundle, local)
    before = evaluate_both(graphs, validation, own, _beside(store, local, part), calibrated)
    return msgspec.structs.replace(
        nothing,
        unjudged=0,
        mixes=dict(part.mixes),
        priors=dict(part.priors),
        unlettered=tuple(sorted(part.unlettered)),
        far=choose_far(part),
        least=choose_least(graphs, validation, theta, part, calibrated),
        worse={**parts_ahead(now), **_behind(now, before)},
    )


def _beside(store: Store, local: StoredVersion, part: SolvedPart) -> SolvedPart:
    """The part as it answers beside a local version."""
    mixes = mixes_beside(store, local, part.outputs)
    outputs = {name: part.outputs[name] for name in mixes}
    return SolvedPart(outputs, {name: mix for name, mix in mixes.items() if mix})


def _behind(now: Mapping[str, Score], before: Mapping[str, Score]) -> dict[str, str]:
    """A sentence for each task that the newest training answered clearly better, on the same validation samples."""
    return {
        name: f"{score.brief} on {score.n} validation samples of this device, where its last training has "
        f"{before[name].brief}: `homeroom device undo` goes back, `homeroom device train` learns from both"
        for name, score in now.items()
        if name in before and clearly_worse({name: score}, {name: before[name]})
    }


def parts_ahead(scores: Mapping[str, Score]) -> dict[str, str]:
    """A sentence for each task that one part alone answers clearly better than what answers."""
    sentences = {}
    for name, score in scores.items():
        for part, alone in {} if isinstance(score.parts, msgspec.UnsetType) else score.parts.items():
            if clearly_worse({name: score}, {name: alone}):
                few = "; so few samples change nothing" if score.n < LEAST_PAIRS else ""
                whose = f"{score.n} validation samples of this device"
                sentences[name] = f"{score.brief} on {whose}, where the part {part} alone has {alone.brief}{few}"
    return sentences
