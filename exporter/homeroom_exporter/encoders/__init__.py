"""The frozen encoders that a recipe can name, one module a family, imported when a recipe asks for it."""

from __future__ import annotations

import importlib
from pathlib import Path

from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

SOURCES = {
    "pip:minilm": ("text", "minilm"),
    "pip:use-multilingual": ("text", "use_multilingual"),
    "pip:efficientnet-lite0": ("image", "efficientnet"),
    "pip:speech-embedding": ("audio", "speech_embedding"),
    "pip:whisper-tiny-en": ("audio", "whisper"),
    "table": ("table", "table"),
    "interactions": ("sequence", "sequence"),
}


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """The float32 encoder that a recipe names, its extra files written to `scratch`; ExportError if there is none."""
    if spec.source.startswith("hf:"):
        family = "hub"
    elif spec.source.startswith("onnx:"):
        family = "onnx_file"
    elif spec.source.startswith("torch:"):
        family = "torch_module"
    elif spec.source in SOURCES:
        modality, family = SOURCES[spec.source]
        if modality != spec.modality:
            raise ExportError(f"{spec.source} encodes {modality}", where=spec.modality, remedy="choose another source")
    else:
        known = ", ".join([*SOURCES, "hf:<directory or hub name>", "onnx:<file>", "torch:<file.py>:<factory>"])
        raise ExportError(f"no source is called {spec.source}", where=spec.modality, remedy=f"one of {known}")
    module = importlib.import_module(f"homeroom_exporter.encoders.{family}")
    encoder: Encoder = module.load(spec, scratch)
    importlib.import_module("homeroom_exporter.encoders.graph_checks").check(spec, encoder)
    return encoder
