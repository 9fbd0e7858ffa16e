"""The device's store; `Store` is its one door."""

from homeroom.store.records import Export, ForgetReport, StoredProfile, StoredUpdate, StoredVersion
from homeroom.store.store import Store

__all__ = ["Export", "ForgetReport", "Store", "StoredProfile", "StoredUpdate", "StoredVersion"]
