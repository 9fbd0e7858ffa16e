"""Plan from one aggregator to a million devices: the tables of docs/measurements/scale.md.

    python benchmarks/scale.py                                              about a minute: measures here, and plans
    python benchmarks/scale.py --aggregator aggregator.json --json scale.json      with bench-aggregator's figures
    python benchmarks/scale.py --from benchmarks/figures/scale.json         prints these tables again

Measured here: whole syncs (round, update, version) of enrolled devices with a server over HTTP, requests and bytes
counted at the device, processor time at the server; and an update's bytes by codec. Quantities that no run can measure
(frequency and time of syncs, the price of a core) are the assumptions in `Assumed`, printed with the tables as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.verdict import limited

MARKS = ("<!-- scale:begin -->", "<!-- scale:end -->")
VALUES = 100_236  # of the vocabulary lesson's theta, made even
CODECS = ("fixed32", "int8", "int4", "topk")
DEVICES = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Assumed:
    """Estimates, not measurements: each is the author's round figure and an option of this script."""

    syncs_a_day: float = 1.0  # of one device, each with one update; a school day
    busiest_hour: float = 0.25  # share of a day's syncs in its busiest hour: schools keep the same hours
    load: float = 0.5  # share of a core that is planned with, so that a bad hour has room
    retention_days: float = 30.0  # plain updates kept for replay and unlearning (`--retain`)
    district: int = 1_000  # devices under one district's aggregator
    core_month: float = 20.0  # US dollars for a rented core
    egress_gb: float = 0.05  # US dollars for a GB that leaves the data centre
    stored_gb_month: float = 0.10  # US dollars for a GB of disk


def measure(syncs: int) -> dict[str, Any]:
    """Run one aggregator as a process and let devices sync with it one after the other."""
    import numpy as np

    import aggregator as server_side
    from homeroom.contract.invitation import Enrolment
    from homeroom.contract.layout import Layout
    from homeroom.contract.round import RoundConfiguration
    from homeroom.contract.update import make_update
    from homeroom.federation.network.client import Client
    from homeroom_aggregator.admin.folder import open_rounds, read_facts

    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _folder(Path(scratch), server_side.ROOT)
        facts = read_facts(folder)
        rounds = open_rounds(folder)
        server_side.enrol(rounds, syncs)
        layout: Layout = rounds.rules.layout
        rounds.close()
        counts = {segment.name: 20 for segment in layout}
        delta = rng.normal(0, 1e-3, VALUES).astype(np.float32)
        codecs = {
            codec: len(
                make_update(
                    server_side.key_of(0),
                    RoundConfiguration(bundle_id=facts.bundle_id, codec=codec),
                    layout,
                    delta,
                    counts,
                    0,
                )
            )
            for codec in CODECS
        }
        seen = [counting() for _ in range(syncs)]
        before_bytes = _log_bytes(folder)
        with server_side.serving(folder) as (port, _, pid):
            known = Enrolment(
                address=f"http://127.0.0.1:{port}", root=facts.root, institution="x", bundle_id=facts.bundle_id
            )
            begun_s = server_side.cpu_s(pid)
            for number in range(syncs):
                key = server_side.key_of(number)
                client = Client(known, key, transport=seen[number])
                client.round()
                moved = rng.normal(0, 1e-3, VALUES).astype(np.float32)
                client.update(make_update(key, facts.configuration, layout, moved, counts, 0))
                body, received = client.newest(0, _start(), folder / "downloads")
                assert body is None or received
                client.close()
            used_s, peak_mb = server_side.cpu_s(pid) - begun_s, server_side.rss_mb(pid)
        open_rounds(folder).close()  # the write-ahead log is in the file now
        grown = _log_bytes(folder) - before_bytes
    return {
        "values": VALUES,
        "syncs": syncs,
        "requests": statistics.median(one.requests for one in seen),
        "up_bytes": statistics.median(one.up for one in seen),
        "down_bytes": statistics.median(one.down for one in seen),
        "server_cpu_ms": 1000 * used_s / syncs,
        "server_peak_mb": peak_mb,
        "log_bytes": grown / syncs,
        "update_bytes": codecs,
    }


def _start() -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(0, 0.05, VALUES).astype(np.float32)


