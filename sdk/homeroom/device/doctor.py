"""The doctor: checks whether a machine is fit for Homeroom, and names a remedy for what is not.

All that could crash runs in the benchmark's process: an illegal instruction becomes a check here, not the end.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from homeroom.contract.manifest import Runtime
from homeroom.device.resources.benchmark import BenchmarkResult, run_benchmark
from homeroom.device.resources.benchmark_worker import LIBRARY_PACKAGES
from homeroom.device.resources.costs import Costs
from homeroom.errors import HomeroomError
from homeroom.system import clock, hardware
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

OLDEST_ONNXRUNTIME = (1, 22)
LEAST_FREE_BYTES = 500_000_000
LEAST_MEMORY_BYTES = 256_000_000
SLOW_FSYNC_S = 0.5
EARLIEST_DATE = datetime.date(2026, 1, 1)  # a right clock shows no earlier day
CLOCK_LIFETIME = datetime.timedelta(days=365 * 20)

CheckState = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Check:
    """One line of the report; `remedy` is the command or the step that resolves it."""

    name: str
    says: str
    state: CheckState = "ok"
    remedy: str = ""


def examine(directory: Path | None = None, bundle: Path | None = None) -> tuple[list[Check], Costs | None]:
    """Runs every check, in the order of the report; returns them and the bundle's costs here, if there is one.

    directory: a device directory, whose bundle is tried too.
    bundle: a folder or .homeroom file to try in its place.
    """
    hardware.refuse_32_bit()
    checks = [*_check_machine(), *_check_disk(directory or Path(tempfile.gettempdir()))]
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path | None = None
        runtime: Runtime = "onnx"
        if directory is not None:
            more, folder, runtime = _check_directory(directory)
            checks += more
        if bundle is not None:
            more, folder = _unpack(bundle, Path(scratch))
            checks += more
        result = run_benchmark(folder, runtime=runtime)
        checks += _check_benchmark(result, folder, bundle or folder, runtime)
    costs = result.costs()
    if directory is not None and bundle is None and costs is not None:
        checks += _keep_costs(directory, costs)
    return checks, costs


def _check_machine() -> Iterator[Check]:
    flags = " ".join(hardware.simd()) or "vector instructions unknown"
    yield Check("machine", f"{platform.machine()}, {hardware.cores()} cores, {flags}")
    yield Check("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}, 64-bit")
    memory = hardware.memory()
    says = f"{format_bytes(memory.limit)}" + ("" if memory.limit_from == "machine" else f" by {memory.limit_from}")
    if memory.limit_from != "machine":
        says += f" of {format_bytes(memory.total)}"
    says += f", {format_bytes(min(memory.available, memory.limit))} free"
    remedy = f"allow at least {format_bytes(LEAST_MEMORY_BYTES)}" if memory.limit < LEAST_MEMORY_BYTES else ""
    yield Check("memory", says, "wrong" if remedy else "ok", remedy)
    power, heat = hardware.power(), hardware.celsius()
    battery = "no battery" if power.share is None else f"battery {power.share:.0%}"
    plugged = {True: ", plugged in", False: ", not plugged in", None: ""}[power.plugged]
    yield Check("power", battery + plugged + ("" if heat is None else f", processor {heat:.0f} °C"))
    yield check_clock(clock.now())


def check_clock(now: datetime.datetime) -> Check:
    """Checks whether the system's time is plausible."""
    says = f"{now:%Y-%m-%d %H:%M} UTC"
    if EARLIEST_DATE <= now.date() <= EARLIEST_DATE + CLOCK_LIFETIME:
        return Check("clock", says)
    remedy = "sudo timedatectl set-ntp true" if sys.platform == "linux" else "set the system's date and time"
    return Check("clock", f"{says} cannot be right; retention dates and quiet hours go by it", "wrong", remedy)


def _check_disk(folder: Path) -> Iterator[Check]:
    free = hardware.disk_free(folder)
    existing = next((p for p in (folder, *folder.absolute().parents) if p.is_dir()), folder)
    try:
        sync_s = fsync_seconds(existing)
    except OSError as problem:
        says = f"cannot be written: {problem.strerror}"
        yield Check("disk", says, "wrong", f"make {existing} writable for this user")
        return
    says = f"{format_bytes(free or 0)} free at {existing}, a durable write takes {sync_s * 1e3:.1f} ms"
    if free is not None and free < LEAST_FREE_BYTES:
        yield Check("disk", says, "wrong", f"free {format_bytes(LEAST_FREE_BYTES - free)} or more")
    elif sync_s > SLOW_FSYNC_S:
        yield Check("disk", says, "note", "a card this slow is often failing: replace it by a new one, class A1 or A2")
    else:
        yield Check("disk", says)


