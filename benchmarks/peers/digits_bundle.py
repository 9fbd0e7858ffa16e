"""The lesson of spoken digits: a word, a picture and a sound of each digit, and its bundle."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from peers import digits

RECIPE = """
name = "digits"
version = 1
seed = 1
batch = 32
width = 64
hidden = 64
golden = 6

[encoders.text]
source = "pip:minilm"
taps = [2, 4, 6]
dim = 64
buckets = [16]

[encoders.image]
source = "pip:efficientnet-lite0"
dim = 64
grid = 2
drift = 0.3

[encoders.audio]
source = "pip:whisper-tiny-en"
taps = [2, 3, 4]
dim = 64
seconds = 1.6

[slots]
word = "text"
picture = "image"
speech = "audio"

[tasks.digit]
kind = "classification"
reads = ["word", "picture", "speech"]
labels = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

[training]
learning_rate = 2e-3
weight_decay = 3e-2
epochs = 40
"""


def lesson(data: Path, folder: Path, senses: tuple[str, ...]) -> Path:
    """A .jsonl of every clip with the senses asked for; `source` begins with the part it belongs to."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir(parents=True, exist_ok=True)
    images, labels = load_digits(return_X_y=True)
    rows, drawn = [], dict.fromkeys(range(10), 0)
    for clip in digits.clips(data):
        (folder / clip.name).write_bytes(clip.data)
        row: dict[str, Any] = {"speech": clip.name}
        if "picture" in senses:
            pixels = images[np.flatnonzero(labels == clip.digit)[drawn[clip.digit]]].reshape(8, 8)
            drawn[clip.digit] += 1
            out = io.BytesIO()
            grey = (255 - 15.9 * pixels).astype(np.uint8)
            Image.fromarray(grey).resize((128, 128), Image.Resampling.BICUBIC).convert("RGB").save(out, "PNG")
            row["picture"] = f"{Path(clip.name).stem}.png"
            (folder / row["picture"]).write_bytes(out.getvalue())
        if "word" in senses:
            row["word"] = f"{digits.WORDS[clip.digit]}, number {drawn[clip.digit]}"
        label = {"digit": digits.WORDS[clip.digit]}
        speaker = clip.name.split("_")[1]
        rows.append(row | {"labels": label, "subject": speaker, "source": f"{clip.part}-{clip.name}"})
    path = folder / f"{'-'.join(senses)}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def export(data: Path, out: Path) -> Path:
    """The bundle; one that is there from an earlier run is used again."""
    from homeroom.contract.signing import certify, new_key
    from homeroom_exporter.export.pipeline import export as export_bundle
    from homeroom_exporter.recipe.recipe import read_recipe

    if (out / "signature.json").exists():
        return out
    folder = out.with_name(f"{out.name}-lesson")
    every = lesson(data, folder, ("word", "picture", "speech"))
    train = [line for line in every.read_text().splitlines() if json.loads(line)["source"].startswith("train")]
    (folder / "calibration.jsonl").write_text("\n".join(train) + "\n")
    (folder / "digits.toml").write_text(RECIPE)
    root, key = new_key(), new_key()
    word = certify(root, "exporter", key, "benchmark")
    export_bundle(read_recipe(folder / "digits.toml"), folder / "calibration.jsonl", out, key, word)
    return out
