"""Configuration of a federation of simulated schools."""

from __future__ import annotations

import msgspec


class SimulationConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """A federation of simulated schools.

    epochs: of each school in each round. participation: share of schools in a round. lag: share that trains on an
    older theta. measure_every: rounds between two scores; None for the last round only.
    """

    rounds: int = 20
    epochs: int = 2
    participation: float = 1.0
    lag: float = 0.0
    seed: int = 0
    engine: str = "homeroom"
    measure_every: int | None = None