def fsync_seconds(folder: Path, runs: int = 5) -> float:
    """Median time of writing 4 KB and fsync, in seconds."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".homeroom-doctor-") as file:
        for _ in range(runs):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _check_directory(directory: Path) -> tuple[list[Check], Path | None, Runtime]:
    """Checks of a device directory, the folder of its bundle, and the runtime of its graphs."""
    from homeroom.device.install import installed_bundle
    from homeroom.store import Store
    from homeroom.store.open import is_device

    if not is_device(directory):
        remedy = f"homeroom device init {quoted(directory)} --bundle BUNDLE"
        return [Check("directory", f"there is no device in {directory}", "wrong", remedy)], None, "onnx"
    try:
        with Store.open(directory) as store:
            store.check_seals()
            installed, warning, damage = installed_bundle(store), store.clock_warning(), store.damage()
            edited = store.edited
            says = f"{counted(store.count(), 'sample')}, master key in {_KEY_LOCATIONS[store.key_location]}"
    except HomeroomError as problem:
        return [Check("directory", str(problem.what), "wrong", problem.remedy)], None, "onnx"
    checks = [Check("directory", says)]
    if warning:
        checks.append(Check("clock", warning, "note", "set the clock; it is believed after a week"))
    if edited:
        remedy = f"if you put a copy back yourself: homeroom device accept-restored {quoted(directory)}"
        checks.append(Check("edits", f"{edited}; nothing is sent", "wrong", remedy))
    if damage:
        last = f"{len(damage)} times, last {damage[-1]}"
        checks.append(Check("damage", last, "note", "replace the card or disk if this goes on"))
    if installed is None:
        remedy = f"homeroom device init {quoted(directory)} --bundle BUNDLE"
        return [*checks, Check("bundle", "none is installed", "wrong", remedy)], None, "onnx"
    return checks, directory / "bundles" / installed.bundle_id, installed.runtime


def _keep_costs(directory: Path, costs: Costs) -> Iterator[Check]:
    """Stores the measured costs in the directory, for the planner."""
    from homeroom.device.plan import keep_costs
    from homeroom.store import Store

    try:
        with Store.open(directory) as store:
            keep_costs(store, costs)
    except HomeroomError as problem:
        yield Check("directory", problem.what, "wrong", problem.remedy)


_KEY_LOCATIONS = {
    "folder": "the folder HOMEROOM_KEYS",
    "keyring": "the system's keyring",
    "user": "the user's configuration",
}


def _unpack(bundle: Path, scratch: Path) -> tuple[list[Check], Path | None]:
    from homeroom.runtime.bundle import install
    from homeroom.runtime.fallback import take_along

    try:
        return [], take_along(install(bundle, scratch, root=None), bundle).path
    except HomeroomError as problem:
        return [Check("bundle", problem.what, "wrong", problem.remedy)], None


def _check_benchmark(
    result: BenchmarkResult, folder: Path | None = None, source: Path | None = None, runtime: Runtime = "onnx"
) -> Iterator[Check]:
    """The benchmark's checks. folder: of the bundle that was tried; source: what its second file belongs beside."""
    for name, facts in result.stages.items():
        yield from _check_stage(name, facts)
    backbones = {name.split()[1] for name in result.stages if name.startswith("features ")}
    fit = {n.split()[1] for n, facts in result.stages.items() if n.startswith("features ") and facts.get("within")}
    for modality in sorted(backbones - fit):
        yield _other_features(modality, folder, source, runtime)
    if result.crashed:
        name = result.crashed.removeprefix("library ")
        package = LIBRARY_PACKAGES.get(name, name)
        remedy = f"pip install --force-reinstall {package}"
        if package not in LIBRARY_PACKAGES.values():
            remedy = "pip install 'onnxruntime==1.22.0', the oldest release that runs here"
        yield Check(package.split()[0], f"{result.crashed} {result.how}", "wrong", remedy)


def _other_features(modality: str, folder: Path | None, source: Path | None, runtime: Runtime) -> Check:
    from homeroom.runtime.bundle import open_bundle
    from homeroom.runtime.fallback import absent, fallback_needed, second_file

    if folder and source and (graphs := absent(bundle := open_bundle(folder, root=None), modality, runtime)):
        place = second_file(source)
        remedy = f"ask whoever made the bundle for {place.name}, and put it into {place.parent}"
        return Check("golden", fallback_needed(bundle, place, graphs).what, "wrong", remedy)
    says = f"{modality}: this machine computes other features than the golden samples at every precision"
    return Check("golden", says, "wrong", "pip install -U onnxruntime, or ask for a bundle for this processor")


def _check_stage(name: str, facts: dict[str, Any]) -> Iterator[Check]:
    if "problem" in facts:
        package = LIBRARY_PACKAGES.get(name.removeprefix("library "), name.split()[0])
        bundled = name.split()[0] in ("bundle", "features", "step", "threads", "base")
        remedy = facts.get("remedy") or ("get the bundle again" if bundled else f"pip install -U {package}")
        yield Check(package, facts["problem"], "wrong", remedy)
    elif name == "numpy":
        says = f"{facts['gemm_gflops']:.1f} GFLOP/s float32, memory copied at {facts['copy_gbs']:.1f} GB/s"
        yield Check("arithmetic", says)
    elif name == "onnxruntime":
        number = tuple(int(part) for part in facts["version"].split(".")[:2])
        remedy = "pip install -U onnxruntime" if number < OLDEST_ONNXRUNTIME else ""
        yield Check("runtime", f"onnxruntime {facts['version']}", "wrong" if remedy else "ok", remedy)
    elif name == "bundle":
        yield Check("bundle", f"{facts['bundle_id'][:12]}, signed and undamaged")
    elif name == "threads":
        yield Check("threads", f"{facts['threads']} of {hardware.cores()} cores are fastest")
    elif name.startswith("features "):
        _, modality, precision = name.split()
        says = f"{modality} {precision}: cosine {facts['mean']:.4f} (worst {facts['worst']:.4f})"
        says += f", {facts['seconds'] * 1e3:.1f} ms an input, {format_bytes(facts['bytes'])}"
        yield Check("golden", says) if facts["within"] else Check("golden", says, "note", "too far: the next is tried")
    elif name.startswith("step "):
        says = f"{name.removeprefix('step ')}: {facts['seconds'] * 1e3:.1f} ms a batch, {format_bytes(facts['bytes'])}"
        yield Check("step", says)


def format_bytes(count: float) -> str:
    """Bytes as MB or GB (10^6, 10^9)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
