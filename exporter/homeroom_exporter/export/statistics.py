"""The manifest's statistics: blocks of the slots that solved tasks read, projections fitted on calibration samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec
import numpy as np
import safetensors.numpy
from msgspec import UNSET
from numpy.typing import NDArray

from homeroom.contract.manifest import Manifest, Modality, TablePreprocess, Task
from homeroom.contract.statistics.section import (
    BLOCK_LIMIT,
    DIMENSION_LIMIT,
    LETTERS_DIMENSION_LIMIT,
    OF_TWO_TEXTS,
    Block,
    BlockKind,
    Section,
    statistics_id,
)
from homeroom.data.preprocess import hashed_content, prepare
from homeroom.data.samples import StoredInput, StoredSample
from homeroom.errors import RecipeError
from homeroom.runtime.backend import load
from homeroom.train.solve.kinds import solver_of
from homeroom.train.solve.vectors import letters as letter_numbers
from homeroom.train.solve.vectors import overlap, surface
from homeroom.train.solve.vectors.letters import Spelling
from homeroom.train.solve.vectors.projection import Projection
from homeroom.train.solve.vectors.raw import table_width
from homeroom.train.solve.vectors.samples import Inputs, raw_rows
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.write import Fitted
from homeroom_exporter.check.check import compute
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import SENTENCE
from homeroom_exporter.export.spelling import make_spelling
from homeroom_exporter.export.statistics_size import most_components
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.quantize.compress import truncate

FILE = "statistics.safetensors"
BLOCK_KINDS: dict[str, BlockKind] = {"text": "text", "image": "taps", "audio": "taps", "table": "table"}  # by modality
FITTED_SAMPLES = 480  # calibration samples that a projection is fitted on
SAMPLES_A_DIMENSION = 4
KEPT_QUANTILE = 0.99  # of calibration vectors that are not cut
LEAST_VARIATION = 1e-6  # of a number that varies at all

Group = tuple[int, float | NDArray[np.float64] | None]  # width, and its unit; None: each by its own spread


@dataclass(frozen=True)
class _Numbers:
    """A block's numbers before projection, of the calibration samples that have it: float32 [n, width]."""

    kind: BlockKind
    slots: tuple[str, ...]
    raw: NDArray[np.float32]
    groups: list[Group]
    spelling: Spelling | None

    def fitted(self, manifest: Manifest, most: int) -> tuple[Block, Projection] | None:
        """The block and its projection onto at most so many components; None where nothing varies."""
        projection = fit_projection(self.raw, self.groups, most)
        if projection is None:
            return None
        features = (self.spelling.sha256,) if self.spelling else _features_ids(manifest, self.slots)
        width, dimension = projection.matrix.shape
        block = Block(
            statistics_id=statistics_id(self.kind, self.slots, features, projection.sha256),
            kind=self.kind,
            slots=self.slots,
            inputs=manifest.slot(self.slots[0]).count,
            width=width,
            dimension=dimension,
        )
        return block, projection


def fit_statistics(
    manifest: Manifest,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    *,
    threads: int,
    letters: Mapping[str, bool] | None = None,
    components: Mapping[str, int] | None = None,
    theta_values: int | None = None,
) -> Fitted | None:
    """Fits the projections of all blocks; None where no task can be solved, or samples are too few.

    manifest: the draft, with the backbones' own modalities
    letters: tasks that read the letters of their texts too, and whether in place of the encoder's features
    components: of choice and matching tasks whose heads read no more of each block
    theta_values: of theta; blocks have no more components than `most_components` says. None: DIMENSION_LIMIT

    Raises RecipeError where letters or components would have no effect.
    """
    letters, components = letters or {}, components or {}
    numbers = list(_numbers(manifest, backbones, samples, letters, threads))
    limits = {"letters": LETTERS_DIMENSION_LIMIT}
    fitted = [_first(one, manifest, limits.get(one.kind, DIMENSION_LIMIT)) for one in numbers]
    if not any(fitted):
        _check_effects(manifest, None, letters, components)
        return None
    section = _section(manifest, [found[0] for found in fitted if found], letters)
    if theta_values is not None:
        most = most_components(manifest, section, theta_values)
        fitted = [
            one.fitted(manifest, most) if found and found[0].dimension > most else found
            for one, found in zip(numbers, fitted, strict=True)
        ]
        section = _section(manifest, [found[0] for found in fitted if found], letters)
    _check_effects(manifest, section, letters, components)
    if components:
        section = msgspec.structs.replace(section, components=dict(components))
    arrays = dict[str, np.ndarray]()
    for one, found in zip(numbers, fitted, strict=True):
        if found is None:
            continue
        block, projection = found
        parts = {"mean": projection.mean, "weight": projection.weight, "matrix": projection.matrix}
        arrays |= {f"{block.name}.{name}": values for name, values in parts.items()}
        if one.spelling:
            arrays |= {letter_numbers.CODES: one.spelling.codes, letter_numbers.WRITTEN: one.spelling.written}
    return Fitted(section, safetensors.numpy.save(dict(sorted(arrays.items()))))


