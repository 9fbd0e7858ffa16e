"""Manifest of a bundle: the fields of manifest.json, as data classes.

`docs/bundle.md` describes the format on one page. A minor version may add fields, which older readers ignore.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from homeroom.contract.continuation import Continuation
from homeroom.contract.layout import FULL_TIER, Layout, Segment
from homeroom.contract.statistics.section import Section

MANIFEST_FORMAT = 3  # readers accept this one, those before it, and `continuation.MASKED_FORMAT`
WHOLE_TARGETS_FORMAT = 2  # of bundles whose steps read every target whole, so that older readers open them
THETA_LIMIT = 64 << 20  # values
SLOT_LIMIT = 64  # inputs over all slots

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
ModalityName = Literal["text", "image", "audio", "table", "sequence"]
Precision = Literal["int4", "int8", "float32"]  # of a backbone's weights, lowest first
Runtime = Literal["onnx", "litert"]
Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=24)]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
Language = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{2,3}$")]
PreprocessVersion = Literal[1, 2]
PREPROCESS_VERSION: PreprocessVersion = 2  # of new exports: what a model sees of a text, a picture or a sound
NO_UNIT = "(no unit given)"  # said after a number of a task without one


class File(msgspec.Struct, frozen=True):
    """Hash and size of one file of the bundle."""

    sha256: Hash
    bytes: Annotated[int, msgspec.Meta(ge=0, le=4 << 30)]


class TextPreprocess(msgspec.Struct, frozen=True, tag="text", tag_field="kind"):
    """`tokenizer` is a tokenizer.json; ids are padded with `pad_id` to a bucket, cut at the largest.

    unread: a file with a bit for each id, the first the highest of a byte: 1 where the encoder reads it as unknown.
    `version` of this and the next two: docs/bundle.md, "Preprocessing versions".
    """

    tokenizer: str
    pad_id: int = 0
    version: PreprocessVersion = 1
    unread: str = ""


class ImagePreprocess(msgspec.Struct, frozen=True, tag="image", tag_field="kind"):
    """RGB on white, resized so that the shorter side is `resize`, centre-cropped to `size`, (x/255 - mean) / std, NCHW.

    `resample` is Pillow's filter name. `fit`: `cover` rounds the longer side to the nearest pixel, `cover-floor` down
    (as transformers does), `squash` makes both sides `resize`, whatever the picture's shape.
    """

    size: Count
    resize: Count
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    fit: Literal["cover", "cover-floor", "squash"] = "cover"
    version: PreprocessVersion = 1


class AudioPreprocess(msgspec.Struct, frozen=True, tag="audio", tag_field="kind"):
    """Mono, resampled to `rate` Hz, cut or zero-padded to `samples`; `normalize`: the clip itself, before it is padded,
    to mean 0 and variance 1 (over variance + 1e-7).

    `form` is `waveform` (float32 in [-1, 1], times `gain`) or `whisper-mel` (log-mel of OpenAI's Whisper: 400-point
    Hann window, hop 160, 80 slaney mel bands, log10, floor at max - 8, (x + 4) / 4).
    """

    rate: Count
    samples: Count
    form: Literal["waveform", "whisper-mel"]
    gain: float = 1.0
    normalize: bool = False
    version: PreprocessVersion = 1


CLIP_STD = 8.0  # a table's numbers are clipped to so many standard deviations


class Column(msgspec.Struct, frozen=True):
    """A numeric column (`mean`, `std`) or a categorical one (`categories`); a value may be missing.

    min, max, unit: what values can be; later fields, absent where not given, which change no feature.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()
    min: float | msgspec.UnsetType = msgspec.UNSET
    max: float | msgspec.UnsetType = msgspec.UNSET
    unit: Unit | msgspec.UnsetType = msgspec.UNSET

    @property
    def usual(self) -> tuple[float, float]:
        """The least and the largest value that the model tells from others, and that can be."""
        least, largest = self.mean - CLIP_STD * self.std, self.mean + CLIP_STD * self.std
        return (
            least if self.min is msgspec.UNSET else max(least, self.min),
            largest if self.max is msgspec.UNSET else min(largest, self.max),
        )


