"""LiteRT in place of onnxruntime: the same values, the same training, kept, and plain words where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import lite
import msgspec
import numpy as np
import pytest

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.manifest import Graph
from homeroom.errors import BundleError, MissingExtraError
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.graphs import Graphs

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return install(lite.STORED, tmp_path_factory.mktemp("lite"), root=None)


def feeds_of(bundle: Bundle, facts: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a step that a device could make."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    for tensor in facts.inputs:
        if tensor.dtype == "int8":
            feeds[tensor.name] = rng.integers(-90, 91, tensor.shape).astype(np.int8)
        elif tensor.name == "theta":
            noise = rng.standard_normal(tensor.shape).astype(np.float32)
            feeds["theta"] = bundle.theta() + noise * np.float32(0.05)
        else:
            feeds[tensor.name] = (rng.random(tensor.shape) < 0.7).astype(np.float32)
    return feeds


def test_steps_give_what_onnxruntime_gives_gradient_included(bundle: Bundle) -> None:
    graphs = {name: Graphs(bundle, None, 1, runtime=name) for name in ("onnx", "litert")}
    steps = [*graphs["onnx"].steps("predict"), *graphs["onnx"].steps("grad")]
    assert len(steps) == 4
    for facts in steps:
        feeds = feeds_of(bundle, facts)
        wanted, made = (graphs[name].loaded(facts)(feeds) for name in ("onnx", "litert"))
        assert made.keys() == wanted.keys()
        for name, value in wanted.items():
            assert np.linalg.norm(made[name] - value) <= 1e-4 * np.linalg.norm(value), (facts.file, name)


def test_a_backbone_takes_any_number_of_rows_of_every_length(bundle: Bundle) -> None:
    onnx, litert = (
        Graphs(bundle, {"text": "float32"}, 1, runtime=name).features("text") for name in ("onnx", "litert")
    )
    rng = np.random.default_rng(1)
    for rows, length in ((1, 8), (5, 16), (3, 8)):
        mask = (np.arange(length) < rng.integers(2, length + 1, (rows, 1))).astype(np.int64)
        feeds = {"input_ids": rng.integers(0, 90, (rows, length)) * mask, "attention_mask": mask}
        wanted, made = onnx(feeds)["features"], litert(feeds)["features"]
        assert made.dtype == np.int8
        assert made.shape == wanted.shape
        assert np.abs(made.astype(int) - wanted).max() <= 1
    with pytest.raises(BundleError, match="no inputs of the shapes"):
        litert({"input_ids": np.zeros((1, 9), np.int64), "attention_mask": np.zeros((1, 9), np.int64)})


def test_a_device_learns_and_answers_in_litert_as_in_onnxruntime(tmp_path: Path) -> None:
    thetas, answers = {}, {}
    for name in ("onnx", "litert"):
        with Device.open(tmp_path / name, lite.STORED, runtime=name) as device:  # type: ignore[arg-type]
            device.add(*(Sample(**row) for row in lite.rows(40, 1)), gates=False)
            report = device.train(epochs=8)
            assert report.finished
            start = device.bundle.theta()
            thetas[name] = device.store.versions.theta(report.version_id)
            answers[name] = [
                answer["grade"].best for answer in device.predict_many([Sample(**row) for row in lite.rows(9, 2)])
            ]
            assert device.status()["runtime"] == name
    ours, theirs = thetas["onnx"] - start, thetas["litert"] - start
    assert ours @ theirs > 0.5 * np.linalg.norm(ours) * np.linalg.norm(theirs)  # from int8 features of each runtime
    assert np.mean([a == b for a, b in zip(answers["onnx"], answers["litert"], strict=True)]) > 0.7


def test_the_choice_is_kept_until_another_is_made(tmp_path: Path) -> None:
    with Device.open(tmp_path, lite.STORED, runtime="litert"):
        pass
    with Device.open(tmp_path) as device:
        assert device.graphs.runtime == "litert"
    main(["device", "init", str(tmp_path), "--runtime", "onnx"])
    with Device.open(tmp_path) as device:
        assert device.graphs.runtime == "onnx"


def test_what_was_not_converted_runs_in_onnxruntime(bundle: Bundle) -> None:
    without = [graph for graph in bundle.manifest.converted if graph.role != "predict"]
    manifest = msgspec.structs.replace(bundle.manifest, converted=tuple(without))
    graphs = Graphs(Bundle(bundle.path, manifest, bundle.bundle_id, bundle.certificate), None, 1, runtime="litert")
    facts = graphs.steps("predict")[0]
    made = graphs.loaded(facts)(feeds_of(bundle, facts))
    assert made["grade.output"].shape == (8, 3)


def test_a_bundle_without_graphs_for_it_is_refused_and_nothing_changes(tmp_path: Path, tiny_bundle: object) -> None:
    path = tiny_bundle.path  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="no graph for LiteRT"):
        Device.open(tmp_path, path, runtime="litert")
    with Device.open(tmp_path, path) as device:
        assert device.graphs.runtime == "onnx"


def test_where_litert_is_missing_one_sentence_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[litert\]"):
        Device.open(tmp_path / "a", lite.STORED, runtime="litert")
    with pytest.raises(SystemExit) as ended:
        main(["device", "init", str(tmp_path / "b"), "--bundle", str(lite.STORED), "--runtime", "litert"])
    assert ended.value.code == MissingExtraError.exit_code
    assert capsys.readouterr().err.count("\n") == 2


def test_a_file_that_is_no_graph_is_named_without_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "predict.tflite"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"predict\.tflite"):
        load(path)
