"""Bundles with their second file beside them, and a machine that needs it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny

from homeroom.contract.canonical_json import canonical
from homeroom.inference import golden
from homeroom.runtime.bundle import open_bundle, write_signature
from homeroom.runtime.fallback import second_file, zip_second


def set_apart(made: tiny.Tiny, out: Path, **fields: Any) -> Path:
    """The bundle in the new folder `out` as an export leaves it, its second file beside it; with other fields."""
    shutil.copytree(made.path, out)
    if fields:
        manifest = msgspec.structs.replace(made.manifest, **fields)
        (out / "manifest.json").write_bytes(canonical(manifest))
        write_signature(out, manifest, made.certificate, made.exporter_key)
    zip_second(open_bundle(out, root=None), second_file(out))
    for name in made.manifest.fallback_files:
        (out / name).unlink()
    return out


def other_image_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine becomes one whose int8 features of pictures are others than the golden samples'."""
    drift = golden.drift

    def measured(bundle: Any, graphs: Any, modality: str) -> Any:
        found = drift(bundle, graphs, modality)
        is_other = (modality, found.precision) == ("image", "int8")
        return replace(found, within=False) if is_other else found

    monkeypatch.setattr(golden, "drift", measured)
