"""Section `strict`: checkpoints and processors that are damaged, renamed, resized or cut are refused, each by its key.

Every case is a small random model as a Hugging Face directory or an ONNX file, changed in one place. Sound ones must
equal their original library, input by input: what its own processor makes, and what its model computes of it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

import shapes
from exporter_section import Section, Target
from homeroom.data.preprocess import collate, prepare
from homeroom.errors import ExportError
from homeroom_exporter.encoders import backbone, load
from homeroom_exporter.encoders.hidden_states import quiet_torch
from homeroom_exporter.encoders.onnx_file import silent_session
from homeroom_exporter.encoders.spec import EncoderSpec

LEAST_CASES = 40
INPUTS = 5  # of each sound one
WINDOW_S = 0.5
WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 90868376\n"
KEYS = {
    "bert": "encoder.layer.1.output.dense.weight",
    "distilbert": "transformer.layer.0.ffn.lin1.weight",
    "t5": "encoder.block.1.layer.0.SelfAttention.q.weight",
    "vit": "encoder.layer.0.attention.attention.key.weight",
    "resnet": "encoder.stages.1.layers.0.layer.0.convolution.weight",
    "wav2vec2": "encoder.layers.1.feed_forward.output_dense.weight",
}

NOT_BUILT = {
    "bart": "an encoder and a decoder in one",
    "longformer": "whole attention windows",
    "xlnet": "in two streams",
    "vit_mae": "draws at random: Random",
    "audio-spectrogram-transformer": "is not supported",
}
BUILT = tuple(dict.fromkeys(shape for _, shape, _ in shapes.SHAPES if shape not in NOT_BUILT))

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A model of a shape, what is done to its folder, and what the error must say of it."""

    name: str
    shape: str
    change: Change
    says: str
    kind: str = "hf"


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    """A change of the checkpoint's tensors."""

    def done(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return done


def lost(tensors: dict[str, torch.Tensor], key: str) -> None:
    del tensors[key]


def renamed(tensors: dict[str, torch.Tensor], key: str) -> None:
    tensors[f"{key}_old"] = tensors.pop(key)


def endless(tensor: torch.Tensor) -> None:
    tensor.view(-1)[0] = float("nan")


def settings(file: str, **values: Any) -> Change:
    """A change of a JSON file; None takes a key away."""

    def done(folder: Path) -> None:
        path = folder / file
        held = json.loads(path.read_text()) if path.exists() else {}
        held = {key: value for key, value in {**held, **values}.items() if value is not None}
        path.write_text(json.dumps(held))

    return done


def cut(file: str, share: float = 0.5) -> Change:
    def done(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(len(data) * share)])

    return done


def text(file: str, content: str) -> Change:
    def done(folder: Path) -> None:
        (folder / file).write_text(content)

    return done


