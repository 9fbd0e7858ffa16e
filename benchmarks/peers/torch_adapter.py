"""One process: torch trains the very adapter of a bundle from a device's cached features; torch and homeroom.

The model is the exporter's own, the batches, class balance, schedule, validation and stopping are Homeroom's; only the
gradient and AdamW are torch's. So what differs is the engine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from device_homeroom import TASK, load
from peers import data, measure

if TYPE_CHECKING:
    from homeroom import Device
    from homeroom.runtime.bundle import Bundle
    from homeroom.train.features.dataset import Dataset
    from homeroom_exporter.model.design import Design


def main() -> None:
    clock = measure.Clock()
    parser = measure.arguments(__doc__ or "")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="directory of a device that has its features cached")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    import torch

    clock.mark("imports")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    answers = data.split(args.data, args.corpus, args.seed)
    with load(args.bundle, args.work, answers, clock) as (device, parts):
        train(args, clock, answers, device, parts)


def design_of(bundle: Bundle) -> Design:
    """The model of the bundle, from what the bundle says of itself."""
    import safetensors.numpy

    from homeroom_exporter.model.design import Design

    manifest = bundle.manifest
    sizes = json.loads(manifest.layout["ladder.text"].meaning.partition(" ")[2])
    design = Design(
        modalities=manifest.modalities,
        scales=safetensors.numpy.load_file(bundle.file("scales.safetensors")),
        slots=manifest.slots,
        tasks=manifest.tasks,
        heads={TASK: "pair"},
        width=sizes["width"],
        hidden=sizes["hidden"],
    )
    assert design.layout == manifest.layout, "the recipe's head is another one"
    return design


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The feeds of a batch's parts one under the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train(
    args: argparse.Namespace, clock: measure.Clock, answers: data.Split, device: Device, parts: dict[str, Dataset]
) -> None:
    import torch

    from homeroom.data.tasks import score
    from homeroom.train.sample_weights import sample_weights
    from homeroom.train.schedule import cooldown_share, cooldown_start, one_cycle
    from homeroom.train.settings import advised
    from homeroom_exporter.model.design import name_parts, unflatten
    from homeroom_exporter.model.forward import forward, objective

    bundle, graphs = device.bundle, device.graphs
    start = bundle.theta()
    manifest = bundle.manifest
    design, layout = design_of(bundle), manifest.layout
    settings = advised(manifest, seed=args.seed)
    tensors = [t.detach().clone().requires_grad_(True) for t in unflatten(layout, torch.from_numpy(start))]
    optimizer = torch.optim.AdamW(tensors, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    weights = sample_weights(parts["train"], settings)

    def outputs(name: str) -> np.ndarray:
        """float32 [examples, classes] of a part, in its order."""
        dataset = parts[name]
        found = np.zeros((len(dataset), len(data.LABELS)), np.float32)
        with torch.inference_mode():
            for batch in dataset.plan(graphs.steps("predict")):
                feeds = {k: torch.from_numpy(v) for k, v in dataset.feeds(batch).items()}
                made = forward(design, name_parts(layout, tensors), feeds)[TASK].numpy()
                found[batch.rows] = made[: len(batch.positions)]
        return found

    task = manifest.task(TASK)
    best, best_epoch, best_state, history, steps = -1.0, -1, tensors, [], 0
    begun = time.monotonic()
    for epoch in range(settings.epochs):
        spent = cooldown_start(history, settings.patience)
        if spent is not None and epoch >= spent + settings.cooldown:
            break
        dataset = parts["train"]
        batches = dataset.plan(
            graphs.steps("grad"), np.random.default_rng([settings.seed, epoch]), manifest.training.batch
        )
        for number, batch in enumerate(batches):
            # In one piece, which suits torch best.
            feeds = joined([dataset.feeds(part) | dataset.targets_of(part) for part in batch.parts()])
            rows = np.zeros((len(feeds["presence"]), len(manifest.tasks)), np.float32)
            rows[: len(batch.positions)] = weights[batch.rows] / batch.size
            feeds["weights"] = rows
            given = {k: torch.from_numpy(v) for k, v in feeds.items()}
            total, _ = objective(design, name_parts(layout, tensors), given)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            for group in optimizer.param_groups:
                share = one_cycle(steps, settings.epochs * len(batches), settings.warmup)
                share *= cooldown_share(epoch + number / len(batches), spent, settings.cooldown)
                group["lr"] = settings.learning_rate * share
            optimizer.step()
            steps += 1
        dataset = parts["validation"]
        value = score(task, outputs("validation"), dataset.targets[TASK]).value
        history.append(value)
        if value > best:
            best, best_epoch, best_state = value, epoch, [t.detach().clone() for t in tensors]
    fit_seconds = time.monotonic() - begun
    clock.mark("trained")

    tensors = best_state
    names = [data.LABELS[i] for i in outputs("test").argmax(1)]
    measure.report(
        args.out,
        clock,
        predictions=names,
        macro_f1=data.macro_f1([a.label for a in answers.test], names),
        validation=history,
        best_epoch=best_epoch,
        steps=steps,
        fit_seconds=fit_seconds,
    )


if __name__ == "__main__":
    main()
