"""The workers of `device_footprint`, each a process: fill a device, start it cold, train it once, time one step."""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from peers import data, measure

SUBJECTS = 40  # pupils that give the same answers, so that many samples need few features
BUDGET_MB = 320.0
REPEATS = 30


def fill(args: argparse.Namespace) -> dict[str, Any]:
    """Short answers from all over the corpus, their features cached; a pupil more where the answers begin again."""
    from homeroom import Device, Sample
    from homeroom.train.features.examples import examples

    answers, _ = data.read(args.data, "beetle")
    answers = answers[:: max(1, len(answers) // args.count)]  # long and short ones as in all of them
    rows = [
        Sample(
            reference=answer.reference,
            answer=answer.answer,
            labels={"grade": answer.label},
            subject=f"p-{number // len(answers)}-{number % SUBJECTS}",
            source=f"{number}",
        )
        for number, answer in ((n, answers[n % len(answers)]) for n in range(args.count))
    ]
    with Device.open(args.work, bundle=args.bundle) as device:
        device.add(*rows, gates=False)
        stored = list(device.store.select(lambda sample: True))
        examples(device.store, device.bundle, device.graphs, stored, room=0)
    return {"samples": args.count}


def start(args: argparse.Namespace) -> dict[str, Any]:
    from homeroom import Device, Sample

    with Device.open(args.work) as device:
        answer = device.predict(Sample(reference="a closed path", answer="the path is closed"))["grade"]
    return {"answer": str(answer.best)}


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Some epochs within a budget of memory, of 1,000 samples as many steps as of 10,000: an arena grows for a while.

    What a sample costs is the last epoch's, its validation included: loading the graphs is paid once, however many
    samples there are. The rate is constant, so that no layer settles: the last epoch is the same work for all.
    """
    from homeroom import Device
    from homeroom.train.settings import advised

    marks: list[tuple[int, int, float]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "training":
            marks.append((done, total, time.perf_counter()))

    with Device.open(args.work) as device:
        epochs = max(2, 20_000 // args.count)
        settings = advised(device.bundle.manifest, epochs=epochs, patience=epochs, constant_rate=True)
        report = device.train(minutes=30, settings=settings, megabytes=BUDGET_MB, progress=progress)
    assert report.plan is not None
    last, total, end = marks[-1]
    epoch_s = end - next(at for done, _, at in marks if done == last - total // epochs)
    return {
        "samples": report.samples,
        "epochs": report.epochs,
        "sample_ms": 1000 * epoch_s / report.samples,
        "seconds_once": report.seconds - report.epochs * epoch_s,
        "budget_mb": BUDGET_MB,
        "why": report.plan.why,
    }


def step(args: argparse.Namespace) -> dict[str, Any]:
    """The largest step on real features, in the parts that a device runs it in, and its matrix products alone.

    Those are numpy's, on as many threads, in the quicker of two ways: one product after the other, each on all threads;
    or all products of a part on one thread, the parts side by side.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import onnx
    from threadpoolctl import threadpool_limits

    from homeroom import Device
    from homeroom.train.features.dataset import Dataset
    from homeroom.train.features.examples import examples

    with Device.open(args.work, threads=args.threads) as device:
        manifest, graphs = device.bundle.manifest, device.graphs
        stored = list(device.store.each_sample())
        dataset = Dataset(manifest, examples(device.store, device.bundle, graphs, stored))
        batches = dataset.plan(graphs.steps("grad"), np.random.default_rng(0), manifest.training.batch)
        batch = max(batches, key=lambda b: (len(b.positions), sum(n for _, n in sorted(b.graph.tokens.items()))))
        work = []
        for part in batch.parts():
            feeds = dataset.feeds(part) | {"theta": device.bundle.theta()} | dataset.targets_of(part)
            feeds["weights"] = np.full((part.graph.batch, len(manifest.tasks)), 1 / batch.size, np.float32)
            work.append((part.graph, feeds))
        step_s = timed(lambda: list(graphs.run_all(work)))
        path = device.bundle.file(work[0][0].file)
    pairs = list(products(onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)))
    rng = np.random.default_rng(0)
    one = [tuple(rng.standard_normal(shape).astype(np.float32) for shape in pair) for pair in pairs]
    each = [[(a.copy(), b.copy()) for a, b in one] for _ in work]

    def multiply(arrays: Any) -> None:
        for a, b in arrays:
            np.matmul(a, b)

    after_s = sum(timed(lambda a=a, b=b: np.matmul(a, b)) for part in each for a, b in part)
    with threadpool_limits(1), ThreadPoolExecutor(args.threads) as pool:
        beside_s = timed(lambda: list(pool.map(multiply, each)))
    gemm_s = min(after_s, beside_s)
    flop = sum(2 * np.prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * a[-1] * b[-1] for a, b in pairs)
    return {
        "graph": path.name,
        "parts": len(work),
        "step_ms": 1000 * step_s,
        "gemm_ms": 1000 * gemm_s,
        "gemm_ways_ms": {"one after the other": 1000 * after_s, "parts side by side": 1000 * beside_s},
        "gflop": float(flop) * len(work) / 1e9,
        "products": len(pairs),
        "share": gemm_s / step_s,
        "ways_ms": {name: 1000 * seconds for name, seconds in ways(str(path), work[0][1]).items()},
    }


def ways(path: str, feeds: Mapping[str, Any]) -> dict[str, float]:
    """Median seconds of one part on one thread, by how onnxruntime runs it; the first is how a device does."""
    import numpy as np
    import onnxruntime as ort

    def session(**asked: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.enable_mem_pattern = 1, False
        for name, value in asked.items():
            setattr(options, name, value)
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    plain = session()
    binding = plain.io_binding()
    outputs = {one.name: np.zeros(one.shape, np.float32) for one in plain.get_outputs()}
    for name, array in feeds.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    each: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain.run(None, feeds),
        "IO binding": lambda: plain.run_with_iobinding(binding),
    }
    for name, asked in (
        ("memory pattern", {"enable_mem_pattern": True}),
        ("no arena", {"enable_cpu_mem_arena": False}),
    ):
        each[name] = functools.partial(session(**asked).run, None, feeds)
    found = {name: list[float]() for name in each}
    for _ in range(REPEATS):  # in turns, so that a slow moment of the machine meets all of them
        for name, run in each.items():
            begun = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - begun)
    return {name: median(seconds) for name, seconds in found.items()}


def products(model: Any) -> Any:
    """The two shapes of each MatMul and Gemm, transposed as it is computed."""
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    shapes |= {v.name: list(v.dims) for v in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "FusedMatMul"):
            a, b = (list(shapes[name]) for name in node.input[:2])
            flags = {attribute.name: attribute.i for attribute in node.attribute}
            if flags.get("transA"):
                a[-1], a[-2] = a[-2], a[-1]
            if flags.get("transB"):
                b[-1], b[-2] = b[-2], b[-1]
            yield tuple(a), tuple(b)


def timed(work: Any) -> float:
    """Median seconds of a call."""
    work()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return median(found)


def main() -> None:
    clock = measure.Clock()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fill", "start", "train", "step"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    measure.write(args.out, clock, **globals()[args.what](args))


if __name__ == "__main__":
    main()