def _first(one: _Numbers, manifest: Manifest, most: int) -> tuple[Block, Projection] | None:
    return one.fitted(manifest, most) if len(one.raw) >= 2 * SAMPLES_A_DIMENSION else None


def _numbers(
    manifest: Manifest,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    letters: Collection[str],
    threads: int,
) -> Iterator[_Numbers]:
    """Each block's numbers before projection."""
    chosen = fidelity.spread(samples, FITTED_SAMPLES)
    features_of = _features(manifest, backbones, chosen, threads)
    for kind, slots in _wanted(manifest, backbones, letters):
        modality = manifest.modality(manifest.slot(slots[0]).modality)
        spelling = make_spelling() if kind == "letters" else None
        pairs = zip(chosen, features_of, strict=True)
        rows = raw_rows(manifest, slots, kind, pairs, lambda _, value: value, spelling)
        raw = np.array([numbers for _, _, numbers in rows])
        groups = raw_groups(kind, modality, backbones[modality.name].scale.astype(np.float64))
        yield _Numbers(kind, slots, raw, groups, spelling)


def _section(manifest: Manifest, blocks: Sequence[Block], letters: Mapping[str, bool]) -> Section:
    lettered = {slot for block in blocks if block.kind == "letters" for slot in block.slots}
    reading = tuple(task.name for task in manifest.tasks if task.name in letters and lettered & set(task.reads))
    alone = tuple(name for name in reading if letters[name])
    return Section(
        file=FILE, blocks=tuple(blocks[:BLOCK_LIMIT]), letters=reading or UNSET, letters_alone=alone or UNSET
    )


def _check_effects(
    manifest: Manifest, section: Section | None, letters: Collection[str], components: Mapping[str, int]
) -> None:
    """Refuses letters that no block has, and as many components as a task's largest block has."""
    more = f"or calibrate on more samples: a block needs {2 * SAMPLES_A_DIMENSION}"
    for name in letters:
        if section is None or name not in section.letter_tasks:
            what = "has no effect: too few calibration samples have its texts"
            raise RecipeError(what, where=f"tasks.{name}.letters", remedy=f"remove it, {more}")
    for name, wanted in components.items():
        blocks = section.read_by(name, manifest.task(name).reads) if section else []
        most = max((block.dimension for block in blocks), default=0)
        if wanted >= most:
            what = f"{wanted} has no effect: its largest block has {most} components"
            remedy = f"state fewer or remove it, {more}, and {SAMPLES_A_DIMENSION} a component"
            raise RecipeError(what, where=f"tasks.{name}.components", remedy=remedy)


def _features_ids(manifest: Manifest, slots: Sequence[str]) -> tuple[str, ...]:
    return tuple(manifest.modality(manifest.slot(slot).modality).features_id for slot in slots)


