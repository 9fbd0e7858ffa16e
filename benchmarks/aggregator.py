"""Benchmark of the aggregator: merging, HTTP with signatures and SQLite, and starting on a long log.

    python benchmarks/aggregator.py --json aggregator.json       about ten minutes on an idle machine
    python benchmarks/aggregator.py --quick                      a tenth of everything
    python benchmarks/aggregator.py --only hostile               one of merging, http, hostile, start

1. Merging 1 MB updates, 10 to 10,000 of them, each count in a fresh process (`aggregator_merge.py`): processor time
   against a bare numpy running sum over the same bytes, update by update in turn; decoding and checks apart; peak
   memory. With --flower PYTHON (an interpreter that has flwr) also Flower's `aggregate_inplace`; without it this is
   reported as not measured.
2. The server as a process: 10,000 enrolled devices send one signed update each (about 4 kB), over 1, 8 and 64
   connections, from a second process, while a third one polls for versions (`aggregator_load.py`).
3. The server on a log of 100,000 such updates, after a kill: seconds to the first answer.
4. Hostile neighbours, a thousand silent, slow, greedy and malformed connections each (`aggregator_hostile.py`); the
   server on one core, all load on the other, five alternations of three: they attack the server; they attack a bare
   sink on the server's core, so that only the machine is under load; they attack a bare server of the same library.
   Honest devices poll and send meanwhile, to the server, to the server, and (polls only) to the bare one. The sink
   hangs up on nobody, so it bears less than the server, whose neighbours come again: the comparison is strict. The
   bare server bounds nothing, and a thousand greedy neighbours hold it for seconds; so polls are also compared with a
   hundred neighbours of each kind, beside which it still answers. The honest devices are kept on the load's core like
   their neighbours: elsewhere they would at times be measured on the server's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

from aggregator_hostile import POLLERS
from aggregator_load import key_of
from homeroom.contract.canonical_json import canonical, digest_file
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.manifest import File, Manifest, Modality, Slot, TablePreprocess, Task, Tolerance
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key, public_hex
from homeroom.contract.update import make_update
from homeroom.runtime.bundle import write_signature
from homeroom_aggregator.admin.folder import create_folder, open_rounds
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.members import StoredInvitation
from peers.verdict import limited, shown

HERE = Path(__file__).resolve().parent
SMALL = 960  # values of a small update: about 4 kB with its header
LIMIT_S = 3600
LOADS = {1: 500, 8: 2000, 64: 7500}  # devices by connections; 10,000 in all
POLLER = 10_000  # the number of the device that polls
ROOT = new_key()
SERVER_CORE, LOAD_CORE, HONEST_UPDATES = 0, 1, 400
NEIGHBOURS, FEW_NEIGHBOURS, ALTERNATIONS = 1000, 100, 5


def make_folder(work: Path, name: str) -> Path:
    """An aggregator's folder with a bundle of SMALL values, and its round and layout for the workers."""
    bundle = work / f"{name}-bundle"
    (bundle / "golden").mkdir(parents=True)
    (bundle / "golden" / "samples.jsonl").write_text("")
    (bundle / "theta.safetensors").write_bytes(safetensors.numpy.save({"theta": np.zeros(SMALL, np.float32)}))
    paths = ("theta.safetensors", "golden/samples.jsonl")
    modality = Modality(
        name="table",
        features_id="1" * 64,
        encoder="none",
        taps=("row",),
        dim=2,
        buckets=(1,),
        preprocess=TablePreprocess(columns=()),
        tolerance=Tolerance(0.9, 0.9),
    )
    manifest = Manifest(
        format=1,
        name="load",
        version=1,
        files={p: File(digest_file(bundle / p), (bundle / p).stat().st_size) for p in paths},
        modalities=(modality,),
        slots=(Slot("facts", "table"),),
        tasks=(Task(name="grade", kind="classification", reads=("facts",), labels=("a", "b"), width=2),),
        segments=tuple(
            Segment(name=f"s{n}", parameters=(Parameter("w", (SMALL // 2,)),), meaning="load") for n in range(2)
        ),
        graphs=(),
        theta="theta.safetensors",
        golden="golden",
    )
    exporter = new_key()
    (bundle / "manifest.json").write_bytes(canonical(manifest))
    write_signature(bundle, manifest, certify(ROOT, "exporter", exporter, "load"), exporter)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=100, min_devices=3, max_staleness=1 << 30)
    facts = create_folder(work / name, bundle, institution="load", root_key=ROOT, configuration=asked)
    told = {"configuration": msgspec.to_builtins(facts.configuration), "layout": msgspec.to_builtins(manifest.layout)}
    (work / f"{name}.json").write_text(json.dumps(told))
    return work / name


def enrol(rounds: Rounds, count: int) -> None:
    with rounds.change():
        for number in range(count):
            rounds.members.join(public_hex(key_of(number)), StoredInvitation(f"benchmark {number}"))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[int, float, int]]:
    """The server in a process of its own: (port, seconds to the first answer, process id); killed at the end."""
    command = [sys.executable, "-m", "homeroom", "district", "serve", str(folder), "--port", "0"]
    start = time.perf_counter()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            port = next(int(line.rsplit(":", 1)[1]) for line in process.stdout if line.startswith("listening"))
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=LIMIT_S).read()
            yield port, time.perf_counter() - start, process.pid
        finally:
            process.kill()


def worker(name: str, *arguments: object, python: str = sys.executable) -> dict[str, Any]:
    done = subprocess.run(
        [python, str(HERE / name), *map(str, arguments)], stdout=subprocess.PIPE, timeout=LIMIT_S, check=True
    )
    return dict(json.loads(done.stdout)) if done.stdout.strip() else {}


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def merging(work: Path, quick: bool, python: str | None) -> dict[str, Any]:
    folder = work / "updates"
    folder.mkdir()
    worker("aggregator_merge.py", "write", "--folder", folder)
    found = [
        worker("aggregator_merge.py", "merge", "--folder", folder, "--count", count)
        for count in ((10, 100, 1000) if quick else (10, 100, 1000, 10_000))
    ]
    for row in found:
        print("merge", json.dumps(row), flush=True)
    flowers = (
        [worker("aggregator_merge.py", "flower", "--count", 200, python=python) for _ in range(3)] if python else []
    )
    return {"counts": found, "flower": flowers or "not measured: no --flower interpreter was given"}


def over_http(work: Path, quick: bool) -> dict[str, Any]:
    folder, scale = make_folder(work, "http"), 10 if quick else 1
    rounds = open_rounds(folder)
    enrol(rounds, POLLER + 1)
    rounds.close()
    loads, first = [], 0
    with serving(folder) as (port, _, pid):
        for connections, devices in LOADS.items():
            until, count = work / f"until-{connections}", devices // scale
            common = ["--port", port, "--round", work / "http.json"]
            command = [
                sys.executable,
                HERE / "aggregator_load.py",
                "poll",
                *common,
                "--first",
                POLLER,
                "--until",
                until,
            ]
            with subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE) as poller:
                before, start = cpu_s(pid), time.perf_counter()
                send = ("send", *common, "--first", first, "--count", count, "--connections", connections)
                row = worker("aggregator_load.py", *send)
                used_s = cpu_s(pid) - before
                row["server_cpu_share_of_whole_run"] = used_s / (time.perf_counter() - start)
                row["server_cpu_ms_an_update"] = 1000 * used_s / count  # polls and nonces included
                until.touch()
                polled, _ = poller.communicate(timeout=60)
            row["poll"], row["server_peak_mb"] = json.loads(polled), rss_mb(pid)
            loads.append(row)
            first += count
            print("http", json.dumps(row), flush=True)
    again = open_rounds(folder)
    facts, problems = again.facts(), again.verify()
    again.close()
    return {"loads": loads, "logged_updates": facts["updates"], "version": facts["version"], "problems": problems}


