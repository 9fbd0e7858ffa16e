"""Encoders from a Hugging Face directory or hub name (`hf:<source>[@revision]`), exported by optimum; transformers.

Weights are read from safetensors only, and no code of the model's authors is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import ImagePreprocess, Licence, TextPreprocess
from homeroom.errors import ExportError
from homeroom_exporter.encoders import whisper
from homeroom_exporter.encoders.hidden import float_bytes, hidden_states, layers, silence
from homeroom_exporter.encoders.minilm import TEXT_INPUTS, TOKENIZER, check_buckets, write_tokenizer
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.taps import pool_patches, region_count

GRID = 2
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as processors store them
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")  # positions start after the padding's
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")


def load(spec: EncoderSpec, scratch: Path) -> Encoder:
    """A text model with a fast tokenizer, a vision transformer, or a Whisper model; taps are `layer.<n>`."""
    model, source, where = network(spec)
    families = {"text": _text, "image": _image, "audio": _audio}
    if spec.modality not in families:
        raise ExportError(
            "no Hugging Face model encodes it", where=spec.modality, remedy='use "table" or "interactions"'
        )
    licences, files = licence(source, where, scratch)
    return families[spec.modality](spec, model, source, where, scratch, licences, files)


def network(spec: EncoderSpec) -> tuple[Any, str, dict[str, Any]]:
    """The model that `hf:<source>[@revision]` names, its source, and the revision as transformers' keyword."""
    from transformers import AutoModel

    source, _, revision = spec.source.removeprefix("hf:").partition("@")
    where: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        with silence():
            model = AutoModel.from_pretrained(
                source, attn_implementation="eager", use_safetensors=True, dtype="float32", **where
            )
    except (OSError, ValueError, ImportError) as problem:
        raise ExportError(
            f"cannot be loaded: {str(problem).splitlines()[0]}",
            where=spec.source,
            remedy="give a directory with config.json and model.safetensors, or connect to the hub once",
        ) from None
    return model, source, where


def _text(
    spec: EncoderSpec, model: Any, source: str, where: Any, scratch: Path, licences: Any, files: dict[str, Path]
) -> Encoder:
    preprocess, tokenizer = tokens(spec, model.config, source, where, scratch)
    chosen = layers(spec, model.config.num_hidden_layers)
    return Encoder(
        title=title(source, model.config),
        graph=_exported(spec, model, chosen, TEXT_INPUTS),
        taps=tuple(f"layer.{i}" for i in chosen),
        buckets=spec.buckets,
        preprocess=preprocess,
        scheme="dynamic",
        float_bytes=float_bytes(model),
        licences=licences,
        files={**files, **tokenizer},
    )


def tokens(
    spec: EncoderSpec, config: Any, source: str, where: Any, scratch: Path
) -> tuple[TextPreprocess, dict[str, Path]]:
    """The model's own tokenizer, written to `scratch`; ExportError if it has no fast one, or a bucket is too long."""
    from transformers import AutoTokenizer

    with silence():
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **where)
    if not tokenizer.is_fast:
        raise ExportError("has no fast tokenizer (tokenizer.json)", where=spec.source)
    pad_id = next((i for i in (tokenizer.pad_token_id, config.pad_token_id) if i is not None), 0)
    check_buckets(spec, config.max_position_embeddings - (2 if config.model_type in OFFSET_POSITIONS else 0))
    return TextPreprocess(TOKENIZER, pad_id), {
        TOKENIZER: write_tokenizer(tokenizer.backend_tokenizer.to_str(), scratch)
    }


def _image(
    spec: EncoderSpec, model: Any, source: str, where: Any, scratch: Path, licences: Any, files: dict[str, Path]
) -> Encoder:
    config = model.config
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int):
        raise ExportError(f"{config.model_type} is no vision transformer with square pictures", where=spec.source)
    chosen, grid = layers(spec, config.num_hidden_layers), spec.grid or GRID
    graph = _exported(spec, model, chosen, {"pixel_values": ("pixels", ("batch", 3, size, size))})
    for i in chosen:
        pool_patches(graph, f"layer.{i}", size // patch, grid)
    return Encoder(
        title=title(source, config),
        graph=graph,
        taps=tuple(f"layer.{i}" for i in chosen),
        buckets=(region_count(grid),),
        preprocess=pixels(source, where, size),
        scheme="dynamic",
        float_bytes=float_bytes(model),
        licences=licences,
        files=files,
    )


def _audio(
    spec: EncoderSpec, model: Any, source: str, where: Any, scratch: Path, licences: Any, files: dict[str, Path]
) -> Encoder:
    if model.config.model_type != "whisper":
        raise ExportError(
            f"sound by {model.config.model_type} is not supported", where=spec.source, remedy="use a Whisper model"
        )
    state = dict(model.encoder.state_dict())
    return whisper.windowed(spec, f"{title(source, model.config)} encoder", model.config, state, licences, files)


def _exported(spec: EncoderSpec, model: Any, chosen: tuple[int, ...], inputs: Any) -> Any:
    try:
        return hidden_states(model, chosen, inputs, model.config.num_hidden_layers)
    except ExportError:
        raise
    except Exception as problem:  # the exporter raises whatever the model's own code does
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ExportError(
            f"optimum cannot export {model.config.model_type}: {reason}",
            where=spec.source,
            remedy="choose an encoder that optimum lists",
        ) from problem


def pixels(source: str, where: Any, size: int) -> ImagePreprocess:
    """What the model's own processor says of mean, deviation and filter; halves and bicubic where it says nothing."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        with silence():
            said, _ = ImageProcessingMixin.get_image_processor_dict(source, **where)
    except OSError:
        said = {}
    mean, std = (tuple(said.get(key) or (0.5, 0.5, 0.5)) for key in ("image_mean", "image_std"))
    resample: Any = RESAMPLE.get(said.get("resample", 3), "bicubic")
    return ImagePreprocess(size, size, mean, std, resample)


def title(source: str, config: Any) -> str:
    """The last part of a name or path; where a directory lies is nobody's business."""
    return f"{config.model_type} {Path(source).name}"


def licence(source: str, where: Any, scratch: Path) -> tuple[tuple[Licence, ...], dict[str, Path]]:
    """What the model's card and licence file say; an empty name where they say nothing."""
    from transformers.utils import cached_file

    def text_of(name: str) -> str | None:
        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        found = cached_file(source, name, **options, **where)
        return Path(found).read_text("utf-8", "replace") if found else None

    stated = re.search(r"^license:\s*[\"']?([\w.+-]+)", text_of("README.md") or "", re.M)
    title, name = Path(source).name, stated[1] if stated else "not stated"
    full = next((text for text in map(text_of, LICENCE_FILES) if text), None)
    if full is None:
        return (Licence(title, name, None, _origin(source, where)),), {}
    place = f"licences/{re.sub(r'[^a-z0-9.-]+', '-', title.lower())}.txt"
    path = scratch / Path(place).name
    path.write_bytes(full.encode())
    return (Licence(title, name, place, _origin(source, where)),), {place: path}


def _origin(source: str, where: Any) -> str:
    revision = f"@{where['revision']}" if where else ""
    return f"{Path(source).name if Path(source).is_dir() else source}{revision}"
