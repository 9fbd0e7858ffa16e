"""Section `processors`: one int8 backbone on emulated processors: drift of its features, and its cost in score.

The same batches go through the same file on each processor, each in a process of its own. An adapter is trained on one
processor's features and used on the other's, both ways; the cost is the mean loss of score over several seeds. Golden
samples must also detect a backbone whose 8-bit products overflow without VNNI.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from exporter_section import Section, Target
from homeroom.data.preprocess import Prepared, hashed_content, prepare
from homeroom.data.samples import StoredSample
from homeroom.data.validation import resolve
from homeroom.inference.golden import cosines
from homeroom.runtime.bundle import Bundle
from homeroom.train.features.dataset import Example
from homeroom_exporter.quantize import quantize
from homeroom_exporter.quantize.fidelity import batches
from peers import emulated, lessons

PROCESSORS: dict[str, Callable[[Path], emulated.Processor]] = {
    "Haswell": lambda folder: emulated.haswell(),
    "Cortex-A53": lambda folder: emulated.cortex(53, folder),
    "Cortex-A76": lambda folder: emulated.cortex(76, folder),
}
INPUTS = {"text": 200, "image": 50, "audio": 25}  # different ones; a clip has 0.8 s
QUICK = {"text": 40, "image": 10, "audio": 10}
SEEDS = 5
POINTS = 1.0
SATURATING = "image"  # the lesson whose convolutions overflow where there is no VNNI

Made = Mapping[bytes, np.ndarray]  # int8 [taps, n, dim] by the input's content


@dataclass(frozen=True)
class Seen:
    """One modality's features on one processor, beside this machine's. Costs are points of macro-F1, a seed each.

    `difference`: the largest, of int8 values; `there`: of adapters trained here and used there; `back`: trained there
    on the emulated samples and used here on all others.
    """

    runtime: str
    seconds: float
    median: float
    worst: float
    difference: int
    there: list[float]
    back: list[float]

    @property
    def cost(self) -> float:
        """Of the worse way."""
        return max(statistics.mean(self.there), statistics.mean(self.back))


@dataclass(frozen=True)
class Subject:
    """A lesson with its bundle: samples to learn from, others that are computed on every processor."""

    lesson: lessons.Lesson
    bundle: Bundle
    train: Sequence[int]
    test: Sequence[int]
    here: Mapping[int, Example]  # of both, as a device has them

    def samples(self) -> dict[int, StoredSample]:
        return {i: resolve(self.lesson.samples[i], self.bundle.manifest) for i in self.test}

    def inputs(self) -> dict[bytes, Prepared]:
        """Of `test`, prepared, each content once, the shortest first."""
        facts, found = self.bundle.manifest.modality(self.lesson.name), dict[bytes, Prepared]()
        for sample in self.samples().values():
            for value in (one for slot in sample.inputs.values() for one in slot if one is not None):
                found[hashed_content(value)] = prepare(facts, value, self.bundle.file)
        return dict(sorted(found.items(), key=lambda pair: pair[1].tokens))

    def examples(self, made: Made) -> dict[int, Example]:
        """Those of `test`, with these features."""
        found = dict[int, Example]()
        for i, sample in self.samples().items():
            inputs = {(s, p): made[hashed_content(sample.inputs[s][p])] for s, p in self.here[i].inputs}
            found[i] = replace(self.here[i], inputs=inputs)
        return found


@dataclass(frozen=True)
class Own:
    """This machine's features of the samples `test`; by seed, thetas learned here and their scores on these; and the
    scores of adapters taught by these.
    """

    made: Made
    thetas: list[np.ndarray]
    scores: list[float]
    taught: list[float]


def subject(lesson: lessons.Lesson, folder: Path, quick: bool) -> Subject:
    bundle, _ = lessons.export(lesson, folder, "int8")
    train, held = lesson.split(0, quick)
    limit, contents, test = (QUICK if quick else INPUTS)[lesson.name], set[bytes](), list[int]()
    for i in np.random.default_rng(0).permutation(held).tolist():
        sample = resolve(lesson.samples[i], bundle.manifest)
        grown = contents | {hashed_content(one) for slot in sample.inputs.values() for one in slot}
        if len(grown) <= limit:
            contents, test = grown, [*test, i]
    return Subject(lesson, bundle, train, test, lessons.features(lesson, bundle, "int8", [*train, *test]))


def features(one: Subject, processor: emulated.Processor, folder: Path) -> tuple[dict[bytes, np.ndarray], float]:
    """What the int8 graph gives there for each input, and the seconds it took. UnavailableError."""
    inputs, facts = one.inputs(), one.bundle.manifest.modality(one.lesson.name)
    parts = list(batches(facts, list(inputs.values())))
    feeds, out = (folder / f"{one.lesson.name} {processor.name} {kind}.npz" for kind in ("feeds", "features"))
    np.savez(feeds, **{f"{i}/{name}": array for i, (part, _) in enumerate(parts) for name, array in part.items()})
    (graph,) = (g for g in one.bundle.manifest.graphs if g.role == "features" and g.precision == "int8")
    seconds = processor.features(one.bundle.file(graph.file), feeds, out)
    with np.load(out) as made:
        rows = [made[str(i)][row, :, :n] for i, (_, counts) in enumerate(parts) for row, n in enumerate(counts)]
    return dict(zip(inputs, rows, strict=True)), seconds


def own(one: Subject, made: Made, quick: bool) -> Own:
    seeds, rows = range(2 if quick else SEEDS), one.examples(made)
    thetas = [lessons.trained(one.lesson, one.bundle, one.here, one.train, seed, quick) for seed in seeds]
    scores = [lessons.score(one.bundle, rows, one.test, theta) for theta in thetas]
    return Own(made, thetas, scores, [taught(one, rows, seed, quick) for seed in seeds])


def taught(one: Subject, rows: Mapping[int, Example], seed: int, quick: bool) -> float:
    """The score here, on the samples to learn from, of an adapter that learned from these features of the others."""
    theta = lessons.trained(one.lesson, one.bundle, rows, one.test, seed, quick)
    return lessons.score(one.bundle, one.here, one.train, theta)


def compare(one: Subject, runtime: str, made: Made, seconds: float, ours: Own, quick: bool) -> Seen:
    pairs = [(ours.made[key], made[key]) for key in made]
    alike = [cosines([pair])[0] for pair in pairs]
    difference = max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)
    rows = one.examples(made)
    scores = [lessons.score(one.bundle, rows, one.test, theta) for theta in ours.thetas]
    there = [a - b for a, b in zip(ours.scores, scores, strict=True)]
    back = [score - taught(one, rows, seed, quick) for seed, score in enumerate(ours.taught)]
    return Seen(runtime, seconds, statistics.median(alike), min(alike), difference, there, back)


def golden(processor: emulated.Processor, bundle: Bundle) -> Any:
    """The `homeroom.inference.golden.Drift` of the bundle's one modality there, as a dictionary. UnavailableError."""
    return json.loads(processor.run("golden_child.py", bundle.path))


