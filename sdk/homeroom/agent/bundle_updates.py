"""What the agent does to its own device: a new bundle after a trial, a worse model taken back; imports device."""

from __future__ import annotations

import tempfile
from pathlib import Path

from homeroom.device.device import Device
from homeroom.device.install import InstalledBundle, installed_bundle, runtime_for, upgrade_bundle
from homeroom.device.local_samples import validation_scores
from homeroom.device.resources.benchmark import run_benchmark
from homeroom.errors import BundleError
from homeroom.federation import enrolment, sync, versions
from homeroom.runtime.bundle import install
from homeroom.store import StoredVersion


def try_bundle(source: Path, root: str | None, known: InstalledBundle | None = None) -> None:
    """Verify a bundle and compute its golden samples in a process of its own; BundleError or TrustError if it fails.

    A graph that would end the process ends that one, and the bundle in use stays.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = install(source, Path(scratch), root=root)
        found = run_benchmark(unpacked.path, runtime=runtime_for(unpacked, None, known))
        if found.crashed:
            raise BundleError(f"trying it, {found.crashed} {found.how}", where=source.name)
        right = {name.split()[1] for name, facts in found.stages.items() if facts.get("within")}
        wrong = [m.name for m in unpacked.manifest.modalities if m.name not in right]
        if wrong:
            raise BundleError(f"this machine computes other {', '.join(wrong)} features", where=source.name)


def change_bundle(directory: Path, source: Path, root: str | None) -> str:
    """Try a bundle, then install it and use it from now on; return its name and version.

    The device must be closed. Its store is copied first.
    """
    with Device.open(directory) as device:
        known = installed_bundle(device.store)
        device.store.back_up()
    try_bundle(source, root, known)
    with Device.open(directory, source, root) as device:
        return f"{device.bundle.manifest.name} version {device.bundle.manifest.version}"


def follow_bundle(device: Device) -> bool:
    """Use the bundle that the aggregator serves if it is a newer one, after a trial; whether it is another now."""
    known = installed_bundle(device.store)
    folder = device.store.directory / sync.DOWNLOADS_FOLDER
    with enrolment.connect(device.store) as client:
        source = sync.download_bundle(client, folder, device.bundle.bundle_id)
    if source is None:
        return False
    try_bundle(source, known.root if known else None, known)
    device.store.back_up()
    device.bundle, device.graphs = upgrade_bundle(device.store, source, device.bundle, device.graphs.threads)
    enrolment.follow_bundle(device.store, device.bundle)
    return True


def keep_the_better(device: Device, before: StoredVersion | None, learned: str) -> bool:
    """Take back what a training made (version `learned`) if it is clearly worse than `before`; True if it was.

    Both are judged on the validation subjects of that training; an update of it that was not yet begun to be sent goes.
    """
    store, bundle, graphs = device.store, device.bundle, device.graphs
    ours = validation_scores(store, bundle, graphs, versions.theta_of(store, bundle, before))
    theirs = validation_scores(store, bundle, graphs, store.versions.theta(learned))
    present = store.versions.current()
    if present is None or present.version_id != learned or not sync.clearly_worse(theirs, ours):
        return False
    device.rollback()
    device.store.outbox.call_off(learned)
    return True
