"""Homeroom's SDK, what runs on a school's device: the public names, loaded when first used.

`from homeroom import Device, Sample` is all that a lesson needs; errors are in `homeroom.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeroom.data.samples import Sample
    from homeroom.data.tasks.answers import Answer
    from homeroom.device.device import Device
    from homeroom.device.reports import TrainReport
    from homeroom.errors import HomeroomError
    from homeroom.federation.sync import SyncReport
    from homeroom.inference.explain import Explanation
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
    "Answer": "data.tasks.answers",
    "Device": "device.device",
    "Explanation": "inference.explain",
    "Export": "store",
    "ForgetReport": "store",
    "HomeroomError": "errors",
    "Sample": "data.samples",
    "SyncReport": "federation.sync",
    "TrainReport": "device.reports",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'homeroom' has no attribute {name!r}")
    return getattr(import_module(f"homeroom.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
