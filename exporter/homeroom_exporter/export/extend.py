"""An export that extends an earlier bundle: its backbones as they are, and theta where old answers stay as they were.

Each segment of the earlier bundle goes on: under the same identity, or as a head with more labels (`Growth`). A new
label has a column of zeros, which devices mask until a label teaches it. New tasks are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy

from homeroom.contract.continuation import (
    Continuation,
    Growth,
    carry_theta,
    growths_of,
    label_columns,
    segment_bounds,
)
from homeroom.contract.layout import Layout, Segment
from homeroom.contract.manifest import Manifest, Modality, Task, TextPreprocess, identifying
from homeroom.contract.signing import Certificate
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of
from homeroom.errors import BundleError, ExportError, RecipeError, TrustError
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.fallback import second_file, take_along
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.solve.vectors.samples import covered, sums_id, sums_ids
from homeroom_exporter import encoders
from homeroom_exporter.bundle.write import SCALES, BundleContents, Fitted
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.teach import TAUGHT
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.heads import head_segment
from homeroom_exporter.model.tasks import HEADS
from homeroom_exporter.model.tasks import kind_of as exported_kind
from homeroom_exporter.recipe.recipe import Recipe

ANOTHER_NAME = "or export without --extends, under another name"


@dataclass(frozen=True)
class Extended:
    """The earlier bundle, opened with its float32 backbones."""

    bundle: Bundle

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.bundle.manifest.name} version {self.bundle.manifest.version}"

    @property
    def provenance(self) -> dict[str, str]:
        """What its provenance says of theta and taps, which go on."""
        names = [name for name in self.bundle.manifest.provenance if name == TAUGHT or name.startswith("taps.")]
        return {name: self.bundle.manifest.provenance[name] for name in names}


def open_extended(path: Path, scratch: Path, recipe: Recipe, certificate: Certificate) -> Extended:
    """Opens the bundle that a recipe extends.

    path: its folder or file, its second file beside it. scratch: a folder to unpack it in.
    certificate: of the exporter that is to sign the new one.
    Raises TrustError where another root vouches for it, RecipeError where the recipe's name or version does not follow
    it, BundleError where it is damaged or its float32 backbones are missing.
    """
    bundle = take_along(install(path, scratch / "extended", root=None), path)
    manifest, where = bundle.manifest, "--extends"
    if bundle.certificate.root != certificate.root:
        remedy = "sign with the key that its root certified: --key and --certificate"
        raise TrustError(f"{path.name} is of another root than this export", where=where, remedy=remedy)
    if manifest.name != recipe.name:
        remedy = "give the newest bundle of this name"
        raise RecipeError(
            f"{path.name} is called {manifest.name}, and the recipe {recipe.name}", where=where, remedy=remedy
        )
    if manifest.version >= recipe.version:
        what = f"{path.name} is version {manifest.version}, and the recipe says {recipe.version}"
        raise RecipeError(what, where=where, remedy="raise `version` in the recipe")
    if recipe.adapter or any(modality.adapter != "ladder" for modality in manifest.modalities):
        raise RecipeError("an encoder has LoRA inside, and cannot be extended", where=where, remedy=ANOTHER_NAME)
    if missing := [graph.file for graph in manifest.fallback_graphs if graph not in bundle.fallback_graphs]:
        what, place = f"needs the float32 backbones of {path.name}: {missing[0]} is not here", second_file(path)
        raise BundleError(what, where=str(place), remedy="put the second file beside it")
    extended = Extended(bundle)
    added_labels(extended, recipe.tasks)  # refused before the long work
    return extended


def kept_backbones(extended: Extended, recipe: Recipe, scratch: Path) -> dict[str, Backbone]:
    """The earlier bundle's backbones by modality; RecipeError where the recipe describes another one."""
    bundle, built = extended.bundle, dict[str, Backbone]()
    manifest = bundle.manifest
    scales = safetensors.numpy.load_file(bundle.file(SCALES))
    specs = {spec.modality: spec for spec in recipe.encoders}
    for number, modality in enumerate(manifest.modalities):
        if modality.name not in specs:
            raise RecipeError(
                f"leaves out the encoder of {modality.name}", where=f"encoders.{modality.name}", remedy="keep it"
            )
        graphs: dict[str, Path] = {
            graph.precision: bundle.file(graph.file)
            for graph in (*manifest.graphs, *manifest.fallback_graphs)
            if (graph.role, graph.modality, graph.runtime) == ("features", modality.name, "onnx")
        }
        _check_spec(specs[modality.name], modality, graphs, scratch, extended.label)
        licences = manifest.licences if number == 0 else ()  # they do not say whose they are, and all stay
        names = {licence.file for licence in licences if licence.file}
        if isinstance(modality.preprocess, TextPreprocess):
            names |= {name for name in (modality.preprocess.tokenizer, modality.preprocess.unread) if name}
        files = {name: bundle.file(name) for name in sorted(names)}
        scale = scales[modality.name]
        built[modality.name] = Backbone(modality, graphs, scale, files, licences, modality.float_bytes)
    return built


