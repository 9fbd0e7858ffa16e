"""Bundle updates after a trial, and rollback of a model that became worse, as the agent does them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from homeroom.agent.status import AGENT_FOLDER
from homeroom.contract.canonical_json import digest_file
from homeroom.contract.manifest import Runtime
from homeroom.device.device import Device
from homeroom.device.install import InstalledBundle, installed_bundle, runtime_for, upgrade_bundle
from homeroom.device.reports import TrainReport
from homeroom.device.resources.benchmark import run_benchmark
from homeroom.errors import BundleError
from homeroom.federation import enrolment, sync
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.fallback import absent, add_fallback
from homeroom.runtime.graphs import Graphs
from homeroom.system.attempt import ENDED, attempt, cut_short

TRYING_FILE = "trying-bundle.json"  # the mark of the aggregator's bundle that is being tried


def try_bundle(source: Path, root: str | None, known: InstalledBundle | None = None) -> None:
    """Verifies a bundle and computes its golden samples in a process of its own.

    A graph that crashes ends that process, and the bundle in use stays. Raises BundleError or TrustError if it fails,
    FallbackNeededError where it needs a second file that does not lie beside the source.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = install(source, Path(scratch), root=root)
        runtime = runtime_for(unpacked, None, known)
        wrong = _wrong_features(unpacked, runtime, source)
        if wrong and (graphs := tuple(graph for name in wrong for graph in absent(unpacked, name, runtime))):
            wrong = _wrong_features(add_fallback(unpacked, source, graphs), runtime, source)
        if wrong:
            raise BundleError(f"this machine computes other {', '.join(wrong)} features", where=source.name)


def _wrong_features(unpacked: Bundle, runtime: Runtime, source: Path) -> list[str]:
    """The modalities whose golden samples fail in every precision that is here."""
    result = run_benchmark(unpacked.path, runtime=runtime)
    if result.crashed:
        raise BundleError(f"trying it, {result.crashed} {result.how}", where=source.name)
    correct = {name.split()[1] for name, facts in result.stages.items() if facts.get("within")}
    return [m.name for m in unpacked.manifest.modalities if m.name not in correct]


def change_bundle(directory: Path, source: Path, root: str | None) -> str:
    """Tries a bundle, then installs and uses it; returns its name and version.

    The device must be closed. Its store is backed up first.
    """
    with Device.open(directory) as device:
        known = installed_bundle(device.store)
        device.store.back_up()
    try_bundle(source, root, known)
    with Device.open(directory, source, root) as device:
        return f"{device.bundle.manifest.name} version {device.bundle.manifest.version}"


def follow_bundle(device: Device) -> bool:
    """Tries and uses the aggregator's bundle if it is a newer one; returns whether the bundle changed.

    BundleError where trying it ended this process before: until there is another, or `homeroom device upgrade`.
    """
    known = installed_bundle(device.store)
    folder = device.store.directory / sync.DOWNLOADS_FOLDER
    with enrolment.connect(device.store) as client:
        source = sync.download_bundle(client, folder, device.bundle.bundle_id)
    if source is None:
        return False
    mark, name = device.store.directory / AGENT_FOLDER / TRYING_FILE, digest_file(source)
    if (before := cut_short(mark)) is not None and before.name == name:
        raise BundleError(f"the aggregator's bundle is not tried again: {ENDED}", remedy="homeroom device upgrade")

    def use() -> Graphs:
        try_bundle(source, known.root if known else None, known)
        device.store.back_up()
        try:
            return upgrade_bundle(device.store, source, device.bundle, device.graphs.threads)
        finally:
            source.unlink(missing_ok=True)

    with attempt(mark, name):
        device.graphs = sync.fetching_fallback(source, lambda: enrolment.connect(device.store), use)
    return True


def keep_the_better(device: Device, report: TrainReport) -> bool:
    """Rolls back a training's version if it is clearly worse than the one before; returns whether it was.

    Its update is dropped unless sending has begun.
    """
    present = device.store.versions.current()
    if not report.worse or present is None or present.version_id != report.version_id:
        return False
    device.rollback()
    device.store.outbox.call_off(report.version_id)
    return True
