"""What the device benchmark makes of its workers' results."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import device_corpora
import device_footprint
from peers import compare, data, measure, verdict


def result(predictions: list[str], truth: list[str], seconds: float, peak: float) -> dict[str, Any]:
    return {
        "macro_f1": data.macro_f1(truth, predictions),
        "predictions": predictions,
        "seconds": seconds,
        "fit_seconds": seconds / 2,
        "steps": 100,
        "peak_rss_mb": peak,
    }


def answers(right: float, truth: list[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [t if rng.random() < right else rng.choice(data.LABELS) for t in truth]


TRUTH = [random.Random(1).choice(data.LABELS) for _ in range(300)]


def test_the_vectorised_score_is_the_plain_one() -> None:
    guess = answers(0.5, TRUTH, 2)
    numbers = [np.array([data.LABELS.index(name) for name in names]) for names in (TRUTH, guess)]
    fast = compare.macro_f1s(*numbers, np.ones((1, len(TRUTH))))
    assert fast[0] == pytest.approx(data.macro_f1(TRUTH, guess))


def test_the_interval_holds_the_difference_and_vanishes_between_equals() -> None:
    good, poor = (result(answers(p, TRUTH, 3), TRUTH, 1, 1) for p in (0.8, 0.4))
    low, high = compare.bootstrap(TRUTH, [good], [poor])
    assert 0 < low < good["macro_f1"] - poor["macro_f1"] < high
    assert compare.bootstrap(TRUTH, [good], [good]) == (0.0, 0.0)


def test_every_target_is_judged_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def part(seconds: float, peak: float) -> dict[str, Any]:
        return compare.summary({"beetle": [result(answers(0.7, TRUTH, s), TRUTH, seconds, peak) for s in range(2)]})

    document: dict[str, Any] = {
        "homeroom": {"from_raw_text": part(9, 300), "from_cached_features": part(4, 200), "installed_mb": 250.0},
        "torch_peft_lora": {"corpora": part(100, 1000), "installed_mb": 1100.0},
        "torch_same_adapter": {"corpora": part(5, 400)},
        "difference": {"beetle": (-0.01, 0.02)},
    }
    document["ratio"] = compare.ratios(document)
    document["targets"] = compare.judged(document["ratio"])
    meant = "as the device is meant to have it"
    assert [(t["name"], t["bound"]) for t in document["targets"] if not t["met"]] == [
        (f"seconds to the score from raw text, of LoRA's, {meant}", "<= 0.05"),
        ("seconds to the score from cached features, of LoRA's", "<= 0.0333333"),
        (f"seconds to the score from cached features, of LoRA's, {meant}", "<= 0.0166667"),
        ("one cached step, of torch's step on the same adapter", "<= 0.666667"),
        ("peak resident memory, of LoRA's", "<= 0.25"),
        ("peak resident megabytes with text", "<= 200"),
    ]
    device_corpora.show(document)
    assert "-1.0 to +2.0 points" in capsys.readouterr().out


def test_a_data_set_that_is_missing_or_another_ends_the_benchmark_with_a_sentence(tmp_path: Any) -> None:
    with pytest.raises(SystemExit, match="No such file or directory; say with --data"):
        data.read(tmp_path, "beetle")
    path = tmp_path / data.FILE
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(SystemExit, match="sha256"):
        data.read(tmp_path, "beetle")


def test_installed_size_counts_what_a_distribution_needs_and_leaves_pip_out() -> None:
    found = measure.closure(["homeroom"])
    assert {"numpy", "onnxruntime", "homeroom"} <= found
    assert "pip" not in found
    assert measure.installed_mb(["numpy"]) > 10


def test_the_footprint_is_judged_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    joules = {name: [15.7, 31.4] for name in ("1000", "50000", "three")}
    document: dict[str, Any] = {
        "three_modalities": {"seconds": 20.0, "peak_rss_mb": 180.0},
        "cold_start_s": {"median": 1.1, "each": [1.1]},
        "step": {
            "parts": 2,
            "graph": "grad.onnx",
            "step_ms": 8.0,
            "gemm_ms": 2.0,
            "gflop": 0.2,
            "share": 0.25,
            "ways_ms": {"plain": 2.6, "IO binding": 2.5},
        },
        "many": {
            "1000": {"sample_ms": 0.5, "peak_rss_mb": 147.0},
            "50000": {"sample_ms": 0.54, "peak_rss_mb": 300.0},
        },
        "energy": {
            "estimate": "counted",
            "watts": [1, 2],
            "source": "a page",
            "joules": joules,
        },
    }
    targets = device_footprint.judged(document)
    assert [verdict.shown(t) for t in targets if not t["met"]] == [
        "NOT MET  FLOP rate of a cached step, of the matrix products alone: 0.25 (>= 0.4)",
        "NOT MET  memory, change from 1,000 to 50,000 samples: 1.041 (<= 0.1)",
    ]
    assert all(t.keys() == {"name", "value", "bound", "met"} for t in targets)
    device_footprint.show(document)
    shown = capsys.readouterr().out
    assert "50,000 cached samples: 0.540 ms" in shown
    assert "peak 147 MB, 16 to 31 J in all" in shown
    assert "All joules are estimates: counted,\n1 to 2 W (a page)" in shown
