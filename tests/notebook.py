"""Runs a notebook's code cells as Jupyter does, without Jupyter: `python tests/notebook.py FILE` too.

A cell is Python, whose last expression is shown, or lines that begin with `!`, which a shell runs, `{names}` filled in.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class NotebookRun:
    """`names`: what the cells defined. `shown`: values of their last expressions, in order."""

    names: dict[str, Any] = field(default_factory=dict)
    shown: list[object] = field(default_factory=list)

    def pictures(self) -> list[str]:
        """SVG of the shown values that draw themselves."""
        return [value._repr_svg_() for value in self.shown if hasattr(value, "_repr_svg_")]


def code_cells(path: Path) -> list[str]:
    """The source of each code cell."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(path: Path) -> NotebookRun:
    """Runs every code cell in the working directory; raises what a cell raises, CalledProcessError for a `!` line."""
    done = NotebookRun({"__name__": "__main__"})
    for number, source in enumerate(code_cells(path), 1):
        if source.startswith("!"):
            for line in source.splitlines():
                command = eval(f"f{line.removeprefix('!')!r}", done.names)
                subprocess.run(command, shell=True, check=True)
            continue
        tree = ast.parse(source, f"{path.name}, code cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, code cell {number}", "exec"), done.names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"{path.name}, code cell {number}", "eval"), done.names)
            done.shown += [] if value is None else [value]
    return done


if __name__ == "__main__":
    for picture in run(Path(sys.argv[1]).resolve()).pictures():
        print(f"a picture of {len(picture)} characters")
