"""What is said of people through the commands: consent, corrections, removals, authors, names, a pupil who moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom import Device, Sample
from homeroom.agent.status import AgentStatus, status_lines
from homeroom.cli.main import main
from homeroom.contract.policy import Policy
from homeroom.federation.policy import POLICY

Say = Callable[..., str]
HEAD = "word,label.category,subject,consent,consent_by,consent_on\n"


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    return tmp_path / "device"


@pytest.fixture
def say(device: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `homeroom device COMMAND DIR …`: what it says on both streams."""

    def run(command: str, *words: object, code: int = 0) -> str:
        ended = 0
        try:
            main(["device", command, str(device), *map(str, words)])
        except SystemExit as problem:
            ended = int(problem.code or 0)
        told = capsys.readouterr()
        assert ended == code, told.err
        return told.out + told.err

    return run


def sheet(folder: Path, rows: str, name: str = "lesson.csv") -> Path:
    (folder / name).write_text(rows, encoding="utf-8")
    return folder / name


def test_refused_and_withdrawn_samples_are_kept_never_trained_on_and_said(
    say: Say, device: Path, tmp_path: Path
) -> None:
    rows = (
        f"{HEAD}a cat,cat,p-1,given,Ms Ray,2026-05-03\na dog,dog,p-2,Refused,the mother,\na fish,fish,p-3,withdrawn,,\n"
    )
    told = say("add", sheet(tmp_path, rows))
    assert "3 samples added" in told
    assert "1 never trained on: consent refused" in told
    assert "1 never trained on: consent withdrawn" in told
    assert "without consent: 2" in say("status")
    with Device.open(device) as opened:
        assert opened.train(epochs=1).samples == 1
        assert [one.trainable for one in opened.store.samples()] == [True, False, False]


def test_under_a_policy_that_asks_for_it_only_given_is_consent(say: Say, device: Path, tmp_path: Path) -> None:
    with Device.open(device) as opened:
        POLICY.write(opened.store, Policy(institution="School 1", version=1, consent=True))
    rows = f"{HEAD}a cat,cat,p-1,given,,\na dog,dog,p-2,refused,,\na fish,fish,p-3,,,\n"
    rows += "bird,bird,p-4,refused by the mother,,\n"
    told = say("add", sheet(tmp_path, rows), code=3)
    assert "3 of 4 rows" in told
    assert "lesson.csv line 3" in told
    assert "here it is refused" in told
    assert "here it is unstated" in told
    assert "did you mean refused?" in told
    assert "samples: 0" in say("status"), "all or none"
    told = say("add", tmp_path / "lesson.csv", "--skip-bad", tmp_path / "bad.csv")
    assert "1 sample added" in told
    assert (tmp_path / "bad.csv").read_text().count("School 1") == 2


def test_consents_in_words_are_listed_once_and_decided_once(say: Say, device: Path, tmp_path: Path) -> None:
    with Device.open(device) as opened:
        for number, words in enumerate(("letter of 3 May", "letter of 3 May", "refused by the mother")):
            opened.add(Sample(word=f"cat {number}", subject=f"p-{number}", consent={"text": words}))
    assert "consent to decide: 3" in say("status")
    told = say("consent")
    assert "'letter of 3 May': 2 samples of p-0, p-1" in told
    assert told.count("letter of 3 May") == 1
    lines = dict(status_lines(AgentStatus(consent_to_decide=3)))
    assert "homeroom device consent" in lines["consent"]
    assert "--by is missing" in say("consent", "--text", "letter of 3 May", "--state", "given", code=3)
    assert "--state is missing" in say("consent", "--text", "letter of 3 May", code=3)
    assert "undecided words" in say("consent", "--text", "letter", "--state", "given", "--by", "x", code=3)
    told = say("consent", "--text", "letter of 3 May", "--state", "given", "--by", "Ms Ray", "--on", "03.05.2026")
    assert "given: 2 samples of 2 persons" in told
    assert "letter" not in say("consent")
    told = say("consent", "--text", "refused by the mother", "--state", "unstated", "--by", "Ms Ray")
    assert "none is to be decided" in say("consent"), "a person may leave it open, once"
    with Device.open(device) as opened:
        first = opened.store.samples("p-0")[0].consent
        assert first is not None
        assert (first.state, first.by, first.on, first.text) == ("given", "Ms Ray", "2026-05-03", "letter of 3 May")


def test_consent_that_is_withdrawn_stops_what_was_not_sent(say: Say, device: Path) -> None:
    with Device.open(device) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(8, 1)))
        subject = opened.store.subjects()[0]
        opened.store.outbox.queue("u", b"update", 0, [subject])
    told = say("consent", "--subject", f"{subject} ", "--state", "withdrawn", "--by", "the father")
    assert "1 unsent update dropped" in told
    assert "stays in the model" in told
    with Device.open(device) as opened:
        assert opened.store.outbox.pending() == []
        assert not any(sample.trainable for sample in opened.store.samples(subject))


def test_a_corrected_sheet_replaces_its_rows_and_says_so(say: Say, device: Path, tmp_path: Path) -> None:
    rows = "word,label.category,subject\na cat,dog,p-1\na dog,dog,p-1\n"
    say("add", sheet(tmp_path, rows))
    told = say("add", sheet(tmp_path, rows.replace("a cat,dog", "a cat,cat")))
    assert "0 samples added, 1 were there already" in told
    assert "category: 'dog', now 'cat' (1)" in told
    with Device.open(device) as opened:
        assert sorted(str(one.labels["category"]) for one in opened.store.samples()) == ["cat", "dog"]
        assert opened.set_aside() == []
    told = say("add", sheet(tmp_path, rows))
    assert "1 with labels that were corrected since" in told


def test_one_sample_is_removed_and_what_cannot_be_taken_back_is_said(say: Say, device: Path, tmp_path: Path) -> None:
    say("add", sheet(tmp_path, "word,label.category,subject\na cat,cat,p-1\na dog,dog,p-1\n"))
    assert "also held: p-1" in say("subjects", "--samples", "P-1", code=3)
    rows: list[Any] = json.loads(say("subjects", "--samples", "p-1", "--json"))
    assert sorted(row["inputs"]["word"] for row in rows) == ["a cat", "a dog"]
    cat = next(row["id"] for row in rows if row["inputs"]["word"] == "a cat")
    assert f"{cat}  word 'a cat': category=cat" in say("subjects", "--samples", "p-1")
    told = say("remove", cat[:8], "--yes")
    assert "removed: 1 sample" in told
    assert "not taken back" in told
    assert "there is no such sample" in say("remove", cat, "--yes", code=3)
    with Device.open(device) as opened:
        assert [one.inputs["word"] for one in opened.store.samples()] == [["a dog"]]
