"""The device's store; `Store` is its one door."""

from homeroom.store.records import (
    AddReport,
    ConsentReport,
    Export,
    ForgetReport,
    RemoveReport,
    StoredProfile,
    StoredUpdate,
    StoredVersion,
)
from homeroom.store.store import Store

__all__ = [
    "AddReport",
    "ConsentReport",
    "Export",
    "ForgetReport",
    "RemoveReport",
    "Store",
    "StoredProfile",
    "StoredUpdate",
    "StoredVersion",
]
