"""The rules of a recipe that span several tables; each refusal is a RecipeError with its line."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from homeroom.contract.layout import Scope
from homeroom.contract.manifest import SLOT_LIMIT, Column, ModalityName, Objective, Slot, Task
from homeroom.contract.statistics.section import PAIR_KINDS
from homeroom.data.samples import OTHER_RESERVED, RESERVED_FIELDS
from homeroom.data.tasks import KINDS as DEVICE_KINDS
from homeroom_exporter.encoders.spec import LANGUAGES_OF, EncoderSpec
from homeroom_exporter.model.heads import FUSED, PAIR
from homeroom_exporter.model.lora.plan import AdapterPlan
from homeroom_exporter.model.tasks import HEADS, KINDS
from homeroom_exporter.recipe.document import Document
from homeroom_exporter.recipe.tables import (
    EncoderTable,
    ObjectiveTable,
    RecipeHeader,
    SlotTable,
    TaskTable,
    TrainingTable,
)

TABLE_NAMES = ("encoders", "slots", "tasks", "objectives", "training", "adapter", "scopes")
SLOT = re.compile(r"^(?P<modality>text|image|audio|table|sequence)(\[(?P<count>\d{1,2})\])?$")
BEGIN = "begin from one of examples/recipes, or from what `homeroom bundle export --help` shows"


def read_header(document: Document) -> RecipeHeader:
    """The fields at the top of the file."""
    if not document.tables:
        raise document.refusal("is empty", remedy=BEGIN)
    fields = {name: value for name, value in document.tables.items() if name not in TABLE_NAMES}
    header = document.convert(fields, RecipeHeader, others=TABLE_NAMES)
    if "onnx" not in header.runtimes:
        raise document.refusal("every bundle has graphs for onnxruntime", "runtimes", remedy='["onnx", "litert"]')
    return header


def read_encoders(document: Document) -> tuple[EncoderSpec, ...]:
    """`[encoders.<modality>]`, in the order of the file."""
    return tuple(_encoder(document, name, value) for name, value in document.table("encoders").items())


def _encoder(document: Document, name: str, value: Any) -> EncoderSpec:
    path = ("encoders", name)
    if name not in get_args(ModalityName):
        raise document.refusal(f"is none of {', '.join(get_args(ModalityName))}", *path)
    table = document.convert(value, EncoderTable, *path)
    if list(table.buckets) != sorted(set(table.buckets)):
        raise document.refusal("must rise", *path, "buckets", remedy="for example [16, 32, 64]")
    columns = [column.name for column in table.columns]
    if (name == "table") != bool(columns) or len(set(columns)) != len(columns):
        raise document.refusal("a table, and only a table, names its columns, each once", *path, "columns")
    for column in table.columns:
        _check_range(document, column, *path, "columns")
    if (name == "sequence") != bool(table.skills) or len(set(table.skills)) != len(table.skills):
        raise document.refusal("a sequence, and only a sequence, names its skills, each once", *path, "skills")
    _check_languages(document, table, *path, "languages")
    return EncoderSpec(modality=name, **msgspec.structs.asdict(table))  # type: ignore[arg-type]


def _check_languages(document: Document, table: EncoderTable, *path: str) -> None:
    """Refuses languages of an encoder that has no choice of them, or that it does not read."""
    if not table.languages:
        return
    known = LANGUAGES_OF.get(table.source, ())
    if not known:
        remedy = f'remove it, or source = "{next(iter(LANGUAGES_OF))}"'
        raise document.refusal(f"{table.source} reads what it reads", *path, remedy=remedy)
    if wrong := [one for one in table.languages if one not in known]:
        raise document.refusal(
            f"{wrong[0]!r} is no language that it reads", *path, remedy=f"some of {', '.join(known)}"
        )
    if len(set(table.languages)) != len(table.languages):
        raise document.refusal("names a language twice", *path)


def _check_range(document: Document, column: Column, *path: str) -> None:
    """Refuses a range that holds no value, or is of a column without numbers."""
    if column.categories and any(value is not UNSET for value in (column.min, column.max, column.unit)):
        raise document.refusal(f"{column.name!r} has categories, so no min, max or unit", *path)
    numbers = [n for n in (column.mean, column.std, column.min, column.max) if n is not UNSET]
    if not all(map(math.isfinite, numbers)) or column.usual[0] > column.usual[1]:
        what = f"no value of {column.name!r} is within 8 std of its mean, and from its min to its max"
        raise document.refusal(what, *path, remedy="correct mean, std, min or max")


def read_slots(document: Document, encoders: tuple[EncoderSpec, ...]) -> dict[str, Slot]:
    """`[slots]` by name; each encoder has one."""
    slots = {name: _slot(document, name, value, encoders) for name, value in document.table("slots").items()}
    if not slots:
        raise document.refusal("no slot is named", "slots", remedy='add [slots] with lines such as picture = "image"')
    if sum(slot.count for slot in slots.values()) > SLOT_LIMIT:
        raise document.refusal(f"more than {SLOT_LIMIT} inputs", "slots")
    for encoder in encoders:
        if encoder.modality not in {slot.modality for slot in slots.values()}:
            raise document.refusal("no slot uses it", "encoders", encoder.modality, remedy="remove it or add a slot")
    return slots


def _slot(document: Document, name: str, value: Any, encoders: tuple[EncoderSpec, ...]) -> Slot:
    path = ("slots", name)
    if name in (*RESERVED_FIELDS, *OTHER_RESERVED):
        what = f"{name!r} means something else beside the inputs of a sample, in sheets and JSON"
        raise document.refusal(what, *path, remedy=f"give it another name, such as my_{name}")
    title = {}
    if isinstance(value, dict):
        table = document.convert(value, SlotTable, *path)
        value, title = table.input, {"title": table.title}
    match = SLOT.match(value) if isinstance(value, str) else None
    if match is None:
        raise document.refusal(f"{value!r} is no kind of input", *path, remedy='"text", "image[4]" and the like')
    modality = match["modality"]
    if modality not in {encoder.modality for encoder in encoders}:
        raise document.refusal(f"there is no encoder for {modality}", *path, remedy=f"add [encoders.{modality}]")
    fields = {"name": name, "modality": modality, "count": int(match["count"] or 1)}
    return document.convert(fields | title, Slot, *path)


def read_task_tables(document: Document) -> dict[str, TaskTable]:
    """`[tasks.<name>]` by name."""
    tables = document.table("tasks").items()
    if not tables:
        raise document.refusal("no task is named", "tasks", remedy="add a table such as [tasks.category]")
    found = {name: document.convert(value, TaskTable, "tasks", name) for name, value in tables}
    for name, table in found.items():
        for field, value, known in (
            ("kind", table.kind, KINDS),
            ("head", table.head or FUSED.name, HEADS),
        ):
            if value not in known:
                remedy = f"one of {', '.join(sorted(known))}"
                raise document.refusal(f"{value!r} is no choice", "tasks", name, field, remedy=remedy)
    return found


def read_tasks(
    document: Document, tables: Mapping[str, TaskTable], slots: Mapping[str, Slot], encoders: tuple[EncoderSpec, ...]
) -> tuple[Task, ...]:
    """The manifest's tasks; each slot is read by one."""
    skills = next((encoder.skills for encoder in encoders if encoder.modality == "sequence"), ())
    tasks = tuple(_task(document, name, table, slots, skills) for name, table in tables.items())
    read = {name for task in tasks for name in task.reads}
    for name in slots:
        if name not in read:
            raise document.refusal("no task reads it", "slots", name, remedy="remove it or let a task read it")
    return tasks


