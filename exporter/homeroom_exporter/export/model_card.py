"""The model card (Markdown) and the report (one HTML file) beside a bundle.

They tell timings of one machine, so they are not part of the bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from homeroom.contract.manifest import NO_UNIT, Manifest, Task
from homeroom.data.tasks import kind_of
from homeroom.system.html.render import render
from homeroom_exporter.check.check import SelfCheck


def write_papers(out: Path, manifest: Manifest, bundle_id: str, report: SelfCheck) -> tuple[Path, Path]:
    """Write `<out>.card.md` and `<out>.report.html` beside the bundle; returns where."""
    card, page = out.with_name(f"{out.name}.card.md"), out.with_name(f"{out.name}.report.html")
    for path, text in ((card, model_card(manifest, bundle_id, report)), (page, html(manifest, bundle_id, report))):
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return card, page


def _start(manifest: Manifest) -> str:
    if taught := manifest.provenance.get("taught"):
        return f"- The first values learned from {taught}, and may tell of them; nobody else's were seen."
    return "- The first values are random: nothing is known about answers before somebody trains it."


def model_card(manifest: Manifest, bundle_id: str, report: SelfCheck) -> str:
    """A card in the headings of Mitchell et al. 2019, "Model Cards for Model Reporting", as far as an export knows."""
    lines = [
        f"# {manifest.name}, version {manifest.version}",
        "",
        f"Bundle `{bundle_id}`. Made with {_made_with(manifest)}.",
        "",
        "## Model",
        f"Frozen encoders and {manifest.layout.size:,} trainable values, which devices train and share.",
        "",
        *(f"- {m.name}: {m.encoder}, {_inside(len(m.taps), m.dim)}" for m in manifest.modalities),
        *(f"- {choice.modality} taps: {choice.summary}" for choice in report.taps),
        "",
        "## What it is for",
        *(f"- {t.name}: {t.kind} from {', '.join(t.reads)}{_labels(t.labels)}{_unit(t)}" for t in manifest.tasks),
        *(f"- {o.name}: {o.kind} of {', '.join(o.reads)}, without labels" for o in manifest.objectives),
        "",
        "## What stays where",
        *(f"- {s.name}: {s.scope}, {s.size:,} values" for s in manifest.layout.segments),
        "",
        "## How it was checked",
        *_checked(report),
        "",
        "## Limits",
        _start(manifest),
        "- What the encoders cannot tell apart, no training will. Whom they serve worse is not measured here.",
        "- Probes are linear and of the calibration samples: a hint of what the features hold, no promise of a score.",
        "",
        "## Licences",
        *(f"- {x.subject}: {x.name}{f' ({x.source})' if x.source else ''}" for x in manifest.licences),
        "",
    ]
    return "\n".join(lines)


def html(manifest: Manifest, bundle_id: str, report: SelfCheck) -> str:
    """The self-check as one page with plots; no script, nothing fetched."""
    return render(
        Path(__file__).with_suffix(".html"),
        manifest=manifest,
        bundle_id=bundle_id,
        report=report,
        sizes=[
            (f"{backbone.modality} {precision}", size / 1e6)
            for backbone in report.backbones
            for precision, size in (("original", backbone.float_bytes), *sorted(backbone.bytes.items()))
        ],
        probes=[probe for backbone in report.backbones for probe in backbone.probes],
        times=[(step.name, step.footprint.ms) for step in report.steps],
        peaks=[(step.name, step.footprint.peak_mb) for step in report.steps if step.footprint.peak_mb is not None],
    )


def _checked(report: SelfCheck) -> list[str]:
    lines = [
        f"- {m.modality}: {m.lowest} features have cosine {m.cosine[0]:.4f} with float32 (worst of {m.values}: "
        f"{m.cosine[1]:.4f})"
        for m in report.backbones
    ]
    lines += [
        f"- {p.task}: a linear probe reaches {p.float32:.3f} on float32 and {p.int8:.3f} on quantized features of "
        f"{backbone.modality} (majority {p.majority:.3f}, standard error {p.error:.3f}, {p.samples} samples)"
        for backbone in report.backbones
        for p in backbone.probes
    ]
    worst = max((step.parity for step in report.steps), default=0.0)
    return [*lines, f"- {len(report.steps)} graphs agree with torch within a relative error of {worst:.1e}"]


def _inside(taps: int, dim: int) -> str:
    return f"{taps} taps of {dim} channels" if taps else "LoRA inside"


def _labels(labels: Sequence[str]) -> str:
    return f" ({', '.join(labels)})" if labels else ""


def _unit(task: Task) -> str:
    if not kind_of(task).numbers:
        return ""
    return f" {NO_UNIT}" if task.unit is msgspec.UNSET else f", in {task.unit}"


def _made_with(manifest: Manifest) -> str:
    versions = {k.removeprefix("made_with."): v for k, v in manifest.provenance.items() if k.startswith("made_with.")}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "homeroom"
