"""Installs a bundle in a device directory: its trusted root, and runtime, precision and tier on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Precision, Runtime
from homeroom.contract.signing import fingerprint
from homeroom.errors import BundleError, InputError
from homeroom.federation import enrolment
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install, open_bundle
from homeroom.runtime.graphs import Graphs, precisions
from homeroom.store import Store
from homeroom.store.device_state import json_record, text_record
from homeroom.store.open import is_device, open_store, remove
from homeroom.store.score_history import PastTraining
from homeroom.system.files import removed_on_failure


class InstalledBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle in use. `root`: fingerprint trusted since the first bundle; `precision`: by modality, the lowest with
    which the golden samples hold in this `runtime`.
    """

    bundle_id: str
    name: str
    version: int
    root: str
    precision: dict[str, Precision]
    runtime: Runtime = "onnx"


BUNDLE, TIER = json_record("bundle", InstalledBundle), text_record("tier")


def open_device(
    directory: Path,
    source: Path | None,
    root: str | None,
    *,
    threads: int | None,
    anew: bool,
    tier: str | None,
    runtime: Runtime | None,
) -> tuple[Store, Graphs]:
    """Opens a device as `Device.open`; where it fails, no new device, key or directory is left.

    directory: of the device, made if need be.
    source: bundle to install, if any.
    root: fingerprint of the root key to trust.
    threads, anew, tier, runtime: as in `Device.open`.
    """
    is_new = not is_device(directory)
    if is_new and source is None:
        raise InputError(
            "is no device directory", where=str(directory), remedy="make it: `homeroom device init DIR --bundle BUNDLE`"
        )
    with removed_on_failure(directory):
        opened = open_store(directory, None, anew=anew)
        store = Store(opened)
        try:
            graphs = use_bundle(store, source, root, threads, runtime)
            if tier is not None:
                use_tier(store, graphs.bundle, graphs, tier)
        except BaseException:
            store.close()
            if is_new:
                remove(opened)
            raise
    return store, graphs


def use_bundle(
    store: Store,
    source: Path | None,
    root: str | None,
    threads: int | None,
    runtime: Runtime | None = None,
    second: Path | None = None,
) -> Graphs:
    """Opens the graphs of the directory's bundle, after installing `source` if that is another one.

    Raises TrustError if the trusted root does not vouch for it, BundleError if it is damaged, older than the one in
    use, has no graph for the runtime, or fails its golden samples on this machine.

    store: of the device.
    source: folder or file of the bundle to install, if any.
    root: fingerprint of the root key to trust; None trusts the one stored.
    threads: of the runtime.
    runtime: of the graphs from now on; None keeps the present one where the bundle has graphs for it.
    second: what its second file lies beside, or is, where that is not the source.
    """
    folder, known = store.directory / "bundles", installed_bundle(store)
    root = known.root if known and root is None else root
    if source is None:
        if known is None:
            raise InputError("holds no bundle yet", where=str(store.directory), remedy="open it with bundle=…")
        bundle = open_bundle(folder / known.bundle_id, root=root)
    else:
        bundle = install(source, folder, root=root)
    runtime = runtime_for(bundle, runtime, known)
    if known and (known.bundle_id, known.runtime) == (bundle.bundle_id, runtime) and _has(bundle, known):
        return Graphs(bundle, known.precision, threads, stored_tier(store, bundle), runtime)
    if known and known.name == bundle.manifest.name and bundle.manifest.version < known.version:
        raise BundleError(
            f"version {bundle.manifest.version} is older than {known.version}, which is in use",
            where=str(source or store.directory),
            remedy="use the newest bundle of your institution",
        )
    bundle.theta()  # before it is in use: signed does not mean sound
    bundle, precision = golden.with_precision(bundle, second or source or bundle.path, threads=threads, runtime=runtime)
    fact = InstalledBundle(
        bundle_id=bundle.bundle_id,
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        root=fingerprint(bundle.certificate.root),
        precision=precision,
        runtime=runtime,
    )
    with store.step("bundle"):
        BUNDLE.write(store, fact)
        if not known or known.bundle_id != bundle.bundle_id:
            store.note_past(PastTraining(at="", kind="install", bundle=f"{fact.name} version {fact.version}"))
        if known and known.bundle_id != bundle.bundle_id:
            enrolment.follow_bundle(store, bundle)
    return Graphs(bundle, precision, threads, stored_tier(store, bundle), runtime)


def _has(bundle: Bundle, known: InstalledBundle) -> bool:
    """Whether the backbones in use are here: a bundle that was damaged and installed anew has no second file."""
    offered = {modality: precisions(bundle, modality, known.runtime) for modality in known.precision}
    return all(known.precision[modality] in here for modality, here in offered.items() if here)


def runtime_for(bundle: Bundle, requested: Runtime | None, known: InstalledBundle | None) -> Runtime:
    """The requested runtime, else the one in use; raises BundleError if the bundle has no graph for a requested one."""
    wanted = requested or (known.runtime if known else "onnx")
    if wanted == "onnx" or any(graph.runtime == wanted for graph in bundle.manifest.converted):
        return wanted
    if requested is None:
        return "onnx"
    raise BundleError(
        "has no graph for LiteRT", where=bundle.manifest.name, remedy='export it with runtimes = ["onnx", "litert"]'
    )


def upgrade_bundle(store: Store, source: Path, present: Bundle, threads: int | None) -> Graphs:
    """Replaces the bundle in use with a newer one of the same name.

    store: of the device.
    source: downloaded file; its second file lies beside it, if this machine needs that.
    present: the bundle in use.
    threads: of the runtime.
    """
    known = installed_bundle(store)
    bundle = install(source, store.directory / "bundles", root=known.root if known else None)
    new, old = bundle.manifest, present.manifest
    if new.name != old.name or new.version <= old.version:
        raise BundleError(
            f"offers {new.name} version {new.version}, which is not newer than {old.name} version {old.version}",
            remedy="ask your institution which bundle is right",
        )
    return use_bundle(store, bundle.path, None, threads, second=source)


def use_tier(store: Store, bundle: Bundle, graphs: Graphs, tier: str) -> None:
    """Selects a tier of the adapter, now and at later openings; raises InputError if the bundle lacks it."""
    tiers = [*(t.name for t in bundle.manifest.tiers), FULL_TIER]
    if tier not in tiers:
        raise InputError(f"the bundle has no tier {tier!r}", remedy=f"one of {', '.join(tiers)}")
    with store.step("tier"):
        TIER.write(store, tier)
    graphs.tier = tier


def stored_tier(store: Store, bundle: Bundle) -> str:
    """The tier that this device last selected; the full one if this bundle lacks it."""
    return offered_tier(bundle, TIER.read(store) or FULL_TIER)


def offered_tier(bundle: Bundle, tier: str) -> str:
    """A tier, or the full one if this bundle lacks it."""
    return tier if tier in {known.name for known in bundle.manifest.tiers} else FULL_TIER


def installed_bundle(store: Store) -> InstalledBundle | None:
    """The facts of the bundle in use; None in a new device."""
    return BUNDLE.read(store)
