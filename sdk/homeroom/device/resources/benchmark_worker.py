"""The benchmark worker: tries and measures libraries, runtime and bundle in a process of its own.

`python -m homeroom.device.resources.benchmark_worker [BUNDLE RUNTIME [THREADS MODULES]]`

With THREADS it measures the bundle's costs; that process does nothing before, so that its memory is that of the bundle.

Each stage prints a line before it begins, so that the parent process can name the stage that ended this one. Whatever
could crash is imported inside its stage.
"""

from __future__ import annotations

import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeroom.device.resources.costs import hardware_fingerprint
from homeroom.system import hardware

if TYPE_CHECKING:
    import numpy as np

    from homeroom.contract.manifest import Runtime
    from homeroom.runtime.bundle import Bundle
    from homeroom.runtime.graphs import Graphs

LIBRARIES = ("cryptography", "msgspec", "safetensors", "tokenizers", "soundfile", "soxr", "httpx", "keyring")
LIBRARY_PACKAGES = {name: name for name in LIBRARIES} | {"PIL": "Pillow", "resvg_py": "resvg-py"}  # what to install
GEMM_SIDE, COPY_BYTES = 512, 32 << 20
LEAST_MEASUREMENT_S = 0.05  # a measurement repeats until it has lasted this long


def print_json(**facts: Any) -> None:
    """Prints facts as one line of JSON, at once."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def run_stage(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Prints a stage's name, runs it and prints its result; an exception is printed as a problem, and None returned."""
    print_json(begin=name)
    try:
        facts = work()
    except Exception as problem:
        print_json(stage=name, problem=f"{problem}" or type(problem).__name__, remedy=getattr(problem, "remedy", ""))
        return None
    print_json(stage=name, **facts)
    return facts


def measure_rates() -> dict[str, Any]:
    """Measures numpy: GFLOP/s of a float32 GEMM of 512 x 512 x 512, GB/s of copying 32 MB (read and written)."""
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((GEMM_SIDE, GEMM_SIDE)).astype(np.float32) for _ in range(2))
    out = np.empty_like(a)
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.empty_like(source)
    return {
        "gemm_gflops": 2 * GEMM_SIDE**3 / median_seconds(lambda: np.matmul(a, b, out=out)) / 1e9,
        "copy_gbs": 2 * COPY_BYTES / median_seconds(lambda: np.copyto(target, source)) / 1e9,
    }


def median_seconds(work: Callable[[], Any]) -> float:
    """Median seconds of at least five runs, after one that is not counted."""
    work()
    times: list[float] = []
    while len(times) < 5 or sum(times) < LEAST_MEASUREMENT_S:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def try_library(name: str) -> dict[str, Any]:
    """Imports a library."""
    importlib.import_module(name)
    return {}


def try_runtime() -> dict[str, Any]:
    """Imports onnxruntime and returns its version."""
    import onnxruntime

    return {"version": onnxruntime.__version__}


def main(path: Path | None = None, runtime: Runtime = "onnx", threads: int | None = None, modules: str = "") -> None:
    """Runs the stages; with `threads` those of the costs alone, after importing `modules` (names with commas)."""
    if path is not None and threads is not None:
        for name in filter(None, modules.split(",")):
            importlib.import_module(name)
        measure_bundle(path, threads, runtime)
        return
    run_stage("numpy", measure_rates)
    for name in LIBRARY_PACKAGES:
        run_stage(f"library {name}", lambda name=name: try_library(name))  # type: ignore[misc]
    runs = run_stage("onnxruntime", try_runtime)
    if path is None or runs is None:
        return
    from homeroom.runtime.bundle import open_bundle

    opened: list[Bundle] = []

    def open_it() -> dict[str, Any]:
        opened.append(open_bundle(path, root=None))
        return {"bundle_id": opened[0].bundle_id, "place": hardware_fingerprint(runtime)}

    if run_stage("bundle", open_it):
        run_stage("threads", lambda: choose_threads(opened[0], runtime))


def measure_bundle(path: Path, count: int, runtime: Runtime) -> None:
    """Measures every backbone, from the lowest precision until its golden samples hold, then every step.

    path: of the unpacked bundle.
    count: of threads.
    runtime: of its graphs.
    """
    from homeroom.inference.golden import golden_samples
    from homeroom.runtime.bundle import open_bundle
    from homeroom.runtime.graphs import Graphs

    try_runtime()
    bundle = open_bundle(path, root=None)
    values = inputs_by_modality(bundle, golden_samples(bundle))
    run_stage("base", lambda: {"bytes": reset_peak()})
    for modality in bundle.manifest.modalities:
        for precision in precisions(bundle, modality.name, runtime):
            graphs = Graphs(bundle, {modality.name: precision}, count, runtime=runtime)
            name = f"features {modality.name} {precision}"
            facts = run_stage(name, lambda g=graphs, m=modality.name: measure_features(bundle, g, m, values[m]))  # type: ignore[misc]
            if facts and facts["within"]:
                break
    graphs = Graphs(bundle, None, count, runtime=runtime)
    for role in ("grad", "predict"):
        steps = [graph for graph in bundle.manifest.graphs if graph.role == role]
        for graph in sorted(steps, key=lambda graph: (sum(graph.tokens.values()), graph.batch)):
            run_stage(f"step {graph.file}", lambda g=graph: measure_step(bundle, graphs, g))  # type: ignore[misc]


def precisions(bundle: Bundle, modality: str, runtime: Runtime = "onnx") -> list[Any]:
    """Precisions that the bundle offers for a modality, lowest first."""
    from homeroom.runtime.graphs import precisions

    if bundle.manifest.modality(modality).adapter == "lora":
        return [next(g.precision for g in bundle.manifest.graphs if g.role == "grad")]  # its steps hold the backbone
    return [*precisions(bundle, modality, runtime)]


