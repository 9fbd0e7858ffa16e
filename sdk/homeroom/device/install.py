"""Which bundle a device directory uses, whose root it trusts, and at which precision each backbone runs here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from homeroom.contract.layout import FULL_TIER
from homeroom.contract.manifest import Precision, Runtime
from homeroom.contract.signing import fingerprint
from homeroom.errors import BundleError, InputError
from homeroom.inference import golden
from homeroom.runtime.bundle import Bundle, install, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.store.open import is_device, open_store, remove
from homeroom.system.files import removed_on_failure


class InstalledBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle in use; `root` is the fingerprint trusted from the first bundle on; `precision` by modality, as the
    golden samples came out right in that `runtime`.
    """

    bundle_id: str
    name: str
    version: int
    root: str
    precision: dict[str, Precision]
    runtime: Runtime = "onnx"


def open_device(
    directory: Path,
    source: Path | None,
    root: str | None,
    *,
    threads: int | None,
    anew: bool,
    tier: str | None,
    runtime: Runtime | None,
) -> tuple[Store, Bundle, Graphs]:
    """As `Device.open`; where it fails, no device, key or directory that was not there before is left."""
    made = not is_device(directory)
    if made and source is None:
        raise InputError("is no device directory", where=str(directory), remedy="make it with a bundle: --bundle …")
    with removed_on_failure(directory):
        opened = open_store(directory, None, anew=anew)
        store = Store(opened)
        try:
            bundle, graphs = use_bundle(store, source, root, threads, runtime)
            if tier is not None:
                use_tier(store, bundle, graphs, tier)
        except BaseException:
            store.close()
            if made:
                remove(opened)
            raise
    return store, bundle, graphs


def use_bundle(
    store: Store, source: Path | None, root: str | None, threads: int | None, runtime: Runtime | None = None
) -> tuple[Bundle, Graphs]:
    """Open the directory's bundle, after installing `source` if that is another one.

    runtime: what runs its graphs from now on; if None, what did so far where the bundle has graphs for it.
    Raises TrustError if it is not vouched for by the trusted root, BundleError if it is damaged, older than the one in
    use, has no graph for the runtime, or gives other features on this machine than its golden samples say.
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
    if known and (known.bundle_id, known.runtime) == (bundle.bundle_id, runtime):
        return bundle, Graphs(bundle, known.precision, threads, stored_tier(store, bundle), runtime)
    if known and known.name == bundle.manifest.name and bundle.manifest.version < known.version:
        raise BundleError(
            f"version {bundle.manifest.version} is older than {known.version}, which is in use",
            where=str(source or store.directory),
            remedy="use the newest bundle of your institution",
        )
    bundle.theta()  # before it is in use: signed does not mean sound
    precision = golden.choose_precision(bundle, threads=threads, runtime=runtime)
    fact = InstalledBundle(
        bundle_id=bundle.bundle_id,
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        root=fingerprint(bundle.certificate.root),
        precision=precision,
        runtime=runtime,
    )
    with store.step("bundle"):
        store.put_secret("bundle", msgspec.json.encode(fact))
    return bundle, Graphs(bundle, precision, threads, stored_tier(store, bundle), runtime)


def runtime_for(bundle: Bundle, asked: Runtime | None, known: InstalledBundle | None) -> Runtime:
    """The runtime that was asked for, or that was in use; BundleError if the bundle has no graph for the one asked."""
    wanted = asked or (known.runtime if known else "onnx")
    if wanted == "onnx" or any(graph.runtime == wanted for graph in bundle.manifest.converted):
        return wanted
    if asked is None:
        return "onnx"
    raise BundleError(
        "has no graph for LiteRT", where=bundle.manifest.name, remedy='export it with runtimes = ["onnx", "litert"]'
    )


def upgrade_bundle(store: Store, source: Path, present: Bundle, threads: int | None) -> tuple[Bundle, Graphs]:
    """Use a downloaded bundle, which is then removed, in place of an older one of the same name."""
    known = installed_bundle(store)
    try:
        bundle = install(source, store.directory / "bundles", root=known.root if known else None)
    finally:
        source.unlink(missing_ok=True)
    new, old = bundle.manifest, present.manifest
    if new.name != old.name or new.version <= old.version:
        raise BundleError(
            f"offers {new.name} version {new.version}, which is not newer than {old.name} version {old.version}",
            remedy="ask your institution which bundle is right",
        )
    return use_bundle(store, bundle.path, None, threads)


def use_tier(store: Store, bundle: Bundle, graphs: Graphs, tier: str) -> None:
    """Let `graphs` be a tier's, now and at later openings; InputError if the bundle has no such tier."""
    known = [*(t.name for t in bundle.manifest.tiers), FULL_TIER]
    if tier not in known:
        raise InputError(f"the bundle has no tier {tier!r}", remedy=f"one of {', '.join(known)}")
    with store.step("tier"):
        store.put_secret("tier", tier.encode())
    graphs.tier = tier


def stored_tier(store: Store, bundle: Bundle) -> str:
    """The tier that this device was last told to use; the full one if this bundle lacks it."""
    kept = (store.get_secret("tier") or b"").decode()
    return kept if kept in {tier.name for tier in bundle.manifest.tiers} else FULL_TIER


def installed_bundle(store: Store) -> InstalledBundle | None:
    body = store.get_secret("bundle")
    return None if body is None else msgspec.json.decode(body, type=InstalledBundle)
