"""The planner with a device's own facts: costs that were measured here, cached features; imports store and planner."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
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
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.train.features.cached import missing
from homeroom.train.settings import Settings

COSTS_SECRET = "costs"


def plan_training(
    store: Store, bundle: Bundle, graphs: Graphs, samples: Sequence[StoredSample], budget: Budget, settings: Settings
) -> TrainingPlan:
    """What to use for these samples, set in `graphs`; what the bundle costs is measured first where memory is short.

    Raises TrainError where nothing fits.
    """
    costs = known_costs(store, bundle, graphs.runtime)
    if costs is None and budget.limit_bytes is not None:
        costs = measure_costs(store, bundle, graphs.runtime)
    fresh = missing(store, bundle, graphs, samples) if costs else np.zeros(0, bool)
    epochs, validation = settings.epochs, settings.validation
    found = planner.plan_costs(bundle, costs, samples, fresh, budget, epochs, validation, graphs.tier, graphs.runtime)
    if found.tier != graphs.tier:
        use_tier(store, bundle, graphs, found.tier)  # kept: `Device.open(tier=…)` takes it back
    graphs.configure(graphs.threads if budget.threads is None and graphs.threads else found.threads, found.batch)
    return found


def known_costs(store: Store, bundle: Bundle, runtime: Runtime = "onnx") -> Costs | None:
    """What this bundle was measured to cost on this very machine and runtime."""
    body = store.get_secret(COSTS_SECRET)
    if body is None:
        return None
    try:
        costs = msgspec.json.decode(body, type=Costs)
    except msgspec.DecodeError:
        return None  # of another version
    return costs if costs.belongs_to(bundle.bundle_id, hardware_fingerprint(runtime)) else None


def keep_costs(store: Store, costs: Costs) -> None:
    store.put_secret(COSTS_SECRET, msgspec.json.encode(costs))


def measure_costs(store: Store, bundle: Bundle, runtime: Runtime) -> Costs | None:
    """Measure the bundle in a process of its own and keep what it costs; None where that process did not end well."""
    costs = run_benchmark(bundle.path, runtime=runtime).costs()
    if costs is not None:
        keep_costs(store, costs)
    return costs


def check_budget(watch: BudgetWatch, ready: int) -> None:
    """TrainError where the budget leaves no training: no features were ready in time, or memory ran out among them."""
    if watch.spent and (not ready or "MB of memory" in watch.spent):
        raise TrainError(
            f"{watch.spent}; the features that were computed are kept",
            where=str(watch.directory),
            remedy="run it again, with more minutes or megabytes if this goes on",
        )