def _check_spec(spec: EncoderSpec, modality: Modality, graphs: Mapping[str, Path], scratch: Path, label: str) -> None:
    """RecipeError where an encoder of the recipe is not the one that the earlier bundle has."""
    where = f"encoders.{spec.modality}"
    if spec.taps == "auto" and len(modality.taps) > 1:
        remedy = f"name them: {', '.join(modality.taps)}"
        raise RecipeError(f'taps = "auto" would choose anew, and {label} has its layers', where=where, remedy=remedy)
    precision = "float32" if spec.quantize == "none" else spec.quantize
    folder = scratch / f"compared-{spec.modality}"
    folder.mkdir()
    encoder = encoders.load(spec, folder)
    if precision not in graphs and encoder.scheme != "none":
        what = f"quantize is {spec.quantize}, and {label} has {', '.join(sorted(graphs))}"
        raise RecipeError(what, where=where, remedy="leave it as it was")
    described = encoder.modality(spec)
    for name in ("encoder", "taps", "dim", "buckets", "languages"):
        if getattr(described, name) != getattr(modality, name):
            before, now = getattr(modality, name), getattr(described, name)
            raise RecipeError(
                f"{name} is {now!r}, and was {before!r} in {label}", where=where, remedy="leave it as it was"
            )
    if identifying(described.preprocess) != identifying(modality.preprocess):
        raise RecipeError(
            f"sees its inputs otherwise than {label}", where=where, remedy="leave its settings as they were"
        )


def added_labels(extended: Extended, tasks: Sequence[Task]) -> dict[str, tuple[int, ...]]:
    """By task, how many labels came with each bundle after its first, for `Design.added`.

    RecipeError where labels of before are missing or stand elsewhere than before the new ones, or a task is new.
    """
    added, now = dict[str, tuple[int, ...]](), {task.name: task for task in tasks}
    for before in extended.bundle.manifest.tasks:
        where = f"tasks.{before.name}"
        if (task := now.get(before.name)) is None:
            raise RecipeError(f"leaves out task {before.name} of {extended.label}", where=where, remedy="keep it")
        if not kind_of(before).grows or task.kind != before.kind:
            continue
        if lost := [label for label in before.labels if label not in task.labels]:
            raise RecipeError(f"leaves out label {lost[0]!r} of {extended.label}", where=where, remedy="keep it")
        if task.labels[: len(before.labels)] != before.labels:
            what = f"new labels stand among those of {extended.label}"
            raise RecipeError(what, where=where, remedy=f"begin with {', '.join(before.labels)}, in this order")
        known = _added_before(extended, before)
        if further := len(task.labels) - len(before.labels):
            known = (*known, further)
        if known:
            added[task.name] = known
    if new := now.keys() - {before.name for before in extended.bundle.manifest.tasks}:
        what = f"adds task {min(new)}, which {extended.label} lacks: devices would answer it before anybody taught it"
        raise RecipeError(what, where=f"tasks.{min(new)}", remedy=f"leave it out, {ANOTHER_NAME}")
    return added


def _added_before(extended: Extended, task: Task) -> tuple[int, ...]:
    parameters = extended.bundle.manifest.layout[f"head.{task.name}"].parameters
    return tuple(one.shape[-1] for one in parameters if one.name.startswith("more") and one.name.endswith(".bias"))


def continuation_of(extended: Extended, design: Design) -> Continuation:
    """How every segment of the earlier bundle goes on in a design; RecipeError where one does not."""
    old, ids = extended.bundle.manifest, {segment.segment_id for segment in design.layout}
    tasks, growths = {task.name: task for task in design.tasks}, list[Growth]()
    masked = dict(old.masked)
    for segment in old.segments:
        if segment.segment_id in ids:
            continue
        name = str(segment.task)
        if segment.task is None or not _is_grown(segment, old.task(name), tasks[name], design, extended):
            what = f"changes {segment.name} of {extended.label} in more than its labels"
            raise RecipeError(what, where=segment.name, remedy=f"leave its settings as they were, {ANOTHER_NAME}")
        growths.append(Growth(segment=segment.name, earlier=segment.segment_id))
        masked[name] = (*masked.get(name, ()), *tasks[name].labels[len(old.task(name).labels) :])
    return Continuation(
        bundle_id=extended.bundle.bundle_id,
        version=old.version,
        grown=(*growths, *growths_of(old.continues)),
        masked=masked,
        sums=_sums_that_go_on(old, tasks),
    )


