"""`make newcomer`, without its environments: what is typed is what the pages say, and a failure is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import DOCS
from newcomer.__main__ import Journey, Newcomer, failed, table
from newcomer.roles import ROLES, Role


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_role_types_what_its_page_says_and_no_more_than_it_may(role: Role) -> None:
    page = (DOCS / role.page).read_text("utf-8")
    lines = [line.removeprefix("python: ") for line in role.lines if not line.startswith("notebook: ")]
    assert all(line in page for line in lines)
    typed = lines[0].splitlines() if role.counts == "lines" else role.lines
    assert 0 < sum(bool(line.strip()) for line in typed) <= role.limit
    assert not any(" && " in line or ";" in line for line in lines if role.counts == "commands"), (
        "one line, one command"
    )


def test_what_fails_is_told_and_a_bound_that_is_missed_is_not_met(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    newcomer = Newcomer(tmp_path / "folder", Path(sys.prefix))
    newcomer.type("echo here; pwd")
    assert newcomer.said == f"here\n{tmp_path / 'folder'}\n"
    with pytest.raises(subprocess.CalledProcessError):
        newcomer.type("homeroom device no-such-command")
    with pytest.raises(subprocess.CalledProcessError):
        newcomer.type("python: raise SystemExit(3)")
    role = ROLES[0]
    met = [target["met"] for target in Journey(role, True, role.limit, role.limit_s or 0, "").targets()]
    missed = [target["met"] for target in Journey(role, False, role.limit + 1, (role.limit_s or 0) + 1, "").targets()]
    assert (met, missed) == ([True] * 3, [False] * 3)
    slow = Journey(role, True, role.limit, 1000, "").targets()
    assert not slow[-1]["met"]
    assert not failed(slow), "a busy machine is no fault"
    assert failed(Journey(role, False, role.limit, 1, "").targets())
    assert failed(Journey(role, True, role.limit + 1, 1, "").targets())
    assert "| 3 of 2 commands | 181 of 180 | no |" in table([Journey(role, False, role.limit + 1, 181, "")])


def test_only_what_an_answer_looks_like_is_an_answer(tmp_path: Path) -> None:
    by_name = {role.name: role for role in ROLES}
    assert by_name["app-maker"].reached(tmp_path, "animals\n")
    assert not by_name["app-maker"].reached(tmp_path, "no answer\n")
    assert by_name["technician"].reached(
        tmp_path, "why, for a drawing with its word:\n  kind: home.\n  For it: word (9%).\n"
    )
    assert not by_name["technician"].reached(tmp_path, "it learned in 6 s\n")
    assert not by_name["researcher"].reached(tmp_path, "a picture of 12 characters\n")
