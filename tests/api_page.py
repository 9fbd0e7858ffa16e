"""The examples of docs/api.md, and the folder that they run in."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
ONLINE = "With an aggregator"  # its examples need a server


def examples() -> dict[str, list[str]]:
    """The Python fences of each section."""
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.M)[1:]
    fence = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
    return {section.partition("\n")[0]: fence.findall(section) for section in sections}


def prepare(folder: Path, bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `folder` the working directory, with the files that the examples name."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
    shutil.copytree(bundle.path, "lesson.homeroom")
    for name, seed in (("lesson", 0), ("test", 1)):
        tiny.write_samples(folder / name, tiny.samples(18, seed))
        for path in (folder / name).iterdir():
            path.rename(f"{name}.jsonl" if path.suffix == ".jsonl" else path.name)
    rng = np.random.default_rng(2)
    Path("cat.png").write_bytes(tiny.png("cat", rng))
    Path("cat.wav").write_bytes(tiny.wav("cat", rng))


def run(code: str, names: dict[str, Any]) -> None:
    """Runs one example with the names that those before it made."""
    exec(compile(code, str(PAGE), "exec"), names)
