"""Backbones of small local models: identical twice, faithful to torch, int8 close to float32, finite at edges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import BertModel, ViTModel, WhisperModel

from exporter import models
from homeroom.contract.manifest import Column, identifying
from homeroom.data.preprocess import prepare
from homeroom.errors import ExportError
from homeroom.runtime.backend import load
from homeroom_exporter.encoders.backbone import Backbone, EncoderSpec, build
from homeroom_exporter.quantize import fidelity


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def text(folder: Path) -> Backbone:
    source = models.bert(folder / "bert")
    spec = EncoderSpec(modality="text", source=f"hf:{source}", taps=(0, 2, 3), dim=16, buckets=(8, 12))
    return built(spec, models.texts(), folder / "text")


@pytest.fixture(scope="module")
def image(folder: Path) -> Backbone:
    source = models.vit(folder / "vit")
    return built(
        EncoderSpec(modality="image", source=f"hf:{source}", dim=16, grid=2), models.pictures(), folder / "image"
    )


@pytest.fixture(scope="module")
def audio(folder: Path) -> Backbone:
    source = models.whisper(folder / "whisper")
    spec = EncoderSpec(modality="audio", source=f"hf:{source}", dim=16, seconds=0.7)
    return built(spec, models.sounds(), folder / "audio")


def built(spec: EncoderSpec, values: list[Any], scratch: Path) -> Backbone:
    scratch.mkdir()
    return build(spec, values, scratch)


def inputs(backbone: Backbone, values: list[Any]) -> list[Any]:
    return [prepare(backbone.modality, value, backbone.files.__getitem__) for value in values]


@pytest.mark.parametrize(
    ("name", "values", "shape"),
    [("text", models.texts, (3, 8, 16)), ("image", models.pictures, (2, 5, 16)), ("audio", models.sounds, (2, 20, 16))],
)
def test_both_precisions_give_int8_features_of_the_stated_shape_and_agree(
    name: str, values: Callable[[int], list[Any]], shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    backbone: Backbone = request.getfixturevalue(name)
    assert set(backbone.graphs) == {"float32", "int8"}
    assert backbone.scale.shape == (shape[0], shape[2])
    feeds, _ = next(fidelity.batches(backbone.modality, inputs(backbone, values(3))))
    for path in backbone.graphs.values():
        made = load(path, threads=1)(feeds)["features"]
        assert made.dtype == np.int8
        assert made.shape[0] == 3
        assert made.shape[1:2] + made.shape[3:] == shape[:1] + shape[2:]
        assert np.abs(made.astype(int)).max() <= 127
    mean, worst = fidelity.agreement(
        backbone.modality, backbone.graphs["float32"], backbone.graphs["int8"], inputs(backbone, values(30))
    )
    assert mean >= backbone.modality.tolerance.mean > 0.8
    assert worst >= backbone.modality.tolerance.worst


@pytest.mark.parametrize("name", ["text", "image", "audio"])
def test_graphs_stay_finite_on_extreme_inputs(name: str, request: pytest.FixtureRequest) -> None:
    backbone: Backbone = request.getfixturevalue(name)
    for path in backbone.graphs.values():
        assert fidelity.problems(backbone.modality, path) == []


@pytest.mark.parametrize("name", ["text", "image", "audio"])
def test_graphs_are_read_by_the_oldest_runtime_and_tell_nothing_of_their_making(
    name: str, request: pytest.FixtureRequest
) -> None:
    backbone: Backbone = request.getfixturevalue(name)
    for path in backbone.graphs.values():
        model = onnx.load(path)
        assert model.ir_version <= 10
        assert max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) <= 22
        assert not model.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert [value.name for value in model.graph.output] == ["features"]
        assert str(path.parent).encode() not in path.read_bytes()


def test_the_same_spec_and_samples_give_the_same_bytes(text: Backbone, folder: Path) -> None:
    spec = EncoderSpec(modality="text", source=f"hf:{folder / 'bert'}", taps=(0, 2, 3), dim=16, buckets=(8, 12))
    again = built(spec, models.texts(), folder / "text-again")
    assert again.modality == text.modality
    for precision, path in text.graphs.items():
        assert again.graphs[precision].read_bytes() == path.read_bytes()
    assert {n: p.read_bytes() for n, p in again.files.items()} == {n: p.read_bytes() for n, p in text.files.items()}


def test_another_calibration_gives_another_identity(text: Backbone, folder: Path) -> None:
    spec = EncoderSpec(modality="text", source=f"hf:{folder / 'bert'}", taps=(0, 2, 3), dim=16, buckets=(8, 12))
    other = built(spec, models.texts(50), folder / "text-other")
    assert other.modality.features_id != text.modality.features_id


def test_an_export_has_the_newest_preprocessing_and_a_recipe_may_keep_that_of_before(
    text: Backbone, folder: Path
) -> None:
    assert text.modality.preprocess.version == 2  # type: ignore[union-attr]
    spec = EncoderSpec(modality="text", source=f"hf:{folder / 'bert'}", taps=(0, 2, 3), dim=16, buckets=(8, 12))
    before = built(msgspec.structs.replace(spec, preprocessing=1), models.texts(), folder / "before")
    assert before.modality.preprocess.version == 1  # type: ignore[union-attr]
    assert before.modality.features_id != text.modality.features_id
    assert "version" not in identifying(before.modality.preprocess)


def test_features_are_torchs_hidden_states_on_their_principal_axes(text: Backbone, folder: Path) -> None:
    """Distances between tokens survive the compression as well as the best projection to 16 of 32 channels allows."""
    model = BertModel.from_pretrained(folder / "bert").eval()
    one = inputs(text, ["the big cat sees a small dog"])
    feeds, _ = next(fidelity.batches(text.modality, one))
    with torch.no_grad():
        states = model(
            torch.tensor(feeds["input_ids"]), torch.tensor(feeds["attention_mask"]), output_hidden_states=True
        ).hidden_states
    made = load(text.graphs["float32"], threads=1)(feeds)["features"][0] * text.scale[:, None]
    for tap, layer in enumerate((0, 2, 3)):
        want, got = states[layer][0, : one[0].tokens].numpy(), made[tap, : one[0].tokens]
        distances = [np.linalg.norm(v[:, None] - v[None], axis=-1)[np.triu_indices(len(v), 1)] for v in (want, got)]
        assert np.corrcoef(*distances)[0, 1] > 0.9


def test_the_uncompressed_graph_equals_torch(folder: Path, image: Backbone, audio: Backbone, tmp_path: Path) -> None:
    from homeroom_exporter import encoders

    rng = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 32, 32, generator=rng)
    spec = EncoderSpec(modality="image", source=f"hf:{folder / 'vit'}", taps=(1, 2), grid=2)
    graph = encoders.load(spec, tmp_path).graph
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    with torch.no_grad():
        made = ViTModel.from_pretrained(folder / "vit").eval()(pixels, output_hidden_states=True)
    for tap, want in (("layer.1", made.hidden_states[1]), ("layer.2", made.last_hidden_state)):
        patches = want[:, 1:].reshape(2, 2, 2, 2, 2, 32).mean((2, 4)).reshape(2, 4, 32)
        (got,) = session.run([tap], {"pixels": pixels.numpy()})
        assert np.allclose(got, torch.cat([want[:, :1], patches], 1).numpy(), atol=1e-4)

    mel = torch.randn(2, 80, 200, generator=rng)
    spec = EncoderSpec(modality="audio", source=f"hf:{folder / 'whisper'}", taps=(2,), seconds=2.0)
    graph = encoders.load(spec, tmp_path).graph
    got = onnxruntime.InferenceSession(graph.SerializeToString()).run(["layer.2"], {"audio": mel.numpy()})[0]
    with torch.no_grad():
        want = WhisperModel.from_pretrained(folder / "whisper").encoder.eval()(mel).last_hidden_state
    assert np.allclose(got, want.reshape(2, 20, 5, 32).mean(2).numpy(), atol=1e-4)


def test_the_licence_comes_from_the_model_card_and_no_path_is_told(text: Backbone, folder: Path) -> None:
    (licence,) = text.licences
    assert licence.name == "mit"
    assert text.files[str(licence.file)].read_text() == "MIT License\n"
    assert str(folder) not in msgspec.json.encode([text.modality, licence]).decode()


def test_pictures_are_prepared_as_the_models_own_processor_says(image: Backbone) -> None:
    assert image.modality.preprocess.mean == (0.4, 0.4, 0.4)  # type: ignore[union-attr]
    assert image.modality.preprocess.resample == "bilinear"  # type: ignore[union-attr]


def test_a_table_row_is_its_own_feature(tmp_path: Path) -> None:
    columns = (Column("minutes", 10.0, 5.0), Column("school", categories=("a", "b")))
    backbone = build(EncoderSpec(modality="table", source="table", columns=columns), [{"minutes": 3.0}], tmp_path)
    assert (backbone.modality.dim, backbone.modality.buckets) == (5, (1,))
    feeds, _ = next(fidelity.batches(backbone.modality, inputs(backbone, [{"minutes": 20.0, "school": "b"}, {}])))
    made = load(backbone.graphs["float32"], threads=1)(feeds)["features"]
    assert made.shape == (2, 1, 1, 5)
    values = made[:, 0, 0] * backbone.scale[0]
    assert np.allclose(values, [[2, 0, 1, 0, 0], [0, 0, 0, 1, 1]], atol=0.04)
    assert fidelity.problems(backbone.modality, backbone.graphs["float32"]) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"taps": (9,)}, "no layer 9"),
        ({"taps": ("last",)}, "no layer last"),
        ({"dim": 64}, "fewer than dim"),
        ({"buckets": (8, 64)}, "at most 32 tokens"),
        ({"buckets": (8, 8)}, "rising"),
        ({"source": "hf:nowhere/at-all"}, "cannot be (loaded|reached)"),
        ({"source": "pip:something"}, "no source is called"),
        ({"source": "pip:whisper-tiny-en"}, "encodes audio"),
        ({"source": "table"}, "encodes table"),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused_in_one_sentence(
    change: dict[str, Any], says: str, text: Backbone, folder: Path, tmp_path: Path, hub_offline: None
) -> None:
    spec = EncoderSpec(modality="text", source=f"hf:{folder / 'bert'}", dim=16, buckets=(8,))
    with pytest.raises(ExportError, match=says):
        build(msgspec.structs.replace(spec, **change), models.texts(), tmp_path)


def test_too_few_calibration_samples_are_refused(text: Backbone, folder: Path, tmp_path: Path) -> None:
    spec = EncoderSpec(modality="text", source=f"hf:{folder / 'bert'}", dim=16, buckets=(8,))
    with pytest.raises(ExportError, match="too few"):
        build(spec, ["the cat"], tmp_path)
    with pytest.raises(ExportError, match="no calibration"):
        build(spec, [], tmp_path)
