"""Section `sizes`: bytes of quantized backbones against their original float32 weights, as files on disk.

Real MiniLM, EfficientNet-Lite0 and Whisper tiny.en's encoder, each built with the default drift on real samples. No
package has a vision transformer's weights, so the ViT is a random one of DeiT-tiny's form. Bytes do not depend on
values, except in the layers that a drift keeps in higher precision, where random weights say nothing.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from exporter_section import Section, Target
from peers import lessons

LIMITS = {"int8": 0.27, "int4": 0.22}
CONVOLUTIONS = 0.29  # of int8
DEIT_TINY = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}


def vit(folder: Path) -> str:
    """A model directory of DeiT-tiny's form with random weights."""
    from transformers import ViTConfig, ViTModel

    from homeroom_exporter.encoders.hidden_states import quiet_torch

    torch.manual_seed(0)
    with quiet_torch():
        ViTModel(ViTConfig(**DEIT_TINY), add_pooling_layer=False).save_pretrained(folder)
    said: dict[str, Any] = {
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return f'source = "hf:{folder}"\ndrift = 1.0'


def run(quick: bool, data: Path) -> Section:
    rows = [["backbone", "precision", "float32 MB", "MB", "of float32", "higher precision", "drift"]]
    figures: dict[str, Any] = {}
    targets = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = lessons.image(data, 300)
        cases = [
            ("MiniLM", lessons.text(data), LIMITS),
            ("EfficientNet-Lite0", pictures, {"int8": CONVOLUTIONS}),
            ("Whisper encoder", lessons.audio(data), LIMITS),
            ("ViT", replace(pictures, encoder=vit(Path(folder) / "vit")), LIMITS),
        ]
        for name, lesson, limits in cases[-2:] if quick else cases:
            for precision, limit in limits.items():
                _, made = lessons.export(lesson, Path(folder) / f"{name}.{precision}", precision)
                assert made.sweep
                size = made.graphs[precision].stat().st_size  # type: ignore[index]
                ratio = size / made.float_bytes
                kept = f"{len(made.sweep.kept)} of {made.sweep.tried}"
                figures[f"{name} {precision}"] = {
                    "bytes": size,
                    "float_bytes": made.float_bytes,
                    "kept": list(made.sweep.kept),
                    "drift": made.sweep.loss,
                }
                megabytes = (f"{made.float_bytes / 1e6:.1f}", f"{size / 1e6:.1f}")
                rows.append([name, precision, *megabytes, f"{ratio:.3f}", kept, f"{made.sweep.loss:.4f}"])
                print("   ", *rows[-1], flush=True)
                targets.append(Target(f"{name} {precision}: bytes of the file, of float32's weights", ratio, limit))
    return Section(
        title="quantized backbones: bytes of the file against the original float32 weights",
        rows=rows,
        figures=figures,
        targets=targets,
        notes=["the file holds taps, pooling and compression too; the ViT's weights are random, its drift not bounded"],
    )
