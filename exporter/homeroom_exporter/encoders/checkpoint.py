"""Loads a checkpoint of transformers and believes nothing: every weight that is read was in it, in its own shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from homeroom.errors import ExportError
from homeroom.system.files import open_regular
from homeroom_exporter.encoders.hidden_states import first_line, quiet_torch
from homeroom_exporter.encoders.hub_source import CONFIG_FILE, LOCAL, locate
from homeroom_exporter.encoders.outside_files import check_model_folder, read_settings
from homeroom_exporter.encoders.spec import EncoderSpec

TOKENIZER_SETTINGS, PROCESSOR_FILE = "tokenizer_config.json", "preprocessor_config.json"
PEFT_FILE, WEIGHTS, INDEX = "adapter_config.json", "model.safetensors", "model.safetensors.index.json"
SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # AutoModel adds a decoder
NOT_BUILT = {
    "longformer": "pads texts to whole attention windows, and its graph fixes how many",
    "led": "pads texts to whole attention windows, and its graph fixes how many",
    "xlnet": "reads tokens in permuted order in two streams, of which no graph is built",
}
FLOATS = ("F16", "BF16", "F32", "F64")
NUMBERS = (".weight", ".bias")
INTEGERS = ("I64", "I32", "BOOL")  # counters and positions; smaller ones are quantized weights
NETWORK_ERRORS = ("ConnectionError", "ConnectError", "Timeout", "TimeoutException")  # of requests and of httpx
POINTER_HEAD = b"version https://git-lfs"
LISTED_REMEDY = "choose a model of a shape that docs/shapes.md lists"
ONE_DOWNLOAD = "take config.json and the weights from one download"
TRIAL_SIDE, TRIAL_SAMPLES = 224, 16_000


@dataclass(frozen=True)
class LoadedModel:
    """A float32 model; `where`: the revision as transformers' keyword; `absent`: weights that its checkpoint lacks."""

    model: Any
    source: str
    where: dict[str, Any]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredTensor:
    """What the header of a safetensors file says of one tensor."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def load_model(spec: EncoderSpec) -> LoadedModel:
    """The model of `hf:<source>[@revision]`.

    ExportError names what is missing, unexpected (heads aside), of another shape or type, not finite, or not built.
    """
    source, where = locate(spec)
    if Path(source).is_dir():
        check_model_folder(Path(source), spec.source)
        for path in sorted(Path(source).iterdir()):
            refuse_pointer(path, spec)
    settings = _config(source, where, spec)
    stored = _stored(source, where, spec) if settings else {}
    model, report = _from_pretrained(source, where, spec, str(settings.get("model_type")))
    _refuse_unfit(model, report, stored, spec)
    state = model.state_dict()  # counters are as the constructor makes them
    absent = tuple(key for key in sorted(report["missing_keys"]) if key in state and state[key].is_floating_point())
    return LoadedModel(model, source, where, absent)


def refuse_absent(loaded: LoadedModel, encoder: Any, spec: EncoderSpec) -> None:
    """ExportError for a weight that the checkpoint lacks and a hidden state depends on; the others become zeros.

    encoder: the side of the model that reads the modality. A weight of NaN is traced: it spoils whatever depends on it.
    """
    state = loaded.model.state_dict()

    def spoil(keys: Sequence[str]) -> bool:
        for key in loaded.absent:
            state[key].fill_(float("nan") if key in keys else 0.0)
        return any(bool(values.isnan().any()) for values in _hidden_states(encoder, spec))

    if not loaded.absent:
        return
    try:
        with quiet_torch():
            lacking = next((key for key in loaded.absent if spoil([key])), None) if spoil(loaded.absent) else None
    except MemoryError:
        raise
    except Exception:  # whatever the model's own code raises
        lacking = loaded.absent[0]
    if lacking is not None:
        more = f" and {len(loaded.absent) - 1} more weights" if len(loaded.absent) > 1 else ""
        raise ExportError(f"lacks {lacking}{more}", where=spec.source, remedy=ONE_DOWNLOAD)
    spoil(())


def _hidden_states(encoder: Any, spec: EncoderSpec) -> Sequence[torch.Tensor]:
    """Every hidden state of a trial input."""
    if spec.modality == "text":
        ones = torch.ones(1, 3, dtype=torch.int64)
        outputs = encoder(input_ids=ones, attention_mask=ones, output_hidden_states=True)
    elif spec.modality == "image":
        size = getattr(encoder.config, "image_size", None)
        side = size if isinstance(size, int) else TRIAL_SIDE
        outputs = encoder(torch.zeros(1, 3, side, side), output_hidden_states=True)
    elif encoder.config.model_type == "whisper":
        bands, frames = encoder.config.num_mel_bins, 2 * encoder.config.max_source_positions
        outputs = encoder.encoder(torch.zeros(1, bands, frames), output_hidden_states=True)
    else:
        encoder.config.apply_spec_augment = False
        outputs = encoder(torch.zeros(1, TRIAL_SAMPLES), output_hidden_states=True)
    return *outputs.hidden_states, outputs.last_hidden_state


def refuse_pointer(path: Path, spec: EncoderSpec) -> None:
    """ExportError where a file is only Git LFS's pointer to it."""
    try:
        with open_regular(path) as file:
            pointer = file.read(len(POINTER_HEAD)) == POINTER_HEAD
    except OSError:
        return  # whoever reads it says so
    if pointer:
        remedy = "run git lfs pull in its folder, or give the hub name"
        raise ExportError(f"{path.name} is a Git LFS pointer, not the file itself", where=spec.source, remedy=remedy)


