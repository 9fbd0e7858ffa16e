"""An engineer's own torch module is a source: a file that makes it, or the module itself; it computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModel

from exporter import models
from exporter.encoders.test_encoders import run
from homeroom import Device
from homeroom.cli.main import main
from homeroom.errors import ExportError, RecipeError
from homeroom.runtime.bundle import open_bundle
from homeroom_exporter.encoders import load
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.quantize.graph_surgery import regions
from homeroom_exporter.recipe.recipe import parse_recipe

NET = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.skip = nn.Conv2d(before, after, 1, stride=2)
        self.path = nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.SiLU())

    def forward(self, x):
        return self.skip(x) + self.path(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(3, 8), Block(8, 12)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        maps = []
        for block in self.blocks:
            x = self.drop(block(x))
            maps.append(x)
        return {"maps": maps, "mean": x.mean((2, 3))}


def build():
    return Net()


class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 16, 400, 160), nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.first(x.unsqueeze(1)).tanh()
        for _ in range(2):
            x = x + self.second(x).relu()
        return x.transpose(1, 2)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(300, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.RMSNorm(16))

    def forward(self, attention_mask, input_ids):
        return self.layers(self.table(input_ids), src_key_padding_mask=attention_mask == 0)
"""
PIXELS = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
RECIPE = """\
name = "own"
version = 1
batch = 8
width = 16
hidden = 16
golden = 2
saliency = false
[encoders.{modality}]
source = "torch:{source}"
dim = 8
buckets = [8]
taps = [1, 2]
[slots]
{slot} = "{modality}"
[tasks.animal]
kind = "classification"
reads = ["{slot}"]
labels = ["cat", "dog"]
[training]
learning_rate = 1e-2
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A folder with net.py and what says how its inputs are made."""
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.py").write_text(NET)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    models.write_tokenizer(folder)
    return folder