@contextlib.contextmanager
def helper(what: str, until: Path) -> Iterator[int]:
    """A server of `aggregator_hostile.py` on the server's core: its port."""
    command = [sys.executable, str(HERE / "aggregator_hostile.py"), what, "--until", str(until)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            pin(process.pid, SERVER_CORE)
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where there are two."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


@dataclass(frozen=True)
class Attack:
    """So many neighbours of each kind, beside whom honest devices are measured for so many seconds."""

    work: Path
    neighbours: int
    seconds: float

    def latencies(self, attacked: int, honest: int, first: int, *, sends: bool) -> dict[str, Any]:
        """Of honest devices at the port `honest`, while the neighbours attack the port `attacked`."""
        until = self.work / f"until-hostile-{time.monotonic_ns()}"
        command = [sys.executable, str(HERE / "aggregator_hostile.py")]
        options = ["hostile", "--port", attacked, "--count", self.neighbours, "--until", until]
        with subprocess.Popen([*command, *map(str, options)], stdout=subprocess.PIPE) as hostile:
            pin(hostile.pid, LOAD_CORE)
            time.sleep(6)  # every neighbour has come
            options = ["honest", "--port", honest, "--first", first, "--count", HONEST_UPDATES]
            options += ["--seconds", self.seconds, *(("--round", self.work / "hostile.json") if sends else ())]
            with subprocess.Popen([*command, *map(str, options)], stdout=subprocess.PIPE) as devices:
                pin(devices.pid, LOAD_CORE)
                measured, _ = devices.communicate(timeout=LIMIT_S)
            until.touch()
            hung_up, _ = hostile.communicate(timeout=60)
        return {**json.loads(measured), "hung_up": json.loads(hung_up)}


def hostile(work: Path, quick: bool) -> dict[str, Any]:
    folder = make_folder(work, "hostile")
    alternations, seconds = (1, 4) if quick else (ALTERNATIONS, 20)
    many = Attack(work, FEW_NEIGHBOURS if quick else NEIGHBOURS, seconds)
    few = Attack(work, FEW_NEIGHBOURS, seconds)
    rounds = open_rounds(folder)
    enrol(rounds, 3 * alternations * (HONEST_UPDATES + POLLERS))
    rounds.close()
    until, first = work / "until-helpers", itertools.count(0, HONEST_UPDATES + POLLERS)
    rows, rows_of_few = [], []
    with serving(folder) as (port, _, pid), helper("sink", until) as sink, helper("bare", until) as bare:
        pin(pid, SERVER_CORE)
        before_mb = rss_mb(pid)
        for _ in range(alternations):
            rows.append(
                {
                    "ours": many.latencies(port, port, next(first), sends=True),
                    "sink": many.latencies(sink, port, next(first), sends=True),
                    "bare": many.latencies(bare, bare, 0, sends=False),
                }
            )
            print("hostile", json.dumps(rows[-1]), flush=True)
            rows_of_few.append(
                {
                    "ours": few.latencies(port, port, next(first), sends=True),
                    "bare": few.latencies(bare, bare, 0, sends=False),
                }
            )
            print("a hundred of each", json.dumps(rows_of_few[-1]), flush=True)
        grown_mb = rss_mb(pid) - before_mb
    return {
        "alternations": rows,
        "alternations_of_a_hundred": rows_of_few,
        "honest_p99_over_sink": ratio(rows, "honest_p99_ms", "sink"),
        "poll_p99_over_bare": ratio(rows, "poll_p99_ms", "bare"),
        "poll_p99_over_bare_of_a_hundred": ratio(rows_of_few, "poll_p99_ms", "bare"),
        "errors": sum(r[name]["errors"] for r in rows for name in ("ours", "sink")),
        "server_grew_mb": grown_mb,
    }


def ratio(rows: list[dict[str, Any]], figure: str, other: str) -> float:
    """The median of our figure over another's."""
    return statistics.median(row["ours"][figure] / row[other][figure] for row in rows)


def starting(work: Path, quick: bool) -> dict[str, Any]:
    folder, count = make_folder(work, "long"), 10_000 if quick else 100_000
    rounds = open_rounds(folder)
    layout, asked = Layout(rounds.rules.layout.segments), rounds.configuration
    keys = [key_of(n) for n in range(100)]  # one update of each in a release
    delta = np.random.default_rng(2).normal(0, 0.001, SMALL).astype(np.float32)
    start = time.perf_counter()
    for first in range(0, count, 1000):
        with rounds.change():
            for number in range(first, first + 1000):
                key = keys[number % 100]
                update = make_update(key, asked, layout, delta, {"s0": 20, "s1": 20}, rounds.state.version)
                rounds.update(update, public_hex(key))
    rounds.close()  # without a last checkpoint, as after a kill
    filled_s, seconds = time.perf_counter() - start, []
    cpus: list[float] = []
    for _ in range(5):
        with serving(folder) as (_, took_s, pid):
            seconds.append(took_s)
            cpus.append(cpu_s(pid))
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import homeroom_aggregator.server.serve, homeroom_aggregator.cli.serve"], check=True
    )
    size_mb = (folder / "log.db").stat().st_size / 1e6
    found: dict[str, Any] = {"updates": count, "seconds": statistics.median(seconds), "all": seconds, "log_mb": size_mb}
    found["processor_seconds"] = statistics.median(cpus)
    print("start", json.dumps(found), flush=True)
    return {**found, "imports_alone_s": time.perf_counter() - begun, "filled_s": filled_s}


