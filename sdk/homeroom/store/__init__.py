"""The device's store; `Store` is its one door."""

from homeroom.store.records import Export, ForgetReport, StoredUpdate, Version
from homeroom.store.store import Store

__all__ = ["Export", "ForgetReport", "Store", "StoredUpdate", "Version"]
