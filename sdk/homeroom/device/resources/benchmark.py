"""Starts `probe` in a process of its own and reads what it tells, however it ends; imports measures.

Whatever could crash runs there: an illegal instruction is a sentence here, not the end.
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
    """What the child process told: by stage its facts; `crashed` names the stage that ended it, and how."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    crashed: str = ""
    how: str = ""

    def costs(self) -> Costs | None:
        """What the bundle was measured to cost, if it was measured whole."""
        bundle, base, threads = (self.stages.get(name, {}) for name in ("bundle", "base", "threads"))
        if self.crashed or "bundle_id" not in bundle or "bytes" not in base or "threads" not in threads:
            return None
        features = {
            name.split()[1]: msgspec.convert(facts, FeatureCost)
            for name, facts in self.stages.items()
            if name.startswith("features ") and facts.get("within")
        }
        steps = {
            name.removeprefix("step "): msgspec.convert(facts, StepCost)
            for name, facts in self.stages.items()
            if name.startswith("step ") and "seconds" in facts
        }
        return Costs(
            bundle_id=bundle["bundle_id"],
            place=bundle["place"],
            threads=threads["threads"],
            base_bytes=base["bytes"],
            features=features,
            steps=steps,
        )


def run_benchmark(
    bundle: Path | None = None, *, runtime: Runtime = "onnx", timeout_s: float = BENCHMARK_TIMEOUT_S
) -> BenchmarkResult:
    """Start `benchmark_worker` in a process of its own and read what it tells until it ends, however it ends.

    What a bundle costs is measured in a second one, once the first has found how many threads suit.
    """
    found = _run([str(bundle), runtime] if bundle else [], timeout_s)
    threads = found.stages.get("threads", {}).get("threads")
    if bundle is None or found.crashed or threads is None:
        return found
    held = ",".join(sorted(name for name in sys.modules if name.startswith("homeroom.")))  # before any graph is loaded
    more = _run([str(bundle), runtime, str(threads), held], timeout_s)
    return BenchmarkResult({**found.stages, **more.stages}, more.crashed, more.how)


def _run(arguments: list[str], timeout_s: float) -> BenchmarkResult:
    command = [sys.executable, "-m", "homeroom.device.resources.benchmark_worker", *arguments]
    found, begun = BenchmarkResult(), ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as child:
        try:
            out, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
            found.how = f"took more than {timeout_s:.0f} s"
    for line in out.decode(errors="replace").splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue  # a library's own words
        if "begin" in facts:
            begun = facts["begin"]
        elif "stage" in facts:
            found.stages[facts.pop("stage")] = facts
    if child.returncode:
        found.crashed = begun or "python"
        found.how = found.how or _describe_exit(child.returncode)
    return found


def _describe_exit(code: int) -> str:
    if code in ILLEGAL_INSTRUCTION_CODES:
        return f"uses an instruction that this processor does not have ({ILLEGAL_INSTRUCTION_CODES[code]})"
    if code < 0:
        try:
            return f"ends the process with {signal.Signals(-code).name}"
        except ValueError:
            pass
    return f"ends the process with code {code}"
