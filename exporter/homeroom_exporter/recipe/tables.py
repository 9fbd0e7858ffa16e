"""The tables of a recipe file, with the bounds of each field; `docs/recipe.md` describes them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from homeroom.contract.manifest import PREPROCESS_VERSION, Column, Count, Name, PreprocessVersion, Runtime, Title
from homeroom.contract.statistics.section import Components
from homeroom_exporter.model.losses import Weighting
from homeroom_exporter.model.tiers import TierName

SKILL_LIMIT = 500  # of a sequence: each has two values in a token, and two rows of weights in theta

GoldenSource = Literal["calibration", "synthetic"]
Size = Annotated[int, msgspec.Meta(ge=8, le=1024)]
Reads = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]


class RecipeHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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
    golden_from: GoldenSource = "calibration"


class EncoderTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[encoders.<modality>]`; the fields of `EncoderSpec` but the modality."""

    source: str
    taps: Annotated[tuple[int | str, ...], msgspec.Meta(min_length=1)] | Literal["auto"] = "auto"
    dim: Annotated[int, msgspec.Meta(ge=4, le=1024)] = 64
    buckets: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=16)] = (16, 32, 64)
    seconds: Annotated[float, msgspec.Meta(gt=0, le=30)] | None = None
    grid: Annotated[int, msgspec.Meta(ge=0, le=7)] | None = None
    quantize: Literal["int8", "int4", "none"] = "int8"
    drift: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.02
    columns: tuple[Column, ...] = ()
    skills: Annotated[tuple[str, ...], msgspec.Meta(max_length=SKILL_LIMIT)] = ()
    languages: tuple[str, ...] = ()
    preprocessing: PreprocessVersion = PREPROCESS_VERSION


class SlotTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of `[slots]` that has a title too."""

    input: str
    title: Title


class TaskTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[tasks.<name>]`."""

    kind: str
    reads: Reads
    head: str | None = None
    labels: tuple[str, ...] = ()
    offset: float = 0.0
    scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    unit: str | None = None
    unreadable: str | None = None
    group: Name | None = None
    title: Title | None = None
    titles: dict[str, Title] = {}
    weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    letters: bool | Literal["alone"] = False
    components: Components | None = None


class ObjectiveTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[objectives.<name>]`: what samples teach without a label."""

    kind: Literal["alignment", "masked", "consistency"]
    reads: Reads
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
