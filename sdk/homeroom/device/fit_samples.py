"""A training without a device: from samples in memory to theta, and nothing is stored."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data import ingest
from homeroom.data.samples import Sample, StoredSample
from homeroom.errors import InputError, TrainError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.system import clock
from homeroom.system.printable import counted
from homeroom.train import fit as fitting
from homeroom.train.features.compute import Progress
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings, advised, check_settings


def fit(
    bundle: str | Path,
    samples: Sequence[Sample],
    settings: Settings | None = None,
    *,
    root: str | None = None,
    start: np.ndarray | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> np.ndarray:
    """Trains on samples in memory; returns theta float32 [P] of the best epoch, as `Device.train` would learn it.

    Quality gates are left out: every sample counts in full, but those whose consent is refused or withdrawn are not
    trained on. Raises InputError where a sample, a setting or `start` is not valid, or a sample's last day has passed;
    BundleError or TrustError where the bundle does not hold; TrainError where no sample teaches anything, or it is
    cancelled before the first step.

    bundle: folder or .homeroom file.
    settings: in place of those that the bundle recommends.
    root: fingerprint of the institution's root key; without one, the bundle's own is trusted.
    start: theta float32 [P] to start from; the bundle's own without one.
    threads: of the runtime.
    progress: called with stage, done and total.
    cancel: once another thread sets it, the training ends after its step, and gives the best theta so far.
    """
    stop = (cancel or threading.Event()).is_set
    with contextlib.ExitStack() as resources:
        opened = _opened(Path(bundle), root, resources)
        theta, manifest = opened.theta(), opened.manifest
        settings = settings if settings is not None else advised(manifest)
        check_settings(settings, manifest)
        if start is not None:
            _check_theta(start, theta, manifest.name)
        stored = _teaching(samples, manifest)
        second = Path(
            resources.enter_context(tempfile.TemporaryDirectory(prefix="homeroom-", ignore_cleanup_errors=True))
        )
        opened, precision = golden.with_precision(opened, Path(bundle), threads=threads, into=second)
        graphs = Graphs(opened, precision, threads)
        ready = examples(None, opened, graphs, stored, progress=progress, stop=stop)
        if len(ready) < len(stored):
            raise TrainError("it was cancelled before its features were there", remedy="run it again")
        train, validation = Dataset(manifest, ready).split(settings.validation, settings.seed)
        theta = theta if start is None else start
        return fitting.fit(graphs, train, validation, theta, settings, stop=stop, progress=progress).theta


def _teaching(samples: Sequence[Sample], manifest: Manifest) -> list[StoredSample]:
    """The samples, checked as `Device.add` does, without those whose consent forbids it."""
    if isinstance(samples, str | Path | Sample):
        raise InputError(f"samples is a {type(samples).__name__}, and has to be a list", remedy="fit(bundle, [sample])")
    intake = ingest.Intake(today=clock.now().date().isoformat())
    stored = list(ingest.read(samples, manifest, intake))
    teaching = [sample for sample in stored if sample.trainable]
    if stored and not teaching:
        what = f"consent to learning is refused or withdrawn for all of {counted(len(stored), 'sample')}"
        raise TrainError(what, remedy="give samples that may be trained on")
    return teaching


def _check_theta(start: np.ndarray, theta: np.ndarray, where: str) -> None:
    alike = isinstance(start, np.ndarray) and (start.dtype, start.shape) == (theta.dtype, theta.shape)
    if not alike or not np.isfinite(start).all():
        raise InputError(f"start is not float32 [{len(theta)}] and finite", where=where)


def _opened(path: Path, root: str | None, resources: contextlib.ExitStack) -> Bundle:
    if path.is_dir():
        return open_bundle(path, root=root)
    return install(path, _scratch(resources), root=root)


def _scratch(resources: contextlib.ExitStack) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="homeroom-", ignore_cleanup_errors=True)
    return Path(resources.enter_context(folder))
