"""LoRA inside a frozen encoder: torch's numbers, frozen weights in few bits and theta in none, on real devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import tiny
import torch
from aggregator.institution import running
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, BertConfig, BertModel

from exporter import lessons, models
from exporter.small import with_checked_io
from homeroom import Device, Sample
from homeroom.contract.round import RoundConfiguration
from homeroom.data.validation import resolve
from homeroom.device.resources import benchmark_worker
from homeroom.errors import BundleError, ExportError, RecipeError
from homeroom.inference import golden
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import open_service
from homeroom_exporter.check import check
from homeroom_exporter.model.lora import encoder, frozen_weights
from homeroom_exporter.model.lora.architectures import EncoderShape, shape_of, weights_of
from homeroom_exporter.model.lora.build import targeted
from homeroom_exporter.model.lora.unpadded_rows import UnpaddedRows
from homeroom_exporter.trace.example_inputs import example

SHAPES = {"bert": models.bert, "distilbert": models.distilbert, "roberta": models.roberta, "vit": models.vit}
NAMES = {
    "bert": ["query", "value", "output.dense"],
    "distilbert": ["q_lin", "lin1", "lin2"],
    "roberta": ["key", "value"],
    "vit": ["query", "intermediate.dense"],
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("lesson")
    return lessons.exported(folder, models.bert(folder / "bert"))


def factors_of(
    peft_model: Any, shape: EncoderShape
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, Any]]:
    """A and scaled B by our names, and PEFT's own parameters."""
    found, own = {}, {}
    for path, name in {path: name for name, path in shape.modules.items()}.items():
        layer = peft_model.base_model.model.get_submodule(path)
        if hasattr(layer, "lora_A"):
            own[name] = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            found[name] = (own[name][0].detach(), own[name][1].detach() * 2.0)
    return found, own


