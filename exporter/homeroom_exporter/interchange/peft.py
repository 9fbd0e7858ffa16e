"""PEFT's checkpoints, read and written: adapter_config.json and adapter_model.safetensors.

A checkpoint is of the bare encoder (`AutoModel`), so its keys are `base_model.model.<layer>.lora_A.weight`. Heads are
Homeroom's own; they have no place in it and are written beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from homeroom.errors import ExportError, InputError
from homeroom.runtime.bundle import Bundle
from homeroom_exporter.bundle.write import staging
from homeroom_exporter.encoders.outside_files import read_settings
from homeroom_exporter.model.lora.adapter import Adapter
from homeroom_exporter.model.lora.plan import Checkpoint

CONFIG, MODEL, REST = "adapter_config.json", "adapter_model.safetensors", "homeroom_heads.safetensors"
FROZEN = "adapter/frozen.safetensors"  # in a bundle: every A that stays as it is, by layer
SETTINGS = "adapter/adapter_config.json"  # in a bundle: what PEFT must be told
KEY_PREFIX, SIDES = "base_model.model.", {"A": ".lora_A.weight", "B": ".lora_B.weight"}
MODEL_LIMIT_BYTES = 1 << 30
NOT_BUILT = {"use_dora": "DoRA", "fan_in_fan_out": "transposed weights", "megatron_config": "Megatron's layers"}


def read(folder: Path) -> Checkpoint:
    """A checkpoint of LoRA factors; ExportError names what is missing, not LoRA, or not a pair."""
    config = _config(folder / CONFIG)
    where = f"{folder.name}/{MODEL}"
    path = folder / MODEL
    if not path.is_file() or path.stat().st_size > MODEL_LIMIT_BYTES:
        raise ExportError("is missing, or larger than any adapter", where=where, remedy="save it as safetensors")
    try:
        tensors = safetensors.numpy.load_file(path)
    except (SafetensorError, OSError, ValueError) as problem:
        raise ExportError(f"cannot be read: {problem}", where=where, remedy="save it again with PEFT") from None
    sides: dict[str, dict[str, np.ndarray]] = {"A": {}, "B": {}}
    for key, value in tensors.items():
        side = next((s for s, end in SIDES.items() if key.startswith(KEY_PREFIX) and key.endswith(end)), None)
        if side is None:
            remedy = "save the adapter without modules_to_save and biases: heads are Homeroom's own"
            raise ExportError(f"holds {key}, which is no LoRA factor", where=where, remedy=remedy)
        if value.ndim != 2 or not np.isfinite(value).all():
            raise ExportError(f"{key} is not a finite matrix", where=where)
        sides[side][key.removeprefix(KEY_PREFIX).removesuffix(SIDES[side])] = np.asarray(value, np.float32)
    for one, other in (("A", "B"), ("B", "A")):
        if alone := sorted(sides[one].keys() - sides[other].keys()):
            fault = f"lacks {KEY_PREFIX}{alone[0]}{SIDES[other]}"
            raise ExportError(fault, where=where, remedy="save it again with PEFT")
    if not sides["A"]:
        raise ExportError("holds no LoRA factor", where=where)
    return Checkpoint(where, config, {path: (sides["A"][path], sides["B"][path]) for path in sides["A"]})


def _config(path: Path) -> dict[str, Any]:
    where = f"{path.parent.name}/{path.name}"
    config = read_settings(path, where)
    if config.get("peft_type") != "LORA":
        raise ExportError("is no configuration of LoRA", where=where, remedy="only PEFT's LORA is read")
    for field, what in NOT_BUILT.items():
        if config.get(field):
            raise ExportError(f"uses {what} ({field}), which is not built", where=where)
    if config.get("bias", "none") != "none":
        raise ExportError("trains biases too, which is not built", where=where, remedy='save with bias="none"')
    rank, alpha, targets = (config.get(name) for name in ("r", "lora_alpha", "target_modules"))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not targets:
        raise ExportError("lacks r, lora_alpha or target_modules", where=where, remedy="save it again with PEFT")
    patterns = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
    for field, pattern in [("target_modules", targets), *(("rank_pattern or alpha_pattern", p) for p in patterns)]:
        try:
            re.compile(pattern if isinstance(pattern, str) else "")
        except re.error as problem:
            raise ExportError(f"{field} is no pattern: {problem}", where=where) from None
    return config


def files(adapter: Adapter) -> dict[str, bytes]:
    """What a bundle keeps for `write`: settings, and every A that theta does not hold, float32."""
    config = settings(adapter.base, {f.path: (f.rank, f.alpha, f.scaling) for f in adapter.factors})
    frozen = {path: a for path, (a, _) in adapter.first.items()} if adapter.trained == "a-frozen" else {}
    kept = {SETTINGS: json.dumps(config, indent=1, sort_keys=True).encode() + b"\n"}
    if frozen:
        kept[FROZEN] = safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in sorted(frozen.items())})
    return kept


def settings(base: str, factors: Mapping[str, tuple[int, float, float]]) -> dict[str, Any]:
    """adapter_config.json for factors by layer: (rank, alpha, scaling). The commonest rank and alpha are the rule."""
    ranks, alphas = ([one[i] for one in factors.values()] for i in (0, 1))
    rank, alpha = (max(sorted(set(values)), key=values.count) for values in (ranks, alphas))
    rooted = all(abs(scaling - a / r**0.5) < 1e-9 for r, a, scaling in factors.values())
    plain = all(abs(scaling - a / r) < 1e-9 for r, a, scaling in factors.values())
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(factors),
        "rank_pattern": {p: r for p, (r, _, _) in sorted(factors.items()) if r != rank},
        "alpha_pattern": {p: a for p, (_, a, _) in sorted(factors.items()) if a != alpha},
        "use_rslora": rooted and not plain,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def write(bundle: Bundle, theta: np.ndarray, out: Path) -> list[str]:
    """Write theta float32 [P] as a checkpoint that `PeftModel.from_pretrained` loads; returns the layers written.

    Also `homeroom_heads.safetensors`: the other segments. Raises ExportError if the bundle has no LoRA, or theta is not
    of its layout.
    """
    if SETTINGS not in bundle.manifest.files:
        raise ExportError("has no LoRA inside", where=bundle.manifest.name, remedy="only LoRA has a form in PEFT")
    layout = bundle.manifest.layout
    if theta.shape != (layout.size,) or not np.isfinite(theta).all():
        raise ExportError(f"theta is not {layout.size} finite values", where=bundle.manifest.name)
    config = json.loads(bundle.file(SETTINGS).read_bytes())
    frozen = safetensors.numpy.load_file(bundle.file(FROZEN)) if FROZEN in bundle.manifest.files else {}
    factors = {f"{KEY_PREFIX}{path}{SIDES['A']}": a for path, a in frozen.items()}
    rest: dict[str, np.ndarray] = {}
    for name, values in layout.split(theta).items():
        segment = layout[name]
        stem, _, side = name.rpartition(".")
        if name.startswith("lora.") and side in SIDES:
            shape = segment.parameters[0].shape
            factors[f"{KEY_PREFIX}{stem.removeprefix('lora.')}{SIDES[side]}"] = values.reshape(shape)
            continue
        at = 0
        for parameter in segment.parameters:
            size = int(np.prod(parameter.shape))
            rest[f"{name}.{parameter.name}"] = values[at : at + size].reshape(parameter.shape)
            at += size
    layers = config["target_modules"]
    wanted = {f"{KEY_PREFIX}{path}{end}" for path in layers for end in SIDES.values()}
    if wrong := sorted(wanted ^ factors.keys()):
        fault = f"does not fit its settings: {wrong[0]}"
        raise ExportError(fault, where=bundle.manifest.name, remedy="export it again")
    with staging(out) as folder:
        for name, tensors in ((MODEL, factors), (REST, rest)):
            ready = {key: np.ascontiguousarray(value, np.float32) for key, value in sorted(tensors.items())}
            (folder / name).write_bytes(safetensors.numpy.save(ready, metadata={"format": "pt"}))
        (folder / CONFIG).write_bytes(bundle.file(SETTINGS).read_bytes())
    return list(layers)


def theta_of(bundle: Bundle, source: Path) -> np.ndarray:
    """Theta float32 [P] from a device's folder (what it uses now), or from a safetensors file with `theta`."""
    if (source / "device.json").is_file():
        from homeroom import Device
        from homeroom.federation.versions import theta_of

        with Device.open(source) as device:
            if device.bundle.bundle_id != bundle.bundle_id:
                raise InputError("uses another bundle", where=source.name, remedy="name the bundle that it uses")
            return theta_of(device.store, device.bundle, device.store.versions.current())
    try:
        if not source.is_file() or source.stat().st_size > MODEL_LIMIT_BYTES:
            raise ValueError(f"is no file, or one of more than {MODEL_LIMIT_BYTES >> 20:,} MB")
        return np.asarray(safetensors.numpy.load_file(source)["theta"], np.float32)
    except (SafetensorError, KeyError, OSError, ValueError) as problem:
        raise InputError(f"holds no theta: {problem}", where=source.name, remedy="give theta.safetensors") from None


def base_of_outputs(bundle: Bundle) -> str:
    """To which base model the outputs of the checkpoint are equal."""
    step = next(graph for graph in bundle.manifest.graphs if graph.role == "predict")
    base = json.loads(bundle.file(SETTINGS).read_bytes())["base_model_name_or_path"]
    if step.precision == "float32":
        return f"Outputs equal the bundle's on the float32 base, {base}."
    return (
        f"Outputs equal the bundle's on the dequantized base, {base} with the bundle's {step.precision} weights; "
        "on the float32 base they differ by what quantization took from the frozen weights."
    )
