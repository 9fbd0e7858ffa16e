"""Graphs in onnxruntime: what the manifest promises, loaded late, quiet, and plain errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from homeroom.errors import BundleError
from homeroom.runtime.backend import load
from homeroom.runtime.graphs import Graphs
from sdk.learning import opened


def test_the_interface_alone_needs_no_runtime() -> None:
    modules = "homeroom.runtime.graphs, homeroom.train.fit, homeroom.inference.predict"
    code = f"import sys, {modules}; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_graph_is_loaded_once_and_given_back() -> None:
    bundle, _ = opened()
    graphs = Graphs(bundle, threads=1)
    first = graphs.features("text")
    assert graphs.features("text") is first
    graphs.release("text")
    assert graphs.features("text") is not first


def test_steps_come_with_the_smallest_bucket_first() -> None:
    _, graphs = opened()
    lengths = [facts.tokens["text"] for facts in graphs.steps("grad")]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 1


def test_every_step_gives_what_the_manifest_says() -> None:
    _, graphs = opened()
    for facts in [*graphs.steps("predict"), *graphs.steps("grad")]:
        feeds = {
            tensor.name: np.zeros(tensor.shape, np.int8 if tensor.name.endswith(".features") else np.float32)
            for tensor in facts.inputs
        }
        made = graphs.loaded(facts)(feeds)
        assert {name: array.shape for name, array in made.items()} == {t.name: tuple(t.shape) for t in facts.outputs}
        assert all(np.isfinite(array).all() for array in made.values())


def test_a_file_that_is_no_graph_is_named_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "predict.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"predict\.onnx"):
        load(path)


def test_wrong_inputs_name_the_graph() -> None:
    _, graphs = opened()
    facts = graphs.steps("predict")[0]
    with pytest.raises(BundleError, match=Path(facts.file).name):
        graphs.loaded(facts)({"theta": np.zeros(3, np.float32)})


def test_a_role_that_a_bundle_lacks_is_said() -> None:
    _, graphs = opened()
    with pytest.raises(BundleError, match="features of next year"):
        graphs.steps("features of next year")
