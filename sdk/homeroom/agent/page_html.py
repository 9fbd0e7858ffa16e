"""The local page as HTML: no scripts, nothing from outside, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from homeroom.agent.status import AgentStatus, status_lines
from homeroom.contract.manifest import Manifest, Task
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of

PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0; }
td { vertical-align: top; border-top: 1px solid #ddd; }
th { font-weight: 600; white-space: nowrap; vertical-align: top; border-top: 1px solid #ddd; }
article { border-top: 1px solid #ddd; padding: 1rem 0; } img { max-height: 9rem; max-width: 100%; display: block; }
label { display: inline-block; margin: 0 1rem .4rem 0; } small { color: #666; }
.said { background: #eef6ee; padding: .4rem; }
button, select, input { font: inherit; }
"""


def render_page(status: AgentStatus, samples: str, notice: str = "") -> str:
    """The whole page; `samples` is HTML, `notice` a sentence about what was just done."""
    rows = "".join(
        f"<tr><th>{escape(keyword)}</th><td>{escape(text)}</td></tr>" for keyword, text in status_lines(status)
    )
    facts = (
        f"{status.bundle or 'no bundle yet'}, {status.samples} samples, {status.unlabelled} without a label, "
        f"global version {status.global_version}"
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Homeroom</title><style>{PAGE_STYLE}</style><h1>Homeroom on this machine</h1>"
        + (f"<p class=said>{escape(notice)}</p>" if notice else "")
        + f"<table>{rows}</table><p><small>{escape(facts)}</small></p>{samples}</html>"
    )


def render_samples(
    manifest: Manifest, samples: Sequence[StoredSample], token: str, start: int, total: int, page_size: int
) -> str:
    """Samples with their inputs and label forms; of quarantined ones also the reason, and a button to release them.

    manifest: of the bundle in use.
    samples: on this page.
    token: of the page, for the forms.
    start: number of the first sample.
    total: samples on all pages.
    page_size: samples on one page.
    """
    articles = "".join(render_sample(manifest, sample, token) for sample in samples)
    more = f"<p><a href='/?from={start + page_size}'>the next {page_size}</a></p>" if start + page_size < total else ""
    return f"<h2>Labels ({min(start + 1, total)} to {min(start + page_size, total)} of {total})</h2>{articles}{more}"


def render_sample(manifest: Manifest, sample: StoredSample, token: str) -> str:
    """One sample: inputs, its quarantine if it is in it, and a form for its labels."""
    inputs = "".join(_render_input(manifest, sample.sample_id, slot, values) for slot, values in sample.inputs.items())
    fields = "".join(
        render_label_field(task, sample.labels.get(task.name)) for task in manifest.tasks if _is_asked(task, sample)
    )
    hidden = (
        f"<input type=hidden name=token value='{escape(token)}'>"
        f"<input type=hidden name=sample value='{escape(sample.sample_id)}'>"
    )
    quarantine = (
        f"<form method=post action=/put-back class=said>Set aside: {escape(sample.quarantine_reason)} {hidden}"
        "<button>Let all of it teach</button></form>"
        if sample.aside
        else ""
    )
    labels = f"<form method=post action=/label>{hidden}{fields}<button>Save</button></form>"
    return f"<article>{inputs}{quarantine}{labels}</article>"


def _is_asked(task: Task, sample: StoredSample) -> bool:
    """Whether a task's label is asked for: the sample has an input that it reads, or a label already."""
    return task.name in sample.labels or any(slot in sample.inputs for slot in task.reads)


def _render_input(manifest: Manifest, sample_id: str, slot: str, values: Iterable[Any]) -> str:
    shown = []
    modality = manifest.slot(slot).modality
    for index, value in enumerate(values):
        source = f"/media/{sample_id}/{slot}/{index}"
        if value is None:
            continue
        if modality == "image":
            shown.append(f"<img src='{source}' alt='{escape(slot)}'>")
        elif modality == "audio":
            shown.append(f"<audio controls preload=none src='{source}'></audio>")
        elif isinstance(value, list):
            shown.append(escape(", ".join(f"{skill} {'right' if right else 'wrong'}" for skill, right, _ in value)))
        elif isinstance(value, dict):
            shown.append(escape(", ".join(f"{k}: {v}" for k, v in value.items() if v is not None)))
        else:
            shown.append(escape(str(value)))
    return f"<p><small>{escape(slot)}</small><br>{' '.join(shown)}</p>"


def render_label_field(task: Task, value: Any) -> str:
    """A form field of one task's label, empty where there is none."""
    name, field = f"task.{task.name}", kind_of(task).form(task, value)
    if field is None:
        return ""
    text = escape("".join(field.chosen))
    if field.widget == "note":
        return f"<span>{escape(task.name)}: {text}</span>"
    if field.widget == "checkboxes":
        boxes = "".join(
            f"<label><input type=checkbox name='{name}' value='{escape(o)}'{' checked' if o in field.chosen else ''}>"
            f" {escape(o)}</label>"
            for o in field.options
        )
        given = f"<input type=hidden name='given.{task.name}' value={'1' if value is not None else '0'}>"
        return f"<span>{escape(task.name)}: {boxes}{given}</span>"
    if field.widget == "text":
        unit = "" if task.unit is msgspec.UNSET else f" {escape(task.unit)}"
        return f"<label>{escape(task.name)} <input name='{name}' size=6 value='{text}'>{unit}</label>"
    choices = "".join(
        f"<option value='{escape(o)}'{' selected' if o in field.chosen else ''}>{escape(o or '-')}</option>"
        for o in ("", *field.options)
    )
    return f"<label>{escape(task.name)} <select name='{name}'>{choices}</select></label>"


def is_in_form(task: Task) -> bool:
    """Whether a form has a label of the task."""
    field = kind_of(task).form(task, None)
    return field is not None and field.widget != "note"


def read_labels(manifest: Manifest, fields: dict[str, list[str]]) -> dict[str, Any]:
    """Labels by task from a form's fields, not checked yet; a number that cannot be read stays a text."""
    labels: dict[str, Any] = {}
    for task in filter(is_in_form, manifest.tasks):
        values = [value for value in fields.get(f"task.{task.name}", []) if value]
        if fields.get(f"given.{task.name}") == ["1"] or (values and f"given.{task.name}" in fields):
            labels[task.name] = values  # checkboxes, of which none is a label too
        elif values:
            labels[task.name] = kind_of(task).parse(values[0])
    return labels
