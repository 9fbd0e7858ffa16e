"""`homeroom district unlearning test`: a version that learned samples by heart tells them, one from before does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom.cli.main import homeroom
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import certify, new_key
from homeroom.contract.version import make_version
from homeroom.data.ingest import read_samples
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import create_folder, open_rounds

COUNT = 40
WORDS = tiny.WORDS.split()


def write(path: Path, count: int, seed: int) -> Path:
    """Answers of random words with grades by chance: nothing but memory tells which grade one has."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        answer = " ".join(WORDS[n] for n in rng.choice(len(WORDS), 6, replace=False))
        grade = ("correct", "contradictory", "incorrect")[int(rng.integers(3))]
        rows.append(
            {"reference": "the cat", "answer": answer, "labels": {"grade": grade}, "subject": f"s{seed}-{number}"}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def lesson(tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples, and versions 1 (learned them by heart) and 2 (never saw them), signed."""
    folder = tmp_path_factory.mktemp("membership")
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    write(folder / "gone.jsonl", COUNT, 1)
    write(folder / "others.jsonl", COUNT, 2)
    graphs = Graphs(bundle, {}, threads=1)
    stored = list(read_samples(folder / "gone.jsonl", bundle.manifest))
    data = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))
    settings = Settings(epochs=60, learning_rate=2e-2, weight_decay=0.0, constant_rate=True, balance=0.0)
    learned = fit(graphs, data, None, bundle.theta(), settings).theta
    (folder / "1.version").write_bytes(version(tiny_bundle, bundle, 1, learned))
    (folder / "2.version").write_bytes(version(tiny_bundle, bundle, 2, bundle.theta()))
    return folder


def version(made: tiny.Tiny, bundle: Bundle, number: int, theta: np.ndarray) -> bytes:
    certificate = certify(made.root_key, "aggregator", made.aggregator_key, "tests")
    return make_version(made.aggregator_key, certificate, bundle.bundle_id, number, theta, {})


def run(bundle: tiny.Tiny, before: Path | str, after: Path | str, gone: Path, others: Path, *more: str):  # type: ignore[no-untyped-def]
    words = [bundle.path, before, after, "--withdrawn", gone, "--others", others, *more]
    return CliRunner().invoke(homeroom, ["district", "unlearning", "test", *map(str, words)])


def test_a_version_that_learned_them_by_heart_tells_and_one_that_never_saw_them_does_not(
    tiny_bundle: tiny.Tiny, lesson: Path
) -> None:
    sets = lesson / "gone.jsonl", lesson / "others.jsonl"
    done = run(tiny_bundle, lesson / "1.version", lesson / "2.version", *sets, "--json", "--root", tiny_bundle.root)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    (task,) = result["tasks"]
    assert (result["before"], result["after"], result["root"]) == (1, 2, tiny_bundle.root)
    assert (task["task"], task["withdrawn"], task["others"], task["verdict"]) == ("grade", 40, 40, "not_shown_after")
    assert task["areas"]["before"]["low"] > 0.6
    assert task["areas"]["after"]["low"] < 0.5 < task["areas"]["after"]["high"]
    assert task["areas"]["change"]["low"] > 0.6
    assert task["by_subject"]
    done = run(tiny_bundle, lesson / "2.version", lesson / "1.version", *sets)
    assert "they show still" in done.output
    assert "interval by subject" in done.output
    done = run(tiny_bundle, lesson / "1.version", lesson / "1.version", *sets)
    assert "named twice" in str(done.exception)


def test_it_says_where_it_cannot_tell(tiny_bundle: tiny.Tiny, lesson: Path, tmp_path: Path) -> None:
    versions = lesson / "2.version", lesson / "3.version"
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    versions[1].write_bytes(version(tiny_bundle, bundle, 3, bundle.theta()))
    few = write(tmp_path / "few.jsonl", 19, 1)
    assert "Too few samples" in run(tiny_bundle, *versions, few, lesson / "others.jsonl").output
    said = run(tiny_bundle, *versions, lesson / "gone.jsonl", lesson / "others.jsonl").output
    assert "tells nothing on the version before either" in said
    done = run(tiny_bundle, *versions, lesson / "gone.jsonl", lesson / "gone.jsonl")
    assert "40 samples among the withdrawn ones too" in str(done.exception)
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"reference": "the cat", "answer": "the dog"}) + "\n")
    assert "no sample has a label" in str(run(tiny_bundle, *versions, bare, lesson / "others.jsonl").exception)


def test_versions_of_a_folder_and_of_a_backup_which_stays_as_it_was(
    tiny_bundle: tiny.Tiny, lesson: Path, tmp_path: Path
) -> None:
    sets = lesson / "gone.jsonl", lesson / "others.jsonl"
    folder, saved = tmp_path / "district", tmp_path / "saved"
    asked = RoundConfiguration(bundle_id=tiny_bundle.bundle_id)
    create_folder(folder, tiny_bundle.path, institution="Lake", root_key=tiny_bundle.root_key, configuration=asked)
    rounds = open_rounds(folder)
    rounds.release_unchanged()
    rounds.release_unchanged()
    rounds.close()
    backup.backup(folder, saved)
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    done = run(tiny_bundle, f"{saved}:1", f"{folder}:2", *sets)
    assert done.exit_code == 0, done.exception
    assert "version 1, before" in done.output
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    done = run(tiny_bundle, f"{saved}:7", f"{folder}:2", *sets)
    assert "holds no such version" in str(done.exception)
    done = run(tiny_bundle, f"{saved}:1", lesson / "gone.jsonl", *sets)
    assert "is not a homeroom version" in str(done.exception)
    other = certify(new_key(), "aggregator", tiny_bundle.aggregator_key, "tests")
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    foreign = tmp_path / "foreign.version"
    foreign.write_bytes(make_version(tiny_bundle.aggregator_key, other, bundle.bundle_id, 9, bundle.theta(), {}))
    assert "of two institutions" in str(run(tiny_bundle, lesson / "1.version", foreign, *sets).exception)
    changed = bytearray((lesson / "2.version").read_bytes())
    changed[-1] ^= 1
    foreign.write_bytes(bytes(changed))
    assert run(tiny_bundle, lesson / "1.version", foreign, *sets).exit_code != 0
