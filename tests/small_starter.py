"""The starter's recipe with random encoders of a few thousand weights in place of its own.

Kept on disk for the exporter's sources, as the tiny bundle is: making it takes half a minute.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import tiny

from homeroom.quickstart.lesson import CALIBRATION, LANGUAGES, write_samples
from homeroom.quickstart.starter import STARTER_FILE
from homeroom.runtime.bundle import zip_bundle

RECIPE = Path(__file__).parents[1] / "examples" / "starter" / "recipe.toml"


def bundle() -> Path:
    """The bundle's file, made anew if the exporter's sources, the recipe or the lesson changed since."""
    lesson = Path(__file__).parents[1] / "sdk" / "homeroom" / "quickstart"
    paths = [Path(__file__), RECIPE, *sorted(lesson.iterdir())]
    sources = tiny.sources_hash() + "".join(path.read_text() for path in paths if path.is_file())
    path = Path(tempfile.gettempdir()) / f"homeroom-starter-{hashlib.sha256(sources.encode()).hexdigest()[:16]}"
    if not path.exists():
        with tempfile.TemporaryDirectory(prefix="homeroom-starter-", dir=tempfile.gettempdir()) as scratch:
            os.replace(build(Path(scratch)), path)
    return path


def build(folder: Path) -> Path:
    """Makes the bundle in `folder`; the path of its file."""
    from exporter import models, small
    from homeroom_exporter.recipe.recipe import parse_recipe

    text = RECIPE.read_text()
    for source, taps, make in (
        ("pip:use-multilingual", "ngrams", models.bert),
        ("pip:efficientnet-lite0", "block", models.vit),
        ("pip:speech-embedding", "", models.whisper),
    ):
        (model := folder / make.__name__).mkdir()
        text = text.replace(source, f"hf:{make(model)}")
        text = re.sub(f"taps = .*{taps}.*\n", "", text) if taps else text
    text = (
        re.sub("languages = .*\n|drift = .*\n", "", text)
        .replace("dim = 48", "dim = 16")
        .replace("dim = 64", "dim = 16")
    )
    samples = write_samples(folder / "samples", CALIBRATION[:2], LANGUAGES)
    bundle, _ = small.assembled(parse_recipe(text), samples, folder, saliency=True)
    zip_bundle(bundle.path, folder / STARTER_FILE)
    return folder / STARTER_FILE