def _task(document: Document, name: str, table: TaskTable, slots: Mapping[str, Slot], skills: tuple[str, ...]) -> Task:
    path = ("tasks", name)
    _known(document, table.reads, slots, *path)
    if len(set(table.reads)) != len(table.reads):
        raise document.refusal("names a slot twice", *path, "reads")
    kind = KINDS[table.kind]
    least = kind.least_labels
    if least and (len(table.labels) < least or len(set(table.labels)) != len(table.labels)):
        raise document.refusal(f"needs at least {least} different labels", *path, "labels")
    if not least and table.labels:
        raise document.refusal(f"a {table.kind} task has no labels", *path, "labels")
    if table.unit is not None and not DEVICE_KINDS[table.kind].numbers:
        raise document.refusal(f"a {table.kind} task has no unit", *path, "unit")
    _check_unreadable(document, table, *path)
    if table.group is not None and (table.group not in slots or slots[table.group].count > 1):
        remedy = f"one of {sorted(slot.name for slot in slots.values() if slot.count == 1)}"
        raise document.refusal(f"there is no single slot {table.group!r}", *path, "group", remedy=remedy)
    labels = skills if kind.labels_are_skills else table.labels
    width = kind.width(labels, [slots[read] for read in table.reads])
    fields = {field: value for field, value in msgspec.structs.asdict(table).items() if value is not None}
    if unknown := [label for label in table.titles if label not in table.labels]:
        raise document.refusal(
            f"{unknown[0]!r} is none of its labels", *path, "titles", remedy=f"one of {list(labels)}"
        )
    if table.titles:
        fields["label_titles"] = [table.titles.get(label, label) for label in labels]
    return document.convert({**fields, "name": name, "labels": labels, "width": width}, Task, *path)


