"""Comparison of the workers' results: means, ratios, targets and a paired bootstrap; numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from peers import data
from peers.verdict import limited

RESAMPLES = 2000

Result = Mapping[str, Any]  # what `measure.report` wrote
Results = Mapping[str, Sequence[Result]]  # by corpus

# (figure of `ratios`, what is compared, the most it may be)
TARGETS = (
    ("macro_f1", "points of macro-F1 that homeroom's mean is below LoRA's", 1.0),
    ("time_raw", "seconds to the score from raw text, of LoRA's", 1 / 10),
    ("time_raw", "seconds to the score from raw text, of LoRA's, as the device is meant to have it", 1 / 20),
    ("time_cached", "seconds to the score from cached features, of LoRA's", 1 / 30),
    ("time_cached", "seconds to the score from cached features, of LoRA's, as the device is meant to have it", 1 / 60),
    ("time_same_adapter", "seconds to the score, of torch training the same adapter from the same cache", 1.0),
    ("step_same_adapter", "one cached step, of torch's step on the same adapter", 1 / 1.5),
    ("peak_memory", "peak resident memory, of LoRA's", 1 / 4),
    ("peak_text", "peak resident megabytes with text", 200.0),
    ("installed", "installed megabytes, of torch + transformers + peft", 1 / 4),
)


def macro_f1s(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro-F1 [resamples] of predictions int [n] under row weights int [resamples, n]; as `data.macro_f1`."""
    scores = np.zeros(len(weights))
    for name in range(len(data.LABELS)):
        hits = weights @ ((labels == name) & (predictions == name))
        scores += 2 * hits / np.maximum(1, weights @ ((labels == name).astype(int) + (predictions == name)))
    return scores / len(data.LABELS)


def bootstrap(
    truth: Sequence[str], ours: Sequence[Result], theirs: Sequence[Result], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of (mean macro-F1 of ours - of theirs), test answers drawn anew, the same ones for both methods.

    Every seed's predictions are kept, so the interval is about the test's size, not about the spread over seeds.
    """

    def numbers(names: Sequence[str]) -> np.ndarray:
        return np.array([data.LABELS.index(name) for name in names])

    labels, rng = numbers(truth), np.random.default_rng(seed)
    weights = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=RESAMPLES)

    def mean(results: Sequence[Result]) -> np.ndarray:
        return np.mean([macro_f1s(labels, numbers(r["predictions"]), weights) for r in results], axis=0)

    low, high = np.quantile(mean(ours) - mean(theirs), [0.025, 0.975])
    return float(low), float(high)


def summary(results: Results) -> dict[str, Any]:
    """Mean scores and median seconds over seeds for each corpus, with the single values beside them."""
    found: dict[str, Any] = {}
    for corpus, rows in results.items():
        scores = [r["macro_f1"] for r in rows]
        found[corpus] = {
            "seeds": len(rows),
            "macro_f1": fmean(scores),
            "macro_f1_spread": stdev(scores) if len(scores) > 1 else None,
            "macro_f1_each": scores,
            "seconds": median(r["seconds"] for r in rows),
            "seconds_each": [r["seconds"] for r in rows],
            "cpu_s": median(r.get("cpu_s", 0.0) for r in rows),
            "step_s": median(r["fit_seconds"] / r["steps"] for r in rows) if "fit_seconds" in rows[0] else None,
            "peak_rss_mb": max(r["peak_rss_mb"] for r in rows),
            "runs": [{k: v for k, v in r.items() if k != "predictions"} for r in rows],
        }
    return found


def over(summaries: Mapping[str, Any], key: str) -> float:
    """The mean over corpora of one figure of `summary`."""
    return fmean(part[key] for part in summaries.values())


def ratios(document: Mapping[str, Any]) -> dict[str, float]:
    """Each figure of TARGETS from the finished parts of the JSON document."""
    raw, cached = document["homeroom"]["from_raw_text"], document["homeroom"]["from_cached_features"]
    lora, same = document["torch_peft_lora"], document["torch_same_adapter"]
    memory = max(part["peak_rss_mb"] for run in (raw, cached) for part in run.values())
    return {
        "macro_f1": 100 * (over(lora["corpora"], "macro_f1") - over(raw, "macro_f1")),
        "time_raw": over(raw, "seconds") / over(lora["corpora"], "seconds"),
        "time_cached": over(cached, "seconds") / over(lora["corpora"], "seconds"),
        "time_same_adapter": over(cached, "seconds") / over(same["corpora"], "seconds"),
        "step_same_adapter": over(cached, "step_s") / over(same["corpora"], "step_s"),
        "peak_text": memory,
        "peak_memory": memory / min(part["peak_rss_mb"] for part in lora["corpora"].values()),
        "installed": document["homeroom"]["installed_mb"] / lora["installed_mb"],
    }


def judged(ratio: Mapping[str, float]) -> list[dict[str, Any]]:
    return [limited(what, ratio[figure], bound) for figure, what, bound in TARGETS]
