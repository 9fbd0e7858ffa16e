"""One training on this device: plan, features, fit, evaluation, and a new version in the store."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from homeroom.data.samples import StoredSample
from homeroom.data.tasks.metrics import Score, clearly_worse
from homeroom.device import profiles
from homeroom.device.judging import parts_ahead
from homeroom.device.local_labels import excluded_notes, learn
from homeroom.device.local_samples import quarantine_unreadable, to_examples, training_samples
from homeroom.device.plan import check_budget, plan_training
from homeroom.device.refit import Refit, keep_first, refit, wants_refit
from homeroom.device.reports import TrainReport
from homeroom.device.resources import planner
from homeroom.device.resources.plan import TrainingPlan
from homeroom.device.solved import TaughtVectors, mix_facts, teach, validated_part
from homeroom.device.training_data import TrainingData, TrainingRun
from homeroom.errors import Code, InputError, TrainError, UpdateError
from homeroom.federation import agreement, enrolment, make_update, versions
from homeroom.store.score_history import PastTraining
from homeroom.system.attempt import attempt, cut_short
from homeroom.train.by_label import LabelScore, by_label, unheld
from homeroom.train.distillation import kept_tasks
from homeroom.train.evaluate import by_input, by_language, evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import Fit, fit
from homeroom.train.input_weights import learn_input_weights
from homeroom.train.judged import judgement_of
from homeroom.train.personalize.person import OutOfTimeError
from homeroom.train.selective import choose_far, choose_least
from homeroom.train.solve.combine import SolvedPart
from homeroom.train.solve.evaluate import evaluate_both, trained_scores
from homeroom.train.state import TrainState

COMPUTING_FILE = "computing-features.json"  # the mark of a training that computes features


def train(run: TrainingRun) -> TrainReport:
    """Trains on all samples that teach something; raises TrainError where none does or nothing fits the budget."""
    kept = [*_kept_answers(run), *excluded_notes(run.store)]
    mark = run.store.directory / COMPUTING_FILE
    if cut_short(mark):  # the process ended at one of them, perhaps because of it
        quarantine_unreadable(run.store, run.bundle, training_samples(run.store, run.bundle))
    samples, chosen = _plan(run)
    with attempt(mark, "features"):
        data = _features(run, samples)
    feature_seconds = time.monotonic() - run.began_s
    taught, unsolved = _taught(run, samples, data)
    solved_seconds = time.monotonic() - run.began_s if taught else None
    key, configuration = enrolment.device_key(run.store), agreement.read_agreement(run.store).configuration
    clipped = None
    if len(data.examples) == len(training_samples(run.store, run.bundle)):  # else who is in it depends on the others
        clipped = make_update.make_clipped_update(
            run.store, run.bundle, run.graphs, data.examples, run.settings, key, configuration, run.watch.over
        )
    result = _fit(run, data)
    part = validated_part(run.graphs, taught, data.validation, result.theta, data.start.base)
    judgement = judgement_of(data.examples, data.train, data.validation)
    scores, languages = _scores(run, data.validation if result.steps else None, result, part)
    worse = bool(scores) and clearly_worse(trained_scores(scores), _scores_before(run, data.validation))
    labels, unjudged = _by_label(run, data, result)
    facts = _facts(run, data, result, part) | {"doubts": judgement.doubts, "worse": parts_ahead(scores)}
    facts, gone = versions.with_earlier_tasks(run.store, run.bundle, data.start, facts)
    refits = wants_refit(data, result) and not worse
    version_id, update = _store(run, data, result, clipped, facts, scores, refits=refits)
    second = refit(run, data, result, version_id) if refits else Refit()
    run.store.back_up()
    return TrainReport(
        version_id=version_id,
        samples=len(data.examples),
        left_out=len(samples) - len(data.examples),
        epochs=len(result.history),
        best_epoch=result.best_epoch,
        finished=result.finished and second.finished,
        seconds=time.monotonic() - run.began_s,
        feature_seconds=feature_seconds,
        scores=scores,
        update=update.text,
        update_code=update.code,
        resumed=data.unfinished is not None,
        stopped=str(run.watch.spent or ""),
        megabytes=run.watch.peak_bytes / 1e6,
        plan=chosen,
        by_language=languages,
        worse=worse,
        settled_after=result.frozen_after,
        solved_weights={name: mix.solved for name, mix in part.mixes.items()},
        solved_seconds=solved_seconds,
        unsolved=unsolved,
        judged=judgement.tasks,
        by_input=_by_input(run, data.validation, result),
        by_label=labels,
        notes=(*judgement.sentences, *_left_alone(gone), *unjudged, *kept, *_unfinished(run, result, second)),
        fitted=versions.fitted_on(run.store, run.store.versions.current()) if result.steps else "",
        worse_tasks=facts["worse"],
    )


def _kept_answers(run: TrainingRun) -> list[str]:
    """Which answers of before are learned beside the labels; TrainError where there are none."""
    weight, manifest = run.settings.distillation, run.bundle.manifest
    if not weight:
        return []
    start = versions.start_of_training(run.store, run.bundle)
    kept = [] if start.name == "bundle" else kept_tasks(manifest, start.learned)
    if not kept:
        what = "there are no answers of before to keep: nothing that can be kept was trained here yet"
        raise TrainError(what, remedy="train without distillation")
    lost = [task.name for task in manifest.tasks if task not in kept and task.name in (start.learned or ())]
    told = [
        f"learned beside the labels, weight {weight:g}: what it answered before of {', '.join(t.name for t in kept)}"
    ]
    told += [f"answers of {', '.join(lost)} cannot be kept so: its kind of task has no soft targets"] if lost else []
    configuration = agreement.read_agreement(run.store).configuration
    if configuration is not None and configuration.by_subject:
        told.append("the update that leaves is trained subject by subject, on labels alone")
    return told


def _facts(run: TrainingRun, data: TrainingData, result: Fit, part: SolvedPart) -> dict[str, Any]:
    """How the new version answers, by fact and task."""
    return {
        "temperatures": dict(result.temperatures),
        **mix_facts(part, result.temperatures),
        "least": choose_least(run.graphs, data.validation, result.theta, part, result.temperatures),
        "far": choose_far(part),
    }


def _by_input(run: TrainingRun, validation: Dataset | None, result: Fit) -> dict[str, dict[str, Score]]:
    """Scores of theta from each single input, where some were kept to judge by."""
    if validation is None or not result.steps:
        return {}
    return by_input(run.graphs, validation, result.theta, result.temperatures)


def _by_label(run: TrainingRun, data: TrainingData, result: Fit) -> tuple[dict[str, dict[str, LabelScore]], list[str]]:
    """Scores by task and label beside the version in use until now; and which labels nothing here judges any more."""
    present = run.store.versions.current()
    before = None if present is None else versions.theta_of(run.store, run.bundle, present)
    unjudged = [] if before is None else list(unheld(Dataset(run.bundle.manifest, data.examples)))
    if data.validation is None or not result.steps:
        return {}, unjudged
    return by_label(run.graphs, data.validation, result.theta, before), unjudged


def _left_alone(tasks: Sequence[str]) -> list[str]:
    """That tasks which were learned before have no sample any more."""
    what = "no labelled sample of it is here any more: it answers as it learned before, and never for sure"
    return [f"{name}: {what}" for name in tasks]


def _unfinished(run: TrainingRun, result: Fit, second: Refit) -> list[str]:
    """That a training was cut short, and what the figures are of then; or why there is no second fit."""
    if result.finished:
        return [second.why_not] if second.why_not else []
    if not result.steps:
        return [f"{run.watch.spent}, before theta learned anything: run it again to go on"]
    done = f"after {len(result.history)} of {run.settings.epochs} epochs" if result.history else "in its first epoch"
    return [f"{run.watch.spent}, {done}: all figures are of a training that is not finished; run it again to go on"]


def _taught(run: TrainingRun, samples: Sequence[StoredSample], data: TrainingData) -> tuple[TaughtVectors | None, str]:
    """What heads are solved from, its sums stored; or why they could not be, and theta goes on alone."""
    try:
        learn(run.store, run.bundle, run.graphs)
        return teach(run.store, run.bundle, samples, data.examples), ""
    except UpdateError as problem:
        return None, f"no heads are solved: {problem.what}"


def _scores(
    run: TrainingRun, validation: Dataset | None, result: Fit, part: SolvedPart
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """Scores by task on the validation samples, and by language, of theta and the solved heads together."""
    if validation is None:
        return {}, {}

    def judged(rows: np.ndarray) -> dict[str, Score]:
        own = validation.subset(rows)
        return evaluate_both(run.graphs, own, result.theta, part.subset(rows), result.temperatures)

    return judged(np.arange(len(validation))), by_language(validation, judged)


def _scores_before(run: TrainingRun, validation: Dataset | None) -> Mapping[str, Score]:
    """Scores of the theta in use on the validation samples, by task; none without such samples."""
    version = run.store.versions.current()
    theta, temperatures = versions.theta_of(run.store, run.bundle, version), versions.temperatures(run.store, version)
    return evaluate(run.graphs, validation, theta, temperatures) if validation else {}


def _plan(run: TrainingRun) -> tuple[Sequence[StoredSample], TrainingPlan]:
    """The samples that the plan keeps, and the plan, which is set in the graphs."""
    samples = training_samples(run.store, run.bundle)
    if not samples:
        raise TrainError("there is no labelled sample", code=Code.NO_LABELS, remedy="add some with `add`")
    chosen = plan_training(run.store, run.bundle, run.graphs, samples, run.watch.budget, run.settings)
    return planner.apply_plan(chosen, run.bundle, samples), chosen


def _features(run: TrainingRun, samples: Sequence[StoredSample]) -> TrainingData:
    """Computes the features that are not cached, until the budget ends; no subject is in both data sets."""
    start, tag, left = versions.find_start(run.store, run.bundle, run.graphs, run.settings, samples)
    ready = to_examples(run.store, run.bundle, run.graphs, samples, **run.watched)
    check_budget(run.watch, len(ready))
    train, validation = Dataset(run.bundle.manifest, ready).split(run.settings.validation, run.settings.seed)
    left = left if len(ready) == len(samples) else None  # it belongs to all of them
    weights = versions.input_weights(run.store, run.store.versions.current())
    return TrainingData(start, tag, left, samples, weights, ready, train, validation)


def _fit(run: TrainingRun, data: TrainingData) -> Fit:
    return fit(
        run.graphs,
        data.train,
        data.validation,
        data.start.theta,
        run.settings,
        stop=run.watch.over,
        resume=TrainState.decode(data.unfinished.state) if data.unfinished else None,
        checkpoint=lambda now: run.store.versions.save_state(now.encode(), data.tag, data.subjects),
        progress=run.progress,
        learned=data.start.learned,
    )


def _store(
    run: TrainingRun,
    data: TrainingData,
    result: Fit,
    clipped: make_update.ClippedUpdate | None,
    more_facts: Mapping[str, Any],
    scores: Mapping[str, Score],
    *,
    refits: bool,
) -> tuple[str, make_update.UpdateFate]:
    """Stores the new version, puts it in use and queues its update; (version id, what became of the update).

    Where no step was done there is nothing new, and the version in use stays.

    result: of the fit.
    clipped: the update that was trained beside it, where the round's promise is by subject.
    more_facts: of its own, on how it answers. scores: by task, kept in the device's history.
    refits: whether it is still to be fitted on all samples; where that is all that was left, the version is the same.
    """
    store = run.store
    if not result.steps:
        present = store.versions.current()
        return present.version_id if present else "bundle", make_update.queue_newest_update(store, run.bundle)
    weights = versions.input_weights(store, store.versions.current())
    if result.finished and data.validation:
        weights = learn_input_weights(run.graphs, data.validation, result.theta, weights)
    facts = versions.version_facts(
        run.bundle,
        examples=data.train.examples_by_segment(),
        weights=weights,
        settings=msgspec.to_builtins(run.settings),
        start=data.start.name,
        finished=result.finished,
        tier=run.graphs.tier,
        fitted=[len(data.train), len(data.examples)],
        **more_facts,
    )
    known = data.unfinished.version_id if data.unfinished else ""
    with store.step("train", len(data.samples)):
        if known and (present := store.versions.current()) and present.version_id == known:
            version_id = known
            store.versions.put_facts(known, facts)
        else:
            version_id = store.versions.put(result.theta, "local", data.start.base, facts, data.subjects)
            store.versions.set_current(version_id)
        store.note_past(_past(run, data, version_id, scores), data.subjects)
        if refits:
            keep_first(run, data, result, version_id)
        elif result.finished:
            store.versions.drop_state()
        return version_id, make_update.queue_newest_update(store, run.bundle, clipped)


def _past(run: TrainingRun, data: TrainingData, version_id: str, scores: Mapping[str, Score]) -> PastTraining:
    manifest = run.bundle.manifest
    return PastTraining(
        at="",
        kind="training",
        bundle=f"{manifest.name} version {manifest.version}",
        version_id=version_id,
        base=data.start.base,
        samples=len(data.examples),
        scores=dict(scores),
    )


def train_profile(run: TrainingRun, subject: str) -> TrainReport:
    """Trains a model for one person on labelled samples about or by them; raises TrainError where there are none."""
    if run.settings.distillation:
        raise InputError("distillation is not for a person's own model", remedy="leave it out, or train the shared one")
    subject = run.store.name_of(subject)
    samples = [sample for sample in training_samples(run.store, run.bundle, subject) if sample.labels]
    if not samples:
        raise TrainError(f"there is no labelled sample of {subject!r}", remedy="add some with `add`")
    ready = to_examples(run.store, run.bundle, run.graphs, samples, **run.watched)
    feature_seconds, finished = time.monotonic() - run.began_s, len(ready) == len(samples)
    if finished:
        try:
            profiles.train_profile(run.store, run.bundle, run.graphs, subject, ready, run.settings, run.watch.over)
        except OutOfTimeError:
            finished = False
    version = run.store.versions.current()
    return TrainReport(
        version_id=version.version_id if version else "bundle",
        samples=len(ready),
        left_out=len(samples) - len(ready),
        epochs=0,
        best_epoch=-1,
        finished=finished,
        seconds=time.monotonic() - run.began_s,
        feature_seconds=feature_seconds,
        update="a profile stays here",
        update_code="profile",
        stopped=str(run.watch.spent or ""),
        megabytes=run.watch.peak_bytes / 1e6,
        profile=profiles.find_profile(run.store, subject),
    )
