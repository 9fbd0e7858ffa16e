"""Encoders from a Hugging Face directory or hub name (`hf:<source>[@revision]`), exported by optimum.

Weights are read from safetensors only, and no code of the model's authors is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from homeroom.contract.manifest import Licence, TextPreprocess
from homeroom.errors import ExportError
from homeroom.system.files import read_bounded
from homeroom_exporter.encoders import hidden_states, processors, vision, wav2vec, whisper
from homeroom_exporter.encoders.checkpoint import ENCODERS, fast_tokenizer, load_model, refuse_absent
from homeroom_exporter.encoders.minilm import TEXT_INPUTS, TOKENIZER, check_buckets, write_tokenizer
from homeroom_exporter.encoders.outside_files import TEXT_LIMIT_BYTES
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text")  # they start after the padding's
UNBOUNDED = 1 << 24  # tokens
TEXT_SIDES = ("clip_text_model",)  # of a dual model, which optimum exports with its projection only
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """A text model with a fast tokenizer, a vision transformer or net of convolutions, a Whisper- or wav2vec2-shaped
    model, or one side of a CLIP-shaped one; taps are `layer.<n>`.
    """
    if spec.modality not in ("text", "image", "audio"):
        remedy = 'use "table" or "interactions"'
        raise ExportError("no Hugging Face model encodes it", where=spec.modality, remedy=remedy)
    loaded = load_model(spec)
    licences, files = licence(loaded.source, loaded.where, scratch)
    model = encoder_side(loaded.model, spec)
    refuse_absent(loaded, model, spec)
    arguments = (spec, model, loaded.source, loaded.where)
    name = title(loaded.source, model.config)
    if spec.modality == "text":
        return _text(*arguments, scratch, licences, files)
    if spec.modality == "image":
        return vision.load(*arguments, name, licences, files)
    if model.config.model_type == "whisper":
        processors.sound_settings(loaded.source, loaded.where, spec, processors.LOG_MEL)
        state = dict(model.encoder.state_dict())
        return whisper.windowed(spec, f"{name} encoder", model.config, state, licences, files)
    return wav2vec.load(*arguments, name, licences, files)


def encoder_side(model: Any, spec: EncoderSpec) -> Any:
    """Of a dual model such as CLIP the encoder of the modality, else the model itself."""
    part = {"text": "text_model", "image": "vision_model"}.get(spec.modality, "")
    if not (part and hasattr(model, "text_model") and hasattr(model, "vision_model")):
        return model
    encoder = getattr(model, part)
    if "output_hidden_states" in inspect.signature(encoder.forward).parameters:
        return encoder
    from transformers import AutoModel

    with torch.device("meta"):  # SigLIP: the model around it collects its hidden states; it has no weights of its own
        wrapper = AutoModel.from_config(encoder.config)
    setattr(wrapper, part, encoder)
    return wrapper


def _text(
    spec: EncoderSpec, model: Any, source: str, where: Any, scratch: Path, licences: Any, files: dict[str, Path]
) -> Encoder:
    preprocess, tokenizer = tokens(spec, model.config, source, where, scratch)
    chosen = hidden_states.chosen_layers(spec, model.config.num_hidden_layers)
    graph, size, files = _exported(spec, model, chosen), hidden_states.float_bytes(model), {**files, **tokenizer}
    taps = tuple(f"layer.{i}" for i in chosen)
    return Encoder(title(source, model.config), graph, taps, spec.buckets, preprocess, "dynamic", size, licences, files)


def tokens(
    spec: EncoderSpec, config: Any, source: str, where: Any, scratch: Path
) -> tuple[TextPreprocess, dict[str, Path]]:
    """The model's own tokenizer, written to `scratch`; ExportError if it has no fast one, or a bucket is too long."""
    tokenizer = fast_tokenizer(source, where, spec)
    pad_id = next((i for i in (tokenizer.pad_token_id, config.pad_token_id) if i is not None), 0)
    refuse_ids({**tokenizer.get_vocab(), "padding": pad_id}, config.vocab_size, spec)
    if (positions := getattr(config, "max_position_embeddings", None)) is None:
        positions = UNBOUNDED  # T5's are relative
    check_buckets(spec, positions - (2 if config.model_type in OFFSET_POSITIONS else 0))
    path = write_tokenizer(tokenizer.backend_tokenizer.to_str(), scratch)
    return TextPreprocess(TOKENIZER, pad_id), {TOKENIZER: path}


def refuse_ids(ids: Mapping[str, int], rows: int, spec: EncoderSpec) -> None:
    """ExportError where a token's id is no row of the embedding."""
    name, number = max(ids.items(), key=lambda pair: pair[1])
    if number >= rows or min(ids.values()) < 0:
        fault = f"its tokenizer gives {name!r} the id {number}, but its embedding has {rows} rows"
        remedy = "take tokenizer and weights from one download"
        raise ExportError(fault, where=spec.source, remedy=remedy)


def _exported(spec: EncoderSpec, model: Any, chosen: tuple[int, ...]) -> Any:
    try:
        if model.config.model_type in (*TEXT_SIDES, *ENCODERS):
            return hidden_states.layers_graph(
                hidden_states.HiddenStates(model, chosen), torch.ones(2, 5, dtype=torch.int64), TEXT_INPUTS
            )
        return hidden_states.optimum_graph(model, chosen, TEXT_INPUTS, model.config.num_hidden_layers)
    except ExportError:
        raise
    except Exception as problem:  # the exporter raises whatever the model's own code does
        fault = f"optimum cannot export {model.config.model_type}: {hidden_states.first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy="choose an encoder that optimum lists") from problem


def title(source: str, config: Any) -> str:
    """The last part of a name or path; where a directory lies is nobody's business."""
    return f"{config.model_type} {Path(source).name}"


def licence(source: str, where: Any, scratch: Path) -> tuple[tuple[Licence, ...], dict[str, Path]]:
    """What the model's card and licence file say; an empty name where they say nothing."""
    from transformers.utils import cached_file

    def text_of(name: str) -> str | None:
        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        path_in_cache = cached_file(source, name, **options, **where)
        return read_bounded(Path(path_in_cache), TEXT_LIMIT_BYTES).decode("utf-8", "replace") if path_in_cache else None

    stated = re.search(r"^license:\s*[\"']?([\w.+-]+)", text_of("README.md") or "", re.M)
    title, name = Path(source).name, stated[1] if stated else "not stated"
    full = next((text for text in map(text_of, LICENCE_FILES) if text), None)
    if full is None:
        return (Licence(title, name, None, _origin(source, where)),), {}
    bundle_name = f"licences/{re.sub(r'[^a-z0-9.-]+', '-', title.lower())}.txt"
    path = scratch / Path(bundle_name).name
    path.write_bytes(full.encode())
    return (Licence(title, name, bundle_name, _origin(source, where)),), {bundle_name: path}


def _origin(source: str, where: Any) -> str:
    revision = f"@{where['revision']}" if "revision" in where else ""
    return f"{Path(source).name if Path(source).is_dir() else source}{revision}"
