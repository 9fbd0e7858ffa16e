"""A bundle's file, and a server that has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from homeroom.federation.network import transport
from homeroom.runtime.bundle import zip_bundle
from sdk.pull.servers import Files, serving


@pytest.fixture(scope="module")
def packed(tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "lesson.homeroom"
    zip_bundle(tiny_bundle.path, path, leave_out=tiny_bundle.manifest.fallback_files)
    return path


@pytest.fixture
def files(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setattr(transport, "ATTEMPTS", 2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Files({"/lesson.homeroom": packed.read_bytes()})) as served:
        yield served
