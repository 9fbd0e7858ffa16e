"""The graphs that are written have the inputs and outputs that exporter and device read in `contract.graph_io`."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiered
import tiny

from exporter.small import with_checked_io
from homeroom.runtime.bundle import install, open_bundle

RELEASED = Path(__file__).parents[2] / "data" / "0.1.0"


def test_every_graph_of_a_bundle_is_as_the_contract_says(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    assert {graph.role for graph in bundle.manifest.every_graph} == {
        *("features", "predict", "grad", "grad_heads", "grad_clipped", "saliency")
    }
    with_checked_io(bundle)
    with_checked_io(tiered.build(tmp_path))


@pytest.mark.parametrize("name", ["lesson", "facts"])
def test_so_are_those_of_a_bundle_of_the_release_before(name: str, tmp_path: Path) -> None:
    with_checked_io(install(RELEASED / f"{name}.homeroom", tmp_path, root=None))
