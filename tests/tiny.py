"""A complete tiny bundle for tests: random local encoders of a few thousand weights, every kind of slot and head.

`bundle()` builds it once for the exporter's sources and keeps it on disk, so that a test process pays milliseconds.
`samples()` makes learnable rows for it, with pictures and sounds as bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import struct
import tempfile
import wave
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import canonical
from homeroom.contract.manifest import (
    AudioPreprocess,
    Column,
    ImagePreprocess,
    Licence,
    Manifest,
    Modality,
    Preprocess,
    Slot,
    TablePreprocess,
    Task,
    TextPreprocess,
    Tolerance,
    Training,
)
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.signing import Certificate, certify, fingerprint, public_hex

DIM, BATCH = 16, 8
ANIMALS = ("cat", "dog", "bird", "fish")
COLOURS = {"cat": (210, 60, 50), "dog": (60, 170, 70), "bird": (60, 90, 210), "fish": (230, 200, 60)}
PITCHES = {"cat": 300.0, "dog": 600.0, "bird": 1200.0, "fish": 2400.0}
WORDS = "the a is of big small red green blue yellow cat dog bird fish runs swims flies sleeps water air not one two"
ROOT = Ed25519PrivateKey.from_private_bytes(b"homeroom test root key".ljust(32, b"."))
EXPORTER = Ed25519PrivateKey.from_private_bytes(b"homeroom test exporter key".ljust(32, b"."))
AGGREGATOR = Ed25519PrivateKey.from_private_bytes(b"homeroom test aggregator key".ljust(32, b"."))

SLOTS = (
    Slot("reference", "text"),
    Slot("answer", "text"),
    Slot("word", "text"),
    Slot("picture", "image"),
    Slot("pictures", "image", 4),
    Slot("speech", "audio"),
    Slot("facts", "table"),
)
TASKS = (
    Task(
        name="grade",
        kind="classification",
        reads=("reference", "answer"),
        labels=("correct", "contradictory", "incorrect"),
        width=3,
    ),
    Task(
        name="category",
        kind="classification",
        reads=("word", "picture", "speech", "facts"),
        labels=ANIMALS,
        width=4,
    ),
    Task(name="size", kind="ordinal", reads=("picture", "facts"), labels=("small", "middle", "big"), width=2),
    Task(name="traits", kind="multilabel", reads=("picture", "facts"), labels=("swims", "flies", "fur"), width=3),
    Task(name="weight", kind="regression", reads=("word", "facts"), width=1, offset=10.0, scale=5.0),
    Task(name="which_picture", kind="choice", reads=("word", "pictures"), width=4),
    Task(name="same", kind="matching", reads=("word", "speech"), width=1),
)
HEADS = {"grade": "pair", "which_picture": "choice", "same": "matching"}
PREPROCESS: dict[str, Preprocess] = {
    "text": TextPreprocess(tokenizer="tokenizer/text.json", pad_id=0, version=2),
    "image": ImagePreprocess(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), version=2),
    "audio": AudioPreprocess(rate=8000, samples=8000, form="waveform", version=2),
    "table": TablePreprocess(
        columns=(
            Column("legs", mean=2.0, std=1.5),
            Column("kilograms", mean=10.0, std=5.0),
            Column("home", categories=("house", "water", "air")),
        )
    ),
}
TAPS = {"text": ("0", "1"), "image": ("0",), "audio": ("0",), "table": ("row",)}
BUCKETS = {"text": (8, 16), "image": (5,), "audio": (20,), "table": (1,)}


@dataclass(frozen=True)
class Tiny:
    """`path` is the bundle's directory; `root` the fingerprint that vouches for it."""

    path: Path
    manifest: Manifest
    root: str
    certificate: Certificate
    exporter_key: Ed25519PrivateKey
    root_key: Ed25519PrivateKey
    aggregator_key: Ed25519PrivateKey

    @property
    def bundle_id(self) -> str:
        return hashlib.sha256((self.path / "manifest.json").read_bytes()).hexdigest()