def _folder(work: Path, root: Any) -> Path:
    """An aggregator's folder for a bundle of VALUES trainable values, which releases after every ten updates."""
    import safetensors.numpy

    from homeroom.contract.canonical_json import canonical, digest_file
    from homeroom.contract.layout import Parameter, Segment
    from homeroom.contract.manifest import File, Manifest, Modality, Slot, TablePreprocess, Task, Tolerance
    from homeroom.contract.round import RoundConfiguration
    from homeroom.contract.signing import certify, new_key
    from homeroom.runtime.bundle import write_signature
    from homeroom_aggregator.admin.folder import create_folder

    bundle, exporter = work / "bundle", new_key()
    (bundle / "golden").mkdir(parents=True)
    (bundle / "golden" / "samples.jsonl").write_text("")
    (bundle / "theta.safetensors").write_bytes(safetensors.numpy.save({"theta": _start()}))
    paths, preprocess = ("theta.safetensors", "golden/samples.jsonl"), TablePreprocess(columns=())
    modality = Modality(
        name="table",
        features_id="1" * 64,
        encoder="none",
        taps=("row",),
        dim=2,
        buckets=(1,),
        preprocess=preprocess,
        tolerance=Tolerance(0.9, 0.9),
    )
    manifest = Manifest(
        format=1,
        name="scale",
        version=1,
        files={p: File(digest_file(bundle / p), (bundle / p).stat().st_size) for p in paths},
        modalities=(modality,),
        slots=(Slot("facts", "table"),),
        tasks=(Task(name="grade", kind="classification", reads=("facts",), labels=("a", "b"), width=2),),
        segments=tuple(
            Segment(name=f"s{n}", parameters=(Parameter("w", (VALUES // 6,)),), meaning="scale") for n in range(6)
        ),
        graphs=(),
        theta="theta.safetensors",
        golden="golden",
    )
    (bundle / "manifest.json").write_bytes(canonical(manifest))
    write_signature(bundle, manifest, certify(root, "exporter", exporter, "scale"), exporter)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=10, min_devices=3, max_staleness=1 << 30)
    create_folder(work / "district", bundle, institution="scale", root_key=root, configuration=asked)
    return work / "district"


def _log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("log.db*"))


def counting() -> Any:
    """A transport of httpx that counts requests and bytes, heads included, as they would be on the wire."""
    import httpx

    class Counting(httpx.BaseTransport):
        def __init__(self) -> None:
            self.inner = httpx.HTTPTransport()
            self.requests = self.up = self.down = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = self.inner.handle_request(request)
            self.requests += 1
            self.up += len(f"{request.method} {request.url.raw_path!r} HTTP/1.1") + _head(request.headers)
            self.up += int(request.headers.get("content-length", 0))
            self.down += 17 + _head(answer.headers) + int(answer.headers.get("content-length", 0))
            return answer

        def close(self) -> None:
            self.inner.close()

    return Counting()


def _head(headers: Any) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers.raw) + 2


def tables(found: dict[str, Any]) -> str:
    """Everything between the marks of docs/measurements/scale.md, computed from one document of figures."""
    sync, assumed = found["sync"], Assumed(**found["assumed"])
    return "\n\n".join([_one_sync(found), _one_machine(found), _many(sync, assumed), _assumptions(assumed)])


def _one_sync(found: dict[str, Any]) -> str:
    sync, machine = found["sync"], found["machine"]
    rows = [
        "| one sync of one device, measured | |",
        "|---|---|",
        f"| measured on | {sync['syncs']} syncs, {machine['cores']} cores, {_busy(machine)} |",
        f"| trainable values (float32) | {sync['values']:,} |",
        f"| requests | {sync['requests']:.0f} |",
        f"| bytes up, with heads and one plain update | {sync['up_bytes']:,.0f} |",
        f"| bytes down, with heads and the newest version | {sync['down_bytes']:,.0f} |",
        f"| processor of the server | {sync['server_cpu_ms']:.1f} ms |",
        f"| growth of the server's log | {sync['log_bytes']:,.0f} bytes |",
        "| an update by codec | "
        + ", ".join(f"{name} {size:,}" for name, size in sync["update_bytes"].items())
        + " bytes |",
    ]
    return "\n".join(rows)


def _busy(machine: dict[str, Any]) -> str:
    before = machine["load_average_before"]
    return "load average not known" if before is None else f"load average {before:.1f} before"


def _one_machine(found: dict[str, Any]) -> str:
    sync, assumed = found["sync"], Assumed(**found["assumed"])
    rows = ["| one aggregator, one process | | |", "|---|---|---|"]
    rate = assumed.load * 1000 / sync["server_cpu_ms"]
    held = rate * 3600 / assumed.busiest_hour / assumed.syncs_a_day
    rows.append(f"| peak memory in this run | {sync['server_peak_mb']:.0f} MB | measured |")
    rows.append(f"| syncs a second at {assumed.load:.0%} of one core | {rate:,.0f} | from the figures above |")
    rows.append(f"| devices that it holds | {_rounded(held)} | estimate: assumptions below |")
    for load in (found.get("aggregator") or {}).get("loads", []):
        what = f"{load['connections']} connections, updates of {load['update_bytes']:,} bytes"
        rate_line = f"{load['updates_a_second']:,.0f} a second, p99 {load['p99_ms']:,.0f} ms, {load['errors']} errors"
        rows.append(f"| {what} | {rate_line} | measured by `bench-aggregator`{_how(found)} |")
    return "\n".join(rows)


def _how(found: dict[str, Any]) -> str:
    return ", quick run" if found["aggregator"].get("quick") else ""


def _many(sync: dict[str, Any], assumed: Assumed) -> str:
    rows = [
        "| devices, estimate | " + " | ".join(f"{n:,}" for n in DEVICES) + " |",
        "|---|" + "---|" * len(DEVICES),
    ]
    plans = [plan(n, sync, assumed) for n in DEVICES]
    for name, key, form in (
        ("syncs a second in the busiest hour", "syncs_s", "{:,.1f}"),
        ("requests a second then", "requests_s", "{:,.0f}"),
        ("Mbit a second up, down then", "mbit", "{}"),
        ("cores for one flat aggregator's work", "cores", "{:,.1f}"),
        ("GB of log a day", "log_gb_day", "{:,.1f}"),
        ("aggregators of districts", "districts", "{:,.0f}"),
        ("each of them: requests a second then", "district_requests_s", "{:,.1f}"),
        ("region: updates from districts a day", "region_updates", "{:,.0f}"),
        ("dollars a month: cores, egress, disk", "dollars", "{}"),
        ("dollars a month for one device", "dollars_each", "{:.4f}"),
    ):
        rows.append(f"| {name} | " + " | ".join(form.format(p[key]) for p in plans) + " |")
    return "\n".join(rows)


def plan(devices: int, sync: dict[str, Any], assumed: Assumed) -> dict[str, Any]:
    """What so many devices ask for, from one device's measured sync and the assumptions."""
    a_day = devices * assumed.syncs_a_day
    peak = a_day * assumed.busiest_hour / 3600
    cores = peak * sync["server_cpu_ms"] / 1000 / assumed.load
    districts = max(1, round(devices / assumed.district))
    log_gb = a_day * sync["log_bytes"] / 1e9
    down_gb = a_day * sync["down_bytes"] / 1e9
    parts = (
        cores * assumed.core_month,
        30 * down_gb * assumed.egress_gb,
        assumed.retention_days * log_gb * assumed.stored_gb_month,
    )
    return {
        "syncs_s": peak,
        "requests_s": peak * sync["requests"],
        "mbit": f"{peak * sync['up_bytes'] * 8e-6:,.0f}, {peak * sync['down_bytes'] * 8e-6:,.0f}",
        "cores": cores,
        "log_gb_day": log_gb,
        "districts": districts,
        "district_requests_s": peak * sync["requests"] / districts,
        "region_updates": districts * assumed.syncs_a_day,
        "dollars": ", ".join(f"{part:,.0f}" for part in parts),
        "dollars_each": sum(parts) / devices,
    }


def _assumptions(assumed: Assumed) -> str:
    told = dataclasses.asdict(assumed)
    names = {
        "syncs_a_day": "syncs of a device a day",
        "busiest_hour": "share of a day in its busiest hour",
        "load": "share of a core that is planned with",
        "retention_days": "days that updates are kept",
        "district": "devices of a district",
        "core_month": "dollars for a core a month",
        "egress_gb": "dollars for a GB out",
        "stored_gb_month": "dollars for a GB stored a month",
    }
    rows = ["| assumed, not measured: round figures of ours | |", "|---|---|"]
    return "\n".join([*rows, *(f"| {names[key]} | {value:g} |" for key, value in told.items())])


def _rounded(value: float) -> str:
    """Two digits that count: it is an estimate."""
    if value < 100:
        return f"{value:.0f}"
    scale = 10 ** (len(str(int(value))) - 2)
    return f"{round(value / scale) * scale:,}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--from", dest="known", type=Path, help="measure nothing: figures that --json wrote")
    parser.add_argument("--aggregator", type=Path, help="what `benchmarks/aggregator.py --json` wrote")
    parser.add_argument("--quick", action="store_true", help="a tenth of the syncs")
    for field in dataclasses.fields(Assumed):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, help=f"assumed: {field.default:g}")
    args = parser.parse_args()
    if args.known:
        found = json.loads(args.known.read_text())
    else:
        load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        found = {
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "load_average_before": load_before,
            },
            "quick": args.quick,
            "sync": measure(20 if args.quick else 200),
            "assumed": dataclasses.asdict(Assumed()),
        }
    chosen = {f.name: value for f in dataclasses.fields(Assumed) if (value := getattr(args, f.name)) is not None}
    found["assumed"] = {**found["assumed"], **chosen}
    if args.aggregator:
        theirs = json.loads(args.aggregator.read_text())
        kept = ("connections", "sent", "errors", "updates_a_second", "update_bytes", "p50_ms", "p99_ms")
        found["aggregator"] = {
            "quick": theirs["quick"],
            "machine": theirs["machine"],
            "loads": [{name: load[name] for name in kept} for load in theirs["http"]["loads"]],
        }
    held = Assumed(**found["assumed"])
    value = held.load * 3600e3 / found["sync"]["server_cpu_ms"] / held.busiest_hour / held.syncs_a_day
    found["targets"] = [limited("devices_one_process_holds", value, 10_000, at_least=True)]
    print(tables(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
