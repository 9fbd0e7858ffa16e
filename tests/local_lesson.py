"""Samples of a fifth animal that the tiny bundle knows no label for."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.device.local_labels import add_labels
from homeroom.train.settings import Settings

LABEL = "dinosaurs"
SETTINGS = Settings(epochs=2)


def dinosaurs(count: int, seed: int, **more: Any) -> list[Sample]:
    """Purple pictures with facts and a word of no other animal."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        pixels = np.clip(rng.normal((200, 40, 200), 25, (48, 48, 3)), 0, 255).astype(np.uint8)
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG")
        facts = {"legs": 2, "kilograms": float(rng.uniform(15, 19)), "home": "water"}
        subject = more.pop("subject", None) if count == 1 else None
        given = {"subject": subject or f"pupil-{number % 5}", "labels": {"category": LABEL}, **more}
        made.append(Sample(word="the fish cat", picture=picture.getvalue(), facts=facts, **given))
    return made


def unlabelled(samples: list[Sample]) -> list[Sample]:
    return [Sample(**sample.inputs) for sample in samples]


def lesson(count: int = 60, seed: int = 1) -> list[Sample]:
    return [Sample(**row) for row in tiny.samples(count, seed)]


def add(device: Device, *labels: str, task: str = "category", scope: str = "personal") -> None:
    device.change_labels(partial(add_labels, task=task, labels=labels or (LABEL,), scope=scope))  # type: ignore[arg-type]


def called_so(device: Device, samples: list[Sample], label: str = LABEL) -> int:
    """How many samples are answered so."""
    return sum(answer["category"].best == label for answer in device.predict_many(unlabelled(samples)))