def bundle() -> Tiny:
    """The tiny bundle, built if the exporter's sources or the contracts changed since."""
    path = Path(tempfile.gettempdir()) / f"homeroom-tiny-{sources_hash()[:16]}"
    if not path.exists():
        scratch = Path(tempfile.mkdtemp(prefix="homeroom-tiny-", dir=tempfile.gettempdir()))
        try:
            build(scratch / "bundle", scratch / "work")
            (scratch / "bundle").rename(path)
        except OSError:
            if not path.exists():  # else another test process was faster
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    manifest = read_manifest((path / "manifest.json").read_bytes())
    root = fingerprint(public_hex(ROOT))
    return Tiny(path, manifest, root, certify(ROOT, "exporter", EXPORTER, "tests"), EXPORTER, ROOT, AGGREGATOR)


def sources_hash() -> str:
    """Of the sources that decide what a bundle of tests holds."""
    house = Path(__file__).resolve().parents[1]
    paths = [Path(__file__), *(house / "sdk/homeroom/runtime").glob("bundle.py")]
    for folder in ("exporter/homeroom_exporter", "sdk/homeroom/contract", "sdk/homeroom/data/preprocess"):
        paths += sorted((house / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def build(out: Path, work: Path) -> Manifest:
    """Export the tiny bundle to `out`, which must not exist, by the exporter's own code."""
    from homeroom.data.samples import Sample
    from homeroom.data.validation import resolve
    from homeroom.runtime.bundle import write_signature
    from homeroom_exporter.bundle import write
    from homeroom_exporter.export import steps

    design, backbones = design_and_backbones(work)
    contents = steps.assemble(
        design,
        backbones,
        [resolve(Sample(**row), draft()) for row in samples(6, seed=7)],
        scratch=work,
        name="tiny",
        version=1,
        batch=BATCH,
        seed=3,
        training=Training(learning_rate=5e-3, epochs=8),
        provenance={"made_by": "tests/tiny.py"},
        threads=1,
        clipped=True,
        saliency=True,
    )
    with write.staging(out) as folder:
        manifest = write.fill(folder, contents)
        write_signature(folder, manifest, certify(ROOT, "exporter", EXPORTER, "tests"), EXPORTER)
    return manifest


def with_task(made: Tiny, out: Path, name: str, **fields: Any) -> Tiny:
    """The tiny bundle with other fields of one task, in the new folder `out`."""
    from homeroom.runtime.bundle import write_signature

    shutil.copytree(made.path, out)
    tasks = tuple(msgspec.structs.replace(t, **fields) if t.name == name else t for t in made.manifest.tasks)
    manifest = msgspec.structs.replace(made.manifest, tasks=tasks)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return replace(made, path=out, manifest=manifest)


def draft() -> Manifest:
    """The bundle's slots and tasks without its files, for `samples.resolve`."""
    modalities = tuple(
        Modality(
            name=name,  # type: ignore[arg-type]
            features_id="0" * 64,
            encoder="tiny",
            taps=TAPS[name],
            dim=DIM,
            buckets=BUCKETS[name],
            preprocess=PREPROCESS[name],
            tolerance=Tolerance(0.0, 0.0),
        )
        for name in TAPS
    )
    return Manifest(
        format=2,
        name="tiny",
        version=1,
        files={},
        modalities=modalities,
        slots=SLOTS,
        tasks=TASKS,
        segments=(),
        graphs=(),
        theta="",
        golden="",
    )


def design_and_backbones(work: Path) -> tuple[Any, dict[str, Any]]:
    """The design, and one tiny backbone for each modality with its files under `work`."""
    from homeroom_exporter.encoders.backbone import Backbone
    from homeroom_exporter.model.design import Design

    work.mkdir(parents=True, exist_ok=True)
    backbones: dict[str, Any] = {}
    for name in ("text", "image", "audio", "table"):
        scale = np.full((len(TAPS[name]), DIM), 1 / 48, np.float32)
        graphs = {p: _features_graph(name, scale, p, work / f"{name}.{p}.onnx") for p in ("int8", "float32")}
        modality = Modality(
            name=name,  # type: ignore[arg-type]
            features_id=hashlib.sha256(graphs["float32"].read_bytes()).hexdigest(),
            encoder=f"tiny random {name} encoder",
            taps=TAPS[name],
            dim=DIM,
            buckets=BUCKETS[name],
            preprocess=PREPROCESS[name],
            tolerance=Tolerance(mean=0.98, worst=0.9),
            float_bytes=graphs["float32"].stat().st_size,
        )
        files = {"tokenizer/text.json": _tokenizer(work / "tokenizer.json")} if name == "text" else {}
        licence = Licence(f"tiny {name} encoder", "Apache-2.0")
        backbones[name] = Backbone(modality, graphs, scale, files, (licence,), modality.float_bytes)
    design = Design(
        modalities=tuple(b.modality for b in backbones.values()),
        scales={name: b.scale for name, b in backbones.items()},
        slots=SLOTS,
        tasks=TASKS,
        heads={task.name: HEADS.get(task.name, "fused") for task in TASKS},  # type: ignore[misc]
        width=16,
        hidden=32,
    )
    return design, backbones


def samples(count: int, seed: int, *, subjects: int = 5) -> list[dict[str, Any]]:
    """Rows as keyword arguments of `Sample`: every slot and label, some left out; media as PNG and WAV bytes."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        animal = ANIMALS[int(rng.integers(4))]
        others = [a for a in ANIMALS if a != animal]
        grade = ("correct", "contradictory", "incorrect")[int(rng.integers(3))]
        answer = {"correct": f"the {animal} sleeps", "contradictory": f"the {animal} not sleeps"}.get(
            grade, f"a {others[int(rng.integers(3))]} flies"
        )
        options = [ANIMALS[j] for j in rng.permutation(4)]
        heard = animal if rng.random() < 0.5 else others[int(rng.integers(3))]
        kilograms = float(rng.uniform(2, 20))
        row: dict[str, Any] = {
            "reference": f"the {animal} sleeps",
            "answer": answer,
            "word": f"the {animal}",
            "picture": png(animal, rng),
            "pictures": [png(option, rng) for option in options],
            "speech": wav(heard, rng),
            "facts": {
                "legs": {"fish": 0, "bird": 2}.get(animal, 4),
                "kilograms": kilograms,
                "home": {"fish": "water", "bird": "air"}.get(animal, "house"),
            },
            "labels": {
                "grade": grade,
                "category": animal,
                "size": "small" if kilograms < 7 else "middle" if kilograms < 14 else "big",
                "traits": {"fish": ["swims"], "bird": ["flies"]}.get(animal, ["fur"]),
                "weight": kilograms,
                "which_picture": options.index(animal),
                "same": heard == animal,
            },
            "subject": f"pupil-{i % subjects}",
        }
        if i % 6 == 5:
            del row["picture"], row["labels"]["traits"]
        if i % 6 == 4:
            del row["speech"], row["labels"]["same"]
        rows.append(row)
    return rows


def write_samples(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as `samples.jsonl` in `folder` with their media beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, row in enumerate(rows):
        line = dict(row)
        for name, suffix in (("picture", "png"), ("pictures", "png"), ("speech", "wav")):
            if name not in row:
                continue
            values = row[name] if isinstance(row[name], list) else [row[name]]
            names = [f"{i}-{name}-{place}.{suffix}" for place in range(len(values))]
            for file_name, data in zip(names, values, strict=True):
                (folder / file_name).write_bytes(data)
            line[name] = names if isinstance(row[name], list) else names[0]
        lines.append(json.dumps(line))
    path = folder / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def png(animal: str, rng: np.random.Generator) -> bytes:
    """A 40 x 40 picture in the animal's colour, with noise and a dark spot."""
    from PIL import Image

    pixels = np.asarray(COLOURS[animal]) + rng.normal(0, 12, (40, 40, 3))
    x, y = rng.integers(0, 30, 2)
    pixels[y : y + 10, x : x + 10] *= 0.3
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(animal: str, rng: np.random.Generator) -> bytes:
    """0.6 s of the animal's tone at 8 kHz, 16 bit mono."""
    times = np.arange(4800) / 8000
    tone = 0.5 * np.sin(2 * math.pi * PITCHES[animal] * times + rng.uniform(0, 6)) + rng.normal(0, 0.02, 4800)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(struct.pack("<4800h", *(int(32000 * v) for v in np.clip(tone, -1, 1))))
    return buffer.getvalue()


def _tokenizer(path: Path) -> Path:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{c}" for c in letters), *WORDS.split()]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path))
    return path


def _features_graph(name: str, scale: np.ndarray, precision: str, path: Path) -> Path:
    """A random encoder as ONNX: inputs and the one output `features` int8 [B, taps, tokens, dim] as the contract says.

    The int8 form has its weights rounded to 7 bits, so that it differs a little from the float32 form.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(sum(name.encode()))
    nodes: list[Any] = []
    weights: list[Any] = []

    def weight(key: str, *shape: int) -> str:
        values = rng.standard_normal(shape) / math.sqrt(max(math.prod(shape[1:]) if name == "image" else shape[0], 1))
        if precision == "int8":
            step = np.abs(values).max() / 63
            values = np.rint(values / step) * step
        weights.append(numpy_helper.from_array(values.astype(np.float32), key))
        return key

    def constant(key: str, values: Any, dtype: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), key))
        return key

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def value(key: str, kind: int, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(key, kind, shape)

    if name == "text":
        inputs = [value(key, TensorProto.INT64, ["B", "T"]) for key in ("input_ids", "attention_mask")]
        rng = np.random.default_rng(1)
        weights.append(numpy_helper.from_array(rng.standard_normal((128, DIM)).astype(np.float32), "table"))
        embedded = node("Gather", ["table", "input_ids"], "embedded")
        mask = node("Unsqueeze", [node("Cast", ["attention_mask"], "m", to=1), constant("two", [2], np.int64)], "mask")
        total = node("ReduceSum", [node("Mul", [embedded, mask], "kept"), constant("one", [1], np.int64)], "total")
        count = node("Max", [node("ReduceSum", [mask, "one"], "tokens"), constant("least", 1.0, np.float32)], "count")
        mean = node("Div", [total, count], "mean")
        mixed = node("Tanh", [node("MatMul", [node("Add", [embedded, mean], "both"), weight("w", DIM, DIM)], "x")], "y")
        taps = [node("Unsqueeze", [part, "one"], f"tap{i}") for i, part in enumerate((embedded, mixed))]
        float_features = node("Concat", taps, "f", axis=1)
    elif name == "image":
        inputs = [value("pixels", TensorProto.FLOAT, ["B", 3, 32, 32])]
        x = node("Conv", ["pixels", weight("w", DIM, 3, 8, 8)], "patches", strides=[8, 8])
        x = node("Mul", [node("Tanh", [x], "squashed"), constant("gain", 1.5, np.float32)], "gained")
        grid = node("AveragePool", [x], "grid", kernel_shape=[2, 2], strides=[2, 2])
        flat = [
            node("Reshape", [part, constant(f"flat{i}", [0, DIM, -1], np.int64)], f"tokens{i}")
            for i, part in enumerate((node("GlobalAveragePool", [x], "global"), grid))
        ]
        tokens = node("Transpose", [node("Concat", flat, "all", axis=2)], "rows", perm=[0, 2, 1])
        float_features = node("Unsqueeze", [tokens, constant("one", [1], np.int64)], "f")
    elif name == "audio":
        inputs = [value("audio", TensorProto.FLOAT, ["B", 8000])]
        frames = node("Reshape", ["audio", constant("frames", [-1, 1, 20, 400], np.int64)], "framed")
        times = np.arange(400)[:, None] / 8000
        waves = np.exp(2j * np.pi * times * np.linspace(150, 3000, DIM)) * np.hanning(400)[:, None] / 40
        parts = []
        for key, basis in (("re", waves.real), ("im", waves.imag)):
            product = node("MatMul", [frames, constant(f"{key}_basis", basis, np.float32)], key)
            parts.append(node("Mul", [product, product], f"{key}2"))
        power = node("Sqrt", [node("Add", parts, "power")], "magnitude")
        float_features = node("Add", [node("MatMul", [power, weight("w", DIM, DIM)], "mixed"), power], "f")
    else:
        width = PREPROCESS["table"].width  # type: ignore[union-attr]
        inputs = [value("row", TensorProto.FLOAT, ["B", width])]
        row = node("MatMul", ["row", weight("w", width, DIM)], "mixed")
        float_features = node("Unsqueeze", [row, constant("axes", [1, 2], np.int64)], "f")
    scaled = node("Div", [float_features, constant("scale", scale[:, None], np.float32)], "scaled")
    bounds = [constant("low", -127, np.float32), constant("high", 127, np.float32)]
    node(
        "Cast",
        [node("Clip", [node("Round", [scaled], "rounded"), *bounds], "clipped")],
        "features",
        to=TensorProto.INT8,
    )
    length: Any = "T" if name == "text" else BUCKETS[name][0]
    output = value("features", TensorProto.INT8, ["B", len(TAPS[name]), length, DIM])
    graph = helper.make_graph(nodes, name, inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="homeroom")
    model.ir_version = 8
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


if __name__ == "__main__":
    print(os.fspath(bundle().path))
