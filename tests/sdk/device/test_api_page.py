"""docs/api.md: its examples run, and each public name is shown there, documented and typed."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import api_page
import pytest
import tiny

import homeroom
from homeroom import Device, DeviceReader, errors

FOUND = [  # of `Device` and `DeviceReader`, each where it is defined
    f"{owner.__name__}.{name}" for owner in (Device, DeviceReader) for name in vars(owner) if not name.startswith("_")
]
NOT_VERBS = {"Device.bundle"}


def test_the_examples_run(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api_page.prepare(tmp_path, tiny_bundle, monkeypatch)
    names: dict[str, Any] = {}
    for section, fences in api_page.examples().items():
        for code in fences if section != api_page.ONLINE else []:
            api_page.run(code, names)
    assert names["answer"].best in tiny.ANIMALS
    assert names["theta"].shape == names["device"].bundle.theta().shape


def shown() -> set[str]:
    """Names and attributes in the examples, comments left out."""
    nodes = [node for codes in api_page.examples().values() for code in codes for node in ast.walk(ast.parse(code))]
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def test_every_public_name_and_verb_is_shown_in_an_example() -> None:
    assert [name for name in homeroom.__all__ if name not in shown()] == []
    assert [name for name in FOUND if name.split(".")[1] not in shown()] == []


def test_every_verb_has_a_row_with_its_errors() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", api_page.PAGE.read_text().split("## Every verb")[1], re.M)
    listed = {name for names, _ in rows for name in re.findall(r"`([\w.]+)`", names)}
    functions = {name for name in homeroom.__all__ if inspect.isfunction(getattr(homeroom, name))}
    assert listed == ({*FOUND} - NOT_VERBS) | functions
    raised = {name for _, told in rows for name in re.findall(r"`(\w+Error)`", told)}
    assert [name for name in raised if not hasattr(errors, name)] == []


def test_every_public_name_is_documented_and_typed() -> None:
    values = {name: getattr(homeroom, name) for name in homeroom.__all__}
    for name in FOUND:
        owner, verb = name.split(".")
        values[name] = inspect.unwrap(getattr(getattr(homeroom, owner), verb))
    undocumented = [name for name, value in values.items() if not inspect.getdoc(value)]
    assert undocumented == []
    for name, value in values.items():
        if inspect.isfunction(value):
            known = inspect.signature(value)
            parameters = [p for p in known.parameters.values() if p.name not in ("self", "cls")]
            assert known.return_annotation is not known.empty, name
            assert all(p.annotation is not p.empty for p in parameters), name


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(homeroom.__file__).parent / "py.typed").read_bytes() == b""
