"""Bundles that extend one another: a tiny lesson on three numbers, first with eight kinds, then with ten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny

from homeroom import Answer, Device, Sample
from homeroom.contract.signing import certify
from homeroom.runtime.bundle import Bundle, open_bundle

RECIPE = """\
name = "shapes"
version = {version}
batch = 8
width = 16
hidden = 32
golden = 3
[encoders.table]
source = "table"
columns = [{{name = "a"}}, {{name = "b"}}, {{name = "c"}}]
[slots]
facts = "table"
[tasks.kind]
kind = "classification"
reads = ["facts"]
labels = {kinds}
[tasks.traits]
kind = "multilabel"
reads = ["facts"]
labels = {traits}
{more}"""
OLD, NEW = tuple("abcdefgh"), ("i", "j")
FIRST = {"version": "1", "kinds": json.dumps(OLD), "traits": '["big"]', "more": ""}
SECOND = FIRST | {"version": "2", "kinds": json.dumps(OLD + NEW), "traits": '["big", "red"]'}
THIRD = SECOND | {"version": "3", "kinds": json.dumps([*OLD, *NEW, "k"])}
CERTIFICATE = certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")


def rows(count: int, kinds: tuple[str, ...], seed: int = 0) -> list[dict[str, Any]]:
    """Points around a corner of a cube for each kind, but for i and j, which are further away."""
    rng, made = np.random.default_rng(seed), []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        at = (OLD + NEW).index(kind)
        centre = (
            np.array([at & 1, at >> 1 & 1, at >> 2 & 1]) * 2.0 if at < 8 else np.full(3, 4.0 if kind == "i" else -2.0)
        )
        facts = dict(zip("abc", (centre + rng.normal(0, 0.2, 3)).tolist(), strict=True))
        traits = (["big"] if facts["a"] > 1 else []) + (["red"] if kind == "j" else [])
        made.append(
            {"facts": facts, "labels": {"kind": kind, "traits": traits}, "subject": f"p{number // len(kinds) % 6}"}
        )
    return made


def write(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def exported(
    folder: Path,
    extends: Bundle | None = None,
    key: Any = tiny.EXPORTER,
    certificate: Any = CERTIFICATE,
    **fields: str,
) -> Bundle:
    from homeroom_exporter.export.pipeline import export  # here: a device's tests have no exporter
    from homeroom_exporter.recipe.recipe import parse_recipe

    number = len([*folder.glob("*.jsonl")])
    calibration = write(folder / f"{number}.jsonl", rows(40 + number, OLD, seed=number))
    recipe, out = parse_recipe(RECIPE.format(**fields)), folder / f"bundle-{number}"
    export(recipe, calibration, out, key, certificate, extends=extends.path if extends else None, threads=1)
    return open_bundle(out, root=None)


def asked(kinds: tuple[str, ...]) -> list[Sample]:
    return [Sample(**{k: v for k, v in row.items() if k != "labels"}) for row in rows(40, kinds, seed=9)]


def accuracy(device: Device, kinds: tuple[str, ...]) -> float:
    right = zip(device.predict_many(asked(kinds)), rows(40, kinds, seed=9), strict=True)
    return float(np.mean([answer["kind"].best == row["labels"]["kind"] for answer, row in right]))


def check_answers(before: list[dict[str, Answer]], after: list[dict[str, Answer]], new: tuple[str, ...]) -> None:
    """Every answer is as before, bit for bit, and new labels are none."""
    for one, other in zip(before, after, strict=True):
        for task, labels in (("kind", new), ("traits", ("red",))):
            assert other[task].probabilities == {**one[task].probabilities, **dict.fromkeys(labels, 0.0)}
            assert (other[task].best, other[task].sure, other[task].reason) == (
                one[task].best,
                one[task].sure,
                one[task].reason,
            )
