"""The lesson's bundle: calibration samples from the training stamps, then an export; imports the exporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from examples.vocabulary.schools import Pair, School, exercises, has, write
from homeroom.contract.signing import certify, new_key

RECIPE = Path(__file__).with_name("recipe.toml")
LANGUAGES = Path(__file__).with_name("recipe_languages.toml")
DIGITS = Path(__file__).with_name("recipe_digits.toml")
EVERY = 3  # one training stamp in so many serves the calibration
SPOKEN = ("es", "fr")  # hardly any English caption is recorded


def calibrate(pairs: Sequence[Pair], folder: Path) -> Path:
    """Samples that the exporter fits its compression on: training stamps with all senses, in every language."""
    train = [pair for pair in pairs if pair[1].part == "train"]
    rows = []
    for language in ("en", "es", "fr"):
        school = School("calibration", language, ("word", "picture"), 0, 1.0)
        spoken = replace(school, senses=("word", "picture", "speech"))
        if language in SPOKEN and any(has(stamp, spoken) for stamp, _ in train):
            school = spoken
        usable = [pair for pair in train if has(pair[0], school)]
        rows += exercises(school, usable[::EVERY], 0, repeats=1)
    return write(rows, folder / "calibration.jsonl")


def make_bundle(pairs: Sequence[Pair], folder: Path, tell: Callable[[str], None], recipe: Path = RECIPE) -> Path:
    """Export into `folder` under a root of its own, for benchmarks; the demo goes through the command line."""
    from homeroom_exporter.export.pipeline import export
    from homeroom_exporter.recipe.recipe import read_recipe

    root, key = new_key(), new_key()
    word = certify(root, "exporter", key, "benchmark")
    calibration = calibrate(pairs, folder / "calibration")
    return export(read_recipe(recipe), calibration, folder / "bundle", key, word, progress=tell).path
