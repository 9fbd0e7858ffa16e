"""A remedy installs from where this Homeroom came from: an index has no such name today."""

from __future__ import annotations

import ast
import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from homeroom.system import installation
from homeroom.system.installation import Origin, find_origin, how_to_install

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for part in ("sdk", "exporter", "aggregator") for path in (ROOT / part).rglob("*.py"))


class Recorded:
    """A distribution with a record of where it came from."""

    def __init__(self, record: str | None) -> None:
        self.record = record

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.record


def installed_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: object) -> None:
    """As if the package lay in site-packages, with this direct_url.json beside it; a string is taken as it is."""
    text = record if isinstance(record, str) or record is None else json.dumps(record)
    monkeypatch.setattr(installation, "PACKAGE_FOLDER", tmp_path / "site-packages" / "homeroom")
    monkeypatch.setattr(metadata, "distribution", lambda _: Recorded(text))


def test_no_message_names_an_index_that_has_no_homeroom() -> None:
    """Every command that installs a part of Homeroom is written by one function."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path.name != "installation.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"pip install\s+(-\S+\s+)*['\"]?homeroom|homeroom\[", node.value)
    ]
    assert wrong == []


def test_the_extras_of_remedies_exist() -> None:
    named = {
        argument.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "how_to_install"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    text = (ROOT / "pyproject.toml").read_text()
    assert len(named) > 5
    assert {extra for extra in named if not re.search(rf"^{extra} = \[", text, re.M)} == set()


def test_a_clone_names_its_folder_or_the_one_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_origin() == Origin("clone", str(ROOT))
    monkeypatch.chdir(ROOT)
    assert how_to_install("exporter", "convert") == "pip install '.[exporter,convert]'"
    monkeypatch.chdir(tmp_path)
    assert f"{ROOT}[av]" in how_to_install("av")


def test_an_installation_from_a_clone_names_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    (clone / "pyproject.toml").write_text("")
    installed_from(monkeypatch, tmp_path, {"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert find_origin() == Origin("clone", str(clone))
    assert how_to_install("lan") == f"pip install '{clone}[lan]'"
    (clone / "pyproject.toml").unlink()
    assert how_to_install("lan").endswith("with the folder of your clone: it was there")


def test_a_wheel_is_named_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "homeroom-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"")
    installed_from(monkeypatch, tmp_path, {"url": wheel.as_uri(), "archive_info": {}})
    assert how_to_install("aggregator") == f"pip install '{wheel}[aggregator]'"
    assert find_origin().folder == tmp_path
    wheel.unlink()
    assert "it was there" in how_to_install("aggregator")


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'homeroom[heic]'"),
        ("not JSON", "pip install 'homeroom[heic]'"),
        ({"url": 7}, "pip install 'homeroom[heic]'"),
        (
            {"url": "https://example.org/homeroom.git", "vcs_info": {"vcs": "git"}},
            "pip install 'homeroom[heic] @ git+https://example.org/homeroom.git'",
        ),
        (
            {"url": "https://example.org/homeroom-0.1.0.whl", "archive_info": {}},
            "pip install 'homeroom[heic] @ https://example.org/homeroom-0.1.0.whl'",
        ),
    ],
)
def test_an_address_is_named_and_an_index_only_where_nothing_is_recorded(
    record: object, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed_from(monkeypatch, tmp_path, record)
    assert how_to_install("heic") == command
