"""A first theta that has learned from the labels of the calibration samples, in place of one that the seed drew."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from homeroom.contract.signing import Certificate
from homeroom.data.samples import StoredSample
from homeroom.errors import ExportError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train import fit as fitting
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import advised
from homeroom_exporter.bundle.write import BundleContents, fill
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.steps import with_theta

TAUGHT = "taught"  # of the manifest's provenance: how many labelled samples theta learned from


def count_labelled(samples: Sequence[StoredSample]) -> int:
    """How many samples have a label; ExportError where none has."""
    if not (labelled := sum(bool(sample.labels) for sample in samples)):
        remedy = "give labelled ones, or leave out --teach"
        raise ExportError("no calibration sample has a label to start from", where="--teach", remedy=remedy)
    return labelled


def teach(
    contents: BundleContents,
    backbones: Mapping[str, Backbone],
    golden: Sequence[StoredSample],
    samples: Sequence[StoredSample],
    certificate: Certificate,
    scratch: Path,
    *,
    threads: int,
) -> BundleContents:
    """The contents with a theta that learned as a device would by the bundle's own settings, and its golden outputs.

    golden: samples that travel in the bundle. samples: of the calibration; those without a label teach objectives only.
    Raises ExportError where none has a label, TrainError where the loss is not finite.
    """
    labelled = count_labelled(samples)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        bundle = Bundle(Path(folder), fill(Path(folder), contents), "0" * 64, certificate)
        graphs, settings = Graphs(bundle, threads=threads), advised(bundle.manifest)
        ready = examples(None, bundle, graphs, samples)
        train, validation = Dataset(bundle.manifest, ready).split(settings.validation, settings.seed)
        theta = fitting.fit(graphs, train, validation, bundle.theta(), settings).theta
    facts = {**contents.provenance, TAUGHT: f"{labelled} labelled calibration samples"}
    taught = with_theta(contents, backbones, golden, np.ascontiguousarray(theta, np.float32), threads)
    return replace(taught, provenance=facts)
