"""Files from outside that an export reads are bounded before anything is decoded, and none is a pipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from homeroom.errors import ExportError, HomeroomError, InputError, RecipeError
from homeroom_exporter.encoders import hub, onnx_file
from homeroom_exporter.encoders import outside_files as outside
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export import stages
from homeroom_exporter.interchange import peft
from homeroom_exporter.recipe.recipe import read_recipe

IMAGES = {"modality": "image", "taps": (), "dim": 8, "buckets": (1,)}


def sparse_file(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_a_recipe_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="larger than 1 MB"):
        read_recipe(sparse_file(tmp_path / "recipe.toml", outside.TEXT_LIMIT_BYTES + 1))
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_recipe(tmp_path / "latin.toml")
    with pytest.raises(RecipeError, match="No such file"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "why"),
    [("[1]", "not one JSON object"), ("{", "is not JSON"), ("[" * 200_000, "is not JSON"), (" " * 2_000_000, "1 MB")],
)
def test_a_configuration_that_is_none_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / peft.CONFIG).write_text(text)
    (tmp_path / "preprocessor_config.json").write_text(text)
    (tmp_path / peft.MODEL).touch()
    with pytest.raises(ExportError, match=why):
        peft.read(tmp_path)
    with pytest.raises(ExportError, match=why):
        onnx_file.model_inputs(EncoderSpec(source="onnx:m.onnx", **IMAGES), tmp_path / "m.onnx", tmp_path)


def test_a_model_that_is_larger_than_any_is_refused_before_it_is_read(tmp_path: Path) -> None:
    graph = sparse_file(tmp_path / "m.onnx", outside.GRAPH_LIMIT_BYTES + 1)
    with pytest.raises(ExportError, match="larger than 2,048 MB"):
        onnx_file.read(graph, EncoderSpec(source="onnx:m.onnx", **IMAGES))
    folder = tmp_path / "hf"
    (folder / "inner").mkdir(parents=True)
    sparse_file(folder / "model.safetensors", outside.TOKENIZER_LIMIT_BYTES + 1)
    outside.check_model_folder(folder, "hf")
    sparse_file(folder / "tokenizer.json", outside.TOKENIZER_LIMIT_BYTES + 1)
    with pytest.raises(ExportError, match=r"tokenizer\.json is larger than 64 MB"):
        hub.load_model(EncoderSpec(source=f"hf:{folder}", **IMAGES))
    theta = sparse_file(tmp_path / "theta.safetensors", peft.MODEL_LIMIT_BYTES + 1)
    with pytest.raises(InputError, match="holds no theta: is no file, or one of more"):
        peft.theta_of(None, theta)  # type: ignore[arg-type]


@pytest.mark.skipif(os.name == "nt", reason="pipes in a folder are POSIX's")
def test_nothing_waits_for_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "tokenizer.json"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / peft.CONFIG)
    (tmp_path / peft.MODEL).touch()
    for read in (
        lambda: read_recipe(pipe),
        lambda: peft.read(tmp_path),
        lambda: outside.check_model_folder(tmp_path, "hf"),
        lambda: onnx_file.read(pipe, EncoderSpec(source="onnx:m.onnx", **IMAGES)),
    ):
        with pytest.raises(HomeroomError, match="pipe or a device"):
            read()


def test_calibration_samples_are_bounded_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(Path(__file__).parents[3] / "examples" / "recipes" / "short_answers.toml")
    rows = "".join(f'{{"{recipe.slots[0].name}": "{"a" * 400} {number}"}}\n' for number in range(9))
    (tmp_path / "answers.jsonl").write_text(rows)
    assert len(stages.read_calibration(recipe, tmp_path / "answers.jsonl")) == 9
    monkeypatch.setattr(stages, "CALIBRATION_LIMIT_BYTES", 5 << 10)
    with pytest.raises(InputError, match="give a part"):
        stages.read_calibration(recipe, tmp_path / "answers.jsonl")


def test_no_sample_without_consent_or_past_its_day_enters_a_bundle(tmp_path: Path) -> None:
    recipe = read_recipe(Path(__file__).parents[3] / "examples" / "recipes" / "short_answers.toml")
    kept_out = ('"consent": "refused"', '"consent": "withdrawn"', '"retain_until": "2020-01-31"')
    rows = [f'{{"{recipe.slots[0].name}": "answer {number}", {why}}}\n' for number, why in enumerate(kept_out)]
    (tmp_path / "none.jsonl").write_text("".join(rows))
    (tmp_path / "one.jsonl").write_text("".join(rows) + f'{{"{recipe.slots[0].name}": "mine", "consent": "given"}}\n')
    told: list[str] = []
    (sample,) = stages.read_calibration(recipe, tmp_path / "one.jsonl", told.append)
    assert sample.inputs[recipe.slots[0].name] == ["mine"]
    assert told == ["3 left out: their consent is refused or withdrawn, or their last day has passed"]
    with pytest.raises(InputError, match="no sample that may be used"):
        stages.read_calibration(recipe, tmp_path / "none.jsonl")
