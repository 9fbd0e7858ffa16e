"""Explanations: regions that a person can point at, attributions that add up, and ablated words that matter."""

from __future__ import annotations

import io
import re
from functools import cache

import numpy as np
import pytest
import soundfile
import tiny

from homeroom.contract.manifest import AudioPreprocess
from homeroom.data.preprocess.audio import decode
from homeroom.data.preprocess.media import heard_s
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.answers import Answer
from homeroom.data.validation import find_task, resolve
from homeroom.errors import BundleError, InputError
from homeroom.inference import attribution
from homeroom.inference import explain as why
from homeroom.inference.ablation import silence
from homeroom.inference.explanation_page import page
from homeroom.inference.predict import predict
from homeroom.inference.regions import regions
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from sdk.learning import dataset, opened


@cache
def learned() -> np.ndarray:
    bundle, graphs = opened()
    return fit(graphs, dataset(120), None, bundle.theta(), Settings(epochs=12, learning_rate=5e-3)).theta


def explained(sample: Sample, task: str, label: str | None = None) -> why.Explanation:
    bundle, graphs = opened()
    theta = learned()
    stored = resolve(sample, bundle.manifest)

    def answers(samples: list[StoredSample]) -> list[Answer]:
        ready = examples(None, bundle, graphs, samples)
        return [found[task] for found in predict(graphs, bundle.manifest, theta, ready, {})]

    (example,) = examples(None, bundle, graphs, [stored])
    (answer,) = answers([stored])
    asked = find_task(task, bundle.manifest)
    return why.explain(bundle, graphs, theta, stored, example, answer, asked, label, answers)  # type: ignore[arg-type]


def rows(count: int = 40) -> list[Sample]:
    return [Sample(**row) for row in tiny.samples(count, seed=5)]


def test_the_word_that_makes_a_contradiction_is_found_and_without_it_the_grade_changes() -> None:
    denied = [s for s in rows() if s.labels["grade"] == "contradictory"][:6]
    found = [explained(Sample(reference=s.inputs["reference"], answer=s.inputs["answer"]), "grade") for s in denied]
    first = [(f.parts[0].slot, f.parts[0].name) for f in found]
    assert first.count(("answer", "“not”")) >= len(denied) - 1
    turned = [f.parts[0].alone for f in found if f.parts[0].name == "“not”"]
    assert all(answer is not None and answer.best == "correct" for answer in turned)
    assert any("Without “not” in answer: correct" in sentence for sentence in found[0].sentences())


def test_a_number_is_explained_by_its_column() -> None:
    facts = {"legs": 4, "kilograms": 19.0, "home": "house"}
    found = explained(Sample(word="the dog", facts=facts), "weight")
    assert found.parts[0].name == "kilograms = 19"
    assert found.parts[0].share > 0.3
    light = explained(Sample(word="the dog", facts={**facts, "kilograms": 1.0}), "weight")
    assert (light.parts[0].name, light.parts[0].share < 0) == ("kilograms = 1", True)
    assert any(sentence.startswith("Down by: kilograms = 1 in facts") for sentence in light.sentences())


@pytest.mark.parametrize("task", ["category", "grade", "which_picture", "same", "size", "weight"])
def test_the_attributions_of_all_tokens_add_up_to_what_the_output_rose_by(task: str) -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1), against the references' mean output."""
    bundle, graphs = opened()
    kind, theta = find_task(task, bundle.manifest), learned()
    (example,) = examples(None, bundle, graphs, [resolve(rows(1)[0], bundle.manifest)])
    weights = np.zeros(kind.width, np.float32)
    weights[0] = 1.0
    attributions = attribution.expected_gradients(bundle, graphs, theta, example, task, weights)
    others = {
        key: attribution.reference_features(bundle, bundle.manifest.slot(key[0]).modality, value[None])[:, 0]
        for key, value in example.inputs.items()
    }
    lines = [
        Example({key: value[row % len(value)].astype(np.int8) for key, value in others.items()}, {})
        for row in range(attribution.REFERENCE_SAMPLES)
    ]
    outputs = outputs_of(graphs, Dataset(bundle.manifest, [example, *lines]), theta)[task][:, 0]
    rose, limit = float(outputs[0] - outputs[1:].mean()), 0.1 * float(np.ptp(outputs)) + 0.05
    assert sum(float(v.sum()) for v in attributions.tokens.values()) == pytest.approx(rose, abs=limit)


def test_every_token_belongs_to_one_region_and_the_shares_sum_to_one() -> None:
    bundle, graphs = opened()
    sample = resolve(rows(1)[0], bundle.manifest)
    (example,) = examples(None, bundle, graphs, [sample])
    for (slot, index), features in example.inputs.items():
        modality = bundle.manifest.modality(bundle.manifest.slot(slot).modality)
        if modality.name == "table":
            continue
        found = regions(modality, sample.inputs[slot][index], features.shape[1], bundle.file)  # type: ignore[arg-type]
        assert sorted(token for region in found for token in region.tokens) == list(range(features.shape[1]))
    parts = explained(rows(1)[0], "category").parts
    assert sum(abs(part.share) for part in parts) == pytest.approx(1.0)
    assert [abs(p.share) for p in parts] == sorted((abs(p.share) for p in parts), reverse=True)


