"""The ServerApp: an aggregator's folder as the state of a Flower run; `flwr run examples/flower`.

Run configuration: `folder` as `homeroom district serve` makes it (its log goes on, and a server may go on with it
afterwards), `rounds`, `nodes` to wait for, `wait-s`, and for the devices `minutes` and `epochs` (0: as the bundle
advises). The first round of a device that has not joined yet enrols it.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp

from homeroom.errors import InputError
from homeroom_aggregator.flower.strategy import AggregatorStrategy

LOG_LEVEL = 20  # logging.INFO


def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run configuration asks for."""
    config = context.run_config
    if not config.get("folder"):
        raise InputError("the run names no aggregator's folder", remedy="flwr run --run-config 'folder=\"district\"'")
    rounds, wait_s = int(config.get("rounds", 1)), float(config.get("wait-s", 3600))
    folder, nodes = Path(str(config["folder"])), int(config.get("nodes", 1))
    train_config = ConfigRecord({"minutes": float(config.get("minutes", 10)), "epochs": int(config.get("epochs", 0))})
    with AggregatorStrategy(
        folder, last=rounds, nodes=nodes, wait_s=wait_s, tell=lambda line: log(LOG_LEVEL, line)
    ) as strategy:
        strategy.start(grid, strategy.arrays, num_rounds=rounds, timeout=wait_s, train_config=train_config)


app = ServerApp()
app.main()(main)