def _check_unreadable(document: Document, table: TaskTable, *path: str) -> None:
    """Refuses a label of what cannot be read that is none of the task's, or of a task with several labels a sample."""
    if table.unreadable is None:
        return
    if DEVICE_KINDS[table.kind].classes is None:
        raise document.refusal(f"a {table.kind} task has no label for what cannot be read", *path, "unreadable")
    if table.unreadable not in table.labels:
        remedy = f"one of {list(table.labels)}"
        raise document.refusal(f"{table.unreadable!r} is none of its labels", *path, "unreadable", remedy=remedy)


def _known(document: Document, reads: Collection[str], slots: Mapping[str, Slot], *path: str) -> None:
    for name in reads:
        if name not in slots:
            raise document.refusal(f"there is no slot {name!r}", *path, "reads", remedy=f"one of {sorted(slots)}")


def read_heads(document: Document, tables: Mapping[str, TaskTable], slots: Mapping[str, Slot]) -> dict[str, str]:
    """The head of each task: the one it names, or the usual one of its kind."""
    return {name: _head(document, name, table, slots) for name, table in tables.items()}


def _head(document: Document, name: str, table: TaskTable, slots: Mapping[str, Slot]) -> str:
    path = ("tasks", name)
    usual = KINDS[table.kind].head
    head = HEADS[table.head] if table.head else usual
    shared = (FUSED, PAIR)  # heads of more than one kind
    if head != usual and not (head in shared and usual in shared):
        raise document.refusal(f"a {table.kind} task cannot have the head {head.name!r}", *path, "head")
    if not head.fits([slots[read] for read in table.reads]):
        raise document.refusal(head.rule, *path, "reads", remedy=head.remedy)
    return head.name


def read_components(document: Document, tables: Mapping[str, TaskTable]) -> dict[str, int]:
    """The tasks whose solved heads read so many principal components of each block."""
    named = {name: table.components for name, table in tables.items() if table.components is not None}
    for name in named:
        if tables[name].kind not in PAIR_KINDS:
            what = f"only a {' or a '.join(PAIR_KINDS)} task's head reads fewer components"
            raise document.refusal(what, "tasks", name, "components", remedy="remove it")
    return named


def read_letters(
    document: Document, header: RecipeHeader, tables: Mapping[str, TaskTable], slots: Mapping[str, Slot]
) -> dict[str, bool]:
    """The tasks whose sums hold the letters of their texts, and whether these alone."""
    named = {name: table.letters == "alone" for name, table in tables.items() if table.letters}
    for name in named:
        path, texts = ("tasks", name, "letters"), [s for s in tables[name].reads if slots[s].modality == "text"]
        if tables[name].kind not in PAIR_KINDS:
            raise document.refusal(f"only a {' or a '.join(PAIR_KINDS)} task reads letters", *path, remedy="remove it")
        if not texts:
            raise document.refusal("it reads no text that could have letters", *path, remedy="remove it")
        if header.golden_from != "calibration":
            what = "the bundle shows letters of the calibration samples, which golden_from says are not to be published"
            raise document.refusal(what, *path, remedy="remove it, or calibrate on published texts")
    return named


