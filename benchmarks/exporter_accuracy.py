"""Section `accuracy`: scores of adapters on int8 and int4 features against adapters on float32 features, paired.

Each seed draws another training part; both adapters of a pair have the same one, the same order and the same steps.
Features are computed once for each precision. The bound is one-sided, 95 %, of the paired differences (Student's t).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter_section import Section, Target
from peers import lessons

SEEDS = 10
T_95 = {2: 6.314, 3: 2.920, 5: 2.132, 10: 1.833}  # of as many differences, one-sided
PRECISIONS = {"text": ("int8", "int4"), "image": ("int8",), "audio": ("int8", "int4")}
LIMITS = {"int8": (0.7, 1.5), "int4": (1.5, 2.5)}  # points: mean, upper bound


def upper(losses: Sequence[float]) -> float:
    """The 95 % bound of the mean loss."""
    if len(losses) < 2:
        return float("inf")
    return statistics.mean(losses) + T_95[len(losses)] * statistics.stdev(losses) / len(losses) ** 0.5


def compare(lesson: lessons.Lesson, folder: Path, quick: bool) -> dict[str, Any]:
    """Scores by precision and seed; how many layers kept a higher one."""
    seeds = 3 if quick else SEEDS
    splits = [lesson.split(seed, quick) for seed in range(seeds)]
    needed = sorted({row for train, test in splits for row in (*train, *test)})
    scores: dict[str, list[float]] = {}
    kept: dict[str, Any] = {}
    for quantize in PRECISIONS[lesson.name]:
        bundle, made = lessons.export(lesson, folder / quantize, quantize)
        assert made.sweep
        kept[quantize] = {"kept": len(made.sweep.kept), "of": made.sweep.tried, "drift": made.sweep.loss}
        for precision in ("float32", quantize):
            if precision in scores:
                continue
            found = lessons.features(lesson, bundle, precision, needed)  # type: ignore[arg-type]
            for seed, (train, test) in enumerate(splits):
                theta = lessons.trained(lesson, bundle, found, train, seed, quick)
                scores.setdefault(precision, []).append(lessons.score(bundle, found, test, theta))
            print(f"    {lesson.name} {precision}: {statistics.mean(scores[precision]):.1f}", flush=True)
    return {"scores": scores, "layers": kept}


def run(quick: bool, data: Path) -> Section:
    rows = [["lesson", "precision", "score", "spread", "mean loss", "95 % bound", "higher precision"]]
    figures, targets = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in lessons.LESSONS.items():
            if quick and name != "audio":
                continue
            lesson = make(data)
            found = figures[name] = compare(lesson, Path(folder) / name, quick)
            for precision, values in found["scores"].items():
                losses = [a - b for a, b in zip(found["scores"]["float32"], values, strict=True)]
                mean, bound = statistics.mean(losses), upper(losses)
                layers = found["layers"].get(precision)
                cells = ["-", "-", "-"]
                if layers:
                    cells = [f"{mean:+.2f}", f"{bound:+.2f}", f"{layers['kept']} of {layers['of']} layers"]
                    most, most_bound = LIMITS[precision]
                    targets.append(Target(f"{name} {precision}: mean points lost", mean, most))
                    targets.append(Target(f"{name} {precision}: its upper 95 % bound", bound, most_bound))
                rows.append(
                    [
                        lesson.title,
                        precision,
                        f"{statistics.mean(values):.2f}",
                        f"{statistics.stdev(values):.2f}",
                        *cells,
                    ]
                )
    return Section(
        title=f"an adapter on quantized features against one on float32 features, {3 if quick else SEEDS} seeds",
        rows=rows,
        figures=figures,
        targets=targets,
        notes=["macro-F1 in points; each pair has the same training part, order and steps"],
    )