def fit_projection(raw: NDArray[np.float32], groups: Sequence[Group], most: int = DIMENSION_LIMIT) -> Projection | None:
    """Principal components of raw numbers [n, width]; None where nothing varies.

    Groups of numbers first get the same variance in all. At most `most` components and one for
    SAMPLES_A_DIMENSION samples, scaled so that KEPT_QUANTILE of the vectors are within norm 1.
    """
    values = raw.astype(np.float64)
    mean = truncate(values.mean(0))
    values -= mean
    spread, parts, start = values.std(0), [], 0
    for width, unit in groups:
        own = spread[start : start + width]
        each = np.where(own > LEAST_VARIATION, 1 / np.maximum(own, LEAST_VARIATION), 0.0) if unit is None else unit
        scaled = np.broadcast_to(np.asarray(each, np.float64), (width,)) * (own > LEAST_VARIATION)
        total = float(((own * scaled) ** 2).sum())
        parts.append(scaled / total**0.5 if total > 0 else scaled)
        start += width
    weight = truncate(np.concatenate(parts))
    values *= weight
    variances, vectors = np.linalg.eigh(values.T @ values / len(values))
    most = min(most, len(values) // SAMPLES_A_DIMENSION)
    kept = np.flatnonzero(variances[::-1] > variances[-1] * 1e-8)[:most]
    if not len(kept) or variances[-1] <= 0:
        return None
    basis = vectors[:, ::-1][:, kept]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(len(kept))])
    norms = np.linalg.norm(values @ basis, axis=1)
    return Projection(mean, weight, truncate(basis / max(float(np.quantile(norms, KEPT_QUANTILE)), LEAST_VARIATION)))


def raw_groups(kind: BlockKind, modality: Modality, scale: NDArray[np.float64]) -> list[Group]:
    """The groups of a block's raw numbers, which vary alike before they are projected. scale: of the features."""
    if SENTENCE in modality.taps:  # which says of the text's meaning what a mean over tokens says less well
        scale = scale * (np.array(modality.taps) == SENTENCE)[:, None]
    taps, unit = scale.size, scale.ravel()
    if kind == "letters":
        return [(letter_numbers.BUCKETS, 1.0)]
    if kind == "overlap":
        return [(overlap.WIDTH, None)]
    if kind == "pair":
        return [(taps, unit), (taps, unit**2), (taps, unit)]
    if kind == "table":
        assert isinstance(modality.preprocess, TablePreprocess)
        row = modality.preprocess.width
        return [(row, 1.0), (table_width(modality.preprocess) - row, 1.0)]
    return [(taps, unit), *([(surface.WIDTH, None)] if kind == "text" else [])]


def _wanted(
    manifest: Manifest, backbones: Mapping[str, Backbone], letters: Collection[str]
) -> Iterator[tuple[BlockKind, tuple[str, ...]]]:
    """Kind and slots of every block: the last two texts of a task, each slot that a solved task reads otherwise, and
    letters of the texts of some.
    """
    tasks = [task for task in manifest.tasks if solver_of(task)]
    read = {slot for task in tasks for slot in set(task.reads).difference(*_text_pairs(manifest, task))}
    for slot in manifest.slots:
        if slot.name in read and slot.modality in BLOCK_KINDS and slot.modality in backbones:
            yield BLOCK_KINDS[slot.modality], (slot.name,)
            if slot.modality == "text" and any(task.name in letters and slot.name in task.reads for task in tasks):
                yield "letters", (slot.name,)
    for pair in dict.fromkeys(chain.from_iterable(_text_pairs(manifest, task) for task in tasks)):
        if "text" in backbones:
            yield from ((kind, pair) for kind in OF_TWO_TEXTS)


def _text_pairs(manifest: Manifest, task: Task) -> Iterator[tuple[str, str]]:
    solver = solver_of(task)
    texts = [s for s in task.reads if manifest.slot(s).modality == "text" and manifest.slot(s).count == 1]
    if solver and not solver.pairs and len(texts) > 1:
        yield texts[-2], texts[-1]


def _features(
    manifest: Manifest, backbones: Mapping[str, Backbone], samples: Sequence[StoredSample], threads: int
) -> list[Inputs]:
    """Features int8 [taps, n, dim] of every input of each sample, by the float reference, each content once."""
    by_modality: dict[str, dict[bytes, StoredInput]] = {name: {} for name in backbones}
    keys: list[dict[tuple[str, int], tuple[str, bytes]]] = []
    for sample in samples:
        keys.append({})
        for slot in (slot for slot in manifest.slots if slot.modality in backbones):
            for index, value in golden.slot_values(slot, sample):
                content = hashed_content(value)
                by_modality[slot.modality][content] = value
                keys[-1][slot.name, index] = slot.modality, content
    features = {}
    for name, values in by_modality.items():
        built = backbones[name]
        ready = {key: prepare(built.modality, value, built.files.__getitem__) for key, value in values.items()}
        features[name] = compute(built.modality, load(built.graphs["float32"], threads=threads), ready)
    return [{key: features[name][content] for key, (name, content) in row.items()} for row in keys]