class TablePreprocess(msgspec.Struct, frozen=True, tag="table", tag_field="kind"):
    """Each column in order: numeric -> (x - mean) / std clipped to +-8; categorical -> one-hot; missing -> zeros.

    The vector ends with one flag a column, 1.0 where the value is missing.
    """

    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Length of the vector."""
        return sum(len(c.categories) or 1 for c in self.columns) + len(self.columns)


class SequencePreprocess(msgspec.Struct, frozen=True, tag="sequence", tag_field="kind"):
    """A person's interactions in order: one token each, after one for the start, which is left out with the oldest
    interactions where there are more than the largest bucket holds.

    A token: 1.0 in the first value for the start; the second is log(1 + s) / log(1 + a year's seconds), at most 1.0, of
    the s seconds since the interaction before; then two a skill, wrong and right, 1.0 in the one that happened.
    """

    skills: tuple[str, ...]

    @property
    def width(self) -> int:
        """Length of a token's vector."""
        return 2 + 2 * len(self.skills)


Preprocess = TextPreprocess | ImagePreprocess | AudioPreprocess | TablePreprocess | SequencePreprocess
RANGE_FIELDS = ("min", "max", "unit")  # of a column
LATER_FIELDS: dict[str, object] = {
    "fit": "cover",
    "normalize": False,
    "version": 1,
    "unread": "",
}  # with what held before they came


def at_version(preprocess: Preprocess, version: PreprocessVersion) -> Preprocess:
    """The preprocessing at a version, where it has versions."""
    if isinstance(preprocess, TablePreprocess | SequencePreprocess):
        return preprocess
    return msgspec.structs.replace(preprocess, version=version)


def identifying(preprocess: Preprocess) -> dict[str, object]:
    """The fields of a preprocessing that enter `features_id`: later fields only where they are not at their default."""
    document: dict[str, object] = msgspec.to_builtins(preprocess)
    if isinstance(preprocess, TablePreprocess):
        columns = [msgspec.to_builtins(column) for column in preprocess.columns]
        document["columns"] = [{n: v for n, v in column.items() if n not in RANGE_FIELDS} for column in columns]
    return {name: value for name, value in document.items() if name not in LATER_FIELDS or value != LATER_FIELDS[name]}


class Tolerance(msgspec.Struct, frozen=True):
    """Least cosine similarity of features with the float reference over the golden samples: mean and worst."""

    mean: float
    worst: float


class Modality(msgspec.Struct, frozen=True, kw_only=True):
    """One frozen backbone. Its features are int8 [batch, taps, tokens, dim]; value = int8 * scale[taps, dim].

    buckets: token counts that a batch is padded to, rising; a single one where the count is fixed.
    adapter: `lora` is inside the backbone, and there are no features: steps read preprocessed inputs, `taps` is empty,
        `dim` is the backbone's width, and `tolerance` is that of the golden outputs.
    languages: that texts may be in, as ISO 639-1; a later field, absent where that is not known.
    """

    name: ModalityName
    features_id: Hash
    encoder: str
    taps: tuple[str, ...]
    dim: Count
    buckets: tuple[Count, ...]
    preprocess: Preprocess
    tolerance: Tolerance
    float_bytes: int = 0
    adapter: Literal["ladder", "lora"] = "ladder"
    languages: tuple[Language, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def known_languages(self) -> tuple[str, ...]:
        """The languages that texts may be in; none where that is not known."""
        return () if self.languages is msgspec.UNSET else self.languages


class Slot(msgspec.Struct, frozen=True):
    """A named input of one modality; `count` > 1 for a list such as the options of a choice.

    title: what people see in place of the name; a later field, absent where not given.
    """

    name: Name
    modality: ModalityName
    count: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    title: Title | msgspec.UnsetType = msgspec.UNSET

    @property
    def said(self) -> str:
        """The slot's title, or its name where it has none."""
        return self.name if self.title is msgspec.UNSET else self.title


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One head. `reads` are slot names; the output of `predict` is `{name}.output` float32 [batch, width].

    kind: one that `homeroom.data.tasks` knows. Later fields, absent where not given: unit: of a number, such as "kg";
    unreadable: the label of what cannot be read; group: the slot whose content is held out whole to judge by;
    title: what people see in place of the name; label_titles: the same of each of `labels`, in their order.

    classification: logits over `labels`. ordinal: one logit for each of `labels` but the first (is it at least this?).
    multilabel: one logit a label. regression: (value - offset) / scale. choice: `reads` is (query, options), one logit
    an option. matching: `reads` is two slots, one logit (do they belong together?). Of these two the output is
    [batch, tokens, width], for each token of the one slot that `reads` names. spans: logits over no label and `labels`,
    of a text. tracing: after each interaction one logit a skill, in `labels`: is the next answer right, if it is that?
    """

    name: Name
    kind: Name
    reads: tuple[Name, ...]
    labels: tuple[str, ...] = ()
    width: Count
    offset: float = 0.0
    scale: float = 1.0
    unit: Unit | msgspec.UnsetType = msgspec.UNSET
    unreadable: str | msgspec.UnsetType = msgspec.UNSET
    group: Name | msgspec.UnsetType = msgspec.UNSET
    title: Title | msgspec.UnsetType = msgspec.UNSET
    label_titles: tuple[Title, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def said(self) -> str:
        """The task's title, or its name where it has none."""
        return self.name if self.title is msgspec.UNSET else self.title

    def said_label(self, label: object) -> str:
        """The title of a label, or the label where it has none."""
        titles = () if self.label_titles is msgspec.UNSET else self.label_titles
        return dict(zip(self.labels, titles, strict=False)).get(str(label), str(label))

    @property
    def described(self) -> str:
        """The kind of the task, what it reads, and its labels or unit."""
        labels = f" ({', '.join(self.labels)})" if self.labels else ""
        unit = "" if self.unit is msgspec.UNSET else f", in {self.unit}"
        return f"{self.kind} of {', '.join(self.reads)}{labels}{unit}"

    @property
    def said_unit(self) -> str:
        """The unit as it is said after a number."""
        return NO_UNIT if self.unit is msgspec.UNSET else self.unit


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """A self-supervised objective; it has a column after the tasks' in `weights`, `losses` and `totals`.

    alignment: contrastive; the inputs in `reads` (single slots of different modalities) of one sample are pulled
    together, those of different samples pushed apart. masked: hidden inputs are predicted from the others.
    consistency: the tasks' outputs with and without hidden inputs are pulled together. `weight`: of its mean loss
    beside the tasks'.
    """

    name: Name
    kind: Literal["alignment", "masked", "consistency"]
    reads: tuple[Name, ...]
    weight: float = 1.0

    @property
    def segment(self) -> str:
        """Name of the segment of its own parameters, if it has any."""
        return f"objective.{self.name}"


class Tensor(msgspec.Struct, frozen=True):
    """An input or output of a graph."""

    name: str
    dtype: Literal["float32", "int8", "int32", "int64", "uint8"]
    shape: tuple[int, ...]  # -1 where any length is taken


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of one graph; its fields are read from the file that was written, never from the recipe.

    opset: of ONNX's operators, or the format version of a LiteRT file.
    modality: of a `features` graph.
    tokens: token count by modality, except in `features` graphs.
    tried: runtime versions that ran it at export.
    """

    role: Literal["features", "predict", "grad", "grad_heads", "grad_clipped", "saliency"]
    file: str
    runtime: Runtime = "onnx"
    opset: int
    precision: Precision = "float32"
    modality: ModalityName | None = None
    batch: int = -1
    tokens: dict[str, int] = {}
    tier: str = FULL_TIER
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tried: tuple[str, ...] = ()


class Fallback(msgspec.Struct, frozen=True):
    """Backbones in a second file, which a device needs only where no lower precision passes its golden samples."""

    graphs: tuple[Graph, ...]
    files: dict[str, File]


class Tier(msgspec.Struct, frozen=True):
    """A smaller adapter: `size` values of theta, named by an int32 array in the manifest's `tier_index` file."""

    name: Name
    size: Count


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What the exporter recommends; a device may deviate. `clip_norm`, `modality_dropout`, `nested`: see
    `homeroom.train.settings.Settings`.

    `batch`: samples of one step; gradients are accumulated where a `grad` graph holds fewer. 0: as many as it holds.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    epochs: Count = 20
    warmup: float = 0.1
    task_weights: dict[str, float] = {}
    clip_norm: float = 0.0
    modality_dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.4
    batch: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    nested: bool = False


class Licence(msgspec.Struct, frozen=True):
    """Licence of a part of the bundle."""

    subject: str
    name: str
    file: str | None = None
    source: str = ""


ABSENT_SCORE = 1e4  # taken off the fusion's score at presence 0; presence 1 + ln(w) / ABSENT_SCORE weighs w times


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest. `bundle_id` is no field: it is the SHA-256 of the file's bytes, so unknown fields count too.

    version: stated in the recipe; a device never goes back.
    theta: safetensors file with one float32 tensor `theta` [P].
    golden: folder with samples.jsonl and expected.safetensors.
    tiers: smallest first, each within the next; `full` is not among them.
    converted: graphs in `graphs` converted for another runtime; older readers ignore the field.
    unconverted: files of `graphs` that are not converted, and why.
    settled: graphs of role grad_heads, one for each `grad`; older readers ignore the field.
    tier_index: safetensors file with one int32 array a tier, its rising indices in theta.
    statistics: what heads are solved from. fallback: the second file. continues: what it extends. Each may be absent.
    """

    format: int
    name: Name
    version: Count
    files: dict[str, File]
    modalities: tuple[Modality, ...]
    slots: tuple[Slot, ...]
    tasks: tuple[Task, ...]
    segments: tuple[Segment, ...]
    graphs: tuple[Graph, ...]
    theta: str
    golden: str
    training: Training = Training()
    licences: tuple[Licence, ...] = ()
    provenance: dict[str, str] = {}
    tiers: tuple[Tier, ...] = ()
    objectives: tuple[Objective, ...] = ()
    converted: tuple[Graph, ...] = ()
    unconverted: dict[str, str] = {}
    settled: tuple[Graph, ...] = ()
    tier_index: str | None = None
    statistics: Section | msgspec.UnsetType = msgspec.UNSET
    fallback: Fallback | msgspec.UnsetType = msgspec.UNSET
    continues: Continuation | msgspec.UnsetType = msgspec.UNSET

    @property
    def layout(self) -> Layout:
        """Layout of theta, without tiers."""
        return Layout(self.segments)

    @property
    def every_graph(self) -> tuple[Graph, ...]:
        """All graphs: `graphs`, `settled`, `converted` and those of the second file."""
        return *self.graphs, *self.settled, *self.converted, *self.fallback_graphs

    @property
    def fallback_graphs(self) -> tuple[Graph, ...]:
        """The backbones in the second file."""
        return () if self.fallback is msgspec.UNSET else self.fallback.graphs

    @property
    def fallback_files(self) -> dict[str, File]:
        """The files in the second file."""
        return {} if self.fallback is msgspec.UNSET else self.fallback.files

    @property
    def every_file(self) -> dict[str, File]:
        """The files of the bundle and of its second file."""
        return {**self.files, **self.fallback_files}

    @property
    def inputs(self) -> tuple[tuple[str, str, int], ...]:
        """(slot, modality, index in the slot) of every input, in the order of the columns of `presence`."""
        return tuple((slot.name, slot.modality, index) for slot in self.slots for index in range(slot.count))

    @property
    def masked(self) -> dict[str, tuple[str, ...]]:
        """By task, the labels that are masked until they are taught."""
        return {} if self.continues is msgspec.UNSET else self.continues.masked

    def modality(self, name: str) -> Modality:
        """The modality of this name."""
        return next(m for m in self.modalities if m.name == name)

    def slot(self, name: str) -> Slot:
        """The slot of this name."""
        return next(s for s in self.slots if s.name == name)

    def task(self, name: str) -> Task:
        """The task of this name."""
        return next(t for t in self.tasks if t.name == name)
