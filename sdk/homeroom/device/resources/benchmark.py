"""Runs the benchmark worker in a process of its own and reads its results, however it ends.

All that could crash runs there: an illegal instruction becomes a result, not the end of this process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract.manifest import Runtime
from homeroom.device.resources.costs import Costs, FeatureCost, StepCost

BENCHMARK_TIMEOUT_S = 300.0
ILLEGAL_INSTRUCTION_CODES = {-4: "SIGILL", 0xC000001D: "0xC000001D"}


@dataclass
class BenchmarkResult:
    """The worker's results by stage; `crashed` names the stage that ended it, `how` says in what way."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    crashed: str = ""
    how: str = ""

    def costs(self) -> Costs | None:
        """The bundle's costs; None if it was not measured completely."""
        bundle, base, threads = (self.stages.get(name, {}) for name in ("bundle", "base", "threads"))
        if self.crashed or "bundle_id" not in bundle or "bytes" not in base or "threads" not in threads:
            return None
        costs = Costs(**bundle, threads=threads["threads"], base_bytes=base["bytes"], features={}, steps={})
        for name, facts in self.stages.items():
            if name.startswith("features ") and facts.get("within"):
                costs.features[name.split()[1]] = msgspec.convert(facts, FeatureCost)
            elif name.startswith("step ") and "seconds" in facts:
                costs.steps[name.removeprefix("step ")] = msgspec.convert(facts, StepCost)
        return costs


def run_benchmark(
    bundle: Path | None = None, *, runtime: Runtime = "onnx", timeout_s: float = BENCHMARK_TIMEOUT_S
) -> BenchmarkResult:
    """Runs the benchmark worker, and with a bundle a second one that measures its costs with the best thread count.

    bundle: unpacked folder to try; None tries machine and libraries alone.
    runtime: of the bundle's graphs.
    timeout_s: of each worker.
    """
    result = _run([str(bundle), runtime] if bundle else [], timeout_s)
    threads = result.stages.get("threads", {}).get("threads")
    if bundle is None or result.crashed or threads is None:
        return result
    modules = sorted(name for name in sys.modules if name.startswith("homeroom."))  # before any graph is loaded
    more = _run([str(bundle), runtime, str(threads), ",".join(modules)], timeout_s)
    return BenchmarkResult({**result.stages, **more.stages}, more.crashed, more.how)


def _run(arguments: list[str], timeout_s: float) -> BenchmarkResult:
    command = [sys.executable, "-m", "homeroom.device.resources.benchmark_worker", *arguments]
    result, begun = BenchmarkResult(), ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as child:
        try:
            out, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            result.how = f"took more than {timeout_s:.0f} s"
    for line in out.decode(errors="replace").splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # a library's output
        if "begin" in facts:
            begun = facts["begin"]
        elif "stage" in facts:
            result.stages[facts.pop("stage")] = facts
    if child.returncode:
        result.crashed = begun or "python"
        result.how = result.how or _describe_exit(child.returncode)
    return result


def _describe_exit(code: int) -> str:
    if code in ILLEGAL_INSTRUCTION_CODES:
        return f"uses an instruction that this processor does not have ({ILLEGAL_INSTRUCTION_CODES[code]})"
    if code < 0:
        try:
            return f"ends the process with {signal.Signals(-code).name}"
        except ValueError:
            pass
    return f"ends the process with code {code}"