def saturating(lesson: lessons.Lesson, folder: Path) -> Bundle:
    """The lesson with weights of a whole 8 bits: two products of these and unsigned activations overflow 16 bits."""
    careless = functools.partial(_full_range, quantize.quantize_static)
    with patch.object(quantize, "quantize_static", careless):
        return lessons.export(lesson, folder, "int8")[0]


def _full_range(whole: Callable[..., None], *graphs: Any, **options: Any) -> None:
    whole(*graphs, **{**options, "reduce_range": False})


def run(quick: bool, data: Path) -> Section:
    seen: dict[str, dict[str, Seen]] = {}
    checked: dict[str, Any] = {}
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        machines = available(folder / "arm64", notes)
        subjects: dict[str, Subject] = {}
        bundles: dict[str, Bundle] = {}
        for modality, make in lessons.LESSONS.items():
            subjects[modality] = subject(make(data), folder / modality, quick)
            bundles[modality] = subjects[modality].bundle
        bundles["saturating"] = saturating(subjects[SATURATING].lesson, folder / "saturating")
        jobs = {(m, p): pool.submit(features, one, p, folder) for m, one in subjects.items() for p in machines}
        checks = {(b, p): pool.submit(golden, p, bundles[b]) for b in bundles for p in machines if p.name == "Haswell"}
        for modality, one in subjects.items():
            made, seconds = features(one, emulated.here(), folder)
            ours = own(one, made, quick)
            seen[modality] = {}
            notes.append(
                f"{modality}: {len(made)} inputs of {len(one.test)} samples, {seconds:.0f} s here, macro-F1 "
                f"{statistics.mean(ours.scores):.1f} and, taught by these, {statistics.mean(ours.taught):.1f}"
            )
            for processor in machines:
                try:
                    made, seconds = jobs[modality, processor].result()
                except emulated.UnavailableError as problem:
                    notes.append(f"not measured, {modality}: {problem}")
                    continue
                found = compare(one, processor.runtime, made, seconds, ours, quick)
                told = f"cosine {found.median:.5f}, {found.seconds:.0f} s"
                print(f"    {modality} on {processor.name}: {told}", flush=True)
                seen[modality][processor.name] = found
        for (key, _), job in checks.items():
            try:
                checked[key] = job.result()
                notes.append(f"golden samples on Haswell, {key}: {said(checked[key])}")
            except emulated.UnavailableError as problem:
                notes.append(f"not checked, {key}: {problem}")
    return Section(
        title="one int8 backbone on this machine and on emulated processors",
        rows=table(seen),
        figures={
            "processors": {m: {p: {**asdict(s), "cost": s.cost} for p, s in of.items()} for m, of in seen.items()},
            "golden": checked,
        },
        targets=targets(seen, checked),
        notes=[*notes, f"{2 if quick else SEEDS} adapters each way; seconds with the start of Python, two at a time"],
    )


