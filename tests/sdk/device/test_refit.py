"""The second fit of a training: answers come from all samples, everything else from the fit that was judged."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny

from homeroom import Device, Sample, TrainReport
from homeroom.cli.main import main
from homeroom.device import refit as second_fit
from homeroom.device.local_samples import to_examples, training_samples
from homeroom.errors import DiskFullError, TrainError
from homeroom.federation import versions
from homeroom.store import StoredVersion
from homeroom.train.features.dataset import Dataset
from homeroom.train.fit import fit
from homeroom.train.settings import Settings

SETTINGS = Settings(epochs=3, checkpoint_s=0.0)
SAMPLES = [Sample(**row) for row in tiny.samples(30, 0)]
ALL = "answers come from a fit on all 30 samples"
FIRST = "answers come from a fit on 24 of 30 samples"
LEFT = f"{FIRST}: the one on all was cut off, and `homeroom device train` goes on with it"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*SAMPLES)
        yield opened


def in_use(device: Device) -> StoredVersion:
    version = device.store.versions.current()
    assert version is not None
    return version


def answering(device: Device) -> np.ndarray:
    return device._model().theta


def judged(device: Device) -> np.ndarray:
    """The theta that updates, scores and temperatures are of."""
    return versions.theta_of(device.store, device.bundle, in_use(device))


def expected(device: Device, report: TrainReport) -> np.ndarray:
    """Theta fitted on all samples, for the epochs that were best."""
    examples = to_examples(device.store, device.bundle, device.graphs, training_samples(device.store, device.bundle))
    settings = msgspec.structs.replace(SETTINGS, epochs=report.best_epoch + 1)
    whole = Dataset(device.bundle.manifest, examples)
    return fit(device.graphs, whole, None, device.bundle.theta(), settings).theta


def cut(device: Device, at: int = 2) -> TrainReport:
    """A training that is cancelled in its second fit, after so many steps."""
    cancel = threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if stage == second_fit.STAGE and done == at:
            cancel.set()

    return device.train(settings=SETTINGS, progress=progress, cancel=cancel)


def test_answers_come_from_all_samples_and_updates_and_figures_from_the_fit_that_was_judged(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    report = device.train(settings=SETTINGS)
    assert (report.finished, report.fitted, report.notes) == (True, ALL, ())
    assert np.array_equal(answering(device), expected(device, report))
    assert not np.array_equal(answering(device), judged(device))
    assert device.status().fitted == ALL
    with Device.read(device.directory) as reader:
        assert np.array_equal(reader._model().theta, answering(device)), "in another process too"
    examples = to_examples(device.store, device.bundle, device.graphs, training_samples(device.store, device.bundle))
    train, validation = Dataset(device.bundle.manifest, examples).split(SETTINGS.validation, SETTINGS.seed)
    first = fit(device.graphs, train, validation, device.bundle.theta(), SETTINGS)
    assert np.array_equal(judged(device), first.theta), "as without a second fit"
    assert in_use(device).facts["temperatures"] == first.temperatures
    assert versions.start_of_profile(device.store, device.bundle).theta.tolist() == first.theta.tolist()
    again = device.train(settings=SETTINGS)
    assert again.fitted == ALL, "which starts from the judged fit"
    assert in_use(device).facts["start"] == report.version_id
    device.rollback()
    assert np.array_equal(answering(device), expected(device, report)), "the version before answers as it did"
    device.close()
    main(["device", "train", str(device.directory), "--epochs", "1"])
    assert f"  {ALL}" in capsys.readouterr().out


def test_a_second_fit_that_the_budget_ends_is_said_and_goes_on_with_the_next_training(
    device: Device,
) -> None:
    report = cut(device)
    assert (report.finished, report.stopped, report.fitted) == (False, "it was cancelled", LEFT)
    assert report.notes == ("it was cancelled, in the fit on all samples: run it again to go on with it",)
    assert device.status().fitted == LEFT
    assert np.array_equal(answering(device), judged(device)), "until then the first fit answers"
    assert "cut short" not in device.predict(SAMPLES[0])["category"].reason, "it is finished"
    steps: list[tuple[str, int]] = []
    again = device.train(settings=SETTINGS, progress=lambda stage, done, _: steps.append((stage, done)))
    assert steps[0] == (second_fit.STAGE, 3), "nothing is done twice"
    assert (again.version_id, again.resumed, again.finished, again.fitted) == (report.version_id, True, True, ALL)
    assert {name: score.skill for name, score in again.scores.items()} == {
        name: score.skill for name, score in report.scores.items()
    }
    assert np.array_equal(answering(device), expected(device, report)), "as without the interruption"
    assert not device.status().training_unfinished
    assert device.rollback() == "bundle", "one training, one version"


def test_a_training_that_is_taken_back_leaves_no_second_fit_to_do(device: Device) -> None:
    cut(device)
    device.rollback()
    status = device.status()
    assert (status.fitted, status.training_unfinished, status.in_use) == ("", False, "bundle")


def test_after_a_kill_in_the_second_fit_the_first_answers_and_the_second_goes_on(
    device: Device,
) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == second_fit.STAGE and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.train(settings=SETTINGS, progress=progress)
    device.store._context.closed = True  # as the power goes
    device.store._context.database.close()
    device.store._context.cache.close()
    device.store._context.lock.close()
    with Device.open(device.directory, threads=1) as after:
        assert after.status().fitted == LEFT
        assert np.array_equal(answering(after), judged(after))
        report = after.train(settings=SETTINGS)
        assert (report.resumed, report.fitted) == (True, ALL)
        assert np.array_equal(answering(after), expected(after, report))


@pytest.mark.parametrize(
    ("problem", "finished", "why"),
    [
        (TrainError("the loss is no longer finite"), True, "the fit on all samples failed: the loss is no longer"),
        (DiskFullError("no space is left"), False, "the fit on all samples was not kept: no space is left"),
    ],
    ids=["diverges", "disk full"],
)
def test_a_second_fit_that_fails_leaves_the_first_in_use_and_says_so(
    device: Device, monkeypatch: pytest.MonkeyPatch, problem: Exception, finished: bool, why: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(second_fit, "fit", fails)
    report = device.train(settings=SETTINGS)
    assert report.finished == finished
    assert report.notes[-1].startswith(why)
    assert report.fitted.startswith(FIRST)
    assert np.array_equal(answering(device), judged(device))
    assert device.status().training_unfinished == (not finished)


def _forgets(device: Device) -> object:
    return device.forget("pupil-1")


def _removes(device: Device) -> object:
    mine = next(sample for sample in device.store.each_without_inputs() if sample.subject == "pupil-1")
    return device.remove(mine.sample_id)


@pytest.mark.parametrize("erased", [_forgets, _removes])
@pytest.mark.parametrize("trained", [cut, lambda device: device.train(settings=SETTINGS)], ids=["half", "whole"])
def test_what_a_second_fit_learned_goes_with_its_version(
    device: Device, erased: Callable[[Device], object], trained: Callable[[Device], TrainReport]
) -> None:
    trained(device)
    erased(device)
    rows = device.store._context.database.one("SELECT (SELECT count(*) FROM versions) + (SELECT count(*) FROM refits)")
    assert rows == (0,)
    assert (device.status().fitted, device.status().training_unfinished) == ("", False)


def test_without_validation_samples_there_is_nothing_to_fit_again(device: Device) -> None:
    stages: set[str] = set()
    settings = msgspec.structs.replace(SETTINGS, validation=0.0)
    report = device.train(settings=settings, progress=lambda stage, *_: stages.add(stage))
    assert report.fitted == ALL
    assert second_fit.STAGE not in stages


def test_a_theta_that_is_clearly_worse_is_not_fitted_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom.device.training_run.clearly_worse", lambda *_: True)
    report = device.train(settings=SETTINGS)
    assert (report.worse, report.finished, report.fitted) == (True, True, FIRST)


def test_a_persons_own_model_stands_on_the_fit_that_it_was_chosen_beside(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.train(settings=SETTINGS)
    device.store.put_profile(
        "pupil-1",
        {"method": "prior", "share": 0.5, "samples": 9, "losses": {}, "start": "x", "temperatures": {}},
        {},
        {"pupil-1"},
    )
    assert np.array_equal(device._model("pupil-1").theta, judged(device))
    assert np.array_equal(device._model("pupil-2").theta, answering(device))
