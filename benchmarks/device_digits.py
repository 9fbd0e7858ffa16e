"""The homeroom worker for spoken digits: a device learns them from raw sound (or more senses), without torch."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from peers import digits, measure


def main() -> None:
    clock = measure.Clock()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="the device's directory")
    parser.add_argument("--lesson", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from homeroom import Device
    from homeroom.train.evaluate import outputs_of
    from homeroom.train.features.dataset import Dataset
    from homeroom.train.features.examples import examples
    from homeroom.train.fit import fit
    from homeroom.train.settings import advised

    clock.mark("imports")
    with Device.open(args.work, bundle=args.bundle) as device:
        device.add(args.lesson, gates=False)
        clock.mark("added")
        stored = list(device.store.select(lambda sample: True))
        ready = examples(device.store, device.bundle, device.graphs, stored)
        clock.mark("features")
        manifest = device.bundle.manifest
        parts = {
            part: Dataset(manifest, [e for e, s in zip(ready, stored, strict=True) if str(s.source).startswith(part)])
            for part in ("train", "validation", "test")
        }
        settings = advised(manifest, seed=args.seed)
        found = fit(device.graphs, parts["train"], parts["validation"], device.bundle.theta(), settings)
        clock.mark("trained")
        outputs = outputs_of(device.graphs, parts["test"], found.theta)["digit"]
    truth = parts["test"].targets["digit"].argmax(1)
    accuracy = float(np.mean(outputs.argmax(1) == truth))
    measure.write(args.out, clock, accuracy=accuracy, epochs=len(found.history), classes=len(digits.WORDS))


if __name__ == "__main__":
    main()
