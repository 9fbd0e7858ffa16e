"""Label form: which labels the agent's page asks for, and the labels that a form brings."""

from __future__ import annotations

from typing import Any

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of


def is_asked(task: Task, sample: StoredSample) -> bool:
    """Whether a task's label is asked for: the sample has an input that it reads, or a label already."""
    return task.name in sample.every_label or any(slot in sample.inputs for slot in task.reads)


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