def available(folder: Path, notes: list[str]) -> list[emulated.Processor]:
    """The processors that can be emulated here; of the others a note says why not."""
    found = []
    for name, make in PROCESSORS.items():
        try:
            found.append(make(folder))
        except emulated.UnavailableError as problem:
            notes.append(f"{name} cannot be emulated here: {problem}")
    return found


def targets(seen: Mapping[str, Mapping[str, Seen]], checked: Mapping[str, Any]) -> list[Target]:
    """The issue's; what could not be emulated is not met."""
    made = [
        Target(f"{modality} on {name}: points lost, the worse way", found[name].cost if name in found else None, POINTS)
        for modality, found in seen.items()
        for name in PROCESSORS
    ]
    for key in (*seen, "saturating"):
        wanted = key != "saturating"
        name = f"{key}: its golden samples {'pass' if wanted else 'are refused'} on Haswell"
        right = float(checked[key]["within"] is wanted) if key in checked else None
        made.append(Target(name, right, 1.0, at_least=True))
    return made


def table(seen: Mapping[str, Mapping[str, Seen]]) -> list[list[str]]:
    rows = [["", "onnxruntime", "cosine", "worst", "difference", "lost there", "lost back", "seconds"]]
    for modality, of in seen.items():
        for name, found in of.items():
            costs = [f"{statistics.mean(points):+.2f}" for points in (found.there, found.back)]
            drift = [f"{found.median:.5f}", f"{found.worst:.5f}", str(found.difference)]
            rows.append([f"{modality} on {name}", found.runtime, *drift, *costs, f"{found.seconds:.0f}"])
    return rows


def said(found: Mapping[str, Any]) -> str:
    verdict = "pass" if found["within"] else "are refused"
    return f"{found['precision']}, cosine {found['mean']:.3f}, worst {found['worst']:.3f}: {verdict}"