def found(source: str, name: str, where: Mapping[str, Any]) -> Path | None:
    """A file of a directory or of the hub, None where there is none."""
    from transformers.utils import cached_file

    options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    try:
        path = cached_file(source, name, **options, **where)
    except (OSError, ValueError):  # of a name that is none; from_pretrained says so
        return None
    return Path(path) if path else None


def read_json(source: str, name: str, where: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any] | None:
    """A JSON object of a directory or of the hub, None where there is no such file; ExportError where it is none."""
    if (path := found(source, name, where)) is None:
        return None
    settings = read_settings(path, spec.source)
    refuse_authors_code(settings, name, spec)
    return settings


def refuse_authors_code(settings: Mapping[str, Any], name: str, spec: EncoderSpec) -> None:
    """ExportError for `auto_map`, beside a type that transformers knows too: its own class may compute otherwise."""
    if settings.get("auto_map"):
        fault = f"needs code of its authors, which is never run here ({name}: auto_map)"
        remedy = "choose a model that transformers has itself: docs/shapes.md"
        raise ExportError(fault, where=spec.source, remedy=remedy)


def _config(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> dict[str, Any]:
    """config.json; ExportError for what is no checkpoint of one encoder."""
    if found(source, PEFT_FILE, where):  # transformers would load its base model in its place
        remedy = "name its base model, and hand the adapter over with --peft"
        raise ExportError(f"is a PEFT adapter ({PEFT_FILE}), no encoder", where=spec.source, remedy=remedy)
    stated = read_json(source, CONFIG_FILE, where, spec)
    settings = stated or {}
    kind = str(settings.get("model_type", ""))
    if kind.startswith("timm") or "pretrained_cfg" in settings or (not kind and "architecture" in settings):
        remedy = "export it as ONNX and name that file: onnx:FILE"
        raise ExportError("is a model of timm, which is not read here", where=spec.source, remedy=remedy)
    if stated is not None and not kind:  # transformers would guess it from the folder's name
        raise ExportError(f"{CONFIG_FILE} names no model_type", where=spec.source, remedy=ONE_DOWNLOAD)
    if settings.get("quantization_config"):
        remedy = "take the checkpoint in float32 or float16: the export quantizes it"
        raise ExportError("is quantized already (quantization_config)", where=spec.source, remedy=remedy)
    if kind in NOT_BUILT:
        raise ExportError(f"{kind} {NOT_BUILT[kind]}", where=spec.source, remedy=LISTED_REMEDY)
    if spec.modality == "text" and settings.get("is_encoder_decoder") and kind not in ENCODERS:
        fault = f"{kind} is an encoder and a decoder in one; of such models only T5's encoder is read"
        raise ExportError(fault, where=spec.source, remedy=LISTED_REMEDY)
    return settings


def _stored(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> dict[str, StoredTensor]:
    """Every tensor by its key, from the headers of the files themselves; empty where there is no file."""
    listed: dict[str, str] = {}
    names = [WEIGHTS]
    if found(source, WEIGHTS, where) is None:
        listed = (read_json(source, INDEX, where, spec) or {}).get("weight_map", {})
        names = sorted(set(listed.values()))
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        if (path := found(source, name, where)) is None:
            raise ExportError(f"lacks {name}, which {INDEX} names", where=spec.source, remedy="copy it again")
        try:
            with safe_open(path, "np") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    tensors[key] = StoredTensor(name, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as problem:
            fault = f"{name} cannot be read: {first_line(problem)}"
            raise ExportError(fault, where=spec.source, remedy="cut short or damaged: copy it again") from None
    for key, tensor in tensors.items():  # a counter or a table of positions is of whole numbers
        if tensor.dtype not in (*FLOATS, *INTEGERS) or (key.endswith(NUMBERS) and tensor.dtype not in FLOATS):
            fault = f"{key} is of type {tensor.dtype}, no weight of an encoder in float32 or float16"
            raise ExportError(fault, where=spec.source, remedy="take a checkpoint that is not quantized")
    if untrue := sorted(key for key, name in listed.items() if key not in tensors or tensors[key].file != name):
        fault = f"{INDEX} names {untrue[0]} in {listed[untrue[0]]}, which does not hold it"
        raise ExportError(fault, where=spec.source, remedy="take all files from one download")
    return tensors


def _from_pretrained(
    source: str, where: Mapping[str, Any], spec: EncoderSpec, kind: str
) -> tuple[Any, dict[str, list[str]]]:
    """The model in transformers, and its report of keys."""
    import transformers

    options = {"attn_implementation": "eager", "use_safetensors": True, "dtype": "float32"}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True, **where}  # refused by name below
    if LOCAL in where and (config := found(source, CONFIG_FILE, where)):  # its search for an adapter asks the hub still
        source = str(config.parent)
    try:
        with quiet_torch():
            model, report = getattr(transformers, ENCODERS.get(kind, "AutoModel")).from_pretrained(source, **options)
    except MemoryError:
        raise
    except Exception as problem:  # safetensors', torch's and whatever a model's own code raises
        raise _loading_error(problem, spec) from None
    return model, report


def _loading_error(problem: Exception, spec: EncoderSpec) -> ExportError:
    unreached = any(kind.__name__ in NETWORK_ERRORS for kind in type(problem).__mro__)
    if "custom code" in str(problem):
        fault = "needs code of its authors, which is never run here"
        remedy = "choose a model that transformers has itself: docs/shapes.md"
    elif unreached or "couldn't connect to" in str(problem):  # the latter is transformers' own, with nothing cached
        fault = "is not on this machine, and the hub cannot be reached"
        remedy = "connect to the network once (HTTPS_PROXY names a proxy), or give a directory"
    else:
        fault = f"cannot be loaded: {first_line(problem)}"
        remedy = "a directory with config.json and model.safetensors (no pickle is read), or connect once"
    return ExportError(fault, where=spec.source, remedy=remedy)


def _refuse_unfit(
    model: Any, report: Mapping[str, list[str]], stored: Mapping[str, StoredTensor], spec: EncoderSpec
) -> None:
    """ExportError for a tensor of another shape or type, one that the model has no place for, or one not finite."""
    state, prefix = model.state_dict(), f"{model.base_model_prefix}."
    ours = {key if key in state else key.removeprefix(prefix): key for key in stored}
    ours |= {prefix + key: key for key in stored if prefix + key in state}
    for key in report["mismatched_keys"]:
        found_shape = list(stored[ours[key]].shape) if key in ours else "of another shape"
        fault = f"{ours.get(key, key)} is {found_shape} in place of {list(state[key].shape)}"
        raise ExportError(fault, where=spec.source, remedy=ONE_DOWNLOAD)
    if surplus := [key for key in report["unexpected_keys"] if not _is_head(model, key)]:
        fault = f"holds {surplus[0]}, for which {model.config.model_type} of its config.json has no place"
        raise ExportError(fault, where=spec.source, remedy=ONE_DOWNLOAD)
    for key, value in state.items():
        if key not in report["missing_keys"] and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ExportError(f"{key} holds values that are not finite", where=spec.source, remedy="copy it again")


def _is_head(model: Any, key: str) -> bool:
    """Whether an unknown key is of a head: the checkpoint is of a task, and the key beside the encoder's own parts."""
    bare = type(model).__name__ in (model.config.architectures or ())
    return not bare and key.partition(".")[0] not in {name for name, _ in model.named_children()}


def fast_tokenizer(source: str, where: Mapping[str, Any], spec: EncoderSpec) -> Any:
    """The model's own tokenizer; ExportError where it has none, or none that devices run."""
    from transformers import AutoTokenizer

    read_json(source, TOKENIZER_SETTINGS, where, spec)
    alone = next((name for name in SENTENCEPIECE_FILES if found(source, name, where)), None)
    if alone and found(source, "tokenizer.json", where) is None and importlib.util.find_spec("sentencepiece") is None:
        remedy = "pip install sentencepiece, then export again; or copy tokenizer.json from the model's own folder"
        fault = f"has its tokenizer as sentencepiece's {alone} alone, without tokenizer.json"
        raise ExportError(fault, where=spec.source, remedy=remedy)
    remedy = "copy tokenizer.json from the model's own folder"
    try:
        with quiet_torch():
            tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, **where)
    except Exception as problem:  # the libraries raise bare Exception too
        fault = f"its tokenizer cannot be read: {first_line(problem)}"
        raise ExportError(fault, where=spec.source, remedy=remedy) from None
    if not tokenizer.is_fast:
        raise ExportError("has no fast tokenizer (tokenizer.json)", where=spec.source, remedy=remedy)
    return tokenizer
