"""Section `tiers`: score and cost at each adapter size, and schools of unequal sizes in one federation; real weights.

Six schools share short answers (Beetle, MiniLM), each with whole questions of its own. The same rounds run with all
schools at one tier, with the two weakest schools alone at the smallest tier, and with all six at unequal tiers; the
score is macro-F1 on the official unseen answers. All train nested, as the bundle says; in one more run each of the
unequal six trains its own tier alone.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from exporter_clipping import milliseconds
from exporter_section import Section, Target
from homeroom import Sample
from homeroom.contract.layout import FULL_TIER
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_update
from homeroom.data.samples import StoredSample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate
from homeroom_exporter.export.design import draft
from homeroom_exporter.recipe.recipe import read_recipe
from peers import data as answers
from peers.bundles import assembled, signed

RECIPE = Path(__file__).resolve().parents[1] / "examples" / "recipes" / "short_answers.toml"
TIERS = ("eighth", "quarter", "half")
UNEQUAL = ("eighth", "eighth", "quarter", "half", FULL_TIER, FULL_TIER)  # of the six schools
ROUNDS = 15
SEEDS = 3


def stored(rows: Sequence[answers.Answer], manifest: Any) -> list[StoredSample]:
    return [
        resolve(
            Sample(
                reference=a.reference, answer=a.answer, labels={"grade": a.label}, subject=a.question, source=str(i)
            ),
            manifest,
        )
        for i, a in enumerate(rows)
    ]


def export(folder: Path, calibration: Sequence[answers.Answer]) -> Bundle:
    """The short-answer bundle with its tiers and two buckets, without the self-check's tables."""
    recipe = read_recipe(RECIPE)
    (spec,) = recipe.encoders
    recipe = msgspec.structs.replace(
        recipe,
        encoders=(msgspec.structs.replace(spec, buckets=(32, 64)),),
        training=msgspec.structs.replace(recipe.training, nested=True),
    )
    samples = stored(calibration, draft(recipe))
    contents, _ = assembled(recipe, samples, folder, tiers=TIERS)
    return signed(contents, folder)


def schools(data: Dataset, seed: int, tiers: Sequence[str], graphs: dict[str, Graphs]) -> list[SchoolData]:
    """Whole questions dealt to as many schools as there are tiers; the same deal for the same seed."""
    questions = sorted({example.subject for example in data.examples})
    order = np.random.default_rng(seed).permutation(len(questions))
    place = {questions[q]: i % len(UNEQUAL) for i, q in enumerate(order)}
    return [
        SchoolData(
            f"school {i}",
            Dataset(data.manifest, [e for e in data.examples if place[e.subject] == i]),
            None,
            graphs[tier],
        )
        for i, tier in enumerate(tiers)
    ]


def run(quick: bool, data: Path) -> Section:
    rounds, seeds = (3, 1) if quick else (ROUNDS, SEEDS)
    scores: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        training, _ = answers.read(data, "beetle")
        bundle = export(Path(folder), training[:: max(1, len(training) // 300)])
        graphs = {tier: Graphs(bundle, {}, 1, tier) for tier in (*TIERS, FULL_TIER)}
        sizes = {tier.name: tier.size for tier in bundle.manifest.tiers} | {FULL_TIER: bundle.manifest.layout.size}
        costs = {tier: cost(bundle, graphs[tier]) for tier in graphs}
        for seed in range(seeds):
            split = answers.split(data, "beetle", seed)
            train, test = (
                Dataset(bundle.manifest, examples(None, bundle, graphs[FULL_TIER], stored(part, bundle.manifest)))
                for part in (split.train[: 300 if quick else None], split.test)
            )

            def together(
                tiers: Sequence[str], nested: bool = True, train: Dataset = train, seed: int = seed
            ) -> np.ndarray:
                asked = RoundConfiguration(bundle_id=bundle.bundle_id, min_devices=1, buffer_size=len(tiers))
                chosen = Settings(epochs=1, learning_rate=2e-3, constant_rate=True, nested=nested)
                dealt = schools(train, seed, tiers, graphs)
                return simulate(bundle, dealt, rounds, chosen, asked, seed=seed, graphs=graphs[FULL_TIER]).theta

            def told(name: str, theta: np.ndarray, tier: str, test: Dataset = test) -> None:
                scores.setdefault(name, []).append(evaluate(graphs[tier], test, theta)["grade"].macro_f1)

            for tier in graphs:
                told(f"all at {tier}", together([tier] * len(UNEQUAL)), tier)
            told("the two weakest alone", together(UNEQUAL[:2]), UNEQUAL[0])
            mixed = together(UNEQUAL)
            for tier in graphs:
                told(f"unequal, used at {tier}", mixed, tier)
            apart = together(UNEQUAL, nested=False)
            for tier in (UNEQUAL[0], FULL_TIER):
                told(f"unequal, each its tier alone, used at {tier}", apart, tier)
    rows = [["schools", "values", "grad ms", "update KB", "macro-F1", "spread"]]
    for name, values in scores.items():
        tier = UNEQUAL[0] if name.startswith("the two") else name.rsplit(" ", 1)[-1]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        milli, size = costs[tier]
        rows.append(
            [
                name,
                f"{sizes[tier]:,}",
                f"{milli:.1f}",
                f"{size / 1e3:.0f}",
                f"{statistics.mean(values):.3f}",
                f"{spread:.3f}",
            ]
        )
    best = f"unequal, used at {FULL_TIER}"
    gains = {
        other: statistics.mean(scores[best]) - statistics.mean(scores[other])
        for other in ("the two weakest alone", f"all at {UNEQUAL[0]}")
    }
    weak = statistics.mean(scores[f"unequal, used at {UNEQUAL[0]}"]) - statistics.mean(scores["the two weakest alone"])
    return Section(
        title="adapter sizes within one theta, and schools of unequal sizes together",
        rows=rows,
        figures={"scores": scores, "sizes": sizes, "costs": costs, "gains": gains, "weakest gain": weak},
        targets=[
            Target(f"unequal tiers, used in full, minus {other}", gain, 0, at_least=True)
            for other, gain in gains.items()
        ]
        + [Target("unequal tiers, used at the smallest, minus the two weakest alone", weak, 0, at_least=True)],
        notes=[f"unequal: {', '.join(UNEQUAL)}; {rounds} rounds of one epoch; {seeds} seeds; one thread"],
    )


def cost(bundle: Bundle, graphs: Graphs) -> tuple[float, int]:
    """Milliseconds of the largest step, bytes of an update."""
    facts = graphs.steps("grad")[-1]
    kinds = {"int8": np.int8, "float32": np.float32}
    feeds = {t.name: np.zeros(t.shape, kinds[t.dtype]) for t in facts.inputs}
    asked = RoundConfiguration(bundle_id=bundle.bundle_id)
    counts = {segment.name: 1 for segment in bundle.layout}
    change = np.zeros(bundle.layout.size, np.float32)
    update = make_update(new_key(), asked, bundle.layout, change, counts, 0, tier=graphs.tier)
    return milliseconds(graphs.loaded(facts), feeds, 15), len(update)
