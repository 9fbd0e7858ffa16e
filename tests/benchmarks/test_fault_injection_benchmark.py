"""The benchmark of faults: it counts honestly, a failure is seen, and each kind of fault can be tried."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The benchmark, whose name the tests' own folder of faults has too."""
    spec = importlib.util.spec_from_file_location("bench_faults", BENCHMARKS / "fault_injection.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_faults"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_faults"]


def test_what_fails_is_counted_and_shown_and_no_target_is_met_by_it(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trials(folder: Path, quick: bool) -> Iterator[tuple[int, Callable[[], object]]]:
        yield 3, lambda: None
        yield 1, lambda: (_ for _ in ()).throw(AssertionError("lost"))

    monkeypatch.setitem(bench.FAULTS, "kill -9 of nothing", ("it holds", trials))
    row = bench.measure("kill -9 of nothing", True)
    assert (row.tried, row.survived, row.failures) == (4, 3, ["AssertionError: lost"])
    assert "lost" in bench.shown(row)
    survived, kills = bench.targets([row])
    assert (survived["value"], survived["met"]) == (75.0, False)
    assert (kills["value"], kills["met"]) == (4, False)


def test_a_fault_that_cannot_be_tried_is_left_out_and_not_met(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trials(folder: Path, quick: bool) -> Iterator[tuple[int, Callable[[], object]]]:
        raise bench.faults_store.LeftOutError("no strace")
        yield

    monkeypatch.setitem(bench.FAULTS, "nothing", ("", trials))
    row = bench.measure("nothing", True)
    assert "left out: no strace" in bench.shown(row)
    assert not bench.targets([row])[0]["met"]


@pytest.mark.parametrize("fault", ["a clock that jumps by years", "damaged bytes in a checkpoint of training"])
def test_a_fault_is_tried_and_survived(bench: ModuleType, fault: str) -> None:
    survived(bench, fault)


OWN = "memory", "full at any", "read-only", "old backup", "two processes", "5xx", "stalls", "portal", "are lost", "lies"


@pytest.mark.extra
@pytest.mark.parametrize("word", OWN)
def test_faults_that_no_other_test_tries_so_are_survived(bench: ModuleType, word: str) -> None:
    (fault,) = (name for name in bench.FAULTS if word in name)
    survived(bench, fault)


def survived(bench: ModuleType, fault: str) -> None:
    row = bench.measure(fault, True)
    assert row.failures == []
    if not row.left_out:
        assert row.survived == row.tried > 0
