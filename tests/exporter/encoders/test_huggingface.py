"""Models of many shapes become backbones: inputs as the original library makes them, taps as the model has them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPVisionModel,
    SiglipVisionModel,
)

from exporter import models
from exporter.encoders.test_encoders import run
from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, identifying
from homeroom.data.preprocess import audio, image, text
from homeroom.errors import ExportError
from homeroom_exporter.encoders import backbone, load
from homeroom_exporter.encoders.hidden_states import quiet_torch, traced_graph
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize.graph_surgery import regions


def made(tmp_path: Path, modality: Any, folder: Path, kind: str = "hf", **options: Any) -> Encoder:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return load(EncoderSpec(modality=modality, source=f"{kind}:{folder}", **options), scratch)


def all_states(made: Any) -> list[torch.Tensor]:
    """The hidden states, the last one as the model hands it on."""
    return [*made.hidden_states[:-1], made.last_hidden_state]


@pytest.mark.parametrize("shape", [models.vit, models.dinov2, models.clip, models.resnet])
@pytest.mark.parametrize("size", [(50, 40), (31, 77)])
def test_pictures_are_made_as_the_models_own_processor_makes_them(
    tmp_path: Path, shape: Callable[[Path], Path], size: tuple[int, int]
) -> None:
    from homeroom_exporter.encoders.vision import pixels

    folder = shape(tmp_path / "model")
    with quiet_torch():
        original = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    spec = pixels(str(folder), {}, EncoderSpec(modality="image", source=f"hf:{folder}"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    ours = image.prepare(spec, image.decode(buffer.getvalue()), 1).arrays["pixels"]
    assert np.allclose(ours, original(picture)["pixel_values"][0], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "special"),
    [(models.dinov2, 1), (models.dinov2_registers, 5), (models.clip, 1), (models.siglip, 0), (models.resnet, 0)],
)
def test_taps_of_pictures_are_the_models_own_hidden_states(
    tmp_path: Path, shape: Callable[[Path], Path], special: int
) -> None:
    folder = shape(tmp_path / "model")
    encoder = made(tmp_path, "image", folder, grid=2)
    assert isinstance(encoder.preprocess, ImagePreprocess)
    side = encoder.preprocess.size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    kind = {models.siglip: SiglipVisionModel, models.clip: CLIPVisionModel}.get(shape, AutoModel)
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        states = all_states(model(pixels, output_hidden_states=True))
    for tap, got in zip(encoder.taps, run(encoder.graph, encoder.taps, {"pixels": pixels.numpy()}), strict=True):
        state = states[int(tap.removeprefix("layer."))]
        rows = state.flatten(2).transpose(1, 2) if state.dim() == 4 else state[:, special:]
        wanted = regions(math.isqrt(rows.shape[1]), 2).T @ rows.numpy()
        if special:
            wanted[:, 0] = state[:, 0].numpy()
        assert np.abs(got - wanted).max() < 1e-3 * max(1.0, np.abs(wanted).max()), tap


@pytest.mark.parametrize("shape", [models.wav2vec2, models.wav2vec2_by_layer, models.hubert])
def test_sounds_and_their_taps_are_those_of_the_original_library(tmp_path: Path, shape: Callable[[Path], Path]) -> None:
    folder = shape(tmp_path / "model")
    encoder = made(tmp_path, "audio", folder, seconds=0.5)
    assert isinstance(encoder.preprocess, AudioPreprocess)
    original = AutoFeatureExtractor.from_pretrained(folder)
    clips, mask = [], np.zeros((2, 8000), np.int64)
    for row, seconds in enumerate((0.5, 0.3)):
        wave = (np.random.default_rng(2).standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32)
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, 16_000, format="WAV", subtype="FLOAT")
        clips.append(audio.prepare(encoder.preprocess, *audio.decode(buffer.getvalue()), 5).arrays["audio"])
        wanted = original(wave, sampling_rate=16_000)["input_values"][0]
        assert np.allclose(clips[-1], np.pad(wanted, (0, 8000 - len(wanted))), atol=1e-4)
        mask[row, : len(wanted)] = 1
    said = {"attention_mask": torch.from_numpy(mask)} if original.return_attention_mask else {}
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = all_states(model(torch.from_numpy(np.stack(clips)), **said, output_hidden_states=True))
    for tap, got in zip(encoder.taps, run(encoder.graph, encoder.taps, {"audio": np.stack(clips)}), strict=True):
        state = states[int(tap.removeprefix("layer."))].numpy()
        assert got.shape == (2, 5, 32)
        assert np.allclose(got[:, 0], state[:, : -(-state.shape[1] // 5)].mean(1), atol=1e-4)


def test_a_window_of_sound_shorter_than_a_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="shorter than a frame of the model"):
        made(tmp_path, "audio", models.wav2vec2(tmp_path / "model"), seconds=0.01)


def test_the_text_side_of_a_dual_model_reads_and_computes_as_the_original(tmp_path: Path) -> None:
    folder = models.clip(tmp_path / "model")
    encoder = made(tmp_path, "text", folder, buckets=(8, 16))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = models.texts(5)
    for one in said:
        prepared = text.prepare(encoder.files["tokenizer/text.json"], one, 16)
        assert prepared.arrays["input_ids"].tolist() == tokenizer(one)["input_ids"]
    feeds = tokenizer(said, padding=True, return_tensors="np", return_token_type_ids=False)
    feeds = {name: feeds[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval().text_model
    with torch.no_grad():
        states = all_states(model(**{k: torch.from_numpy(v) for k, v in feeds.items()}, output_hidden_states=True))
    for tap, got in zip(encoder.taps, run(encoder.graph, encoder.taps, feeds), strict=True):
        valid = feeds["attention_mask"] > 0
        assert np.allclose(got[valid], states[int(tap.removeprefix("layer."))].numpy()[valid], atol=1e-4)


def test_taps_of_someone_elses_file_are_found_by_looking_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = models.onnx_text(folder)
    encoder = made(tmp_path, "text", path, "onnx", buckets=(8, 16))
    graph = onnx.load(path)
    results = {value.name for value in graph.graph.output}
    feeds = {"input_ids": np.arange(12).reshape(2, 6) + 4, "attention_mask": np.ones((2, 6), np.int64)}
    (wanted,) = run(graph, tuple(results), {**feeds, "token_type_ids": np.zeros((2, 6), np.int64)})
    got = dict(zip(encoder.taps, run(encoder.graph, encoder.taps, feeds), strict=True))
    assert all(value.shape == (2, 6, 32) for value in got.values())
    assert np.allclose(list(got.values())[-1], wanted, atol=1e-5)
    (tmp_path / "scratch").rename(tmp_path / "first")
    with pytest.raises(ExportError, match=r"has no tap 99 .*one of 1 "):
        made(tmp_path, "text", path, "onnx", taps=(99,))


def test_a_file_with_a_makers_own_operators_names_the_node(tmp_path: Path) -> None:
    node = onnx.helper.make_node("FusedGelu", ["x"], ["y"], name="gelu_3", domain="com.microsoft")
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"gelu_3 is FusedGelu of com\.microsoft"):
        made(tmp_path, "image", tmp_path / "model.onnx", "onnx")


def test_what_a_preprocessing_said_before_new_fields_keeps_its_identity() -> None:
    old = ImagePreprocess(224, 256, (0.5,) * 3, (0.5,) * 3)
    assert "fit" not in identifying(old)
    assert identifying(ImagePreprocess(224, 256, (0.5,) * 3, (0.5,) * 3, fit="squash"))["fit"] == "squash"
    assert "normalize" not in identifying(AudioPreprocess(16_000, 8_000, "waveform"))


def test_a_whole_backbone_is_made_of_a_net_of_convolutions(tmp_path: Path) -> None:
    spec = EncoderSpec(modality="image", source=f"hf:{models.resnet(tmp_path / 'model')}", dim=8, taps=(3, 4))
    (tmp_path / "work").mkdir()
    found = backbone.build(spec, models.pictures(24), tmp_path / "work")
    assert found.lowest == "int8"
    assert found.modality.taps == ("layer.3", "layer.4")


def test_an_operator_that_no_graph_has_is_named_and_nothing_else_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Resized(torch.nn.Module):  # type: ignore[misc]
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(pixels, size=(5, 5), mode="bicubic", antialias=True)

    with pytest.raises(ExportError, match=r"aten::_upsample_bicubic2d_aa.*docs/shapes\.md") as refused:
        traced_graph(Resized(), {"pixels": torch.zeros(2, 3, 8, 8)}, ["out"], {0: "batch"})
    assert refused.value.where == "Resized"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("config", "file", "says"),
    [
        ('{"model_type": "bert"}', "pytorch_model.bin", "model.safetensors.*no pickle is read"),
        ('{"auto_map": {"AutoConfig": "c.C", "AutoModel": "c.M"}}', "c.py", "code of its authors, which is never run"),
    ],
)
def test_pickles_and_code_of_a_models_authors_are_refused(config: str, file: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / file).write_text("raise SystemExit")
    with pytest.raises(ExportError, match=says):
        load(EncoderSpec(modality="text", source=f"hf:{tmp_path}"), tmp_path)
