"""The second file of a bundle: its float32 backbones, taken where this machine needs them."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from homeroom.contract.manifest import Graph, Runtime
from homeroom.data.decoder import client as decoder
from homeroom.errors import BundleError, FallbackNeededError
from homeroom.runtime.bundle import UNPACK_LIMIT_S, Bundle, copy_signed_files, zip_bundle
from homeroom.runtime.external_data import check_external_data
from homeroom.runtime.graphs import backbones
from homeroom.runtime.unpack import BUNDLE_SUFFIX, SECOND_SUFFIX, not_installed, unpack_zip
from homeroom.system.files import make_directory, sync_directory


def fallback_needed(bundle: Bundle, place: Path, graphs: tuple[Graph, ...]) -> FallbackNeededError:
    """The error that says which backbones this machine needs, and that the second file is not at `place`."""
    size_mb = sum(bundle.manifest.fallback_files[graph.file].bytes for graph in graphs) / 1e6
    names = " and ".join(sorted({str(graph.modality) for graph in graphs}))
    what = f"this machine computes other {names} features in low precision, and needs the float32 backbone"
    what += f" ({size_mb:.1f} MB), which is in the bundle's second file"
    remedy = f"ask whoever made the bundle for {place.name}, put it there, and try again"
    return FallbackNeededError(what, graphs, where=str(place), remedy=remedy)


def second_file(source: Path) -> Path:
    """Where a bundle's second file lies, beside it: `lesson.float32.homeroom` of `lesson.homeroom` or `lesson/`."""
    return source.with_name(source.name.removesuffix(BUNDLE_SUFFIX) + SECOND_SUFFIX)


def absent(bundle: Bundle, modality: str, runtime: Runtime) -> tuple[Graph, ...]:
    """The backbones of a modality for a runtime, or for onnxruntime where it has none, that are not here yet."""
    here = backbones(bundle, modality, runtime)
    wanted = (modality, here[0].runtime if here else runtime)
    others = [graph for graph in bundle.manifest.fallback_graphs if graph not in bundle.fallback_graphs]
    return tuple(graph for graph in others if (graph.modality, graph.runtime) == wanted)


def add_fallback(bundle: Bundle, source: Path, graphs: tuple[Graph, ...], into: Path | None = None) -> Bundle:
    """The bundle with backbones of its second file, verified against its manifest; nothing changes where one fails.

    source: the second file, a folder that holds its files, or the bundle that it belongs to and lies beside.
    graphs: those that are wanted.
    into: a folder for them; by default the bundle's own.
    Raises BundleError where there is no such file, or not these, DiskFullError, StoreError.
    """
    files = {graph.file: bundle.manifest.fallback_files[graph.file] for graph in graphs}
    if not source.name.endswith(SECOND_SUFFIX) and not all((source / name).is_file() for name in files):
        source = second_file(source)
    if not source.exists():
        raise fallback_needed(bundle, source, graphs)
    into = into or bundle.path
    scratch = into / f".incoming-{uuid.uuid4().hex}"
    for stale in into.glob(".incoming-*"):
        shutil.rmtree(stale, ignore_errors=True)
    try:
        make_directory(scratch)
        if source.is_dir():
            copy_signed_files(source, scratch, files)
        else:
            decoder.run(unpack_zip, source, scratch, files, limit_s=UNPACK_LIMIT_S, error=BundleError)
        for name in files:
            check_external_data(scratch / name, name, bundle.manifest.every_file)
        for name in files:
            make_directory((into / name).parent)
            (scratch / name).replace(into / name)
            sync_directory((into / name).parent)
    except OSError as problem:
        raise not_installed(problem, into) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return replace(bundle, fallback=into)


def take_along(bundle: Bundle, source: Path) -> Bundle:
    """The installed bundle with all that the second file of `source` holds, where there is one; to hand it on."""
    graphs = bundle.manifest.fallback_graphs
    inside = all((source / graph.file).is_file() for graph in graphs)
    return add_fallback(bundle, source, graphs) if graphs and (inside or second_file(source).exists()) else bundle


def zip_second(bundle: Bundle, out: Path, *, private: bool = False) -> None:
    """Writes the files of a bundle's second file, which are in its folder, as one. private: as of `zip_bundle`."""
    others = {path.relative_to(bundle.path).as_posix() for path in bundle.path.rglob("*") if path.is_file()}
    zip_bundle(bundle.path, out, leave_out=others - set(bundle.manifest.fallback_files), private=private)
