"""How often media are read: bytes decrypted and hashed by trainings, and seconds before their first step.

    python benchmarks/storage.py --json storage.json       some minutes
    python benchmarks/storage.py --quick                    fewer samples; targets are then a hint only

The release before (its wheel lies in `tests/data/0.1.0`) and today's code do the same in fresh processes, with a bundle
that both read. Bytes are counted from outside, in the cipher's `decrypt` and in `hashlib.sha256`; all that is decrypted
besides counts too, such as cached features. For the seconds, the release fills a store with samples and features, and
today's code goes on with a copy of it, which it migrates first. Its pictures have 170 KB each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data" / "0.1.0"
ANIMALS = ("cat", "dog", "fish", "bird")
MEGABYTES = 600  # of a memory budget: enough for the lesson, so that nothing is given up
REPEATS = 5


# In a process of its own, of either code


class FirstStepError(Exception):
    """Ends a training at its first step."""


COUNTED = {"decrypted": 0, "hashed": 0}


def count_bytes() -> None:
    """Counts what is decrypted and hashed from here on; before homeroom is imported."""
    import hashlib

    from cryptography.hazmat.primitives.ciphers import aead

    plain_sha256, plain_cipher = hashlib.sha256, aead.ChaCha20Poly1305

    class CountingHash:
        def __init__(self, data: bytes = b"", **options: Any) -> None:
            self._hash = plain_sha256(b"", **options)
            self.update(data)

        def update(self, data: bytes) -> None:
            COUNTED["hashed"] += len(data)
            self._hash.update(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._hash, name)

    class CountingCipher:
        generate_key = staticmethod(plain_cipher.generate_key)

        def __init__(self, key: bytes) -> None:
            self._cipher = plain_cipher(key)
            self.encrypt = self._cipher.encrypt

        def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
            COUNTED["decrypted"] += len(data)
            return bytes(self._cipher.decrypt(nonce, data, associated_data))

    hashlib.sha256 = CountingHash  # type: ignore[assignment,misc]
    aead.ChaCha20Poly1305 = CountingCipher  # type: ignore[assignment,misc]


def picture(number: int, side: int) -> bytes:
    """A picture of noise, so that its file has about three bytes a pixel."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(number)
    tiles = rng.integers(0, 128, (10, 10, 3), np.uint8)  # so that no two are near copies
    tiles = tiles.repeat(side // 10, 0).repeat(side // 10, 1)
    pixels = tiles + rng.integers(0, 128, tiles.shape, np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    return data.getvalue()


def worker(task: str, directory: Path, count: int, side: int) -> dict[str, Any]:
    """One task on a device's directory; what was counted."""
    count_bytes()
    from homeroom import Device, Sample

    if task == "add":
        samples = [
            Sample(picture=picture(n, side), labels={"category": ANIMALS[n % 4]}, subject=f"p-{n % 20}")
            for n in range(count)
        ]
        began = time.monotonic()
        with Device.open(directory, DATA / "lesson.homeroom", threads=1) as device:
            device.add(*samples)
            return {"seconds": time.monotonic() - began, "media": sum(len(s.inputs["picture"]) for s in samples)}
    began = time.monotonic()
    with Device.open(directory, threads=1) as device:
        opened = time.monotonic() - began
        if task == "open":
            return {"seconds": opened}
        if task == "predict":
            began, sample = time.monotonic(), Sample(picture=picture(10**6, side))
            device.predict(sample)
            return {"seconds": time.monotonic() - began}
        if task == "first step":

            def stop(stage: str, _: int, __: int) -> None:
                if stage == "training":
                    raise FirstStepError

            try:
                device.train(epochs=1, progress=stop)
            except FirstStepError:
                return {"seconds": time.monotonic() - began}
            raise AssertionError("no training was begun")
        report = device.train(epochs=2, minutes=60, megabytes=MEGABYTES if task == "budget" else None)
        assert report.samples == count, f"{report.samples} of {count} samples: {report.plan}"
    return dict(COUNTED)


# The whole


def run(code: Path, keys: Path, *words: object) -> dict[str, Any]:
    """A task in a fresh process of one code."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(code),
        "HOMEROOM_KEYS": str(keys),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read_often(code: Path, folder: Path, count: int, side: int) -> dict[str, float]:
    """How many times its media a code decrypts and hashes, by training."""
    plain, tight = folder / "plain", folder / "tight"
    media = run(code, folder / "keys", "add", plain, count, side)["media"]
    shutil.copytree(plain, tight)
    times: dict[str, float] = {"media_megabytes": media / 1e6}
    for name, task, place in (
        ("first", "train", plain),
        ("second", "train", plain),
        ("first, memory budget", "budget", tight),
        ("second, memory budget", "budget", tight),
    ):
        counted = run(code, folder / "keys", task, place, count, side)
        times |= {f"{name}: {what}": counted[what] / media for what in COUNTED}
    return times


def waits(codes: dict[str, Path], folder: Path, count: int, side: int) -> dict[str, dict[str, float]]:
    """Median seconds of both codes, by task, on stores of the same samples with every feature cached."""
    places = {name: folder / name.replace(" ", "-") for name in codes}
    release, today = places
    run(codes[release], folder / "keys", "add", places[release], count, side)
    run(codes[release], folder / "keys", "train", places[release], count, side)
    shutil.copytree(places[release], places[today])
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, code in codes.items():  # today's code migrates here
        run(code, folder / "keys", "open", places[name], count, side)
    for repeat in range(REPEATS):
        for task in ("first step", "open", "predict", "add"):
            for name, code in codes.items():
                place = folder / f"added-{name[0]}-{repeat}" if task == "add" else places[name]
                took = run(code, folder / "keys", task, place, 200 if task == "add" else count, side)["seconds"]
                seconds.setdefault(task, {}).setdefault(name, []).append(took)
    return {task: {name: statistics.median(s) for name, s in both.items()} for task, both in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        task, directory, count, side = options.worker
        print(json.dumps(worker(task, Path(directory), int(count), int(side))))
        return
    from peers.verdict import finish, limited

    began = time.monotonic()
    few, many = (12, 100) if options.quick else (80, 2000)
    with tempfile.TemporaryDirectory(prefix="homeroom-storage-") as scratch:
        folder = Path(scratch)
        codes = {"release before": folder / "release", "today": ROOT / "sdk"}
        with zipfile.ZipFile(next(DATA.glob("*.whl"))) as wheel:
            wheel.extractall(codes["release before"])
        times = {}
        for name, code in codes.items():
            (folder / f"read-{code.name}").mkdir()
            times[name] = read_often(code, folder / f"read-{code.name}", few, 700)
        (folder / "wait").mkdir()
        seconds = waits(codes, folder / "wait", many, 240)
    print(f"{'times the media':34} {'release before':>15} {'today':>10}")
    for row, value in times["release before"].items():
        print(f"{row:34} {value:15.3f} {times['today'][row]:10.3f}")
    print(f"{f'seconds, {many} samples (adds 200)':34}")
    for row, both in seconds.items():
        print(f"{row:34} {both['release before']:15.3f} {both['today']:10.3f}")
    targets = []
    for kind in ("", ", memory budget"):
        for which, bound in (("first", 1.1), ("second", 0.02)):
            for what in COUNTED:
                name = f"{which}{kind}: {what}"
                targets.append(limited(f"{name}, times the media", times["today"][name], bound))
    ratios = {task: both["today"] / both["release before"] for task, both in seconds.items()}
    name = f"seconds before the first step, all cached, {many} samples, of the release's"
    targets.append(limited(name, ratios["first step"], 1 / 3))
    document = {
        "settings": {"samples": few, "many": many, "quick": options.quick, "repeats": REPEATS},
        "times": times,
        "seconds": seconds,
        "ratios": ratios,
        "targets": targets,
        "minutes": round((time.monotonic() - began) / 60, 2),
    }
    finish(document, options.json)


if __name__ == "__main__":
    main()
