"""The work that is killed: `work_device.py add|train|sync|status DIRECTORY [START]`; its lines say what is done."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from homeroom import Device, Sample
from homeroom.train.settings import Settings

SETTINGS = Settings(epochs=5, checkpoint_s=0.0, patience=100)  # a checkpoint after every step


def rows(start: int, count: int) -> list[Sample]:
    """Samples number `start` and on, each with a text of its own."""
    made = [Sample(**row) for row in tiny.samples(count, start)]
    for number, sample in enumerate(made, start):
        sample.inputs["word"] = f"word {number}"
    return made


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(verb: str, directory: Path, start: int) -> None:
    with Device.open(directory, threads=1) as device:
        tell("ready")
        if verb == "add":
            for number in range(start, start + 3000, 3):
                device.add(*rows(number, 3))
                tell(f"added {number}")
        elif verb == "train":
            device.train(minutes=5, settings=SETTINGS, progress=lambda stage, done, _: tell(f"{stage} {done}"))
        elif verb == "sync":
            tell(f"sent {len(device.sync().sent)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
