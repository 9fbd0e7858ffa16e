"""Plans a training with what this device knows: the costs measured here and the features it has cached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from homeroom.contract.manifest import Runtime
from homeroom.data.samples import StoredSample
from homeroom.device.install import use_tier
from homeroom.device.resources import planner
from homeroom.device.resources.benchmark import run_benchmark
from homeroom.device.resources.budget import Budget, BudgetWatch
from homeroom.device.resources.costs import Costs, hardware_fingerprint
from homeroom.device.resources.plan import TrainingPlan
from homeroom.errors import TrainError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.external_data import bytes_with_external_data
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.store.device_state import json_record
from homeroom.system import hardware
from homeroom.train.features.cached import missing
from homeroom.train.settings import Settings

LARGE_TABLE_BYTES = 16 << 20
COSTS = json_record("costs", Costs, made_again=True)


def plan_training(
    store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample], budget: Budget, settings: Settings
) -> TrainingPlan:
    """Plans a training and sets tier, threads and batch in `graphs`; measures the bundle first where memory is limited.

    Raises TrainError where nothing fits; a text encoder that cannot is not loaded for it.

    store: whose cache and measured costs are used.
    bundle: in use.
    graphs: of the bundle.
    samples: to train on.
    budget: to fit.
    settings: of the training.
    """
    costs = known_costs(store, bundle, graphs.runtime)
    if budget.limit_bytes is not None:
        check_tables(store, bundle, graphs, samples, budget.limit_bytes)
    if costs is None and budget.limit_bytes is not None:
        costs = measure_costs(store, bundle, graphs.runtime)
    fresh = missing(store, bundle, graphs, samples) if costs else np.zeros(0, bool)
    # a step that keeps answers of before runs its graph twice
    epochs, validation = settings.epochs * (2 if settings.distillation else 1), settings.validation
    chosen = planner.plan_costs(bundle, costs, samples, fresh, budget, epochs, validation, graphs.tier, graphs.runtime)
    if chosen.tier != graphs.tier:
        use_tier(store, bundle, graphs, chosen.tier)  # stored: `Device.open(tier=…)` takes it back
    graphs.configure(graphs.threads if budget.threads is None and graphs.threads else chosen.threads, chosen.batch)
    return chosen


def check_tables(
    store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample], limit_bytes: int
) -> None:
    """Raises TrainError where the file of a text encoder that is needed leaves no room below the limit, unread."""
    for modality in bundle.manifest.modalities:
        if modality.name != "text" or not modality.taps:
            continue
        name = (graph := graphs.features_graph(modality.name)).file
        beside = graph.runtime == "onnx"  # LiteRT's files are whole
        file = bytes_with_external_data(bundle.file(name), name) if beside else bundle.manifest.files[name].bytes
        least = hardware.resident() + file
        if file < LARGE_TABLE_BYTES or least <= limit_bytes:
            continue
        columns = [slot.modality == "text" for slot in bundle.manifest.slots for _ in range(slot.count)]
        if missing(store, bundle, graphs, samples)[:, columns].any():
            what = f"the text encoder's file is {file / 1e6:.0f} MB, which {limit_bytes / 1e6:.0f} MB do not hold"
            more = f"megabytes={least // 1_000_000 + 1} or more"
            raise TrainError(what, remedy=f"{more}, or a bundle of fewer `languages` or a smaller text encoder")


def known_costs(store: Store, bundle: Bundle, runtime: Runtime = "onnx") -> Costs | None:
    """The bundle's costs as measured on this machine and runtime; None if they were not."""
    costs = COSTS.read(store)
    return costs if costs and costs.belongs_to(bundle.bundle_id, hardware_fingerprint(runtime)) else None


def keep_costs(store: Store, costs: Costs) -> None:
    """Stores measured costs in place of those before."""
    COSTS.write(store, costs)


def measure_costs(store: Store, bundle: Bundle, runtime: Runtime) -> Costs | None:
    """Measures the bundle in a process of its own and stores its costs; None where that process fails."""
    costs = run_benchmark(bundle.path, runtime=runtime).costs()
    if costs is not None:
        keep_costs(store, costs)
    return costs


def check_budget(watch: BudgetWatch, ready: int) -> None:
    """Raises TrainError where the budget ended with no features ready, or memory ran out while they were computed."""
    if watch.spent and (not ready or watch.spent.limit == "memory"):
        raise TrainError(
            f"{watch.spent}; the features that were computed are kept",
            where=str(watch.directory),
            remedy="run it again, with more minutes or megabytes if this goes on",
        )
