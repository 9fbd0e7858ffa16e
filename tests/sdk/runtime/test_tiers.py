"""The tiers of a bundle are as its manifest says, and a tier that it lacks is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from homeroom.errors import BundleError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs

pytest.importorskip("onnx", reason="the tiered bundle is exported here")

Indices = dict[str, np.ndarray]


def swapped(indices: Indices) -> None:
    """A tier in which two values stand in each other's place: they would be merged as each other."""
    half = indices["half"]
    half[[0, 1]] = half[[1, 0]]


def outside(indices: Indices) -> None:
    """A small tier with a value that the next larger one lacks."""
    missing = np.setdiff1d(np.arange(indices["half"].max(), dtype=np.int32), indices["half"])
    indices["eighth"] = np.sort(np.append(indices["eighth"][1:], missing[0])).astype(np.int32)


CHANGES: dict[str, tuple[Callable[[Indices], object], str]] = {
    "missing": (lambda i: i.pop("half"), "half is not int32"),
    "int64": (lambda i: i.update(half=i["half"].astype(np.int64)), "half is not int32"),
    "short": (lambda i: i.update(half=i["half"][:-1].copy()), "half is not int32"),
    "swapped": (swapped, "and rising"),
    "twice": (lambda i: i["half"].__setitem__(1, i["half"][0]), "and rising"),
    "outside": (outside, "does not lie within the next"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tier_is_rising_whole_and_within_the_next(change: str, tiered_bundle: Bundle, tmp_path: Path) -> None:
    name = tiered_bundle.manifest.tier_index
    assert name is not None
    indices = safetensors.numpy.load_file(tiered_bundle.file(name))
    alter, why = CHANGES[change]
    alter(indices)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(indices, tmp_path / name)
    with pytest.raises(BundleError, match=why):
        _ = replace(tiered_bundle, path=tmp_path).layout


def test_theta_of_another_type_is_refused(tiered_bundle: Bundle, tmp_path: Path) -> None:
    name = tiered_bundle.manifest.theta
    theta = tiered_bundle.theta()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for wrong in (theta.astype(np.float64), theta[:-1], np.where(theta == theta[0], np.nan, theta)):
        safetensors.numpy.save_file({"theta": wrong}, tmp_path / name)
        with pytest.raises(BundleError, match="is not float32"):
            replace(tiered_bundle, path=tmp_path).theta()


def test_a_tier_that_the_bundle_lacks_is_named(tiered_bundle: Bundle) -> None:
    graphs = Graphs(tiered_bundle)
    graphs.tier = "tenth"
    with pytest.raises(BundleError, match="has no tier tenth"):
        graphs.narrow(np.zeros(tiered_bundle.layout.size, np.float32))
