"""Exports: complete, checked, signed, the same bytes twice, and nothing at all when something is wrong."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom.cli.main import homeroom
from homeroom.contract.graph_io import ATTENTION_MASK, INPUT_IDS
from homeroom.contract.manifest import Column, Slot
from homeroom.data.ingest import read_samples
from homeroom.data.samples import Sample, digest_of
from homeroom.data.validation import resolve
from homeroom.errors import DiskFullError, ExportError, HomeroomError, StoreError
from homeroom.inference import golden
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import install, open_bundle, zip_bundle
from homeroom.runtime.external_data import bytes_with_external_data
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom_exporter.bundle import mapped_tables, synthetic
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle.write import staging
from homeroom_exporter.check import check, linear_probe
from homeroom_exporter.cli import export_command, trial_keys
from homeroom_exporter.encoders import backbone
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export import stages
from homeroom_exporter.export.design import choose_golden_samples, draft
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe

TEXT = "graphs/features.text.int8.onnx"
RECIPE = """\
name = "tiny_lesson"
version = 3
seed = 4
batch = 4
width = 16
hidden = 32
golden = 3
[encoders.text]
source = "pip:minilm"
taps = [2, 4, 6]
[encoders.image]
source = "pip:efficientnet-lite0"
taps = ["head"]
[slots]
reference = "text"
answer = "text"
picture = "image"
[tasks.grade]
kind = "classification"
head = "pair"
reads = ["reference", "answer"]
labels = ["correct", "contradictory", "incorrect"]
[tasks.category]
kind = "classification"
reads = ["picture"]
labels = ["cat", "dog", "bird", "fish"]
"""


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = tiny.samples(60, seed=11)
    kept = [
        {k: v for k, v in row.items() if k in ("reference", "answer", "picture", "subject")}
        | {"labels": {k: v for k, v in row["labels"].items() if k in ("grade", "category")}}
        for row in rows
    ]
    return tiny.write_samples(tmp_path_factory.mktemp("calibration"), kept)


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """`backbone.build` hands out the tiny encoders; its own tests build the real ones."""

    def build(spec: backbone.EncoderSpec, values: list[Any], scratch: Path, **_: Any) -> backbone.Backbone:
        assert values
        return tiny.design_and_backbones(scratch)[1][spec.modality]

    monkeypatch.setattr(backbone, "build", build)


def recipe() -> Recipe:
    return parse_recipe(RECIPE)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_export_is_checked_signed_and_the_same_twice(calibration: Path, tmp_path: Path) -> None:
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    reports: list[check.SelfCheck] = []
    for out in ("one", "two"):
        export(recipe(), calibration, tmp_path / out, tiny.EXPORTER, certificate, threads=1, show=reports.append)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "one.float32.homeroom", "two", "two.float32.homeroom"]
    seconds = [(tmp_path / f"{out}.float32.homeroom").read_bytes() for out in ("one", "two")]
    assert seconds[0] == seconds[1]
    assert not [name for name in files(tmp_path / "one") if "float32" in name]
    with zipfile.ZipFile(tmp_path / "one.float32.homeroom") as archive:
        assert archive.namelist() == [f"graphs/features.{modality}.float32.onnx" for modality in ("image", "text")]
    bundle = open_bundle(tmp_path / "one", root=tiny.fingerprint(tiny.public_hex(tiny.ROOT)))
    assert (bundle.manifest.name, bundle.manifest.version) == ("tiny_lesson", 3)
    assert golden.choose_precision(bundle, threads=1) == {"text": "int8", "image": "int8"}
    assert reports[0].passed
    assert {p.task for made in reports[0].backbones for p in made.probes} == {"grade", "category"}

    zip_bundle(tmp_path / "one", tmp_path / "a.homeroom")
    zip_bundle(tmp_path / "two", tmp_path / "b.homeroom")
    assert (tmp_path / "a.homeroom").read_bytes() == (tmp_path / "b.homeroom").read_bytes()
    installed = install(tmp_path / "a.homeroom", tmp_path / "installed", root=None)
    assert installed.bundle_id == bundle.bundle_id
    with zipfile.ZipFile(tmp_path / "a.homeroom") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_export_that_is_taught_starts_from_what_it_learned_and_says_so(
    calibration: Path, tmp_path: Path, tiny_bundle: tiny.Tiny
) -> None:
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    export(recipe(), calibration, tmp_path / "out", tiny.EXPORTER, certificate, teach=True, threads=1)
    bundle = open_bundle(tmp_path / "out", root=None)
    assert golden.choose_precision(bundle, threads=1) == {"text": "int8", "image": "int8"}
    graphs, names = Graphs(bundle, threads=1), bundle.manifest.task("category").labels
    stored = [sample for sample in read_samples(calibration, bundle.manifest) if "picture" in sample.inputs]
    ready = Dataset(bundle.manifest, examples(None, bundle, graphs, stored))

    def right(theta: np.ndarray) -> float:
        guesses = all_outputs_of(graphs, ready, theta)[0]["category"].argmax(1)
        return float(np.mean([names[i] == s.labels["category"] for i, s in zip(guesses, stored, strict=True)]))

    assert right(bundle.theta()) > 0.8 > 0.6 > right(initial_theta(bundle.layout, recipe().seed))
    for path, said in (
        (bundle.path, "starts from 60 labelled calibration samples"),
        (tiny_bundle.path, "starts from the seed's values, from no label"),
    ):
        assert said in CliRunner().invoke(homeroom, ["bundle", "inspect", str(path)]).output


def test_without_a_label_there_is_nothing_to_teach(calibration: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"labels": {}} for line in calibration.read_text().splitlines()]
    unlabelled = calibration.with_name("unlabelled.jsonl")
    unlabelled.write_text("\n".join(map(json.dumps, rows)))
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    with pytest.raises(ExportError, match="no calibration sample has a label"):
        export(recipe(), unlabelled, tmp_path / "out", tiny.EXPORTER, certificate, teach=True, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_fails_its_self_check_is_not_written(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[check.SelfCheck] = []
    monkeypatch.setattr(check, "PARITY", dict.fromkeys(check.PARITY, 0.0))
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    with pytest.raises(ExportError, match="differs from torch"):
        export(recipe(), calibration, tmp_path / "out", tiny.EXPORTER, certificate, threads=1, show=shown.append)
    assert not shown[0].passed
    assert list(tmp_path.iterdir()) == []


def test_where_no_space_is_left_that_is_said_and_nothing_stays(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DiskFullError, match="nothing was written"), staging(tmp_path / "new" / "out") as folder:
            (folder / "graph.onnx").write_bytes(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any((tmp_path / "new").iterdir())
    with pytest.raises(StoreError, match="cannot be written"), staging(Path("/proc/homeroom/out")):
        raise AssertionError("unreached")


def test_what_exists_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists already"), staging(tmp_path / "out"):
        pass


def test_a_crash_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def crash() -> None:
        with staging(tmp_path / "out") as folder:
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from homeroom_exporter.bundle import synthetic
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle import synthetic
from homeroom_exporter.bundle.scratch import claim
from homeroom_exporter.bundle.write import staging
work = claim(Path(sys.argv[1]), "homeroom-export-")
(work.path / "graph.onnx").write_bytes(bytes(1000))
with staging(Path(sys.argv[1]) / "out") as folder:
    (folder / "half").write_text("x")
    print(flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_export_left_goes_with_the_next_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    (tmp_path / ".out.of-mine").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        held = {path for path in tmp_path.iterdir() if path.name != ".out.of-mine"}
        assert len(held) == 2
        for alive in (True, False):
            with contextlib.suppress(KeyError), staging(tmp_path / "out"):
                claim(tmp_path, "homeroom-export-").close()
                assert all(path.exists() for path in held) == alive
                assert any(path.exists() for path in held) == alive
                raise KeyError
            if alive:
                other.communicate("\n")
    assert other.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".out.of-mine"]


def test_trial_keys_that_a_killed_export_left_half_are_made_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out.keys"
    trial_keys(folder)
    root = (folder / "root.pem").read_bytes()
    for lost in (("certificate.json",), ("certificate.json", "exporter.pem")):
        for name in lost:
            (folder / name).unlink()
        key, certificate = trial_keys(folder)
        assert certificate.key == tiny.public_hex(key)
        assert (folder / "root.pem").read_bytes() == root


def test_the_tiny_bundle_passes_its_own_golden_samples(tiny_bundle: tiny.Tiny) -> None:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    assert set(golden.choose_precision(bundle, threads=1).values()) == {"int8"}
    for precision in ("int8", "float32"):
        graphs = Graphs(bundle, {"text": precision}, 1)
        assert golden.drift(bundle, graphs, "text").mean > (0.99999 if precision == "float32" else 0.98)


def test_golden_samples_show_every_slot(calibration: Path) -> None:
    from homeroom.data.ingest import read_samples

    plan = recipe()
    chosen = choose_golden_samples(plan, list(read_samples(calibration, draft(plan))))
    assert len(chosen) >= plan.golden
    assert {slot for sample in chosen for slot in sample.inputs} == {"reference", "answer", "picture"}


def test_synthetic_golden_samples_take_no_calibration_sample_along(calibration: Path, tmp_path: Path) -> None:
    certificate, said = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), list[str]()
    plan = parse_recipe(RECIPE.replace("golden = 3", 'golden = 3\ngolden_from = "synthetic"'))
    export(plan, calibration, tmp_path / "out", tiny.EXPORTER, certificate, threads=1, progress=said.append)
    assert "3 synthetic golden samples travel in the bundle" in said
    written = files(tmp_path / "out")
    rows = [json.loads(line) for line in calibration.read_text().splitlines()]
    for text in {row[slot] for row in rows for slot in ("reference", "answer") if slot in row}:
        assert text.encode() not in written["golden/samples.jsonl"]
    media = {path.read_bytes() for path in calibration.parent.rglob("*") if path.is_file()}
    assert media.isdisjoint(written.values())
    bundle = open_bundle(tmp_path / "out", root=tiny.fingerprint(tiny.public_hex(tiny.ROOT)))
    assert golden.choose_precision(bundle, threads=1) == {"text": "int8", "image": "int8"}
    assert all(set(sample.inputs) == {"reference", "answer", "picture"} for sample in golden.golden_samples(bundle))


@pytest.mark.parametrize("modality", ["text", "image", "audio", "table", "sequence"])
def test_a_synthetic_value_of_every_modality_is_one_that_a_device_reads(modality: Any) -> None:
    spec = EncoderSpec(
        modality=modality, source="x", columns=(Column("legs", 3.0, 1.0), Column("of", categories=("sea", "land"))),
        skills=("add", "take"),
    )  # fmt: skip
    slot = Slot("it", modality)
    plan = msgspec.structs.replace(recipe(), encoders=(spec,), slots=(slot,), tasks=(), golden=5)
    samples = synthetic.synthetic_samples(plan, {})
    assert samples == synthetic.synthetic_samples(plan, {})
    checked = [resolve(Sample(it=sample.inputs["it"][0]), draft(plan)) for sample in samples]
    assert all(
        digest_of(a.inputs["it"][0]) == digest_of(b.inputs["it"][0]) for a, b in zip(samples, checked, strict=True)
    )  # type: ignore[arg-type]
    assert len({digest_of(sample.inputs["it"][0]) for sample in samples}) == 5  # type: ignore[arg-type]


def test_what_travels_of_the_calibration_samples_is_said(calibration: Path, tmp_path: Path) -> None:
    from homeroom.data.ingest import read_samples

    plan = recipe()
    _, said = stages.golden_samples(plan, {}, list(read_samples(calibration, draft(plan))))
    assert "calibration samples travel in the bundle as golden samples, with their texts and media" in said


def test_a_manifest_states_what_the_files_hold(tiny_bundle: tiny.Tiny) -> None:
    manifest = tiny_bundle.manifest
    assert {g.opset for g in manifest.graphs if g.role != "features"} == {20}
    assert {g.opset for g in manifest.graphs if g.role == "features"} == {17}
    assert {g.tokens["text"] for g in manifest.graphs if g.role == "grad"} == {8, 16}
    assert all(graph.tried for graph in manifest.graphs)


def test_a_probe_sees_features_that_were_ruined() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    good = rng.standard_normal((200, 20)) + np.eye(3)[labels] @ rng.standard_normal((3, 20)) * 2
    fine = linear_probe.compare("task", good, good + rng.normal(0, 0.1, good.shape), labels)
    ruined = linear_probe.compare("task", good, rng.standard_normal(good.shape), labels)
    assert fine is not None
    assert ruined is not None
    assert fine.float32 > 0.8
    assert (fine.worse, ruined.worse) == (False, True)
    assert linear_probe.compare("task", good[:20], good[:20], labels[:20]) is None


def test_quantization_that_ruins_features_fails_the_check(tmp_path: Path, calibration: Path) -> None:
    from homeroom.data.ingest import read_samples

    plan = recipe()
    made = tiny.design_and_backbones(tmp_path)[1]["text"]
    strict = msgspec.structs.replace(
        made.modality, tolerance=msgspec.structs.replace(made.modality.tolerance, mean=1.0)
    )
    design = check.Design((strict,), {"text": made.scale}, plan.slots[:2], plan.tasks[:1], {"grade": "pair"}, 16, 32)
    samples = list(read_samples(calibration, draft(plan)))
    found = check.check_backbone(design, made, samples, 1)
    assert check._failures(found, strict)
    assert found.cosine[0] > 0.98


def test_the_command_signs_for_trial_and_says_so(calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    arguments = [str(tmp_path / "recipe.toml"), str(tmp_path / "out"), "--calibration", str(calibration), "--zip"]
    result = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "signing for trial with a root made here" in result.output
    assert "error against torch" in " ".join(result.output.split())
    assert (tmp_path / "out.homeroom").exists()
    root = next(line.split()[1] for line in result.output.splitlines() if line.startswith("root "))
    assert open_bundle(tmp_path / "out", root=root).manifest.name == "tiny_lesson"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: [str(Path(a[0]).parent / "no.toml"), *a[1:]], "cannot be read"),
        (lambda a: [*a, "--key", "x.pem"], "belong together"),
        (lambda a: [*a[:3], str(Path(a[0]).parent / "no.jsonl")], "no such file"),
    ],
)
def test_the_command_refuses_before_anything_is_made(change: Any, says: str, calibration: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    good = [str(tmp_path / "recipe.toml"), str(tmp_path / "out"), "--calibration", str(calibration)]
    result = CliRunner().invoke(export_command, change(good))
    assert isinstance(result.exception, HomeroomError)
    assert says in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_large_tables_lie_beside_their_graph_and_change_no_feature(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_bundle.path / TEXT
    monkeypatch.setattr(mapped_tables, "LEAST_BYTES", 1024)
    folders = [tmp_path / "mapped", tmp_path / "again"]
    for source, folder in zip((tiny_bundle.path, *folders), folders, strict=False):
        mapped_tables.place(source / TEXT, folder / TEXT)
        assert (folder / TEXT).stat().st_size < whole.stat().st_size / 2
        assert bytes_with_external_data(folder / TEXT, TEXT) >= whole.stat().st_size - 1024
    feeds = {INPUT_IDS: np.arange(8, dtype=np.int64)[None], ATTENTION_MASK: np.ones((1, 8), np.int64)}
    features, *others = (load(folder / TEXT, threads=1)(feeds) for folder in (tiny_bundle.path, *folders))
    for other in others:
        for name, values in features.items():
            np.testing.assert_array_equal(values, other[name])


def test_a_bundle_lists_the_tables_beside_its_graphs_and_is_refused_without_them(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_tables, "LEAST_BYTES", 1024)
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    export(recipe(), calibration, tmp_path / "mapped", tiny.EXPORTER, certificate, threads=1)
    bundle, beside = open_bundle(tmp_path / "mapped", root=None), TEXT.replace(".onnx", ".bin")
    assert beside in bundle.manifest.files
    assert golden.choose_precision(bundle, threads=1) == {"text": "int8", "image": "int8"}
    bundle.file(beside).unlink()
    with pytest.raises(HomeroomError, match=beside):
        install(tmp_path / "mapped", tmp_path / "installed", root=None)
