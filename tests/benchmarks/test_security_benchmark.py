"""The benchmark of attacks: it counts what was tried and withstood, and a failure or a gain is seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import security  # noqa: E402

REPORT = """<testsuites><testsuite>
<testcase name="a" time="0.5"><properties><property name="section" value="wire"/><property name="attack" value="forge"/>
<property name="got" value="0"/><property name="noticed" value="refused"/></properties></testcase>
<testcase name="b" time="0.5"><properties><property name="section" value="wire"/><property name="attack" value="forge"/>
</properties><failure message="an update was deleted"/></testcase>
<testcase name="c" time="1"><properties><property name="section" value="wire"/><property name="attack" value="read"/>
<property name="got" value="12"/></properties></testcase>
<testcase name="d" time="1"><properties><property name="section" value="disk"/><property name="attack" value="steal"/>
</properties><skipped message="no such system"/></testcase>
<testcase name="e" time="1"/>
</testsuite></testsuites>"""


def test_a_failure_a_gain_and_a_skip_are_no_success(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT, "utf-8")
    steal, forge, read = security.rows(report)
    assert (forge.tried, forge.withstood, forge.noticed) == (2, 1, "refused")
    assert forge.failures == ["an update was deleted"]
    assert (read.got, steal.tried) == (12, 0)
    assert not any(row.held for row in (steal, forge, read))
    assert [one["met"] for one in security.targets([steal, forge, read])] == [False] * 4


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
    held, lost = security.rows(security.run([str(test)], 0))
    assert (held.held, held.noticed) == (True, "refused")
    assert (lost.held, lost.got) == (False, 3)