def _is_grown(segment: Segment, before: Task, task: Task, design: Design, extended: Extended) -> bool:
    """Whether a head differs from its earlier form in its labels alone."""
    if not kind_of(task).grows:
        return False
    width = exported_kind(task).width(before.labels, [design.slot(name) for name in task.reads])
    as_before = msgspec.structs.replace(task, labels=before.labels, width=width)
    reads = [design.modality(design.slot(name).modality).features_id for name in task.reads]
    head, added = HEADS[design.heads[task.name]], _added_before(extended, before)
    return head_segment(as_before, head, reads, design.width, added).segment_id == segment.segment_id


def extended_theta(
    extended: Extended, how: Continuation, layout: Layout, tasks: Sequence[Task], drawn: np.ndarray
) -> np.ndarray:
    """The first theta float32 [P]: the earlier bundle's values where they go on, `drawn` in new segments, and zeros in
    the columns of labels that nobody has taught.
    """
    theta = drawn.copy()
    labels = {task.name: task.labels for task in tasks}
    for task, masked in how.masked.items():
        columns = label_columns(layout, f"head.{task}")
        for label in masked:
            theta[columns[labels[task].index(label)]] = 0.0
    bundle = extended.bundle
    return carry_theta(bundle.theta(), segment_bounds(bundle.manifest.layout), layout, theta, how.grown)


def _sums_that_go_on(old: Manifest, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """What sums of the earlier bundle mean, and of those before it, where every sum has the same meaning in `tasks`."""

    def goes_on(before: Task) -> bool:
        now = tasks[before.name]
        more = kind_of(before).grows
        labels = now.labels[: len(before.labels)] if more else now.labels
        facts = (now.kind, now.reads, labels, now.offset, now.scale)
        return facts == (before.kind, before.reads, before.labels, before.offset, before.scale)

    return sums_ids(old) if sums_id(old) and all(map(goes_on, covered(old))) else ()


def with_earlier_statistics(contents: BundleContents, extended: Extended) -> BundleContents:
    """The contents with the earlier bundle's blocks as they were, so that sums go on and solved heads answer as before.

    Further blocks are those that no task reads which it solves already.
    """
    old = extended.bundle.manifest
    section, fitted = old.statistics, contents.statistics
    if section is msgspec.UNSET:
        return contents
    arrays = safetensors.numpy.load_file(extended.bundle.file(section.file))
    if fitted is not None:
        for name in ("letters", "letters_alone", "components"):
            if getattr(fitted.section, name) != getattr(section, name):
                what = f"tasks have other `{name}` than in {extended.label}, whose statistics go on as they are"
                raise RecipeError(what, where="tasks", remedy=f"leave `{name}` as it was, {ANOTHER_NAME}")
        known, solved = {block.name for block in section.blocks}, [frozenset(task.reads) for task in covered(old)]
        further = tuple(
            block
            for block in fitted.section.blocks
            if block.name not in known
            and block.kind != "letters"  # a bundle has one spelling
            and not any(reads.issuperset(block.slots) for reads in solved)
        )
        made = safetensors.numpy.load(fitted.file)
        names = {block.name for block in further}
        arrays |= {name: values for name, values in made.items() if name.rpartition(".")[0] in names}
        section = msgspec.structs.replace(section, blocks=(*section.blocks, *further))
    return replace(contents, statistics=Fitted(section, safetensors.numpy.save(dict(sorted(arrays.items())))))


def check_old_answers(extended: Extended, made: Bundle, samples: Sequence[StoredSample], threads: int) -> int:
    """Compares what both bundles answer to samples with the earlier one's inputs; how many outputs there are.

    Raises ExportError where one is not the same, bit for bit.
    """
    names = {slot.name for slot in extended.bundle.manifest.slots}
    asked = [
        msgspec.structs.replace(
            sample, labels={}, inputs={name: one for name, one in sample.inputs.items() if name in names}
        )
        for sample in samples
        if sample.inputs.keys() & names
    ]

    def outputs(bundle: Bundle) -> dict[str, np.ndarray]:
        graphs = Graphs(bundle, threads=threads)
        ready = examples(None, bundle, graphs, asked)
        return outputs_of(graphs, Dataset(bundle.manifest, ready), bundle.theta())

    was, now, count = outputs(extended.bundle), outputs(made), 0
    for name, values in was.items():
        found = now[name][..., : values.shape[-1]]
        if found.tobytes() != values.tobytes():
            drift = float(np.abs(found - values).max())
            what = f"{name} answers otherwise than in {extended.label}, by up to {drift:.3g}"
            raise ExportError(what, where="--extends", remedy="nothing was written; report this")
        count += values.size
    return count
