"""Section `speed`: a batch of real inputs through each backbone in int8, int4 and float32, in turns; one thread.

One process runs graph after graph and round after round, so that other load on the machine affects all alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from exporter_section import Section, Target
from homeroom.data.preprocess import collate, prepare
from homeroom.data.validation import resolve
from homeroom.runtime.backend import load
from peers import lessons

BATCH, ROUNDS = 16, 25
LEAST = 1.5


def timed(graphs: dict[str, Any], feeds: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median milliseconds of a batch."""
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for number in range(rounds + 1):
        for name, graph in graphs.items():
            began = time.perf_counter()
            graph(feeds)
            if number:  # the first one warms up
                taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in taken.items()}


def run(quick: bool, data: Path) -> Section:
    rows = [["backbone", "batch", "float32 ms", "int8 ms", "int4 ms", "int8 is faster by"]]
    figures: dict[str, Any] = {}
    targets = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("audio",) if quick else lessons.LESSONS:
            lesson = lessons.LESSONS[name](data)
            files = {}
            for precision in ("int8",) if name == "image" or quick else ("int8", "int4"):
                bundle, made = lessons.export(lesson, Path(folder) / name / precision, precision)
                files |= made.graphs
            stored = [resolve(lesson.samples[i], bundle.manifest) for i in lesson.split(0)[0][:BATCH]]
            values = [s.inputs["answer" if name == "text" else next(iter(s.inputs))][0] for s in stored]
            ready = [prepare(made.modality, value, made.files.__getitem__) for value in values]
            graphs = {precision: load(path, threads=1) for precision, path in files.items()}
            ms = figures[name] = timed(graphs, collate(made.modality, ready), 5 if quick else ROUNDS)
            cells = [f"{ms[p]:.1f}" if p in ms else "-" for p in ("float32", "int8", "int4")]
            ratio = ms["float32"] / ms["int8"]
            rows.append([lesson.title, str(BATCH), *cells, f"{ratio:.2f}"])
            targets.append(Target(f"{name}: float32's time, of int8's", ratio, LEAST, at_least=True))
    return Section(
        title="a batch of real inputs through each backbone, one thread, medians of turns",
        rows=rows,
        figures=figures,
        targets=targets,
    )
