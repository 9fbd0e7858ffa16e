"""What the codec benchmark makes of its runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SPEC = importlib.util.spec_from_file_location(  # by its path: the standard library has a `codecs` too
    "codecs_benchmark", Path(__file__).parents[2] / "benchmarks" / "codecs.py"
)
assert SPEC is not None
assert SPEC.loader is not None
codecs = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = codecs  # dataclasses look their module up
SPEC.loader.exec_module(codecs)


def rows(exact: list[float], small: list[float], share: float) -> dict[str, list[dict[str, float]]]:
    return {
        "fixed32": [{"score": s, "bytes_up_a_round": 1000.0} for s in exact],
        "topk": [{"score": s, "bytes_up_a_round": 1000.0 * share} for s in small],
    }


SPEED = {"topk": {"encode_mb_s": 250.0, "decode_mb_s": 150.0, "share_of_float32": 0.05}}


def test_targets_compare_seed_by_seed_and_a_miss_is_a_miss() -> None:
    found = codecs.targets({"lesson": rows([70, 72], [69, 72.4], 0.05)}, SPEED)
    assert [(target["value"], target["met"]) for target in found] == [
        (0.05, True),
        (0.3, True),
        (250.0, True),
        (150.0, False),
    ]
    found = codecs.targets({"lesson": rows([70], [69], 0.07)}, SPEED)
    assert [target["met"] for target in found[:2]] == [False, False]
