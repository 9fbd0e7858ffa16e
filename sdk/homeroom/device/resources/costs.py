"""The measured costs of one bundle on this machine.

A measurement holds for one bundle, one runtime and one processor (`Costs.belongs_to`).
"""

from __future__ import annotations

import platform

import msgspec

from homeroom.contract.manifest import Runtime
from homeroom.system import hardware

RUNTIME_PACKAGES: dict[Runtime, str] = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}


class FeatureCost(msgspec.Struct, frozen=True, kw_only=True):
    """One backbone: its precision, its similarity to the golden features, and the cost of an input.

    `mean`, `worst`: cosine similarity. `seconds`: an input of mean `size` (characters of a text, else 0) and mean
    `tokens`. `bytes`: peak above the process's base.
    """

    precision: str
    mean: float
    worst: float
    within: bool
    seconds: float
    size: float
    tokens: float
    load_s: float
    bytes: int


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a graph: seconds a batch, bytes at its peak, and `held_bytes` of them while it stays loaded."""

    seconds: float
    load_s: float
    bytes: int
    held_bytes: int


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of a bundle. `features`: by modality; `steps`: by graph file; `base_bytes`: before any graph loads."""

    bundle_id: str
    place: str  # the runtime and processor, as `hardware_fingerprint` names them
    threads: int
    base_bytes: int
    features: dict[str, FeatureCost] = {}
    steps: dict[str, StepCost] = {}

    def belongs_to(self, bundle_id: str, place: str) -> bool:
        """Whether the costs are of this bundle on this `hardware_fingerprint`."""
        return (self.bundle_id, self.place) == (bundle_id, place)


def hardware_fingerprint(runtime: Runtime = "onnx") -> str:
    """What measurements depend on: version of homeroom and runtime, the processor's kind and SIMD sets, its cores."""
    from importlib.metadata import version

    kind = f"{platform.system()} {platform.machine()} {' '.join(hardware.simd())}"
    software = f"homeroom {version('homeroom')}, {RUNTIME_PACKAGES[runtime]} {version(RUNTIME_PACKAGES[runtime])}"
    return f"{software}, {kind}, {hardware.cores()} cores"
