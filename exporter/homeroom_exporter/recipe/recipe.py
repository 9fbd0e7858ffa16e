"""A recipe: the TOML file that says what an export makes; imports the contract and the encoders' specification.

`docs/recipe.md` describes every field. Each error names the line at fault.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from homeroom.contract.layout import Scope
from homeroom.contract.manifest import (
    SLOT_LIMIT,
    Column,
    Count,
    ModalityName,
    Name,
    Objective,
    Runtime,
    Slot,
    Task,
    TaskKind,
    Training,
)
from homeroom.errors import RecipeError
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.model.heads import HeadKind
from homeroom_exporter.model.lora.plan import AdapterPlan
from homeroom_exporter.model.losses import Weighting
from homeroom_exporter.model.tiers import TierName
from homeroom_exporter.recipe.messages import explain

T = TypeVar("T")
Size = Annotated[int, msgspec.Meta(ge=8, le=1024)]
WITH_LABELS = ("classification", "ordinal", "multilabel", "spans")
SKILL_LIMIT = 500  # of a sequence: each has two values in a token, and two weights rows in theta
OWN_HEAD = ("choice", "matching", "spans", "tracing")  # kinds whose head is always their own
SLOT = re.compile(r"^(?P<modality>text|image|audio|table|sequence)(\[(?P<count>\d{1,2})\])?$")

BEGIN = "begin from one of examples/recipes, or from what `homeroom export --help` shows"


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The top of the file, before the first table.

    `single`: also a predict graph for one sample at a time; `clipped`: also `grad_clipped` graphs; `saliency`: also
    those that explain answers; `tiers`: also graphs of smaller adapters within theta; `runtimes`: what they are for.
    """

    name: Name
    version: Count
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    width: Size = 64
    hidden: Size = 128
    single: bool = False
    clipped: bool = False
    saliency: bool = True
    tiers: tuple[TierName, ...] = ()
    runtimes: tuple[Runtime, ...] = ("onnx",)
    golden: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8


class EncoderTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[encoders.<modality>]`; the fields of `EncoderSpec` but the modality."""

    source: str
    taps: Annotated[tuple[int | str, ...], msgspec.Meta(min_length=1)] | str = "auto"
    dim: Annotated[int, msgspec.Meta(ge=4, le=1024)] = 64
    buckets: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=16)] = (16, 32, 64)
    seconds: Annotated[float, msgspec.Meta(gt=0, le=30)] | None = None
    grid: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    quantize: str = "int8"
    drift: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.02
    columns: tuple[Column, ...] = ()
    skills: Annotated[tuple[str, ...], msgspec.Meta(max_length=SKILL_LIMIT)] = ()


class TaskTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[tasks.<name>]`."""

    kind: TaskKind
    reads: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]
    head: HeadKind | None = None
    labels: tuple[str, ...] = ()
    offset: float = 0.0
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0


class ObjectiveTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[objectives.<name>]`: what samples teach without a label."""

    kind: Literal["alignment", "masked", "consistency"]
    reads: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class TrainingTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[training]`: what the bundle recommends to devices."""

    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 2e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-2
    epochs: Count = 20
    warmup: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    clip_norm: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    modality_dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.4
    weighting: Weighting = "fixed"
    nested: bool = False


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe that holds together. `heads`: the head of each task; `adapter`: LoRA, its modality filled in; `scopes`:
    of the segments that are not shared.
    """

    name: str
    version: int
    seed: int
    batch: int
    width: int
    hidden: int
    single: bool
    clipped: bool
    saliency: bool
    tiers: tuple[TierName, ...]
    runtimes: tuple[Runtime, ...]
    weighting: Weighting
    objectives: tuple[Objective, ...]
    golden: int
    encoders: tuple[EncoderSpec, ...]
    slots: tuple[Slot, ...]
    tasks: tuple[Task, ...]
    heads: dict[str, HeadKind]
    training: Training
    adapter: AdapterPlan | None = None
    scopes: dict[str, Scope] = {}


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file; RecipeError names file, line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise RecipeError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise RecipeError("is not UTF-8 text", where=str(path)) from None
    return parse_recipe(text, path.name)


def parse_recipe(text: str, file: str = "recipe") -> Recipe:
    """As `read_recipe`, from the text; `file` is the name that errors give."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        found = re.search(r"\(at line (\d+)", str(problem))
        raise RecipeError(f"is not valid TOML: {problem}", where=f"{file} line {found[1]}" if found else file) from None
    return _Reader(text, file).recipe(document)


def handed(recipe: Recipe, modules: Mapping[str, Any]) -> Recipe:
    """The recipe with torch modules by modality for those encoders whose source is `torch:<folder>`."""
    sources: dict[str, str] = {encoder.modality: encoder.source for encoder in recipe.encoders}
    for modality in modules:
        if not sources.get(modality, "").startswith("torch:"):
            raise RecipeError(
                f"has no module to be handed for {modality}", where=recipe.name, remedy='source = "torch:FOLDER"'
            )
    encoders = tuple(msgspec.structs.replace(e, module=modules.get(e.modality)) for e in recipe.encoders)
    return msgspec.structs.replace(recipe, encoders=encoders)


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line, from 1, where a key such as ("tasks", "grade", "kind") stands; else that of the nearest table."""
    best, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"^\[\[?([^\]]+)\]\]?", stripped):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            here = table
        elif key := re.match(r"^([A-Za-z0-9_.\-\"' ]+?)\s*=", stripped):
            here = (*table, *(part.strip().strip("\"'") for part in key[1].split(".")))
        else:
            continue
        depth = min(len(here), len(path))
        if depth > best_depth and here[:depth] == path[:depth]:
            best, best_depth = number, depth
    return best


class _Reader:
    """One file being read: knows where it is, so that every refusal has a line."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file

    def refuse(self, what: str, *path: str, remedy: str = "") -> RecipeError:
        name = ".".join(path)
        line = line_of(self.text, path)
        return RecipeError(f"{name}: {what}" if name else what, where=f"{self.file} line {line}", remedy=remedy)

    def convert(self, value: Any, into: type[T], *path: str, others: Sequence[str] = ()) -> T:
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as problem:
            fault = explain(problem, into, others)
            raise self.refuse(fault.what, *path, *fault.field, remedy=fault.remedy) from None

    def table(self, document: dict[str, Any], name: str) -> dict[str, Any]:
        value = document.get(name, {})
        if not isinstance(value, dict):
            raise self.refuse("must be a table", name, remedy=f"write [{name}.…]")
        return value

    def recipe(self, document: dict[str, Any]) -> Recipe:
        if not document:
            raise self.refuse("is empty", remedy=BEGIN)
        parts = ("encoders", "slots", "tasks", "objectives", "training", "adapter", "scopes")
        head = self.convert({k: v for k, v in document.items() if k not in parts}, Head, others=parts)
        if "onnx" not in head.runtimes:
            raise self.refuse("every bundle has graphs for onnxruntime", "runtimes", remedy='["onnx", "litert"]')
        encoders = tuple(self.encoder(n, v) for n, v in self.table(document, "encoders").items())
        slots = tuple(self.slot(n, v, encoders) for n, v in self.table(document, "slots").items())
        if not slots:
            raise self.refuse("no slot is named", "slots", remedy='add [slots] with lines such as picture = "image"')
        if sum(s.count for s in slots) > SLOT_LIMIT:
            raise self.refuse(f"more than {SLOT_LIMIT} inputs", "slots")
        for encoder in encoders:
            if encoder.modality not in {s.modality for s in slots}:
                raise self.refuse("no slot uses it", "encoders", encoder.modality, remedy="remove it or add a slot")
        tables = {n: self.convert(v, TaskTable, "tasks", n) for n, v in self.table(document, "tasks").items()}
        if not tables:
            raise self.refuse("no task is named", "tasks", remedy="add a table such as [tasks.category]")
        by_name = {s.name: s for s in slots}
        skills = next((encoder.skills for encoder in encoders if encoder.modality == "sequence"), ())
        tasks = tuple(self.task(n, t, by_name, skills) for n, t in tables.items())
        read = {name for task in tasks for name in task.reads}
        for slot in slots:
            if slot.name not in read:
                raise self.refuse("no task reads it", "slots", slot.name, remedy="remove it or let a task read it")
        inside = document.get("adapter") is not None
        objectives = tuple(
            self.objective(n, v, by_name, tasks, inside) for n, v in self.table(document, "objectives").items()
        )
        training = self.convert(document.get("training", {}), TrainingTable, "training")
        if training.clip_norm and not head.clipped:
            raise self.refuse("needs graphs that clip", "training", "clip_norm", remedy="add clipped = true at the top")
        if training.nested and not head.tiers:
            raise self.refuse("needs tiers to nest", "training", "nested", remedy='add tiers = ["half"] at the top')
        return Recipe(
            name=head.name,
            version=head.version,
            seed=head.seed,
            batch=head.batch,
            width=head.width,
            hidden=head.hidden,
            single=head.single,
            clipped=head.clipped,
            saliency=head.saliency,
            tiers=head.tiers,
            runtimes=head.runtimes,
            weighting=training.weighting,
            objectives=objectives,
            golden=head.golden,
            encoders=encoders,
            slots=slots,
            tasks=tasks,
            heads={name: self.head(name, table, by_name) for name, table in tables.items()},
            training=Training(
                **{name: value for name, value in msgspec.structs.asdict(training).items() if name != "weighting"},
                task_weights={name: table.weight for name, table in tables.items()},
            ),
            adapter=self.adapter(document["adapter"], encoders) if "adapter" in document else None,
            scopes=self.scopes(document, [f"ladder.{e.modality}" for e in encoders] + [f"head.{n}" for n in tables]),
        )

    def scopes(self, document: dict[str, Any], segments: list[str]) -> dict[str, Scope]:
        found: dict[str, Scope] = {}
        for name, value in self.table(document, "scopes").items():
            # TOML reads `head.grade = …` as a table `head`.
            inside = {f"{name}.{leaf}": scope for leaf, scope in value.items()} if isinstance(value, dict) else {}
            for segment, scope in (inside or {name: value}).items():
                if segment not in (*segments, "fusion"):
                    raise self.refuse("there is no such segment", "scopes", *segment.split("."), remedy=str(segments))
                found[segment] = self.convert(scope, Scope, "scopes", *segment.split("."))  # type: ignore[arg-type]
        return found

    def adapter(self, value: Any, encoders: tuple[EncoderSpec, ...]) -> AdapterPlan:
        plan = self.convert(value, AdapterPlan, "adapter")
        names = [encoder.modality for encoder in encoders]
        if plan.modality is None and len(names) > 1:
            raise self.refuse("does not say whose encoder", "adapter", remedy=f'modality = "{names[0]}", for example')
        modality = plan.modality or names[0]
        if modality not in names or modality not in ("text", "image"):
            raise self.refuse(
                f"there is no transformer for {modality}",
                "adapter",
                "modality",
                remedy="text or image, with an encoder",
            )
        return msgspec.structs.replace(plan, modality=modality)

    def encoder(self, name: str, value: Any) -> EncoderSpec:
        if name not in get_args(ModalityName):
            raise self.refuse(f"is none of {', '.join(get_args(ModalityName))}", "encoders", name)
        table = self.convert(value, EncoderTable, "encoders", name)
        if list(table.buckets) != sorted(set(table.buckets)):
            raise self.refuse("must rise", "encoders", name, "buckets", remedy="for example [16, 32, 64]")
        names = [column.name for column in table.columns]
        if (name == "table") != bool(names) or len(set(names)) != len(names):
            raise self.refuse("a table, and only a table, names its columns, each once", "encoders", name, "columns")
        if (name == "sequence") != bool(table.skills) or len(set(table.skills)) != len(table.skills):
            raise self.refuse(
                "a sequence, and only a sequence, names its skills, each once", "encoders", name, "skills"
            )
        return self.convert({**msgspec.structs.asdict(table), "modality": name}, EncoderSpec, "encoders", name)

    def slot(self, name: str, value: Any, encoders: tuple[EncoderSpec, ...]) -> Slot:
        found = SLOT.match(value) if isinstance(value, str) else None
        if found is None:
            raise self.refuse(f"{value!r} is no kind of input", "slots", name, remedy='"text", "image[4]" and the like')
        if found["modality"] not in {e.modality for e in encoders}:
            raise self.refuse(
                f"there is no encoder for {found['modality']}",
                "slots",
                name,
                remedy=f"add [encoders.{found['modality']}]",
            )
        slot = {"name": name, "modality": found["modality"], "count": int(found["count"] or 1)}
        return self.convert(slot, Slot, "slots", name)

    def task(self, name: str, table: TaskTable, slots: dict[str, Slot], skills: tuple[str, ...]) -> Task:
        here = ("tasks", name)
        for read in table.reads:
            if read not in slots:
                raise self.refuse(f"there is no slot {read!r}", *here, "reads", remedy=f"one of {sorted(slots)}")
        if len(set(table.reads)) != len(table.reads):
            raise self.refuse("names a slot twice", *here, "reads")
        least = 2 if table.kind in ("classification", "ordinal") else 1
        if table.kind in WITH_LABELS and (len(table.labels) < least or len(set(table.labels)) != len(table.labels)):
            raise self.refuse(f"needs at least {least} different labels", *here, "labels")
        if table.kind not in WITH_LABELS and table.labels:
            raise self.refuse(f"a {table.kind} task has no labels", *here, "labels")
        width = {
            "classification": len(table.labels),
            "ordinal": len(table.labels) - 1,
            "multilabel": len(table.labels),
            "choice": slots[table.reads[-1]].count,
            "spans": 1 + len(table.labels),
            "tracing": len(skills) or 1,
        }.get(table.kind, 1)
        task = {
            "name": name,
            "kind": table.kind,
            "reads": table.reads,
            "labels": skills if table.kind == "tracing" else table.labels,
            "width": width,
            "offset": table.offset,
            "scale": table.scale,
        }
        return self.convert(task, Task, *here)

    def objective(
        self, name: str, value: Any, slots: dict[str, Slot], tasks: tuple[Task, ...], inside: bool
    ) -> Objective:
        here = ("objectives", name)
        table = self.convert(value, ObjectiveTable, *here)
        for read in table.reads:
            if read not in slots:
                raise self.refuse(f"there is no slot {read!r}", *here, "reads", remedy=f"one of {sorted(slots)}")
        reads = [slots[read] for read in table.reads]
        single = all(slot.count == 1 for slot in reads) and len(set(table.reads)) == len(reads)
        if table.kind == "alignment" and not (single and len({s.modality for s in reads}) == len(reads) > 1):
            raise self.refuse("alignment reads single slots of different modalities", *here, "reads")
        if table.kind == "masked" and not single:
            raise self.refuse("masked reads single slots, each once", *here, "reads")
        if table.kind != "alignment" and inside:
            raise self.refuse(f"{table.kind} hides features, which an adapter has none of", *here, "kind")
        compared = [t for t in tasks if t.kind != "regression" and not t.per_token and set(t.reads) & set(table.reads)]
        if table.kind == "consistency" and not compared:
            raise self.refuse("no task with labels reads any of it", *here, "reads", remedy="name what a task reads")
        return self.convert({**msgspec.structs.asdict(table), "name": name}, Objective, *here)

    def head(self, name: str, table: TaskTable, slots: dict[str, Slot]) -> HeadKind:
        here = ("tasks", name)
        reads = [slots[read] for read in table.reads]
        kind: HeadKind = table.head or (table.kind if table.kind in OWN_HEAD else "fused")  # type: ignore[assignment]
        if (table.kind in OWN_HEAD or kind in OWN_HEAD) and kind != table.kind:
            raise self.refuse(f"a {table.kind} task cannot have the head {kind!r}", *here, "head")
        single = all(slot.count == 1 for slot in reads)
        if kind == "pair" and not (len(reads) in (2, 3) and single and all(s.modality == "text" for s in reads)):
            raise self.refuse(
                "a pair head reads two or three single texts", *here, "reads", remedy="([question,] reference, answer)"
            )
        if kind == "matching" and not (len(reads) == 2 and single):
            raise self.refuse("matching reads two single slots", *here, "reads")
        for one, modality in (("spans", "text"), ("tracing", "sequence")):
            if kind == one and not (len(reads) == 1 and single and reads[0].modality == modality):
                raise self.refuse(f"{one} reads one single {modality} slot", *here, "reads")
        if kind == "choice" and not (len(reads) == 2 and reads[0].count == 1 and reads[1].count > 1):
            raise self.refuse(
                "choice reads one single slot and one slot of several places", *here, "reads", remedy='"image[4]"'
            )
        return kind
