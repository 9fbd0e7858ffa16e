"""The second fit of a training: theta once more from the same start, on all samples, for the epochs the first chose.

The first fit, which never learned from the samples that judge it, makes the update, scores, temperatures and weights;
the second only answers. Nothing judges it: that it is no worse is what more samples of the same lesson do to a training
of the same length, and does not hold where those of the validation subjects are mislabelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from homeroom.device.local_samples import to_examples
from homeroom.device.training_data import TrainingData, TrainingRun
from homeroom.errors import DiskFullError, TrainError
from homeroom.federation import versions
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.fit import Fit, fit
from homeroom.train.state import TrainState

STAGE = "training on all samples"  # of `progress`


@dataclass(frozen=True)
class Refit:
    """What became of a second fit.

    finished: False where it is still to be ended; why_not: in words, where none is stored
    """

    finished: bool = True
    why_not: str = ""


def wants_refit(data: TrainingData, first: Fit) -> bool:
    """Whether a first fit is done and left samples out to judge by."""
    return first.finished and first.best_epoch >= 0 and data.validation is not None


def keep_first(run: TrainingRun, data: TrainingData, first: Fit, version_id: str) -> None:
    """Notes, in the step that stores the version of the first fit, that its second one is still to be done."""
    left, theta = data.unfinished, run.graphs.narrow(first.theta)
    none = np.empty(0, np.float32)
    ended = TrainState(
        theta=none,
        first=none,
        second=none,
        steps=first.steps,
        epoch=len(first.history),
        best=theta,
        best_epoch=first.best_epoch,
        history=list(first.history),
    )
    tag = versions.tag_from(run.store, run.bundle, run.graphs, run.settings, data.samples, data.start)
    begun = left.refit if left and left.version_id == version_id else b""
    run.store.versions.save_state(ended.encode(), tag, data.subjects, version_id, begun)


def refit(run: TrainingRun, data: TrainingData, first: Fit, version_id: str) -> Refit:
    """Fits theta on all samples, and stores it with the version; the first fit answers until then, and if it fails."""
    store, settings = run.store, msgspec.structs.replace(run.settings, epochs=first.best_epoch + 1)
    kept, progress = store.versions.unfinished(), run.progress
    assert kept is not None  # of `keep_first`

    def checkpoint(now: TrainState) -> None:
        store.versions.save_state(kept.state, kept.tag, data.subjects, version_id, now.encode())

    try:
        second = fit(
            run.graphs,
            Dataset(run.bundle.manifest, _examples(run, data)),
            None,
            data.start.theta,
            settings,
            stop=run.watch.over,
            resume=TrainState.decode(kept.refit) if kept.refit else None,
            checkpoint=checkpoint,
            progress=(lambda _, done, total: progress(STAGE, done, total)) if progress else None,
            learned=data.start.learned,
        )
        if not second.finished:
            return Refit(False, f"{run.watch.spent}, in the fit on all samples: run it again to go on with it")
        with store.step("refit", len(data.examples)):
            store.versions.put_refit(version_id, second.theta)
            store.versions.drop_state()
    except DiskFullError as problem:
        return Refit(False, f"the fit on all samples was not kept: {problem.what}")
    except TrainError as problem:
        store.versions.drop_state()
        return Refit(why_not=f"the fit on all samples failed: {problem.what}")
    return Refit()


def _examples(run: TrainingRun, data: TrainingData) -> Sequence[Example]:
    """The examples as they will be answered: what the first fit learned of poor inputs weighs them."""
    learned = versions.input_weights(run.store, run.store.versions.current())
    return data.examples if learned == data.weights else to_examples(run.store, run.bundle, run.graphs, data.samples)
