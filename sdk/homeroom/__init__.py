"""Homeroom's SDK, what runs on a school's device: the public names, loaded when first used.

`from homeroom import Device, Sample` is all that a lesson needs; errors are in `homeroom.errors`. docs/api.md shows
each name in an example.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from homeroom.contract.policy import Policy
    from homeroom.data.consent import Consent
    from homeroom.data.ingest import ReadOptions
    from homeroom.data.samples import Sample, StoredSample
    from homeroom.data.tasks.answers import Answer
    from homeroom.data.tasks.metrics import Score
    from homeroom.device.device import Device
    from homeroom.device.fit_samples import fit
    from homeroom.device.profiles import Profile
    from homeroom.device.reader import DeviceReader
    from homeroom.device.receipt import AddReceipt
    from homeroom.device.reports import TrainReport
    from homeroom.device.resources.budget import Budget, WeeklyHours, read_weekly_hours
    from homeroom.device.status import Status
    from homeroom.errors import HomeroomError
    from homeroom.federation.offline import ExportedMessage, ImportedAnswer
    from homeroom.federation.sync import SyncReport
    from homeroom.inference.explain import Explanation
    from homeroom.store import ConsentReport, Export, ForgetReport, RemoveReport
    from homeroom.train.features.compute import Progress
    from homeroom.train.settings import Settings

__all__ = [
    "AddReceipt",
    "Answer",
    "Budget",
    "Consent",
    "ConsentReport",
    "Device",
    "DeviceReader",
    "Explanation",
    "Export",
    "ExportedMessage",
    "ForgetReport",
    "HomeroomError",
    "ImportedAnswer",
    "Policy",
    "Profile",
    "Progress",
    "ReadOptions",
    "RemoveReport",
    "Sample",
    "Score",
    "Settings",
    "Status",
    "StoredSample",
    "SyncReport",
    "TrainReport",
    "WeeklyHours",
    "fit",
    "read_weekly_hours",
]

_HOMES = {
    "AddReceipt": "device.receipt",
    "Answer": "data.tasks.answers",
    "Budget": "device.resources.budget",
    "Consent": "data.consent",
    "ConsentReport": "store",
    "Device": "device.device",
    "DeviceReader": "device.reader",
    "Explanation": "inference.explain",
    "Export": "store",
    "ExportedMessage": "federation.offline",
    "ForgetReport": "store",
    "HomeroomError": "errors",
    "ImportedAnswer": "federation.offline",
    "Policy": "contract.policy",
    "Profile": "device.profiles",
    "Progress": "train.features.compute",
    "ReadOptions": "data.ingest",
    "RemoveReport": "store",
    "Sample": "data.samples",
    "Score": "data.tasks.metrics",
    "Settings": "train.settings",
    "Status": "device.status",
    "StoredSample": "data.samples",
    "SyncReport": "federation.sync",
    "TrainReport": "device.reports",
    "WeeklyHours": "device.resources.budget",
    "fit": "device.fit_samples",
    "read_weekly_hours": "device.resources.budget",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'homeroom' has no attribute {name!r}")
    return getattr(import_module(f"homeroom.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