def gone(*files: str) -> Change:
    def done(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return done


def sharded(folder: Path, listed: Callable[[dict[str, str]], None], lost: str = "") -> None:
    """The checkpoint in two files with an index that `listed` makes untrue."""
    tensors = load_file(folder / WEIGHTS)
    names = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
    for name in set(names.values()) - {lost}:
        part = {key: tensors[key] for key in tensors if names[key] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    listed(names)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / WEIGHTS).unlink()


def checkpoints() -> Iterator[Case]:
    """Weights that are lost, renamed, of another shape, not finite or cut, in each of some shapes."""
    for shape, key in KEYS.items():
        name = re.escape(key)
        yield Case(f"{shape}: a weight lost", shape, weights(lambda t, k=key: lost(t, k)), f"lacks {name}")  # type: ignore[misc]
        yield Case(f"{shape}: a weight renamed", shape, weights(lambda t, k=key: renamed(t, k)), name)  # type: ignore[misc]
        resized = weights(lambda t, k=key: t.update({k: t[k][1:].clone()}))  # type: ignore[misc]
        yield Case(f"{shape}: a weight resized", shape, resized, f"{name} is .* in place of")
        wrong = weights(lambda t, k=key: endless(t[k]))  # type: ignore[misc]
        yield Case(f"{shape}: a weight not finite", shape, wrong, f"{name} holds values that are not finite")
        yield Case(f"{shape}: cut short", shape, cut(WEIGHTS), f"{WEIGHTS} cannot be read")
    yield Case("bert: all weights of other names", "bert", weights(lambda t: all_renamed(t)), "bert_model|lacks")
    yield Case("bert: fewer layers said", "bert", settings(CONFIG, num_hidden_layers=2), r"holds encoder\.layer\.2")
    yield Case("bert: more layers said", "bert", settings(CONFIG, num_hidden_layers=4), r"lacks encoder\.layer\.3")
    yield Case("bert: more words said", "bert", settings(CONFIG, vocab_size=301), r"word_embeddings\.weight is \[300")
    yield Case("vit: larger pictures said", "vit", settings(CONFIG, image_size=64), "position_embeddings is")
    small = weights(lambda t: t.update({KEYS["bert"]: t[KEYS["bert"]].to(torch.int8)}))
    yield Case("bert: a weight in int8", "bert", small, re.escape(KEYS["bert"]) + " is of type I8")
    whole = weights(lambda t: t.update({KEYS["bert"]: t[KEYS["bert"]].to(torch.int64)}))
    yield Case("bert: a weight of integers", "bert", whole, re.escape(KEYS["bert"]) + " is of type I64")

    def elsewhere(names: dict[str, str]) -> None:
        key = KEYS["bert"]
        names[key] = next(name for name in names.values() if name != names[key])

    lie = re.escape(KEYS["bert"])
    yield Case("bert: an index that is untrue", "bert", lambda f: sharded(f, elsewhere), f"names {lie} in")
    second = "model-00002-of-00002.safetensors"
    lacking = f"lacks {re.escape(second)}"
    yield Case("bert: a part missing", "bert", lambda f: sharded(f, lambda names: None, second), lacking)


def all_renamed(tensors: dict[str, torch.Tensor]) -> None:
    for key in list(tensors):
        tensors[f"bert_model.{key}"] = tensors.pop(key)


def folders() -> Iterator[Case]:
    """Folders that hold something else than an encoder and its tokenizer."""
    authors = "needs code of its authors, .*auto_map"
    yield Case("auto_map beside a known type", "bert", settings(CONFIG, auto_map={"AutoModel": "m.M"}), authors)
    yield Case(
        "auto_map of a tokenizer", "bert", settings("tokenizer_config.json", auto_map={"AutoTokenizer": "t.T"}), authors
    )
    yield Case("auto_map of a processor", "vit", settings(PROCESSOR, auto_map={"AutoImageProcessor": "p.P"}), authors)
    yield Case("weights as a pointer", "bert", text(WEIGHTS, POINTER), f"{WEIGHTS} is a Git LFS pointer")
    yield Case(
        "a tokenizer as a pointer", "bert", text("tokenizer.json", POINTER), r"tokenizer\.json is a Git LFS pointer"
    )
    yield Case("a PEFT folder", "bert", text("adapter_config.json", "{}"), "is a PEFT adapter")
    yield Case("a model of timm", "vit", settings(CONFIG, model_type="timm_wrapper"), "model of timm")
    yield Case(
        "quantized", "bert", settings(CONFIG, quantization_config={"quant_method": "gptq"}), "quantization_config"
    )
    yield Case("config.json cut", "bert", cut(CONFIG), r"config\.json is not JSON")
    yield Case("config.json empty", "bert", text(CONFIG, ""), r"config\.json is not JSON")
    yield Case("config.json of nothing", "bert", text(CONFIG, "{}"), "names no model_type")
    yield Case("a tokenizer cut", "bert", cut("tokenizer.json"), "its tokenizer cannot be read")
    yield Case("sentencepiece alone", "t5", sentencepiece_alone, "sentencepiece's spiece.model alone")
    yield Case("an id beyond the embedding", "bert", new_token(500), "'zzz' the id 500, .* has 300 rows")
    for shape, says in NOT_BUILT.items():
        yield Case(f"{shape}, which is not built", shape, lambda folder: None, says)


def sentencepiece_alone(folder: Path) -> None:
    gone("tokenizer.json", "tokenizer_config.json")(folder)
    (folder / "spiece.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")


def new_token(number: int) -> Change:
    def done(folder: Path) -> None:
        held = json.loads((folder / "tokenizer.json").read_text())
        held["model"]["vocab"]["zzz"] = number
        (folder / "tokenizer.json").write_text(json.dumps(held))

    return done


def processors() -> Iterator[Case]:
    """Processors that are missing, damaged, or do what is not built."""
    wrong: dict[str, Any] = {
        "do_resize": False,
        "do_rescale": False,
        "rescale_factor": 1 / 127.5,
        "resample": 0,
        "size": {"height": 32, "width": 48},
        "image_mean": [0.5],
        "image_std": [0.5, 0.5, 0.0],
        "do_pad": True,
        "do_flip_channel_order": True,
    }
    for key, value in wrong.items():
        yield Case(f"vit: {key}", "vit", settings(PROCESSOR, **{key: value}), f"sets {key} = ")
    crop = settings(PROCESSOR, image_processor_type="BitImageProcessor", size={"shortest_edge": 32}, crop_size=[32, 16])
    yield Case("vit: a crop that is no square", "vit", crop, "sets crop_size")
    yield Case("convnext: crop_pct of 2", "convnext", settings(PROCESSOR, crop_pct=2.0), "sets crop_pct")
    levit = settings(PROCESSOR, image_processor_type="LevitImageProcessor", size={"shortest_edge": 32}, crop_size=32)
    yield Case("vit: another way to resize", "vit", levit, "makes other values of a calibration sample")
    yield Case("vit: no processor", "vit", gone(PROCESSOR), f"lacks {PROCESSOR}")
    yield Case("vit: a processor cut", "vit", cut(PROCESSOR), f"{PROCESSOR} is not JSON")
    yield Case("wav2vec2: an extractor of nothing", "wav2vec2", text(PROCESSOR, "{}"), f"an empty {PROCESSOR}")
    heard = {"padding_side": "left", "feature_size": 2, "padding_value": 1.0, "do_trim": True}
    for key, other in heard.items():
        yield Case(f"wav2vec2: {key}", "wav2vec2", settings(PROCESSOR, **{key: other}), f"sets {key} = ")
    other_class = settings(PROCESSOR, feature_extractor_type="SeamlessM4TFeatureExtractor")
    yield Case("wav2vec2: another extractor", "wav2vec2", other_class, "feature_extractor_type")
    yield Case("wav2vec2: no extractor", "wav2vec2", gone(PROCESSOR), f"lacks {PROCESSOR}")


def onnx_files() -> Iterator[Case]:
    """ONNX files whose data lies elsewhere."""
    for name, location in {
        "above": "../outside.bin",
        "absolute": os.path.abspath(os.sep + "outside.bin"),
        "missing": "absent.bin",
    }.items():
        says = f"keeps a tensor in {re.escape(repr(location))}"
        yield Case(f"onnx: data {name}", "vit", data_at(location), says, "onnx")
    yield Case(
        "onnx: data behind a link", "vit", data_behind_link, "keeps a tensor in 'data.bin': it is a link", "onnx"
    )
    yield Case("onnx: a pointer", "vit", text("model.onnx", POINTER), "is a Git LFS pointer", "onnx")
    yield Case("onnx: empty", "vit", text("model.onnx", ""), "holds nothing", "onnx")
    yield Case("onnx: another file", "vit", text("model.onnx", "<html>"), "cannot be read as ONNX", "onnx")
    yield Case("onnx: no opset", "vit", no_opset, "states no opset", "onnx")
    yield Case(
        "onnx: cut",
        "vit",
        cut_onnx,
        "cut short|read as ONNX",
        "onnx",
    )


def data_at(location: str) -> Change:
    """model.onnx with its one tensor in a file of this name, which is written where the name is of the folder."""

    def done(folder: Path) -> None:
        values = np.ones((4, 3, 4, 4), np.float32)
        tensor = onnx.TensorProto(name="w", dims=values.shape, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if location == "data.bin":
            (folder / location).write_bytes(values.tobytes())
        ends = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")]
        node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=[4, 4])
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return done


def data_behind_link(folder: Path) -> None:
    data_at("data.bin")(folder)
    (folder / "data.bin").rename(folder / "elsewhere.bin")
    (folder / "data.bin").symlink_to("elsewhere.bin")


def no_opset(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())


def cut_onnx(folder: Path) -> None:
    data_at("data.bin")(folder)
    cut("model.onnx", 0.9)(folder)


CASES = (*checkpoints(), *folders(), *processors(), *onnx_files())


class Models:
    """Small models by shape, each made once and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known = {shape: (modality, config) for modality, shape, config in reversed(shapes.SHAPES)}

    def copy(self, shape: str, to: Path) -> Path:
        sound = self.folder / shape
        if not sound.exists():
            shapes.write_model(sound, shape, self.known[shape][1])
        shutil.copytree(sound, to)
        return to

    def spec(self, shape: str, folder: Path, kind: str = "hf") -> EncoderSpec:
        source = f"{kind}:{folder / 'model.onnx' if kind == 'onnx' else folder}"
        modality: Any = self.known[shape][0]
        return EncoderSpec(
            modality=modality, source=source, buckets=(8, 16), seconds=WINDOW_S, dim=8, quantize="none", taps=(1,)
        )


def inputs(modality: str, count: int = 24) -> list[Any]:
    """Texts, PNG pictures or WAV clips, some shorter than the window."""
    draw = np.random.default_rng(3)
    made: list[Any] = []
    for _ in range(count):
        buffer = io.BytesIO()
        if modality == "text":
            made.append(" ".join(draw.choice(list("abcdefghij"), draw.integers(2, 12))))
            continue
        if modality == "image":
            small = Image.fromarray(draw.integers(0, 255, (6, 7, 3), np.uint8))
            small.resize((90, int(draw.integers(60, 120)))).save(buffer, "PNG")
        else:
            wave = 0.2 * draw.standard_normal(int(draw.uniform(0.3, 0.5) * 16_000)).astype(np.float32)
            soundfile.write(buffer, wave, 16_000, format="WAV", subtype="FLOAT")
        made.append(buffer.getvalue())
    return made


def verdict(case: Case, models: Models, folder: Path) -> tuple[bool, str]:
    """Whether a case is refused as it should be, and what is said."""
    place = models.copy(case.shape, folder / "model")
    case.change(place)
    scratch = folder / "scratch"
    scratch.mkdir()
    spec = models.spec(case.shape, place, case.kind)
    try:
        backbone.build(spec, inputs(spec.modality), scratch)
    except ExportError as problem:
        told = str(problem)
        return bool(re.search(case.says, told)) and "\n" not in told, problem.what
    except Exception as problem:  # a traceback is a figure too
        return False, f"{type(problem).__name__}: {problem}"[:120]
    return False, "was exported"


def sound_difference(shape: str, models: Models, folder: Path) -> float:
    """Largest relative difference of the last tap from the original library, its own processor included."""
    place = models.copy(shape, folder / "model")
    scratch = folder / "scratch"
    scratch.mkdir()
    spec = models.spec(shape, place)
    encoder = load(spec, scratch)
    modality, model = encoder.modality(spec), shapes.original(place, spec)
    session, worst = silent_session(encoder.graph), 0.0
    layer = int(encoder.taps[-1].removeprefix("layer."))
    for value in inputs(spec.modality, INPUTS):
        prepared = prepare(modality, value, encoder.files.__getitem__)
        (got,) = session.run([encoder.taps[-1]], collate(modality, [prepared]))
        theirs = original_inputs(spec, place, modality, value)
        worst = max(worst, shapes.apart(got[:, 0], shapes.first_token(spec, model, theirs, layer, got.shape[1])))
    return worst


def original_inputs(spec: EncoderSpec, folder: Path, modality: Any, value: Any) -> dict[str, Any]:
    """What the model's own tokenizer, processor or extractor makes of an input."""
    with quiet_torch():
        if spec.modality == "text":
            tokens = AutoTokenizer.from_pretrained(folder)(value, truncation=True, max_length=16, return_tensors="pt")
            return {name: tokens[name] for name in ("input_ids", "attention_mask")}
        if spec.modality == "image":
            processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
            return {"pixel_values": processor(Image.open(io.BytesIO(value)), return_tensors="pt")["pixel_values"]}
        wave, rate = soundfile.read(io.BytesIO(value), dtype="float32")
        extractor, samples = AutoFeatureExtractor.from_pretrained(folder), modality.preprocess.samples
        heard = torch.tensor(extractor(wave, sampling_rate=rate)["input_values"][0])
        made = {"input_values": torch.zeros(1, samples), "attention_mask": torch.zeros(1, samples, dtype=torch.int64)}
        made["input_values"][0, : len(heard)], made["attention_mask"][0, : len(heard)] = heard, 1
        return made if extractor.return_attention_mask else {"input_values": made["input_values"]}


def run(quick: bool, data: Path) -> Section:
    refused: dict[str, dict[str, Any]] = {}
    equal: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        models = Models(Path(name) / "sound")
        for number, case in enumerate(CASES):
            folder = Path(name) / f"case{number}"
            folder.mkdir()
            met, told = verdict(case, models, folder)
            refused[case.name] = {"refused": met, "says": told}
        for number, shape in enumerate(BUILT):
            folder = Path(name) / f"sound{number}"
            folder.mkdir()
            equal[shape] = sound_difference(shape, models, folder)
    wrong = [name for name, one in refused.items() if not one["refused"]]
    return Section(
        title="damaged checkpoints and processors are refused by name; sound ones equal their original library",
        rows=[
            ["", "refused", "says"],
            *[[name, "yes" if one["refused"] else "NO", one["says"][:100]] for name, one in refused.items()],
            *[[f"sound {shape}", "-", f"differs by {value:.0e}"] for shape, value in equal.items()],
        ],
        figures={"refused": refused, "equal": equal},
        targets=[
            Target("cases made", float(len(refused)), LEAST_CASES, at_least=True),
            Target("cases that are not refused by their key", float(len(wrong)), 0.0),
            Target("sound shapes", float(len(equal)), float(len(BUILT)), at_least=True),
            Target(
                "largest difference of a sound one from its library", max(equal.values(), default=None), shapes.LIMIT
            ),
        ],
        notes=[f"{INPUTS} inputs of each sound shape, relative to the largest value"],
    )