def own(name: str) -> Any:
    """What net.py's class or function of that name makes, from the seed that a source is made with."""
    names: dict[str, Any] = {"__name__": "net"}
    exec(NET, names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return names[name]().eval()


def made(tmp_path: Path, modality: Any, source: str | Path, **options: Any) -> Encoder:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return load(EncoderSpec(modality=modality, source=f"torch:{source}", **options), scratch)


def test_taps_of_pictures_are_the_maps_that_the_module_gives(net: Path, tmp_path: Path) -> None:
    encoder = made(tmp_path, "image", f"{net}/net.py:build")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = own("build")(pixels)["maps"]
    assert encoder.taps == ("layer.1", "layer.2")
    for got, wanted in zip(run(encoder.graph, encoder.taps, {"pixels": pixels.numpy()}), maps, strict=True):
        pooled = wanted.flatten(2).numpy() @ regions(wanted.shape[2], 2)
        assert np.allclose(got, pooled.transpose(0, 2, 1), atol=1e-5)


def test_taps_of_sound_are_frames_even_where_the_module_computes_on_channels_first(net: Path, tmp_path: Path) -> None:
    (net / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    encoder = made(tmp_path, "audio", f"{net}/net.py:Frames", seconds=0.5)
    sound = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        frames = own("Frames")(sound).numpy()
    (got,) = run(encoder.graph, encoder.taps, {"audio": sound.numpy()})
    assert got.shape == (2, 5, 16)
    assert np.allclose(got[:, 0], frames[:, : -(-frames.shape[1] // 5)].mean(1), atol=1e-5)


def test_taps_of_texts_are_the_modules_own_for_any_number_of_tokens(net: Path, tmp_path: Path) -> None:
    encoder = made(tmp_path, "text", f"{net}/net.py:Words", buckets=(8, 16))
    ids = np.random.default_rng(0).integers(4, 19, (3, 11))
    mask = (np.arange(11) < np.array([[11], [4], [7]])).astype(np.int64)
    with torch.no_grad():
        wanted = own("Words")(torch.from_numpy(mask), torch.from_numpy(ids)).numpy()
    *_, got = run(encoder.graph, encoder.taps, {"input_ids": ids, "attention_mask": mask})
    assert np.allclose(got[mask > 0], wanted[mask > 0], atol=1e-5)


@pytest.mark.parametrize("shape", [models.bert, models.roberta])
def test_a_librarys_model_is_a_module_too(shape: Callable[[Path], Path], tmp_path: Path) -> None:
    module = AutoModel.from_pretrained(shape(tmp_path / "model")).eval()
    encoder = made(tmp_path, "text", tmp_path / "model", module=module, buckets=(8, 16))
    ids, mask = np.arange(4, 16).reshape(2, 6), np.array([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    *_, got = run(encoder.graph, encoder.taps, {"input_ids": ids, "attention_mask": mask})
    assert np.allclose(got[mask > 0], wanted[mask > 0], atol=1e-5)


def rows(modality: str) -> list[dict[str, Any]]:
    draw = np.random.default_rng(2)
    found = []
    for i in range(48):
        animal = ("cat", "dog")[i % 2]
        text = f"the {draw.choice(['big', 'small', 'red'])} {animal} {draw.choice(['sees', 'likes'])} a bird"
        thing = {"answer": text} if modality == "text" else {"picture": tiny.png(animal, draw)}
        found.append({**thing, "labels": {"animal": animal}, "subject": f"p-{i % 8}"})
    return found


def learns(folder: Path, bundle: Path, samples: Path) -> bool:
    with Device.open(folder, bundle=bundle, threads=1) as device:
        device.add(samples)
        return device.train(minutes=2, epochs=10).scores["animal"].accuracy > 0.8


def test_a_recipe_names_the_file_and_a_device_learns_on_the_module(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    samples = tiny.write_samples(tmp_path / "samples", rows("image"))
    (net / "own.toml").write_text(RECIPE.format(modality="image", slot="picture", source="net.py:build"))
    monkeypatch.chdir(net)
    out = str(tmp_path / "out")
    main(["bundle", "export", "own.toml", out, "--calibration", str(samples), "--threads", "1", "-v"])
    assert "... building the image backbone from torch:net.py:build" in capsys.readouterr().err
    assert open_bundle(tmp_path / "out", root=None).manifest.modalities[0].encoder == "net.build"
    assert learns(tmp_path / "device", tmp_path / "out", samples)


def test_a_module_handed_over_in_python_is_exported_unchanged_with_the_identity_of_its_weights(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    samples = tiny.write_samples(tmp_path / "samples", rows("text"))
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    module = own("Words").double().train()
    told = []
    for name, source, modules in (("a", net, {"text": module}), ("b", f"{net}/net.py:Words", {})):
        recipe = parse_recipe(RECIPE.format(modality="text", slot="answer", source=source))
        done = export(recipe, samples, tmp_path / name, tiny.EXPORTER, certificate, modules=modules, threads=1)
        told.append(done.manifest.modalities[0].features_id)
    assert told[0] == told[1]
    assert module.training
    assert next(module.parameters()).dtype == torch.float64
    assert learns(tmp_path / "device", tmp_path / "a", samples)
    with torch.no_grad():
        next(module.parameters())[7] += 1.0
    other = export(
        parse_recipe(RECIPE.format(modality="text", slot="answer", source=net)),
        samples,
        tmp_path / "c",
        tiny.EXPORTER,
        certificate,
        modules={"text": module},
        threads=1,
    )
    assert other.manifest.modalities[0].features_id != told[0]


WRONG = {
    "raises": "import torch\ndef build():\n    raise KeyError('weights')\n",
    "returns": "def build():\n    return {'weight': 1}\n",
    "syntax": "def build(:\n",
    "leaves": "import sys\nsys.exit(3)\n",
    "lacks": "import absent_library\n",
    "other": "import torch\nclass Net(torch.nn.Module):\n    pass\n",
    "two": "def forward(self, x, y):\n    return x\n",
    "size": "def forward(self, x):\n    return torch.nn.Linear(5, 5)(x)\n",
    "branch": "def forward(self, x):\n    if x.mean() > 0:\n        return x\n    return x * 2\n",
    "random": "def forward(self, x):\n    return x + torch.rand_like(x)\n",
    "batch": "def forward(self, x):\n    return x + torch.ones(int(x.shape[0]), 3, 32, 32).cumsum(0)\n",
    "nothing": "def forward(self, x):\n    return None\n",
    "maskless": "def forward(self, input_ids, attention_mask):\n    return input_ids[..., None] * torch.ones(16)\n",
    "flat": "def forward(self, x):\n    return x.mean((2, 3))\n",
}


def wrong(folder: Path, name: str) -> str:
    text = WRONG[name]
    if text.startswith("def forward"):
        body = text.replace("\n    ", "\n        ").replace("def forward", "    def forward")
        text = f"import torch\nclass Net(torch.nn.Module):\n{body}\ndef build():\n    return Net()\n"
    (folder / f"{name}.py").write_text(text)
    return f"{folder}/{name}.py:build"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", r"build\(\) fails: KeyError: 'weights', raises\.py line 3"),
        ("returns", r"build\(\) gives a dict, no torch\.nn\.Module"),
        ("syntax", r"syntax\.py cannot be run: SyntaxError.* line 1"),
        ("leaves", r"leaves\.py cannot be run: SystemExit: 3, leaves\.py line 2"),
        ("lacks", r"lacks\.py cannot be run: ModuleNotFoundError: No module named 'absent_library'"),
        ("other", r"other\.py defines no build \(it has Net\)"),
        ("two", r"fails on pixels float32 \[2, 3, 32, 32\]: TypeError: .*missing 1 required .*'y'"),
        ("size", r"fails on pixels float32 .*: RuntimeError: .* size\.py line 4"),
        ("branch", r"decides by a tensor's values, branch\.py line 4, and a graph cannot \(use torch\.where"),
        ("random", "gives something else each time"),
        ("batch", "as a graph it gives .*may fix no batch"),
        ("nothing", "gives no float tensor"),
        ("maskless", "its forward does not read attention_mask"),
        ("flat", r"no value that could be a tap \(it is to hand on hidden states"),
    ],
)
def test_a_module_that_cannot_be_taken_is_told_in_one_sentence(name: str, says: str, net: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=says) as refused:
        made(tmp_path, "text" if name == "maskless" else "image", wrong(net, name))
    assert str(refused.value).startswith("torch:")
    assert "\n" not in str(refused.value)


def test_a_source_without_a_file_a_factory_or_a_module_says_how_it_is_named(net: Path, tmp_path: Path) -> None:
    for source, says in (
        (f"{net}/no.py:build", "there is no file no.py"),
        (str(net), "names no file and factory .*FILE.py:FACTORY"),
        (f"{net}/net.py", "names no file and factory"),
    ):
        with pytest.raises(ExportError, match=says):
            made(tmp_path, "image", source)
    with pytest.raises(ExportError, match=r"handed a dict, no torch\.nn\.Module"):
        made(tmp_path, "image", net, module={})
    with pytest.raises(ExportError, match=r"needs preprocessor_config\.json beside it"):
        made(tmp_path, "image", tmp_path, module=own("build"))
    plan = parse_recipe(RECIPE.format(modality="image", slot="picture", source=net).replace("torch:", "onnx:"))
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    with pytest.raises(RecipeError, match=r"no module to be handed for image .*torch:FOLDER"):
        export(plan, tmp_path, tmp_path / "out", tiny.EXPORTER, certificate, modules={"image": own("build")})


def test_of_an_operator_that_no_graph_has_only_the_sentence_is_printed(
    net: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = NET.replace("return self.skip(x) + self.path(x)", "return torch.fft.rfft2(self.skip(x)).real")
    (net / "net.py").write_text(text)
    recipe = tmp_path / "own.toml"
    recipe.write_text(RECIPE.format(modality="image", slot="picture", source=f"{net}/net.py:build"))
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(recipe), "--dry-run"])
    assert ended.value.code == ExportError.exit_code
    said = capfd.readouterr()
    assert said.out == ""
    sentence, remedy = said.err.splitlines()
    assert "'aten::fft_rfft2'" in sentence
    assert sentence.endswith("module blocks.0, net.py line 12")
    assert "other operations" in remedy
