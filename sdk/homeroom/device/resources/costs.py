"""What a machine, and one bundle on it, were measured to cost; data alone, imports nothing of the house.

A measurement belongs to one bundle, one runtime and one processor: elsewhere it says nothing (`Costs.belongs_to`).
"""

from __future__ import annotations

import platform

import msgspec

from homeroom.contract.manifest import Runtime
from homeroom.system import hardware

RUNTIME_PACKAGES: dict[Runtime, str] = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}


class FeatureCost(msgspec.Struct, frozen=True, kw_only=True):
    """One backbone: its precision here, how near it comes to the golden samples, and what an input costs.

    `seconds` an input of mean `size` (characters of a text, else 0) and mean `tokens`; `bytes` is the peak beside the
    process's base.
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
    """What a bundle costs here. `features` by modality, `steps` by graph file; `base_bytes` before any graph."""

    bundle_id: str
    place: str  # the runtime and processor, as `hardware_fingerprint` names them
    threads: int
    base_bytes: int
    features: dict[str, FeatureCost] = {}
    steps: dict[str, StepCost] = {}

    def belongs_to(self, bundle_id: str, place: str) -> bool:
        return (self.bundle_id, self.place) == (bundle_id, place)


def hardware_fingerprint(runtime: Runtime = "onnx") -> str:
    """What a measurement belongs to: the runtime's version, the processor's kind and vector instructions, the cores."""
    from importlib.metadata import version

    kind = f"{platform.system()} {platform.machine()} {' '.join(hardware.simd())}"
    made = f"homeroom {version('homeroom')}, {RUNTIME_PACKAGES[runtime]} {version(RUNTIME_PACKAGES[runtime])}"
    return f"{made}, {kind}, {hardware.cores()} cores"
