"""The model card (Markdown) and the report (one HTML file) beside a bundle.

They tell timings of one machine, so they are not part of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import msgspec

from homeroom.contract.manifest import NO_UNIT, Manifest, Task
from homeroom.data.tasks import kind_of
from homeroom_exporter.check.check import SelfCheck

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { font-weight: 600 } h2 { margin-top: 2rem; font-size: 1.15rem }
table { border-collapse: collapse } th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr { border-bottom: 1px solid #ddd } code { word-break: break-all } .bad { color: #a00 }
svg text { font: 12px system-ui }
"""
WIDTH, BAR = 420, 16  # of a plot's longest bar, pixels


def write_papers(out: Path, manifest: Manifest, bundle_id: str, report: SelfCheck) -> tuple[Path, Path]:
    """Write `<out>.card.md` and `<out>.report.html` beside the bundle; returns where."""
    card, page = out.with_name(f"{out.name}.card.md"), out.with_name(f"{out.name}.report.html")
    card.write_text(model_card(manifest, bundle_id, report), encoding="utf-8")
    page.write_text(html(manifest, bundle_id, report), encoding="utf-8")
    return card, page


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
        "- The first values are random: nothing is known about answers before somebody trains it.",
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
    sizes = [
        (f"{backbone.modality} {precision}", size / 1e6)
        for backbone in report.backbones
        for precision, size in (("original", backbone.float_bytes), *sorted(backbone.bytes.items()))
    ]
    times = [(step.name, step.footprint.ms) for step in report.steps]
    peaks = [(step.name, step.footprint.peak_mb) for step in report.steps if step.footprint.peak_mb is not None]
    probes = [p for backbone in report.backbones for p in backbone.probes]
    parts = [
        f"<h1>{escape(manifest.name)}, version {manifest.version}</h1><p>Bundle <code>{bundle_id}</code></p>",
        "".join(f'<p class="bad">failed: {escape(failure)}</p>' for failure in report.failures),
        _table("Identity", ("", ""), [*manifest.provenance.items(), ("theta", f"{manifest.layout.size:,} values")]),
        _plot("Backbones, MB", sizes) if sizes else "",
        _table(
            "Quantized features against float32",
            ("modality", "precision", "inputs", "cosine", "worst"),
            [(m.modality, m.lowest, m.values, f"{m.cosine[0]:.4f}", f"{m.cosine[1]:.4f}") for m in report.backbones],
        ),
        _table(
            "Linear probes on the calibration samples, held out",
            ("task", "samples", "majority", "float32", "quantized", "standard error"),
            [
                (p.task, p.samples, *(f"{value:.3f}" for value in (p.majority, p.float32, p.int8, p.error)))
                for p in probes
            ],
        ),
        _table(
            "Graphs: relative error against torch, results at the edges",
            ("graph", "error", "edges"),
            [
                (s.name, f"{s.parity:.1e}", f"not finite: {', '.join(s.unfinite)}" if s.unfinite else "finite")
                for s in report.steps
            ],
        ),
        _plot("A batch here, ms", times),
        _plot("Peak memory of a process here, MB", peaks) if peaks else "",
        _table(
            "Segments",
            ("segment", "scope", "values"),
            [(s.name, s.scope, f"{s.size:,}") for s in manifest.layout.segments],
        ),
        _table(
            "Files",
            ("file", "bytes", "sha256"),
            [(name, f"{file.bytes:,}", file.sha256) for name, file in sorted(manifest.files.items())],
        ),
        _table("Licences", ("of", "licence", "from"), [(x.subject, x.name, x.source) for x in manifest.licences]),
    ]
    title = f"{escape(manifest.name)} {manifest.version}"
    head = f'<head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
    body = "".join(parts)
    return f'<!doctype html><html lang="en">{head}<body>{body}</body></html>\n'


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    text = escape(str(value))
    number = (
        text[:1].isdigit() and text.replace(",", "").replace(".", "").replace("e-", "").isdigit() and len(text) < 20
    )
    return f'<td class="n">{text}</td>' if number else f"<td>{text}</td>"


def _plot(title: str, values: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars with their numbers."""
    longest = max((value for _, value in values), default=0.0) or 1.0
    rows = []
    for place, (name, value) in enumerate(values):
        top, width = place * (BAR + 6), max(1.0, value / longest * WIDTH)
        rows.append(
            f'<text x="230" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="240" y="{top}" width="{width:.1f}" height="{BAR}" fill="#4a7ab5"/>'
            f'<text x="{246 + width:.1f}" y="{top + 12}">{value:.1f}</text>'
        )
    size = f'width="{WIDTH + 300}" height="{len(values) * (BAR + 6)}"'
    return f'<h2>{escape(title)}</h2><svg role="img" aria-label="{escape(title)}" {size}>{"".join(rows)}</svg>'


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