def judged(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of the sections that ran."""
    judges = {"merging": judged_merging, "http": judged_http, "hostile": judged_hostile, "start": judged_start}
    return [row for name, judge in judges.items() if name in document for row in judge(document[name])]


def judged_merging(merged: dict[str, Any]) -> list[dict[str, Any]]:
    rows = merged["counts"]
    peaks = [row["peak_mb"] for row in rows]
    over_numpy = statistics.median(r["merge_ms"] / r["bare_numpy_ms"] for r in rows[1:])
    flower = merged["flower"]
    rate = None
    if isinstance(flower, list):
        theirs, ours = statistics.median(f["ms"] for f in flower), rows[-1]["merge_ms"]
        rate = theirs / ours
        # Theirs decodes as well, ours also verifies a signature, a hash and every bound: said beside the target.
        merged["rate_over_flower_with_decoding_and_checks"] = theirs / (ours + rows[-1]["decode_and_checks_ms"])
    return [
        limited("merge_over_bare_numpy", over_numpy, 1.5),
        limited("merge_peak_spread_mb", max(peaks) - min(peaks), 20),
        limited("merge_growth_after_first_quarter_mb", rows[-1]["growth_after_first_quarter_mb"], 1),
        limited("merge_rate_over_flower", rate, 2, at_least=True),
    ]


def judged_http(http: dict[str, Any]) -> list[dict[str, Any]]:
    loads = http["loads"]
    errors = sum(load["errors"] + load["poll"]["errors"] for load in loads) + len(http["problems"])
    sent = 0 if errors else sum(load["sent"] for load in loads)
    return [
        limited("http_devices_without_error", sent, 10_000, at_least=True),
        limited("http_version_poll_p99_ms", max(load["poll"]["p99_ms"] for load in loads), 20),
    ]


def judged_hostile(hostile: dict[str, Any]) -> list[dict[str, Any]]:
    few = hostile["poll_p99_over_bare_of_a_hundred"]
    return [
        limited("hostile_honest_p99_over_bare_sink", hostile["honest_p99_over_sink"], 2),
        limited("hostile_version_poll_p99_over_bare_server", hostile["poll_p99_over_bare"], 1.5),
        limited("hostile_version_poll_p99_over_bare_server_a_hundred_each", few, 1.5),
        limited("hostile_honest_errors", hostile["errors"], 0),
        limited("hostile_server_grew_mb", hostile["server_grew_mb"], 150),
    ]


def judged_start(start: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        limited("start_logged_updates", start["updates"], 100_000, at_least=True),
        limited("start_s", start["seconds"], 2),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of everything; its targets are not meant to be met"
    )
    parser.add_argument("--flower", help="a Python that has flwr, in an environment of its own")
    parser.add_argument("--only", choices=("merging", "http", "hostile", "start"), help="one section alone")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    args = parser.parse_args()
    document: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average_before": os.getloadavg()[0],
        },
        "quick": args.quick,
    }
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        sections: dict[str, Callable[[], dict[str, Any]]] = {
            "merging": lambda: merging(work, args.quick, args.flower),
            "http": lambda: over_http(work, args.quick),
            "hostile": lambda: hostile(work, args.quick),
            "start": lambda: starting(work, args.quick),
        }
        for name, section in sections.items():
            if args.only in (None, name):
                document[name] = section()
    document["machine"]["load_average_after"] = os.getloadavg()[0]
    document["targets"] = judged(document)
    for row in document["targets"]:
        print(shown(row))
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(args.check and not all(row["met"] for row in document["targets"]))


if __name__ == "__main__":
    sys.exit(main())
