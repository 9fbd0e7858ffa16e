"""Section `peft`: a PEFT checkpoint of real MiniLM into a bundle and back, outputs compared both ways."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter_lora import BATCH, RECIPE, TOKENS
from exporter_section import Section, Target
from homeroom.contract.signing import certify, new_key
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom_exporter.encoders import minilm
from homeroom_exporter.export.design import design_of
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.interchange import peft
from homeroom_exporter.model.design import Design, name_parts, unflatten
from homeroom_exporter.model.forward import forward, lora_rows
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.recipe.recipe import parse_recipe
from homeroom_exporter.trace.example_inputs import example
from peers import data as answers

LIMIT = 1e-4  # of the largest output
TARGETS = ["query", "value", "attention.output.dense"]  # square matrices, all three


def checkpoint(folder: Path) -> Any:
    """MiniLM with random LoRA by PEFT, saved to `folder`/peft; the base to `folder`/base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = minilm.load_model()
    base.save_pretrained(folder / "base")
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, rank_pattern={"layer.5.attention.self.query": 16})
    model = get_peft_model(base, settings).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape) * 0.05)
    model.save_pretrained(folder / "peft", save_embedding_layers=False)  # else it asks the hub for the base
    return model


def by_peft(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray], model: Any) -> np.ndarray:
    """The bundle's heads on the hidden states that the PEFT model gives."""
    values = {name: torch.from_numpy(value) for name, value in feeds.items()}
    ids, mask = lora_rows(design, values)
    with torch.no_grad():
        values["states"] = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        parts = name_parts(design.layout, unflatten(design.layout, torch.from_numpy(theta)))
        return np.asarray(forward(design, parts, values)["grade"].numpy())


def by_graph(bundle: Bundle, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> np.ndarray:
    graphs = Graphs(bundle, threads=2)
    return np.asarray(graphs.loaded(graphs.steps("predict")[0])({"theta": theta, **feeds})["grade.output"])


def run(quick: bool, data: Path) -> Section:
    from peft import PeftModel
    from transformers import AutoModel

    rows, figures = [["", "largest difference, of the largest output"]], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = checkpoint(folder)
        start = peft.read(folder / "peft")
        plan = parse_recipe(RECIPE.format(batch=BATCH, tokens=TOKENS, quantize="none"))
        samples = folder / "samples.jsonl"
        shown = answers.split(data, "beetle", 0).train[:20]
        samples.write_text("\n".join(json.dumps({"answer": a.answer, "labels": {"grade": a.label}}) for a in shown))
        root, key = new_key(), new_key()
        export(plan, samples, folder / "bundle", key, certify(root, "exporter", key, "benchmark"), start=start)
        bundle = open_bundle(folder / "bundle", root=None)
        (folder / "again").mkdir()
        assert plan.adapter
        inside = lora.build(plan.encoders[0], plan.adapter, folder / "again", pairs=False, seed=0, start=start)
        design = design_of(plan, {}, inside)
        feeds, theta = example(design, "predict", BATCH, {"text": TOKENS}), bundle.theta()
        wanted = by_peft(design, theta, feeds, model)
        figures["in"] = float(np.abs(by_graph(bundle, theta, feeds) - wanted).max() / np.abs(wanted).max())

        trained = theta + np.random.default_rng(1).standard_normal(theta.size).astype(np.float32) * np.float32(0.02)
        peft.write(bundle, trained, folder / "out")
        again = AutoModel.from_pretrained(folder / "base", use_safetensors=True)
        loaded = PeftModel.from_pretrained(again, folder / "out").eval()
        wanted = by_peft(design, trained, feeds, loaded)
        figures["out"] = float(np.abs(by_graph(bundle, trained, feeds) - wanted).max() / np.abs(wanted).max())
        figures["moved"] = float(np.abs(wanted - by_peft(design, theta, feeds, model)).max() / np.abs(wanted).max())
    rows += [[said, f"{figures[key]:.1e}"] for key, said in (("in", "PEFT -> bundle"), ("out", "bundle -> PEFT"))]
    return Section(
        title="PEFT round trip on MiniLM, float32 base",
        rows=rows,
        figures=figures,
        targets=[Target(f"outputs, {key}", figures[key], LIMIT) for key in ("in", "out")],
        notes=[f"the training between the two moved the outputs by {figures['moved']:.0%} of the largest"],
    )