def test_word_pieces_and_umlauts_are_told_as_the_words_that_were_written() -> None:
    text = "Über,  not red-cat"
    bundle, _ = opened()
    modality = bundle.manifest.modality("text")
    found = regions(modality, text, modality.buckets[-1], bundle.file)
    named = {region.name for region in found}
    assert named >= {"“Über”", "“not”", "“red”", "“-”"}
    assert all(text[int(r.where[0]) : int(r.where[1])] == r.name[1:-1] for r in found if r.where)


def late_sound() -> bytes:
    """Two seconds of quiet, a fifth of a second of a quiet tone, then 0.9 s of a loud one; the model hears a second."""
    times = np.arange(8000) / 8000
    loud, low = (level * np.sin(2 * np.pi * 600 * times) for level in (0.6, 0.1))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate([np.zeros(16_000), low[:1600], loud[:7200], low[:4000]]), 8000, format="WAV")
    return buffer.getvalue()


def test_moments_are_those_of_the_persons_own_recording() -> None:
    found = explained(Sample(word="the dog", speech=late_sound()), "same")
    edges = sorted(part.where for part in found.parts if part.slot == "speech" and part.where)
    assert 2.0 <= edges[0][0] <= 2.2
    assert edges[0][0] + 1.0 == pytest.approx(edges[-1][1])
    for part in found.parts:
        if part.slot == "speech" and part.where:
            assert part.name == f"{part.where[0]:.1f} to {part.where[1]:.1f} s"


def test_a_moment_that_is_silenced_leaves_the_rest_of_what_was_heard() -> None:
    """The loudest part of what is left would be another one."""
    bundle, _ = opened()
    spec = bundle.manifest.modality("audio").preprocess
    assert isinstance(spec, AudioPreprocess)
    begin_s, end_s, _ = heard_s(spec, late_sound())
    silenced = silence(late_sound(), (begin_s + 0.5, end_s), spec)
    whole, left = (decode(data, version=2)[0] for data in (late_sound(), silenced))
    start = round(begin_s * 8000)
    assert np.allclose(left[:4000], whole[start : start + 4000], atol=1e-3)
    assert not left[4000:].any()
    assert len(left) == 8000


def test_an_answer_says_what_was_not_read_of_its_inputs() -> None:
    bundle, graphs = opened()
    sample = Sample(word="the cat " * 9 + "<b>not</b> the d\u00adog", speech=late_sound(), answer="the cat")
    (example,) = examples(None, bundle, graphs, [resolve(sample, bundle.manifest)])
    word, speech = example.note.split("; ")
    assert re.fullmatch(r"of word the end is not read: “.*not</b> the d\u00adog”", word)
    assert re.fullmatch(r"of speech 2\.\d to 3\.\d s of 3\.6 s are heard", speech)
    (answers,) = predict(graphs, bundle.manifest, learned(), [example], {})
    assert example.note in answers["category"].reason
    (short,) = examples(None, bundle, graphs, [resolve(Sample(word="the cat"), bundle.manifest)])
    assert short.note == ""


def test_asking_for_another_label_tells_what_speaks_for_that_one() -> None:
    sample = next(s for s in rows() if s.labels["category"] == "cat")
    mine, other = explained(sample, "category"), explained(sample, "category", "fish")
    assert (mine.label, other.label) == ("cat", "fish")
    assert mine.pull > 0 > other.pull


def test_what_cannot_be_explained_is_said() -> None:
    with pytest.raises(InputError, match="needs word and speech"):
        explained(Sample(word="cat"), "same")
    with pytest.raises(InputError, match="no label 'cow'"):
        explained(Sample(word="cat"), "category", "cow")
    bundle, _ = opened()
    bare = type(bundle)(bundle.path, _without_saliency(bundle.manifest), bundle.bundle_id, bundle.certificate)
    with pytest.raises(BundleError, match="no saliency graph"):
        Graphs(bare).steps("saliency")


def _without_saliency(manifest):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(manifest, graphs=tuple(g for g in manifest.graphs if g.role != "saliency"))


def test_the_page_holds_everything_and_nothing_of_a_sample_is_markup() -> None:
    bundle, _ = opened()
    sample = rows(1)[0]
    sample.inputs["word"] = 'the <script>alert("cat")</script> cat'
    html = page(explained(sample, "category"), resolve(sample, bundle.manifest), bundle.manifest)
    assert "<script" not in html
    assert html.count("data:image/png;base64,") == 1  # the four pictures of another task are not shown
    assert html.count("data:audio/wav;base64,") == 1
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:)""", html)
    assert "&lt;" in html
