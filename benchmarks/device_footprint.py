"""Footprint of a device: three modalities, a cold start, a step beside its matrix products, fifty thousand samples."""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from peers.process import HERE, Workers
from peers.verdict import limited

STARTS = 7
TRAININGS = 3
MANY = (1_000, 10_000, 50_000)
WATTS = (1.3, 1.6)  # of a Raspberry Pi 4, a quarter of what the whole board takes with four busy cores
WATTS_SOURCE = (
    "a Raspberry Pi 4 under full load: 5.1 and 5.4 W by two USB meters, 6.3 W at the wall, "
    "chipwired.com/raspberry-pi-power-use; 6.4 W under `stress --cpu 4` as pidramble.com is quoted elsewhere"
)


def run(workers: Workers) -> dict[str, Any]:
    from peers import digits_bundle, prepare

    answers = prepare.export(workers.data, "beetle", workers.work / "bundle-beetle")
    digits = digits_bundle.export(workers.data, workers.work / "bundle-digits")
    lesson = digits_bundle.lesson(workers.data, workers.work / "digits-all", ("word", "picture", "speech"))
    own = ["--bundle", str(digits), "--work", str(workers.work / "device-digits"), "--lesson", str(lesson)]
    three = workers.result(workers.homeroom, [str(HERE / "device_digits.py"), *own], "three-modalities")
    cost = str(HERE / "device_cost.py")

    def costs(what: str, name: str, *more: str, python: str = workers.homeroom) -> dict[str, Any]:
        return workers.result(python, [cost, what, "--bundle", str(answers), *more], name)

    room = str(workers.work / "device-cold")
    costs("fill", "cold-fill", "--work", room, "--count", "300")
    starts = [costs("start", f"cold-{n}", "--work", room)["seconds"] for n in range(STARTS)]
    step = costs("step", "step", "--work", room, "--threads", str(workers.threads), python=sys.executable)
    many = {}
    for count in MANY[: 1 if workers.quick else None]:
        work = str(workers.work / f"device-{count}")
        costs("fill", f"fill-{count}", "--work", work, "--count", str(count))
        runs = [costs("train", f"train-{count}-{n}", "--work", work, "--count", str(count)) for n in range(TRAININGS)]
        middle = {name: median(run[name] for run in runs) for name in ("sample_ms", "peak_rss_mb", "cpu_s")}
        many[str(count)] = runs[0] | middle | {"runs": runs}
    document: dict[str, Any] = {
        "three_modalities": three,
        "cold_start_s": {"median": median(starts), "each": starts},
        "step": step,
        "many": many,
        "energy": {
            "estimate": "CPU seconds on this machine, each at the least and the most watts of a busy core there",
            "watts": WATTS,
            "source": WATTS_SOURCE,
            "joules": {name: [w * row["cpu_s"] for w in WATTS] for name, row in {**many, "three": three}.items()},
        },
    }
    document["targets"] = list(judged(document))
    return document


def judged(document: dict[str, Any]) -> list[dict[str, Any]]:
    three, start, step = document["three_modalities"], document["cold_start_s"], document["step"]
    rate = "FLOP rate of a cached step, of the matrix products alone"
    found = [
        limited("peak resident megabytes with three modalities", three["peak_rss_mb"], 350),
        limited("seconds from start to the first prediction", start["median"], 1.5),
        limited(rate, step["share"], 0.4, at_least=True),
    ]
    rows = list(document["many"].values())
    if len(rows) > 1:
        for name, what in (("sample_ms", "cost a sample"), ("peak_rss_mb", "memory")):
            change = abs(rows[-1][name] / rows[0][name] - 1)
            found.append(limited(f"{what}, change from {MANY[0]:,} to {MANY[-1]:,} samples", change, 0.1))
    return found


def show(document: dict[str, Any]) -> None:
    three, step = document["three_modalities"], document["step"]
    print(f"\nthree modalities, 400 samples: {three['seconds']:.1f} s, peak {three['peak_rss_mb']:.0f} MB")
    print(f"cold start to the first prediction: {document['cold_start_s']['median']:.2f} s (median of {STARTS})")
    print(
        f"a cached step ({step['parts']} x {step['graph']}): {step['step_ms']:.1f} ms, {step['gflop']:.2f} GFLOP "
        f"of matrix products, which take {step['gemm_ms']:.1f} ms alone"
    )
    ways = ", ".join(f"{name} {found:.2f}" for name, found in step["ways_ms"].items())
    print(f"milliseconds of one part on one thread: {ways}")
    for count, row in document["many"].items():
        print(
            f"{int(count):>7,} cached samples: {row['sample_ms']:.3f} ms a sample and epoch, "
            f"peak {row['peak_rss_mb']:.0f} MB, {joules(document, count)} in all"
        )
    energy = document["energy"]
    print(f"three modalities: {joules(document, 'three')}. All joules are estimates: {energy['estimate']},")
    print(f"{energy['watts'][0]} to {energy['watts'][1]} W ({energy['source']})")
    print()


def joules(document: dict[str, Any], name: str) -> str:
    least, most = document["energy"]["joules"][name]
    return f"{least:.0f} to {most:.0f} J"
