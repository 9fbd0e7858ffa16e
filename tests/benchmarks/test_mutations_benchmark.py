"""The benchmark of mutations: it finds each kind of check, and an instrumented check can be removed while it runs."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import mutation_cases  # noqa: E402
import mutations  # noqa: E402

SOURCE = """from __future__ import annotations


def check_positive(value: int) -> None:
    if value <= 0 or (half := value / 2) > 50:
        raise ValueError(f"{value}")
    _ = half


def double(value: int) -> int:
    check_positive(
        value
    )
    return 2 * value


def small(value: int) -> bool:
    return 0 < value and value < 10
"""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[mutations.Check], Any, Any]:
    """The checks of SOURCE, the module instrumented, and the runtime that it calls."""
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    (tmp_path / "sample.py").write_text(SOURCE, "utf-8")
    checks = list(mutations.checks_of(tmp_path / "sample.py"))
    runtime = types.ModuleType("_mutation")
    folder = tmp_path / "work" / "house" / "sdk" / "homeroom"
    folder.mkdir(parents=True)
    (tmp_path / "work" / "state").write_bytes((-1).to_bytes(8, "little", signed=True) + bytes(8))
    (tmp_path / "work" / "log").write_bytes(b"")
    runtime.__file__ = str(folder / "_mutation.py")
    text = (ROOT / "benchmarks" / "mutation_runtime.py").read_text("utf-8")
    exec(compile(text, runtime.__file__, "exec"), runtime.__dict__)
    module = types.ModuleType("sample")
    text = mutations.instrumented(SOURCE, checks).replace("; from homeroom import _mutation", "")
    module._mutation = runtime  # type: ignore[attr-defined]
    exec(compile(text, "sample.py", "exec"), module.__dict__)
    return checks, module, tmp_path / "work"


def remove(work: Path, check: int) -> None:
    with (work / "state").open("r+b") as file:
        file.write(check.to_bytes(8, "little", signed=True))


def test_each_kind_of_check_is_found_and_can_be_removed(loaded: tuple[list[mutations.Check], Any, Path]) -> None:
    checks, module, work = loaded
    numbers = {(check.kind, check.text): check.number for check in checks}
    assert [kind for kind, _ in numbers] == [
        "condition",
        "part of a condition",
        "part of a condition",
        "call",
        "comparison",
        "comparison",
    ]
    assert module.double(3) == 6
    assert (work / "log").read_bytes() == b""  # nothing refused
    for value in (-1, 200):
        with pytest.raises(ValueError, match=str(value)):
            module.double(value)
    assert not module.small(10)
    refused = {int(number) for number in (work / "log").read_bytes().split()}
    assert refused == set(numbers.values()) - {numbers["comparison", "0 < value"]}
    remove(work, numbers["part of a condition", "value <= 0"])
    assert module.double(-1) == -2
    with pytest.raises(ValueError, match="200"):
        module.double(200)
    remove(work, numbers["call", "check_positive( value )"])
    assert module.double(200) == 400
    remove(work, numbers["comparison", "value < 10"])
    assert module.small(10)
    assert not module.small(0)


def test_the_shares_are_of_what_was_tried_and_of_all() -> None:
    about = ((True, 2, "tests/a.py"), (True, 1, ""), (False, 3, ""), (False, 0, ""))
    rows = [dict(zip(("tried", "refuses_in", "noticed_by"), row, strict=True)) for row in about]
    found = mutations.document(rows, [{"noticed_by": "tests/a.py"}], 1, 0.0)
    assert [one["value"] for one in found["targets"]] == [0.5, 0.75, 1]
    assert mutations.document([], [], 1, 0.0)["targets"] == []


def test_the_draw_and_the_lists_stay_true() -> None:
    """The same checks are drawn after others came; what is always removed stands in the sources, its tests exist."""
    checks = mutations.all_checks()
    drawn = mutations.drawn_checks(checks, 100, 1)
    assert mutations.drawn_checks(checks[::-1], 100, 1) == drawn
    assert len({check.number for check in checks}) == len(checks)
    for removal in mutation_cases.SURVIVORS:
        assert (ROOT / removal.path).read_text("utf-8").count(removal.text) == 1, removal.name
        assert all((ROOT / test.partition("::")[0]).is_file() for test in removal.test.split()), removal.name