@pytest.mark.parametrize("name", list(SHAPES))
def test_states_and_gradients_are_those_of_transformers_with_peft(name: str, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(SHAPES[name](tmp_path), attn_implementation="eager").eval()
    shape = shape_of(model.config, name)
    weights = {k: torch.from_numpy(v) for k, v in weights_of(shape, model.state_dict(), 16).items()}
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=NAMES[name])).eval()
    torch.manual_seed(0)
    for key, value in wrapped.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.1)
    factors, own = factors_of(wrapped, shape)
    assert set(own) == set(targeted(shape, NAMES[name]).values())
    if shape.modality == "text":
        ids, mask = torch.randint(4, 18, (3, 9)), torch.ones(3, 9)
        mask[1, 5:] = 0
        ids[1, 5:] = 0
        wanted = wrapped(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        inputs, rows = ids, UnpaddedRows(3, 9, shape.heads, mask)
        kept = mask.reshape(-1, 1)
    else:
        pixels = torch.randn(3, 3, 32, 32)
        wanted = wrapped(pixel_values=pixels).last_hidden_state
        inputs, kept = encoder.patched(shape, pixels), torch.ones(1)
        rows = UnpaddedRows(3, encoder.tokens_of(shape), shape.heads)
    x = encoder.embed(shape, weights, inputs, rows)
    direction = torch.randn(rows.count * rows.tokens, shape.width) * kept  # of the loss, nothing on padding
    for keep in (True, False):
        y, saved = encoder.forward(shape, weights, factors, x, rows, keep=keep)
        made = rows.unpack(y)
        torch.testing.assert_close(made, wanted.reshape(made.shape) * kept, rtol=1e-4, atol=2e-5)
        found, _ = encoder.backward(shape, weights, factors, saved, rows, rows.pack(direction))
        (wanted.reshape(direction.shape) * direction).sum().backward(retain_graph=True)
        for layer, (a, b) in own.items():
            torch.testing.assert_close(found[layer][0], a.grad, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(found[layer][1] * 2.0, b.grad, rtol=1e-3, atol=1e-4)
            a.grad = b.grad = None


def test_a_bundle_holds_one_copy_of_the_frozen_weights_for_all_its_graphs(bundle: Bundle) -> None:
    steps = [g for g in bundle.manifest.graphs if g.role in ("grad", "predict")]
    assert {g.precision for g in steps} == {"int8"}
    places: dict[str, set[tuple[str, ...]]] = {}
    for graph in steps:
        model = onnx.load(bundle.file(graph.file), load_external_data=False)
        inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        assert inside < 2000
        for tensor in model.graph.initializer:
            if tensor.external_data:
                places.setdefault(tensor.name, set()).add(tuple(entry.value for entry in tensor.external_data))
    assert all(len(place) == 1 and next(iter(place))[0] == "frozen.text.bin" for place in places.values())
    assert bundle.file("graphs/frozen.text.bin").is_file()


def test_segments_are_those_of_the_factors_and_a_stays_frozen_in_a_federation(bundle: Bundle) -> None:
    names = [segment.name for segment in bundle.manifest.segments]
    assert names[0] == "lora.encoder.layer.0.attention.self.query.B"
    assert sum(name.startswith("lora.") for name in names) == 6
    assert not [name for name in names if name.endswith(".A")]
    assert "bridge.text" in names
    assert [m.adapter for m in bundle.manifest.modalities] == ["lora"]
    assert not [g for g in bundle.manifest.graphs if g.role == "features"]


def downstream(model: onnx.ModelProto, names: set[str]) -> list[onnx.NodeProto]:
    """Every node whose result depends on one of the values."""
    found = []
    for node in model.graph.node:
        if names.intersection(node.input):
            found.append(node)
            names.update(node.output)
    return found


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_no_value_of_theta_passes_a_quantizer(precision: str, tmp_path: Path) -> None:
    both = 'rank = 4\nfederated = "both"'
    model = models.bert(tmp_path / "bert")
    design, graphs = lessons.traced(tmp_path, model, quantize=f'quantize = "{precision}"', rank=both)
    theta = design.adapter.initial(design.layout, np.full(design.layout.size, 0.1, np.float32))
    for graph in graphs:
        model = onnx.load(graph.path, load_external_data=False)
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"QuantizeLinear", "DynamicQuantizeLinear", "Round", "MatMulInteger", "QLinearMatMul"}
        casts = [node for node in downstream(model, {"theta"}) if node.op_type == "Cast"]
        assert {node.attribute[0].i for node in casts} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
        stored = {tensor.data_type for tensor in model.graph.initializer}
        assert {"int8": onnx.TensorProto.INT8, "int4": onnx.TensorProto.UINT8}[precision] in stored
        assert check.check_step(design, theta, graph, threads=1).parity < check.PARITY[graph.role]


def test_a_change_of_theta_far_below_a_step_of_the_quantizer_is_seen_in_full(bundle: Bundle) -> None:
    run, data = Graphs(bundle, threads=1), lessons.rows(8, 5)
    where = bundle.manifest.layout.slices["lora.encoder.layer.1.attention.self.value.B"]
    answers = []
    for step in (0.0, 1e-3, 2e-3):
        moved = bundle.theta()
        moved[where] += step
        answers.append(outputs(bundle, run, moved, data))
    first, second = answers[1] - answers[0], answers[2] - answers[0]
    assert np.abs(first).max() > 1e-6
    np.testing.assert_allclose(second, 2 * first, rtol=0.05, atol=2e-6)


def outputs(bundle: Bundle, graphs: Graphs, theta: np.ndarray, data: list[dict[str, Any]]) -> np.ndarray:
    stored = [resolve(Sample(**row), bundle.manifest) for row in data]
    ready = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))
    return np.concatenate(list(outputs_of(graphs, ready, theta).values()), 1)


def test_recomputing_gives_the_same_gradient_from_twice_the_work(tmp_path: Path) -> None:
    model = models.bert(tmp_path / "bert")
    made, softmaxes = [], []
    for recompute in ("false", "true"):
        folder = tmp_path / recompute
        folder.mkdir()
        design, graphs = lessons.traced(folder, model, rank=f"rank = 4\nrecompute = {recompute}")
        graph = next(g for g in graphs if g.role == "grad")
        theta = np.random.default_rng(0).standard_normal(design.layout.size).astype(np.float32) * 0.1
        feeds = example(design, "grad", graph.batch, {"text": 16})
        made.append(load(graph.path, threads=1)({"theta": theta, **feeds})["gradient"])
        nodes = onnx.load(graph.path, load_external_data=False).graph.node
        softmaxes.append(sum(node.op_type == "Softmax" for node in nodes))
    assert np.linalg.norm(made[0]) > 1e-3
    np.testing.assert_allclose(made[1], made[0], rtol=1e-4, atol=1e-6)
    assert softmaxes[1] == softmaxes[0] + 2  # one more a layer, but the last


