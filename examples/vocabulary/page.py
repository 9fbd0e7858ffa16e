"""The lesson's report as one HTML page that needs nothing from elsewhere: light and dark, for a phone, read aloud."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace

from examples.vocabulary.lesson import ALONE, mean
from examples.vocabulary.report import LANGUAGES, TITLES, Shown
from homeroom.data.preprocess.image import decode
from homeroom.system.html.render import render

TASKS = {
    "category": "which kind of thing is it?",
    "picture_of_word": "which of four pictures does the word name?",
    "word_of_speech": "which of four words was spoken?",
}
CHANCE = {"picture_of_word": 0.25, "word_of_speech": 0.25}
COLOURS = {
    "before": "plain",
    "alone": "against",
    "together": "for",
    "own": "bar",
    "pooled": "good",
}  # classes
THUMBNAIL = 96


def as_page(shown: Shown) -> str:
    """The whole page; pictures are read from where the schools kept them."""
    counts = [max(school.tested.values()) for school in shown.schools]
    return render(
        Path(__file__).with_suffix(".html"),
        shown=shown,
        by_gain=sorted(shown.schools, key=shown.gain, reverse=True),
        rounds=len(shown.schools[0].rounds),
        curve=_curve(shown),
        tested=f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0]),
        least=min(min(school.tested.values()) for school in shown.schools),
        epochs=ALONE.epochs,
        titles=TITLES,
        languages=LANGUAGES,
        tasks=TASKS,
        chance=CHANCE,
        colours=COLOURS,
        mean=mean,
        thumbnail=_thumbnail,
    )


def _curve(shown: Shown) -> SimpleNamespace:
    """Mean test accuracy of the merged model after each round, between alone and all in one place."""
    count, means = len(shown.schools[0].rounds), shown.means()
    values = [sum(mean(s.rounds[r].test.answers) for s in shown.schools) / len(shown.schools) for r in range(count)]
    lines = {setting: means[setting] for setting in ("alone", "pooled")}
    low, high = min(*values, *lines.values()) - 0.03, max(*values, *lines.values()) + 0.03
    return SimpleNamespace(
        values=values,
        lines=lines,
        x=lambda index: 10 + 300 * index / max(count - 1, 1),
        y=lambda value: 110 - 100 * (value - low) / (high - low),
    )


def _thumbnail(path: str) -> str:
    picture = decode(Path(path).read_bytes(), path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
