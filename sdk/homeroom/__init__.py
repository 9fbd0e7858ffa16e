"""Homeroom's SDK, what runs on a school's device: the public names, loaded when first used.

`from homeroom import Device, Sample` is all that a lesson needs; errors are in `homeroom.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeroom.device import Device
    from homeroom.errors import HomeroomError
    from homeroom.explain import Explanation
    from homeroom.predict import Answer
    from homeroom.reports import SyncReport, TrainReport
    from homeroom.samples import Sample
    from homeroom.store import Export, ForgetReport

__all__ = [
    "Answer",
    "Device",
    "Explanation",
    "Export",
    "ForgetReport",
    "HomeroomError",
    "Sample",
    "SyncReport",
    "TrainReport",
]

_HOMES = {
    "Answer": "predict",
    "Device": "device",
    "Explanation": "explain",
    "Export": "store",
    "ForgetReport": "store",
    "HomeroomError": "errors",
    "Sample": "samples",
    "SyncReport": "reports",
    "TrainReport": "reports",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'homeroom' has no attribute {name!r}")
    return getattr(import_module(f"homeroom.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