def test_padding_takes_part_in_no_product_of_a_layer(tmp_path: Path) -> None:
    design, graphs = lessons.traced(tmp_path, models.bert(tmp_path / "bert"))
    graph = next(g for g in graphs if g.role == "grad")
    model = onnx.load(graph.path, load_external_data=False)
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "Erf")  # of the first MLP
    model.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
    graph.path.write_bytes(model.SerializeToString())
    run, theta = load(graph.path, threads=1), design.adapter.initial(design.layout, np.zeros(design.layout.size, "f4"))
    for seed in (1, 2):
        feeds = example(design, "grad", graph.batch, {"text": 16}, seed=seed)
        there = sum(feeds[f"{slot.name}.mask"].sum() for slot in design.slots)
        assert 0 <= len(run({"theta": theta, **feeds})[inner]) - there <= 1


def test_two_devices_train_lora_and_an_aggregator_merges_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    folder = tmp_path / "district"
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2)
    create_folder(folder, bundle.path, institution="tests", root_key=tiny.ROOT, configuration=asked)
    service = open_service(folder)
    with running(service) as address:
        schools = []
        for number in range(2):
            device = Device.open(tmp_path / f"s{number}", bundle=bundle.path, threads=1)
            device.add(lessons.write_rows(tmp_path / f"{number}.jsonl", 48, 10 + number))
            path = tmp_path / f"i{number}.json"
            path.write_bytes(msgspec.json.encode(invite_devices(folder, address, 1)[0]))
            device.join(path)
            report = device.train(minutes=2)
            assert report.update == "queued"
            schools.append(device)
        before = bundle.manifest.layout.split(bundle.theta())
        assert schools[0].sync().version is None
        assert schools[1].sync().version == 1
        fresh = Device.open(tmp_path / "fresh", bundle=bundle.path, threads=1)
        path = tmp_path / "fresh.json"
        path.write_bytes(msgspec.json.encode(invite_devices(folder, address, 1)[0]))
        fresh.join(path)
        assert fresh.sync().in_use == "global"
        merged = bundle.manifest.layout.split(fresh.store.versions.theta(fresh.store.versions.current().version_id))
        for name in ("lora.encoder.layer.0.attention.self.query.B", "bridge.text", "head.match"):
            assert np.abs(merged[name] - before[name]).max() > 1e-4, name
        unseen = lessons.rows(60, 99)
        answers = fresh.predict_many([Sample(**{**row, "labels": {}}) for row in unseen])
        right = [a["animal"].best == row["labels"]["animal"] for a, row in zip(answers, unseen, strict=True)]
        assert np.mean(right) > 0.9
        for device in (*schools, fresh):
            device.close()
    service.close()