def read_objectives(document: Document, slots: Mapping[str, Slot], tasks: tuple[Task, ...]) -> tuple[Objective, ...]:
    """`[objectives.<name>]`, in the order of the file."""
    tables = document.table("objectives").items()
    return tuple(_objective(document, name, value, slots, tasks) for name, value in tables)


def _objective(
    document: Document, name: str, value: Any, slots: Mapping[str, Slot], tasks: tuple[Task, ...]
) -> Objective:
    path = ("objectives", name)
    table = document.convert(value, ObjectiveTable, *path)
    _known(document, table.reads, slots, *path)
    reads = [slots[read] for read in table.reads]
    single = all(slot.count == 1 for slot in reads) and len(set(table.reads)) == len(reads)
    if table.kind == "alignment" and not (single and len({slot.modality for slot in reads}) == len(reads) > 1):
        raise document.refusal("alignment reads single slots of different modalities", *path, "reads")
    if table.kind == "masked" and not single:
        raise document.refusal("masked reads single slots, each once", *path, "reads")
    if table.kind != "alignment" and document.tables.get("adapter") is not None:
        raise document.refusal(f"{table.kind} hides features, which an adapter has none of", *path, "kind")
    compared = [t for t in tasks if KINDS[t.kind].agreement and set(t.reads) & set(table.reads)]
    if table.kind == "consistency" and not compared:
        raise document.refusal("no task with labels reads any of it", *path, "reads", remedy="name what a task reads")
    return document.convert({**msgspec.structs.asdict(table), "name": name}, Objective, *path)


def read_training(document: Document, header: RecipeHeader) -> TrainingTable:
    """`[training]`, or its defaults."""
    training = document.convert(document.tables.get("training", {}), TrainingTable, "training")
    if training.clip_norm and not header.clipped:
        remedy = "add clipped = true at the top"
        raise document.refusal("needs graphs that clip", "training", "clip_norm", remedy=remedy)
    if training.nested and not header.tiers:
        raise document.refusal("needs tiers to nest", "training", "nested", remedy='add tiers = ["half"] at the top')
    return training


def read_adapter(document: Document, encoders: tuple[EncoderSpec, ...]) -> AdapterPlan | None:
    """`[adapter]`, its modality filled in; None where there is none."""
    if "adapter" not in document.tables:
        return None
    plan = document.convert(document.tables["adapter"], AdapterPlan, "adapter")
    names = [encoder.modality for encoder in encoders]
    if plan.modality is None and len(names) > 1:
        remedy = f'modality = "{names[0]}", for example'
        raise document.refusal("does not say whose encoder", "adapter", remedy=remedy)
    modality = plan.modality or names[0]
    if modality not in names or modality not in ("text", "image"):
        remedy = "text or image, with an encoder"
        raise document.refusal(f"there is no transformer for {modality}", "adapter", "modality", remedy=remedy)
    return msgspec.structs.replace(plan, modality=modality)


def read_scopes(document: Document, segments: Collection[str]) -> dict[str, Scope]:
    """`[scopes]` by segment; segments: those that there are."""
    scopes: dict[str, Scope] = {}
    for name, value in document.table("scopes").items():
        # TOML reads `head.grade = …` as a table `head`.
        dotted = {f"{name}.{leaf}": scope for leaf, scope in value.items()} if isinstance(value, dict) else {}
        for segment, scope in (dotted or {name: value}).items():
            path = ("scopes", *segment.split("."))
            if segment not in (*segments, "fusion"):
                raise document.refusal("there is no such segment", *path, remedy=str(segments))
            scopes[segment] = document.convert(scope, Scope, *path)  # type: ignore[arg-type]
    return scopes
