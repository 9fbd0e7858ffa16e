"""The tiny bundle with statistics, from which heads are solved."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import tiny

from homeroom.contract.canonical_json import canonical
from homeroom.contract.manifest import File
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import write_signature


def with_statistics(
    out: Path,
    letters: dict[str, bool] | None = None,
    theta_values: int | None = None,
    components: dict[str, int] | None = None,
    samples: int = 60,
) -> tiny.Tiny:
    """The tiny bundle with statistics of calibration samples, in the new folder `out`.

    letters, theta_values, components: as in an export.
    """
    from homeroom_exporter.export.statistics import fit_statistics

    made = tiny.bundle()
    design, backbones = tiny.design_and_backbones(out.with_name("work"))
    stored = [resolve(Sample(**row), tiny.draft()) for row in tiny.samples(samples, seed=7)]
    whole = msgspec.structs.replace(tiny.draft(), modalities=design.modalities)
    fitted = fit_statistics(
        whole, backbones, stored, threads=1, letters=letters, theta_values=theta_values, components=components
    )
    assert fitted
    shutil.copytree(made.path, out)
    (out / fitted.section.file).write_bytes(fitted.file)
    file = File(hashlib.sha256(fitted.file).hexdigest(), len(fitted.file))
    files = {**made.manifest.files, fitted.section.file: file}
    manifest = msgspec.structs.replace(made.manifest, files=files, statistics=fitted.section)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, made.certificate, made.exporter_key)
    return replace(made, path=out, manifest=manifest)
