"""Handwritten digits for `benchmarks/continual.py`: eight of them, then a bundle that extends the first with two more.

scikit-learn's digits (UCI, CC BY 4.0) through the real exporter and real device directories. Each pupil drew twenty.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

import privacy_digits as digits
from homeroom import Device, Sample
from homeroom.contract.signing import certify, new_key
from homeroom.data.validation import resolve
from homeroom.federation import versions
from homeroom.system import clock
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings, advised
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.recipe.recipe import read_recipe

OLD, NEW = range(8), range(8, 10)
TEST, CHOICE = 397, 300  # pictures; the others go to the device
WITHIN_RETENTION = 0.2  # of the old pictures, where the others have expired
EPOCHS = 20
SOON, LATER = 10, 20  # days until most pictures expire, and until all do


@dataclass(frozen=True)
class Bundles:
    """Of the first term, and the one that extends it."""

    first: Path
    second: Path


def make_bundles(folder: Path) -> Bundles:
    """Exports both; the second one's calibration pictures are others."""
    root, key = new_key(), new_key()
    certificate, made = certify(root, "exporter", key, "benchmark"), list[Path]()
    for version, count in enumerate((len(OLD), len(OLD) + len(NEW)), 1):
        shown = [n for n in range(200 * version) if digits.DIGITS.target[n] < count]
        calibration = folder / f"calibration-{version}.jsonl"
        calibration.write_text("".join(json.dumps(row) + "\n" for row in digits.rows(np.array(shown))))
        recipe = read_recipe(digits.write_recipe(folder, count, version))
        out, before = folder / f"digits-{version}", made[-1] if made else None
        export(recipe, calibration, out, key, certificate, extends=before)
        made.append(out)
    return Bundles(*made)


@dataclass(frozen=True)
class Pictures:
    """One seed's numbers of pictures: what the device has, what a method is chosen by, and what it is judged by."""

    device: np.ndarray
    choice: np.ndarray
    test: np.ndarray

    def drawn(self, of: range) -> np.ndarray:
        """Those of the device that show one of these digits."""
        return self.device[np.isin(digits.DIGITS.target[self.device], of)]


def deal(seed: int) -> Pictures:
    order = np.random.default_rng([seed, 27]).permutation(len(digits.DIGITS.target))
    return Pictures(order[TEST + CHOICE :], order[TEST : TEST + CHOICE], order[:TEST])


@contextmanager
def days_later(days: int) -> Iterator[None]:
    """The system's clock as of so many days from now."""
    moment = clock.now() + datetime.timedelta(days)
    with mock.patch.object(clock, "now", return_value=moment):
        yield


def add(device: Device, numbers: np.ndarray) -> None:
    """Adds labelled pictures; WITHIN_RETENTION of the pupils' are kept for LATER days, the others for SOON."""
    today, samples = device.store.today(), []
    for position, row in enumerate(digits.rows(numbers)):
        pupil = position // 20
        days = LATER if pupil % round(1 / WITHIN_RETENTION) == 0 else SOON
        kept = {"subject": f"pupil-{numbers[0]}-{pupil}", "retain_until": today + datetime.timedelta(days)}
        samples.append(Sample(**{**row, **kept}))  # type: ignore[arg-type]
    device.add(*samples, gates=False)


def settings(device: Device, seed: int) -> Settings:
    return advised(device.bundle.manifest, seed=seed, epochs=EPOCHS)


@contextmanager
def opened(place: Path, bundle: Path | None = None) -> Iterator[Device]:
    """The device of a folder that holds its directory and its keys: an end of retention destroys keys of copies."""
    keys = mock.patch.dict(os.environ, {"HOMEROOM_KEYS": str(place / "keys")})
    with keys, Device.open(place / "device", bundle, threads=1) as device:
        yield device


def first_term(place: Path, bundles: Bundles, pictures: Pictures, seed: int) -> Path:
    """A device that learned the old digits with the first bundle."""
    with opened(place, bundles.first) as device:
        add(device, pictures.drawn(OLD))
        device.train(settings=settings(device, seed))
    return place


def copied(place: Path, name: str) -> Path:
    """The closed device once more."""
    return shutil.copytree(place, place.parent / name)


Right = Mapping[str, np.ndarray]  # by who answers, whether each picture's answer is right, bool [n]


def right(device: Device, numbers: np.ndarray) -> Right:
    """What theta alone answers rightly, and what it does with the solved heads, which is what the device says."""
    truth = digits.DIGITS.target[numbers]
    asked = [Sample(picture=row["picture"]) for row in digits.rows(numbers)]
    bundle, store = device.bundle, device.store
    ready = examples(None, bundle, device.graphs, [resolve(one, bundle.manifest) for one in asked])
    theta = versions.answering_theta(store, bundle, store.versions.current())
    alone = outputs_of(device.graphs, Dataset(bundle.manifest, ready), theta)["digit"].argmax(1)
    said = [str(answers["digit"].best) for answers in device.predict_many(asked)]
    return {"theta": alone == truth, "theta and solved heads": np.array(said) == truth.astype(str)}