def inputs_by_modality(bundle: Bundle, stored: list[Any]) -> dict[str, list[Any]]:
    """Inputs of the golden samples by modality."""
    inputs: dict[str, list[Any]] = {modality.name: [] for modality in bundle.manifest.modalities}
    for sample in stored:
        for slot, values in sample.inputs.items():
            inputs[bundle.manifest.slot(slot).modality] += [value for value in values if value is not None]
    return inputs


def choose_threads(bundle: Bundle, runtime: Runtime = "onnx") -> dict[str, Any]:
    """The fastest thread count of one, half and all cores, for one pass over backbones and training steps.

    Of counts within 5 % the smallest wins, which leaves cores to other programs.
    """
    from homeroom.inference.golden import golden_samples
    from homeroom.runtime.graphs import Graphs
    from homeroom.train.features.compute import compute

    values = inputs_by_modality(bundle, golden_samples(bundle))
    times: dict[int, float] = {}
    for count in sorted({1, max(1, hardware.cores() // 2), hardware.cores()}):
        graphs = Graphs(bundle, None, count, runtime=runtime)
        largest = graphs.steps("grad")[-1]
        steps = max(1, math.ceil(bundle.manifest.training.batch / largest.batch))
        step = [(largest, zero_feeds(bundle, largest))] * steps
        list(graphs.run_all(step))
        began = time.perf_counter()
        for name, inputs in values.items():
            if bundle.manifest.modality(name).adapter == "ladder":
                list(compute(bundle, graphs, name, inputs))
        list(graphs.run_all(step))
        times[count] = time.perf_counter() - began
    best = min(times.values())
    return {"threads": min(n for n, seconds in times.items() if seconds <= best * 1.05), "seconds": times}


def measure_features(bundle: Bundle, graphs: Graphs, modality: str, values: list[Any]) -> dict[str, Any]:
    """Measures a backbone on its inputs `values`; the fields of a `FeatureCost`."""
    import msgspec

    from homeroom.data.preprocess.raw_inputs import token_count
    from homeroom.device.resources.costs import FeatureCost
    from homeroom.inference.golden import drift
    from homeroom.train.features.compute import compute

    before, direct = reset_peak(), bundle.manifest.modality(modality).adapter == "lora"
    similarity = drift(bundle, graphs, modality)  # unloads the backbone at its end
    began = time.perf_counter()
    if not direct:  # a backbone with LoRA has no features, only raw inputs
        graphs.features(modality)
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    outputs = raw_inputs(bundle, modality, values) if direct else list(compute(bundle, graphs, modality, values))
    seconds = time.perf_counter() - began
    texts = [len(value) for value in values if isinstance(value, str)]
    tokens = [token_count(bundle.manifest.modality(modality), one) for _, one in outputs]
    cost = FeatureCost(
        precision=similarity.precision,
        mean=similarity.mean,
        worst=similarity.worst,
        within=similarity.within,
        seconds=seconds / max(1, len(values)),
        size=statistics.mean(texts) if texts else 0.0,
        tokens=statistics.mean(tokens) if tokens else 0.0,
        load_s=load_s,
        bytes=max(0, hardware.peak_resident() - before),
    )
    return msgspec.structs.asdict(cost)


def raw_inputs(bundle: Bundle, modality: str, values: list[Any]) -> list[tuple[int, np.ndarray]]:
    """(index, raw input) for each input of a backbone with LoRA inside, as its steps read them."""
    from homeroom.data.preprocess import prepare
    from homeroom.data.preprocess.raw_inputs import raw_input

    facts = bundle.manifest.modality(modality)
    return [(i, raw_input(facts, prepare(facts, value, bundle.file))) for i, value in enumerate(values)]


def measure_step(bundle: Bundle, graphs: Graphs, facts: Any) -> dict[str, Any]:
    """Measures one graph of the manifest; the fields of a `StepCost`."""
    import msgspec

    from homeroom.device.resources.costs import StepCost

    before = reset_peak()
    began = time.perf_counter()
    graph = graphs.loaded(facts)
    load_s = time.perf_counter() - began
    feeds = zero_feeds(bundle, facts)
    seconds = median_seconds(lambda: graph(feeds))
    peak = max(0, hardware.peak_resident() - before)
    held = min(peak, max(0, reset_peak() - before))
    return msgspec.structs.asdict(StepCost(seconds=seconds, load_s=load_s, bytes=peak, held_bytes=held))


def reset_peak() -> int:
    """Resident bytes now; the peak is measured from here where the system can."""
    hardware.trim_memory()
    hardware.forget_peak()
    return hardware.resident()


def zero_feeds(bundle: Bundle, facts: Any) -> dict[str, np.ndarray]:
    """Feeds of a step: the bundle's theta, and zeros for all other inputs."""
    import numpy as np

    from homeroom.contract.graph_io import THETA

    feeds = {t.name: np.zeros([max(size, 1) for size in t.shape], t.dtype) for t in facts.inputs}
    if THETA in feeds:  # a smaller tier reads fewer values: which ones makes no difference to the time
        feeds[THETA] = bundle.theta()[: feeds[THETA].size]
    return feeds


if __name__ == "__main__":
    match sys.argv[1:]:
        case [bundle, runtime, threads, modules]:
            main(Path(bundle), runtime, int(threads), modules)  # type: ignore[arg-type]
        case [bundle, runtime]:
            main(Path(bundle), runtime)  # type: ignore[arg-type]
        case _:
            main()
