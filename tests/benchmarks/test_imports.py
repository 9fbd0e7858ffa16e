"""Benchmarks and examples import what the packages have: most run in no test, and types of them are not checked."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_name_that_is_imported_is_there(path: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("homeroom"):
            continue
        try:
            module = importlib.import_module(str(node.module))
        except ModuleNotFoundError as problem:
            if str(problem.name).startswith("homeroom"):
                raise
            continue  # a library of another environment
        names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
        missing += [name for name in names if not (Path(str(module.__file__)).parent / f"{name}.py").exists()]
    assert missing == []
