"""A recipe: the TOML file that says what an export makes; `docs/recipe.md` describes every field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract.layout import Scope
from homeroom.contract.manifest import Objective, Runtime, Slot, Task, Training
from homeroom.errors import RecipeError
from homeroom_exporter.encoders.outside_files import read_text
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.model.lora.plan import AdapterPlan
from homeroom_exporter.model.losses import Weighting
from homeroom_exporter.model.tiers import TierName
from homeroom_exporter.recipe import checks
from homeroom_exporter.recipe.document import parse
from homeroom_exporter.recipe.tables import GoldenSource


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe that holds together. `heads`: the head of each task; `adapter`: LoRA, its modality filled in; `scopes`:
    of the segments that are not shared; `letters`: tasks whose sums hold the letters of their
    texts, and whether in place of the encoder's features; `components`: of choice and matching tasks whose solved
    heads read no more of each block.
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
    golden_from: GoldenSource
    encoders: tuple[EncoderSpec, ...]
    slots: tuple[Slot, ...]
    tasks: tuple[Task, ...]
    heads: dict[str, str]
    training: Training
    adapter: AdapterPlan | None = None
    scopes: dict[str, Scope] = {}
    letters: dict[str, bool] = {}
    components: dict[str, int] = {}


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file; RecipeError names file, line and field."""
    return parse_recipe(read_text(path, error=RecipeError).replace("\r\n", "\n"), path.name)


def parse_recipe(text: str, file: str = "recipe") -> Recipe:
    """As `read_recipe`, from the text; `file` is the name that errors give."""
    document = parse(text, file)
    header = checks.read_header(document)
    encoders = checks.read_encoders(document)
    slots = checks.read_slots(document, encoders)
    tables = checks.read_task_tables(document)
    tasks = checks.read_tasks(document, tables, slots, encoders)
    objectives = checks.read_objectives(document, slots, tasks)
    training = msgspec.structs.asdict(checks.read_training(document, header))
    segments = [f"ladder.{encoder.modality}" for encoder in encoders] + [f"head.{name}" for name in tables]
    return Recipe(
        **msgspec.structs.asdict(header),
        weighting=training.pop("weighting"),
        objectives=objectives,
        encoders=encoders,
        slots=tuple(slots.values()),
        tasks=tasks,
        heads=checks.read_heads(document, tables, slots),
        training=Training(**training, task_weights={name: table.weight for name, table in tables.items()}),
        adapter=checks.read_adapter(document, encoders),
        scopes=checks.read_scopes(document, segments),
        letters=checks.read_letters(document, header, tables, slots),
        components=checks.read_components(document, tables),
    )


def with_modules(recipe: Recipe, modules: Mapping[str, Any]) -> Recipe:
    """The recipe with torch modules by modality for those encoders whose source is `torch:<folder>`."""
    sources: dict[str, str] = {encoder.modality: encoder.source for encoder in recipe.encoders}
    for modality in modules:
        if not sources.get(modality, "").startswith("torch:"):
            fault = f"has no module to be handed for {modality}"
            raise RecipeError(fault, where=recipe.name, remedy='source = "torch:FOLDER"')
    encoders = tuple(msgspec.structs.replace(e, module=modules.get(e.modality)) for e in recipe.encoders)
    return msgspec.structs.replace(recipe, encoders=encoders)
