"""`homeroom bundle inspect`: verify a bundle and list its contents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import PATH
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.contract.manifest import Graph, Manifest, Modality, Slot, Task
    from homeroom.runtime.bundle import Bundle

KIND_WIDTH = 13  # characters


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--root", help="Fingerprint of the root key that must vouch for it.")
@click.option("--golden", is_flag=True, help="Also compute its golden samples here and compare.")
@as_json
def inspect(bundle: Path, root: str | None, golden: bool) -> None:
    """Verify the signature and every file of BUNDLE (a folder or .homeroom file), and list its contents.

    Graphs, taps, segments, licences, where it comes from, and the SHA-256 of each file.
    """
    from homeroom.runtime.bundle import install, open_bundle

    with tempfile.TemporaryDirectory() as folder:
        opened = open_bundle(bundle, root=root) if bundle.is_dir() else install(bundle, Path(folder), root=root)
        _show(opened)
        computed: dict[str, str] = {}
        if golden:
            from homeroom.inference.golden import with_precision

            computed = {
                str(name): str(one) for name, one in with_precision(opened, bundle, into=Path(folder))[1].items()
            }
        print_record(_document(opened) | ({"golden": computed} if golden else {}))
        for name, precision in computed.items():
            _line("golden", f"{name}: {precision} gives the expected features on this machine")


def _document(opened: Bundle) -> dict[str, Any]:
    """What `--json` prints: who signed, and the whole manifest."""
    import msgspec

    from homeroom.contract.signing import fingerprint

    return {
        "bundle_id": opened.bundle_id,
        "root": fingerprint(opened.certificate.root),
        "signed_by": opened.certificate.name,
        "manifest": msgspec.to_builtins(opened.manifest),
    }


def _show(opened: Bundle) -> None:
    from homeroom.contract.signing import fingerprint

    manifest = opened.manifest
    say(f"{manifest.name} version {manifest.version}")
    _line("bundle", opened.bundle_id)
    _line("root", fingerprint(opened.certificate.root))
    _line("signed by", opened.certificate.name)
    _line("size", f"{sum(file.bytes for file in manifest.files.values()) / 1e6:.1f} MB")
    if manifest.fallback_files:
        size_mb = sum(file.bytes for file in manifest.fallback_files.values()) / 1e6
        needed = "for devices whose features in low precision fail the golden samples"
        _line("second file", f"NAME.float32.homeroom, {size_mb:.1f} MB unpacked: float32 backbones, {needed}")
    for kind, text in _facts(manifest):
        _line(kind, text)


def _line(kind: str, text: str) -> None:
    say(f"{kind:{KIND_WIDTH}}{text}")


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Kind and description of each part, in the order in which a sample passes them."""
    for modality in manifest.modalities:
        yield from _backbone(modality, manifest.provenance.get(f"taps.{modality.name}"))
    for slot in manifest.slots:
        yield "input", f"{_titled(slot)}: {slot.modality}{f' x {slot.count}' if slot.count > 1 else ''}"
    for task in manifest.tasks:
        yield "task", f"{_titled(task)}: {task.described}"
    for objective in manifest.objectives:
        yield "objective", f"{objective.name}: {objective.kind} of {', '.join(objective.reads)}, without labels"
    yield "theta", f"{manifest.layout.size:,} values in {counted(len(manifest.segments), 'segment')}"
    yield from (("", line) for line in start_of_theta(manifest))
    for segment in manifest.layout.segments:
        yield "segment", f"{segment.name}: {segment.size:,} values, {segment.scope}"
    for tier in manifest.tiers:
        yield "tier", f"{tier.name}: {tier.size:,} of these values"
    for graph in manifest.every_graph:
        yield "graph", _graph(graph)
    if manifest.converted:
        yield "litert", f"{len(manifest.converted)} of {len(manifest.graphs)} graphs for LiteRT too"
    for graph_file, reason in manifest.unconverted.items():
        yield "", f"not {graph_file}: {reason}"
    for licence in manifest.licences:
        source = f", from {licence.source}" if licence.source else ""
        yield "licence", f"{licence.subject}: {licence.name}{source}"
    for name, value in manifest.provenance.items():
        if not name.startswith("taps."):
            yield "provenance", f"{name}: {value}"
    for path, file in sorted(manifest.every_file.items()):
        apart = " (in the second file)" if path in manifest.fallback_files else ""
        yield "file", f"{file.sha256} {file.bytes:>11,} {path}{apart}"


def _titled(named: Slot | Task) -> str:
    return named.name if named.said == named.name else f"{named.name} ({named.said})"


def start_of_theta(manifest: Manifest) -> Iterator[str]:
    """What the first theta is made of."""
    taught = manifest.provenance.get("taught")
    if manifest.continues is msgspec.UNSET:
        yield f"starts from {taught}" if taught else "starts from the seed's values, from no label"
        return
    learned = f", which started from {taught}" if taught else ""
    yield f"goes on from version {manifest.continues.version}, {manifest.continues.bundle_id[:12]}{learned}"
    for task, labels in manifest.masked.items():
        yield f"no answer of {task} yet, until a label teaches it: {', '.join(labels)}"


def _backbone(modality: Modality, why: str | None) -> Iterator[tuple[str, str]]:
    inside = f"{len(modality.taps)} taps of {modality.dim}" if modality.taps else "LoRA inside"
    yield "backbone", f"{modality.name}: {modality.encoder}, {inside}"
    if modality.taps:
        yield "taps", f"{modality.name}: {why or ', '.join(modality.taps)}"
    if modality.known_languages:
        yield "languages", f"{modality.name}: {', '.join(modality.known_languages)}"


def _graph(graph: Graph) -> str:
    runtime = {"onnx": "onnxruntime", "litert": "LiteRT"}[graph.runtime]
    format_ = f"{'opset' if graph.runtime == 'onnx' else 'format'} {graph.opset}"
    return f"{graph.file}: {graph.precision}, {format_}, tried in {runtime} {', '.join(graph.tried) or 'nowhere'}"
