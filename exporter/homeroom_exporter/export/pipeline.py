"""The flow of an export: recipe -> backbones -> design -> graphs -> golden samples -> self-check -> written bundle."""

from __future__ import annotations

import importlib.metadata
import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.layout import FULL
from homeroom.contract.manifest import (
    FORMAT,
    AudioPreprocess,
    ImagePreprocess,
    Manifest,
    Modality,
    Preprocess,
    SequencePreprocess,
    TablePreprocess,
    TextPreprocess,
    Tolerance,
    Training,
)
from homeroom.contract.signing import Certificate
from homeroom.data.ingest import read_samples
from homeroom.data.preprocess import Prepared, content, prepare
from homeroom.data.samples import StoredSample
from homeroom.errors import ExportError, InputError
from homeroom.runtime.bundle import write_signature
from homeroom.runtime.graphs import load
from homeroom_exporter.bundle import golden
from homeroom_exporter.bundle.golden import Features
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle.write import VARYING, Contents, GraphFile, fill, staging
from homeroom_exporter.check import check, linear_probe, tap_probe
from homeroom_exporter.check.footprint import Twin
from homeroom_exporter.encoders import backbone
from homeroom_exporter.encoders.backbone import Backbone, EncoderSpec
from homeroom_exporter.interchange import litert, peft
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.build import Inside
from homeroom_exporter.model.lora.plan import Checkpoint
from homeroom_exporter.model.tiers import Tier, make_tiers, sheltered
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import Recipe, handed
from homeroom_exporter.trace.trace import trace

CALIBRATION_LIMIT = {
    "text": 1024,
    "image": 256,
    "audio": 128,
    "table": 4096,
    "sequence": 1024,
}  # values shown to a backbone's builder
PART = 16  # rows that a training graph holds of a batch: half of the default, for a machine with two cores
SALIENCY_BATCH = 16  # points on the way to one sample that a device computes at once
MADE_WITH = ("homeroom", "torch", "onnx", "onnxruntime", "numpy")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A written bundle and the self-check that it passed."""

    path: Path
    manifest: Manifest
    bundle_id: str
    report: check.Report


def export(
    recipe: Recipe,
    calibration: Path,
    out: Path,
    key: Ed25519PrivateKey,
    certificate: Certificate,
    *,
    modules: Mapping[str, Any] | None = None,
    start: Checkpoint | None = None,
    threads: int = 2,
    progress: Progress = lambda stage: None,
    show: Callable[[check.Report], None] = lambda report: None,
) -> Exported:
    """Make the bundle that the recipe describes and write it to the directory `out`, which must not exist.

    calibration: samples (JSONL, CSV or a folder) that the backbones' compression and quantization are fitted on; the
    labelled ones also serve the self-check, and a few become the golden samples. modules: torch modules by modality for
    encoders whose source is `torch:<folder>`; they are copied, never changed. start: a PEFT checkpoint whose layers,
    ranks and values the recipe's adapter takes. `show` gets the self-check's report.
    Raises ExportError if it failed; nothing is written then.
    """
    if "litert" in recipe.runtimes:
        litert.converter()  # said before the long work
    stated, recipe = digest(msgspec.json.encode(recipe)), handed(recipe, modules or {})
    with staging(out) as folder, closing(claim(Path(tempfile.gettempdir()), "homeroom-export-")) as work:
        scratch = work.path
        progress("reading the calibration samples")
        samples = list(read_samples(calibration, draft(recipe)))
        if not samples:
            raise InputError("holds no sample", where=str(calibration), remedy="give a hundred or more, with labels")
        linear_probe.refuse_one_class(recipe.tasks, samples, str(calibration))
        backbones: dict[str, Backbone] = {}
        inside: Inside | None = None
        chosen: list[tap_probe.TapChoice] = []
        for encoder in recipe.encoders:
            progress(f"building the {encoder.modality} backbone from {encoder.source}")
            place = scratch / encoder.modality
            place.mkdir()
            if recipe.adapter and recipe.adapter.modality == encoder.modality:
                pairs = lora_pairs(recipe, encoder)
                inside = lora.build(encoder, recipe.adapter, place, pairs=pairs, seed=recipe.seed, start=start)
                continue
            if choice := tap_probe.choose(recipe, encoder, samples, place, progress=progress):
                encoder = msgspec.structs.replace(encoder, taps=tap_probe.named(choice))
                chosen.append(choice)
            values = values_of(recipe, encoder.modality, samples)
            backbones[encoder.modality] = backbone.build(encoder, values, place, progress=progress)
        progress("tracing the training step")
        design = design_of(recipe, backbones, inside)
        contents = assemble(
            design,
            backbones,
            representative(recipe, samples),
            scratch=scratch,
            name=recipe.name,
            version=recipe.version,
            batch=recipe.batch,
            seed=recipe.seed,
            training=recipe.training,
            provenance={
                "recipe": stated,
                **made_with(),
                **{f"taps.{choice.modality}": choice.said for choice in chosen},
                **(start.facts if start else {}),
            },
            threads=threads,
            single=recipe.single,
            clipped=recipe.clipped,
            saliency=recipe.saliency and bool(design.explained),
            inside=inside,
            tiers=make_tiers(design, recipe.tiers),
        )
        twins: tuple[Twin, ...] = ()
        if "litert" in recipe.runtimes:
            inputs = {name: _prepared(made, values_of(recipe, name, samples)) for name, made in backbones.items()}
            place = scratch / "litert"
            place.mkdir()
            found = litert.convert(contents, inputs, place, threads=threads, progress=progress)
            contents, twins = replace(contents, converted=found.graphs, unconverted=found.refused), found.twins
        progress("checking itself")
        report = check.check(contents, backbones, samples, threads=threads)
        report = replace(report, litert=twins, unconverted=contents.unconverted, taps=tuple(chosen))
        show(report)
        if not report.passed:
            raise ExportError(
                f"the self-check failed: {'; '.join(report.failures)}",
                where=recipe.name,
                remedy="nothing was written",
            )
        progress("writing")
        manifest = fill(folder, contents)
        bundle_id = write_signature(folder, manifest, certificate, key)
    return Exported(out, manifest, bundle_id, report)


def _prepared(made: Backbone, values: Sequence[Any]) -> list[Prepared]:
    chosen = [value.read_bytes() if isinstance(value, Path) else value for value in values]
    return [prepare(made.modality, value, made.files.__getitem__) for value in fidelity.spread(chosen, litert.INPUTS)]


def made_with() -> dict[str, str]:
    return {f"made_with.{name}": importlib.metadata.version(name) for name in MADE_WITH}


def design_of(recipe: Recipe, backbones: Mapping[str, Backbone], inside: Inside | None = None) -> Design:
    made = {name: b.modality for name, b in backbones.items()}
    if inside:
        made[inside.adapter.modality.name] = inside.adapter.modality
    return Design(
        modalities=tuple(made[encoder.modality] for encoder in recipe.encoders),
        scales={name: b.scale for name, b in backbones.items()},
        slots=recipe.slots,
        tasks=recipe.tasks,
        heads=recipe.heads,
        width=recipe.width,
        hidden=recipe.hidden,
        weighting=recipe.weighting,
        objectives=recipe.objectives,
        adapter=inside.adapter if inside else None,
        scopes=recipe.scopes,
    )


def draft(recipe: Recipe) -> Manifest:
    """The manifest's slots and tasks, to check samples against before there is a bundle."""
    modalities = tuple(
        Modality(
            name=e.modality,
            features_id="0" * 64,
            encoder=e.source,
            taps=("0",),
            dim=e.dim,
            buckets=e.buckets,
            preprocess=_form(e),
            tolerance=Tolerance(0.0, 0.0),
        )
        for e in recipe.encoders
    )
    return Manifest(
        format=FORMAT,
        name=recipe.name,
        version=recipe.version,
        files={},
        modalities=modalities,
        slots=recipe.slots,
        tasks=recipe.tasks,
        segments=(),
        graphs=(),
        theta="",
        golden="",
    )


