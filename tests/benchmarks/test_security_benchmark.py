"""The benchmark of attacks: it counts what was tried and withstood, and a failure or a gain is seen."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import security  # noqa: E402


def line(test: str, section: str, attack: str, problem: str = "", **about: object) -> dict[str, Any]:
    properties = {name: value for name, value in about.items() if name in ("got", "noticed")}
    found = {"test": test, "phase": "teardown", "outcome": "passed", "seconds": 0.5, **about}
    marks = {"section": section, "attack": attack} if attack else {}
    return found | {"problems": [problem] if problem else [], "properties": marks | properties}


LINES = [
    line("a", "wire", "forge", got=0, noticed="refused"),
    line("b", "wire", "forge", "an update was deleted"),
    line("c", "wire", "read", got=12),
    line("d", "disk", "steal", outcome="skipped"),
    line("e", "", ""),
    line("f", "wire", "stall", phase="setup"),
]


def test_a_failure_a_gain_a_skip_and_a_test_that_did_not_end_are_no_success() -> None:
    steal, forge, read, stall = security.rows(LINES)
    assert (forge.tried, forge.withstood, forge.noticed) == (2, 1, "refused")
    assert forge.failures == ["an update was deleted"]
    assert (read.got, steal.tried) == (12, 0)
    assert stall.failures == ["it did not end"]
    assert not any(row.held for row in (steal, forge, read, stall))
    assert [one["met"] for one in security.targets([steal, forge, read, stall])] == [False] * 5


def test_what_was_found_is_written_where_the_run_is_killed(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    found = [json.dumps(one) for one in ({"tests": 9}, *LINES)]
    report.write_text("\n".join(found) + '\n{"test": "g", "ph', "utf-8")
    result = security.document(report, 0.0)
    assert [row["attack"] for row in result["attacks"]] == ["steal", "forge", "read", "stall"]
    assert result["targets"][0] == {"name": "tests that ended", "value": 5, "bound": ">= 9", "met": False}
    assert security.document(tmp_path / "none", 0.0)["targets"][0]["met"] is False


def test_marked_tests_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), *sys.path]))
    test = tmp_path / "test_attack.py"
    test.write_text(
        "import pytest\n"
        "@pytest.mark.attack('wire', 'held')\n"
        "def test_held(attack):\n    attack.noticed, attack.got = 'refused', 1 > 2\n"
        "@pytest.mark.attack('wire', 'lost')\n"
        "def test_lost(attack):\n    attack.got = 3\n",
        "utf-8",
    )
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    monkeypatch.setattr(sys, "argv", ["security.py", "--json", str(tmp_path / "s.json"), "--workers", "0", str(test)])
    security.main()
    result = json.loads((tmp_path / "s.json").read_text("utf-8"))
    held, lost = (security.Row(**row) for row in result["attacks"])
    assert result["targets"][0]["met"]
    assert (held.held, held.noticed) == (True, "refused")
    assert (lost.held, lost.got) == (False, 3)