def test_golden_outputs_find_a_machine_that_computes_something_else(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert golden.choose_precision(bundle, threads=1) == {"text": "int8"}
    said = golden.expected_arrays(bundle)
    other = {k: v + 0.3 * np.abs(v).max() if k.startswith("direct.") else v for k, v in said.items()}
    monkeypatch.setattr(golden, "expected_arrays", lambda _: other)
    with pytest.raises(BundleError, match="golden samples"):
        golden.choose_precision(bundle, threads=1)


def test_the_doctor_measures_a_bundle_that_has_no_features(bundle: Bundle) -> None:
    values = benchmark_worker.inputs_by_modality(bundle, golden.golden_samples(bundle))
    assert benchmark_worker.precisions(bundle, "text") == ["int8"]
    cost = benchmark_worker.measure_features(bundle, Graphs(bundle, threads=1), "text", values["text"])
    assert cost["within"]
    assert 5 < cost["tokens"] < 12
    assert benchmark_worker.choose_threads(bundle)["threads"] >= 1


def test_inputs_that_are_not_ready_in_time_are_left_out(bundle: Bundle) -> None:
    stored = [resolve(Sample(**row), bundle.manifest) for row in lessons.rows(6, 3)]
    turns = iter(range(100))
    ready = examples(None, bundle, Graphs(bundle, threads=1), stored, stop=lambda: next(turns) >= 4)
    assert 0 < len(ready) < len(stored)


def test_pictures_go_to_the_step_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.vit(tmp_path / "vit")
    text = lessons.RECIPE.format(model=model).replace("encoders.text", "encoders.image")
    text = text[: text.index("[slots]")] + '[slots]\npicture = "image"\n[tasks.animal]\nkind = "classification"\n'
    text += 'reads = ["picture"]\nlabels = ["cat", "dog", "bird", "fish"]\n'
    keep = [{k: row[k] for k in ("picture", "labels", "subject") if k in row} for row in tiny.samples(40, 3)]
    rows = [{**row, "labels": {"animal": row["labels"]["category"]}} for row in keep if "picture" in row]
    samples = tiny.write_samples(tmp_path / "samples", rows)
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    done = lessons.export(lessons.parse_recipe(text), samples, tmp_path / "out", tiny.EXPORTER, certificate, threads=1)
    assert next(t for t in done.manifest.graphs[0].inputs if t.name == "picture.pixels").dtype == "uint8"
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", bundle=tmp_path / "out", threads=1) as device:
        with_checked_io(device.bundle)
        device.add(samples)
        assert device.train(minutes=2, epochs=10).scores["animal"].accuracy > 0.5
        assert device.predict(Sample(picture=rows[0]["picture"]))["animal"].best in tiny.ANIMALS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": 'rank = 4\ntargets = ["qeury"]'}, "no layer of bert is called qeury"),
        ({"rank": 'ranks = {"layer.0.key" = 2}'}, "ranks names layer.0.key, which is no target"),
        ({"source": 'source = "pip:speech-embedding"'}, "LoRA needs a transformer"),
        ({"buckets": "buckets = [64]"}, "reads at most 32 tokens"),
    ],
)
def test_an_adapter_that_cannot_be_made_is_refused(change: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=says):
        lessons.exported(tmp_path, models.bert(tmp_path / "bert"), **change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": "rank = 0"}, r"line 13.*adapter.rank"),
        ({"family": 'family = "prefix"'}, r"line 12.*adapter.family"),
        ({"rank": 'modality = "image"'}, r"line 13.*adapter.modality: there is no transformer for image"),
        ({"rank": "ranc = 2"}, r"line 13.*adapter.ranc"),
    ],
)
def test_a_wrong_adapter_table_is_refused_with_its_line(change: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        lessons.recipe(tmp_path, **change)


def test_a_model_whose_block_is_another_is_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    config.hidden_act = "relu"
    model = BertModel(config)
    with pytest.raises(ExportError, match="activation relu"):
        shape_of(model.config, "x")
    config.model_type = "gpt2"
    with pytest.raises(ExportError, match="LoRA inside gpt2 is not built"):
        shape_of(config, "x")


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.006), (4, 0.1)])
def test_blocks_are_quantized_to_within_their_step(bits: int, limit: float) -> None:
    value = np.random.default_rng(0).standard_normal((48, 128)).astype(np.float32)
    codes, scale = frozen_weights.quantize(value, bits, 32)
    back = (codes.reshape(48, 4, 32) * scale[..., None]).reshape(value.shape)
    assert codes.min() >= (-127 if bits == 8 else -8)
    assert codes.max() <= (127 if bits == 8 else 7)
    assert np.linalg.norm(back - value) / np.linalg.norm(value) < limit
    zero, _ = frozen_weights.quantize(np.zeros((2, 32), np.float32), bits, 32)
    assert not zero.any()


def test_int4_keeps_sensitive_layers_in_eight_bits_within_its_share_of_float32() -> None:
    rng = np.random.default_rng(0)
    weights = {"words": rng.standard_normal((400, 64)).astype(np.float32)}
    for i in range(2):
        for kind in ("query", "key", "value", "out"):
            weights[f"{i}.{kind}"] = rng.standard_normal((64, 64)).astype(np.float32)
        weights[f"{i}.up"] = rng.standard_normal((256, 64)).astype(np.float32)
        weights[f"{i}.down"] = rng.standard_normal((64, 256)).astype(np.float32)
    kept = frozen_weights.freeze(weights, "int4")
    whole = sum(value.nbytes for value in weights.values())
    assert (
        0.19 * whole < sum(value.nbytes for value in kept.arrays.values()) <= frozen_weights.SIZE_SHARE["int4"] * whole
    )
    assert {"0.up.codes", "1.up.codes", "0.query.pairs", "1.query.pairs"} <= set(kept.arrays)
    arrays = {name: torch.from_numpy(value) for name, value in kept.arrays.items()}
    dense = {name: frozen_weights.matrix(arrays, name, torch.zeros(1)).numpy() for name in weights}
    for name, value in weights.items():
        assert np.linalg.norm(dense[name] - value) / np.linalg.norm(value) < 0.1, name
    ids = torch.tensor([3, 0, 399, 3])
    looked_up = frozen_weights.rows_of(arrays, "words", ids)
    np.testing.assert_allclose(looked_up.numpy(), dense["words"][ids.numpy()], rtol=1e-6)