def _form(encoder: EncoderSpec) -> Preprocess:
    """Enough of an encoder's preprocessing to check samples by."""
    match encoder.modality:
        case "text":
            return TextPreprocess(tokenizer="none")
        case "image":
            return ImagePreprocess(size=1, resize=1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        case "audio":
            return AudioPreprocess(rate=16_000, samples=16_000, form="waveform")
        case "table":
            return TablePreprocess(columns=encoder.columns)
        case "sequence":
            return SequencePreprocess(skills=encoder.skills)


def values_of(recipe: Recipe, modality: str, samples: Sequence[StoredSample]) -> list[Any]:
    """Different values of one modality, spread over the samples, at most CALIBRATION_LIMIT of them."""
    slots = [slot for slot in recipe.slots if slot.modality == modality]
    found = {content(v): v for sample in samples for slot in slots for _, v in golden.places(slot, sample)}
    if not found:
        raise InputError(
            f"no calibration sample has a value for {modality}", where=modality, remedy="add some, or drop the encoder"
        )
    values = list(found.values())
    step = max(1, -(-len(values) // CALIBRATION_LIMIT[modality]))
    return values[::step]


def representative(recipe: Recipe, samples: Sequence[StoredSample]) -> list[StoredSample]:
    """Golden samples, spread over the calibration samples, those that show a slot not yet shown first."""
    order = [samples[i * len(samples) // recipe.golden] for i in range(min(recipe.golden, len(samples)))]
    shown = {slot for sample in order for slot in sample.inputs}
    for sample in samples:
        if not sample.inputs.keys() <= shown:
            order.append(sample)
            shown |= sample.inputs.keys()
    return order


def variants(design: Design) -> list[dict[str, int]]:
    """Token counts by modality of each variant: one for each bucket of text (with each of sequences), else one."""
    fixed: dict[str, int] = {m.name: m.buckets[-1] for m in design.modalities}
    varying = [m for m in design.modalities if m.name in VARYING]
    return [
        {**fixed, **{m.name: bucket for m, bucket in zip(varying, buckets, strict=True)}}
        for buckets in itertools.product(*(m.buckets for m in varying))
    ]


def lora_pairs(recipe: Recipe, spec: EncoderSpec) -> bool:
    """Whether an encoder with LoRA inside reads two texts at once, or keeps every token."""
    return spec.modality == "text" and not {"pair", "spans"}.isdisjoint(recipe.heads.values())


def part_of(design: Design, batch: int) -> int:
    """Rows of a `grad` graph: a part of the batch, so that a device runs several side by side and holds less.

    All of it where rows are compared with each other, and with a backbone inside, whose weights each part would unpack.
    """
    whole = design.adapter or any(objective.kind == "alignment" for objective in design.objectives)
    return batch if whole or batch % PART else PART


def step_graphs(
    design: Design,
    scratch: Path,
    batch: int,
    *,
    single: bool = False,
    clipped: bool = False,
    saliency: bool = False,
    tier: str = FULL,
    inside: Inside | None = None,
) -> list[GraphFile]:
    """Trace every variant of every step of a tier into `scratch`; the options are the recipe's."""
    steps = [("grad", part_of(design, batch)), ("predict", batch)]
    steps += [("predict", 1)] if single else []
    steps += [("grad_heads", part_of(design, batch))] if not inside else []
    steps += [("grad_clipped", batch)] if clipped else []
    steps += [("saliency", min(batch, SALIENCY_BATCH))] if saliency else []
    graphs = []
    for tokens in variants(design):
        for role, size in steps:
            graph = GraphFile(scratch, role, (onnxruntime.__version__,), batch=size, tokens=tokens, tier=tier)
            if inside:
                graph = replace(graph, precision=inside.adapter.precision)
            graph = replace(graph, path=scratch / Path(graph.name).name)
            model = trace(design, role, size, tokens)
            if inside and design.adapter:
                model = lora.attach(model, replace(inside, adapter=design.adapter))
            graph.path.write_bytes(model.SerializeToString(deterministic=True))
            graphs.append(graph)
    return graphs


def assemble(
    design: Design,
    backbones: Mapping[str, Backbone],
    samples: Sequence[StoredSample],
    *,
    scratch: Path,
    name: str,
    version: int,
    batch: int,
    seed: int,
    training: Training,
    provenance: Mapping[str, str],
    threads: int,
    single: bool = False,
    clipped: bool = False,
    saliency: bool = False,
    tiers: Mapping[str, Tier] | None = None,
    inside: Inside | None = None,
) -> Contents:
    """Everything that the bundle holds, its files under `scratch`; `samples` become the golden ones."""
    theta = initial_theta(design.layout, seed)
    if training.nested:
        theta = sheltered(design, tiers or {}, theta)
    if inside:
        theta = inside.adapter.initial(design.layout, theta)
        shutil.copyfile(inside.stored, scratch / inside.stored.name)
    graphs = step_graphs(design, scratch, batch, single=single, clipped=clipped, saliency=saliency, inside=inside)
    for tier, small in (tiers or {}).items():
        graphs += step_graphs(
            small.design, scratch, batch, single=single, clipped=clipped, saliency=saliency, tier=tier, inside=inside
        )
    for made in backbones.values():
        for precision, path in sorted(made.graphs.items()):
            graphs.append(GraphFile(path, "features", (onnxruntime.__version__,), precision, made.modality.name))
    files = {place: path for made in backbones.values() for place, path in made.files.items()}
    licences = [licence for made in backbones.values() for licence in made.licences]
    if inside:
        files |= {**inside.files, f"graphs/{inside.stored.name}": inside.stored}
        for place, data in peft.files(inside.adapter).items():
            files[place] = scratch / Path(place).name
            files[place].write_bytes(data)
        licences += inside.licences
    reference = {m: load(made.graphs["float32"], threads=threads) for m, made in backbones.items()}
    predict = Predictor(design, graphs, theta, batch, threads)
    return Contents(
        name=name,
        version=version,
        design=design,
        theta=theta,
        graphs=tuple(graphs),
        files=files,
        golden=golden.golden_files(design, samples, reference, files.__getitem__, predict),
        training=msgspec.structs.replace(training, batch=batch),
        licences=tuple(licences),
        provenance={**provenance, "seed": str(seed)},
        tiers=tiers or {},
    )


class Predictor:
    """Outputs of every task for any number of samples' features, by the predict graphs themselves."""

    def __init__(
        self, design: Design, graphs: Sequence[GraphFile], theta: np.ndarray, batch: int, threads: int
    ) -> None:
        self.design, self.theta, self.batch, self.threads = design, theta, batch, threads
        self.graphs = [g for g in graphs if (g.role, g.batch, g.tier) == ("predict", batch, FULL)]

    def __call__(self, rows: Sequence[Features]) -> dict[str, np.ndarray]:
        """`{task}.output`: float32 [rows, width], or [rows, tokens, width]."""
        tokens = golden.bucket(self.design, rows)
        run = load(next(g.path for g in self.graphs if g.tokens == tokens), threads=self.threads)
        parts = [
            run({"theta": self.theta, **golden.feeds(self.design, rows[i : i + self.batch], self.batch, tokens)})
            for i in range(0, len(rows), self.batch)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
