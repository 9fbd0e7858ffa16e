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
from homeroom.data.samples import StoredSample
from homeroom.errors import DiskFullError
from homeroom.federation.policy import POLICY
from homeroom.system.files import write_durable

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


def test_what_a_person_withdrew_holds_for_new_samples_until_a_later_day(say: Say, device: Path, tmp_path: Path) -> None:
    say("add", sheet(tmp_path, HEAD + "a cat,cat,p-1,given,the mother,\n"))
    say("consent", "--subject", "p-1", "--state", "withdrawn", "--by", "the father", "--on", "2026-01-10")
    told = say("add", sheet(tmp_path, HEAD + "a cat,cat,p-1,given,the mother,\na bird,bird,p-1,given,the mother,\n"))
    assert "2 never trained on: consent withdrawn" in told
    assert "1 never trained on: consent withdrawn" in say("add", sheet(tmp_path, HEAD + "a fish,fish,p-1,,,\n"))
    told = say("add", sheet(tmp_path, HEAD + "a cow,cat,p-1,given,the father,2026-01-11\n"))
    assert "never trained on" not in told
    assert "p-1: consent is withdrawn for 3; given for 1, which is trained on" in told
    with Device.open(device) as opened:
        assert [one.trainable for one in opened.store.samples()] == [False, False, False, True]


def test_the_receipt_counts_the_consent_that_is_held_not_that_of_an_older_row(
    say: Say, device: Path, tmp_path: Path
) -> None:
    old, new = (HEAD + f"a cat,cat,p-1,{word}\n" for word in ("withdrawn,,2026-01-10", "given,the mother,2026-01-11"))
    assert "1 never trained on: consent withdrawn" in say("add", sheet(tmp_path, old))
    assert "never trained on" not in say("add", sheet(tmp_path, new))
    assert "never trained on" not in say("add", sheet(tmp_path, old))
    with Device.open(device) as opened:
        assert [one.trainable for one in opened.store.samples()] == [True]


def test_a_decision_without_a_day_is_of_today(say: Say, device: Path, tmp_path: Path) -> None:
    say("add", sheet(tmp_path, HEAD + "a cat,cat,p-1,given,the mother,\n"))
    say("consent", "--subject", "p-1", "--state", "withdrawn", "--by", "the father")
    with Device.open(device) as opened:
        assert [one.consent.on for one in opened.store.samples() if one.consent] == [opened.store.today().isoformat()]


def test_samples_that_say_nothing_of_a_consent_that_was_refused_are_named(
    say: Say, device: Path, tmp_path: Path
) -> None:
    say("add", sheet(tmp_path, HEAD + "a cat,cat,p-1,refused,,\na hen,bird,p-1,given,,\na dog,dog,p-2,given,,\n"))
    told = say("add", sheet(tmp_path, HEAD + "a bird,bird,p-1,,,\na fish,fish,p-2,,,\na cow,cat,,,,\n"))
    assert "p-1: consent is refused for 1; given for 1 and unstated for 1, which is trained on" in told
    assert "p-2: consent" not in told
    say("consent", "--subject", "p-1", "--state", "refused", "--by", "Ms Ray")
    assert "p-1: consent" not in say("add", sheet(tmp_path, HEAD + "a bird,bird,p-1,,,\na cat,cat,p-1,,,\n"))
    words = "word,label.category,subject,consent_text\na cow,cat,p-3,refused by the mother\n"
    assert "1 with words on consent that nobody has decided: trained on until then" in say(
        "add", sheet(tmp_path, words)
    )


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


def test_a_withdrawal_comes_by_sheet_under_a_policy_too(say: Say, device: Path, tmp_path: Path) -> None:
    with Device.open(device) as opened:
        POLICY.write(opened.store, Policy(institution="School 1", version=1, consent=True))
    say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,given,,\n"))
    told = say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,withdrawn,,\na dog,dog,p-2,withdrawn,,\n"), code=3)
    assert "line 3 a sample of p-2" in told
    assert "no such sample is held" in told
    told = say("add", tmp_path / "lesson.csv", "--skip-bad", tmp_path / "bad.csv")
    assert "given, now withdrawn" in told
    assert "no labelled sample" in say("train", "--minutes", 1, code=9)


def test_lines_that_were_not_taken_are_added_once_corrected(say: Say, device: Path, tmp_path: Path) -> None:
    rows = (
        {"word": f"a {animal}", "labels": {"category": label}} for animal, label in (("cat", "cat"), ("dog", "dgo"))
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = tmp_path / "bad.csv"
    assert "1 sample added" in say("add", tmp_path / "rows.jsonl", "--skip-bad", bad)
    bad.write_text(bad.read_text().replace("dgo", "dog", 1))
    assert "1 sample added" in say("add", bad)
    with Device.open(device) as opened:
        assert [sample.inputs["word"] for sample in opened.store.samples()] == [["a cat"], ["a dog"]]


def test_rows_that_were_not_taken_keep_the_column_that_was_empty_and_name_the_separator(
    say: Say, device: Path, tmp_path: Path
) -> None:
    rows = 'word,label.category,label.weight,retain_until\na cat,cat,"1,250",\na dog,dgo,"7,250",\n'
    bad = tmp_path / "bad.csv"
    told = say("add", sheet(tmp_path, rows), "--decimal", "comma", "--skip-bad", bad)
    assert f"the rows not taken are in {bad}; add it with --decimal comma" in told
    assert bad.read_text().splitlines()[0] == "word,label.category,label.weight,retain_until,why"
    bad.write_text(bad.read_text().replace("dgo", "dog", 1))
    assert "1 sample added" in say("add", bad, "--decimal", "comma")


def test_one_map_takes_several_pairs(say: Say, device: Path, tmp_path: Path) -> None:
    path = sheet(tmp_path, '"What, exactly?",Which animal?\na cat,cat\n')
    say("add", path, "--map", "What, exactly?=word", "--map", "Which animal?=label.category")
    path = sheet(tmp_path, "Q1,Q2\na dog,dog\n", "other.csv")
    say("add", path, "--map", "Q1=word,Q2=label.category")
    with Device.open(device) as opened:
        assert [one.labels for one in opened.store.samples()] == [{"category": "cat"}, {"category": "dog"}]


def test_no_consent_is_of_a_day_to_come(say: Say, device: Path, tmp_path: Path) -> None:
    told = say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,given,,2999-01-01\n"), code=3)
    assert "2999-01-01 is a day to come" in told
    say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,,,\n"))
    decided = ("--subject", "p-1", "--state", "given", "--by", "Ms Ray", "--on", "2999-01-01")
    assert "2999-01-01 is a day to come" in say("consent", *decided, code=3)


def test_a_number_far_from_all_others_is_set_aside(say: Say, device: Path, tmp_path: Path) -> None:
    told = say("add", sheet(tmp_path, "word,label.weight\na cat,12.5\na dog,12500\na bird,-900\n"))
    assert "label weight is 12500, usual are -30 to 50" in told
    with Device.open(device) as opened:
        assert [sample.labels["weight"] for sample in opened.store.samples() if sample.trainable] == [12.5]


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


def test_consent_that_a_sheet_withdraws_stops_what_was_not_sent(say: Say, device: Path, tmp_path: Path) -> None:
    say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,given,,\n"))
    with Device.open(device) as opened:
        opened.store.outbox.queue("u", b"update", 0, ["p-1"])
    say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,withdrawn,the father,\n"))
    with Device.open(device) as opened:
        assert opened.store.outbox.pending() == []


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


@pytest.mark.parametrize("command", ["remove", "forget"])
def test_an_author_goes_with_the_last_sample_that_they_wrote(say: Say, device: Path, command: str) -> None:
    with Device.open(device) as opened:
        (held,) = opened.add(Sample(word="a cat", subject="p-1", author="Ms Ray"))
        opened.add(Sample(word="a dog", subject="p-2"))
    say(command, held if command == "remove" else "p-1", "--yes")
    assert "Ms Ray" not in say("subjects")
    assert "p-2" in say("subjects")


def lesson_of(teacher: str, number: int, seed: int) -> list[Sample]:
    return [Sample(**{**row, "author": teacher}) for row in tiny.samples(number, seed)]


def test_a_teachers_own_model_learns_from_what_they_wrote_and_goes_with_its_pupils(say: Say, device: Path) -> None:
    with Device.open(device, threads=1) as opened:
        opened.add(*lesson_of("Ms Ray", 12, 1), *(Sample(**row) for row in tiny.samples(4, 2)))
        pupils = {sample.subject for sample in opened.store.samples() if sample.author == "Ms Ray"}
        written = sum(sample.author == "Ms Ray" for sample in opened.store.samples())
        report = opened.train(profile=" Ms  Ray", minutes=5)
        assert report.samples == written >= 8
        stored = opened.store.profile("Ms Ray")
        assert stored is not None
        assert set(stored.subjects) == {"Ms Ray", *pupils}
    told = say("subjects")
    assert "Ms Ray" in told
    assert f"0 samples, author of {written} samples" in told
    assert json.loads(say("hand-over", "Ms Ray"))["authored"] == written
    told = say("forget", sorted(pupils)[0], "--yes")
    assert "1 profile," in told, "a pupil's forget takes the teacher's model along"
    with Device.open(device, threads=1) as opened:
        left = [sample for sample in opened.store.samples() if sample.author]
        opened.store.put_profile("Ms Ray", {"start": "bundle"}, {}, ())
        assert left
        count = opened.store.count()
        opened.forget("Ms Ray")
        assert opened.store.profile("Ms Ray") is None
        assert [sample.author for sample in opened.store.samples()] == [None] * count


def test_the_author_is_a_column_and_one_who_wrote_is_held(say: Say, tmp_path: Path) -> None:
    rows = "word,label.category,subject,author\na cat,cat,p-1,ms ray\na dog,dog,p-2,Ms Ray \na fish,fish,p-3,p-3\n"
    told = say("add", sheet(tmp_path, rows))
    assert "Ms Ray: also held: ms ray" in told
    listed = json.loads(say("subjects", "--json"))
    assert listed == {"p-1": 1, "ms ray": 0, "p-2": 1, "Ms Ray": 0, "p-3": 1}
    assert "a dog" in say("subjects", "--samples", "Ms Ray")
    say("remove", json.loads(say("subjects", "--samples", "p-1", "--json"))[0]["id"], "--yes")
    assert "forgotten: 0 samples" in say("forget", "Ms Ray", "--yes"), "of one who is held it never says nothing is"


def held(device: Path) -> list[tuple[Any, ...]]:
    """What is held, without ids, in the order it was added."""
    names = ("inputs", "labels", "subject", "author", "consent", "source", "retain_until", "language", "aside")
    with Device.open(device, threads=1) as opened:
        return [tuple(getattr(sample, name) for name in names) for sample in opened.store.samples("p-17")]


def test_a_pupil_moves_with_all_that_is_held(
    say: Say, device: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    consent = {"state": "given", "by": "the mother", "on": "2026-05-03", "basis": "form 7", "text": "by phone"}
    facts = {"author": "Ms Ray", "consent": consent, "source": "lesson 3", "retain_until": "2999-01-01"}
    with Device.open(device, threads=1) as opened:
        opened.add(*(Sample(**{**row, **facts, "subject": "p-17", "language": "es"}) for row in tiny.samples(6, 1)))
        opened.add(Sample(word="el gato", subject="p-17"), Sample(word="el gato", subject="p-18"))
        opened.train(profile="p-17", minutes=5)
    before, other = held(device), tmp_path / "other"
    say("hand-over", "p-17", "--out", tmp_path / "p-17")
    main(["device", "add", str(other), str(tmp_path / "p-17"), "--bundle", str(tiny_bundle.path)])
    told = capsys.readouterr().out
    assert "7 samples added" in told
    assert "profile.safetensors: a person's own model moves with `homeroom device profile pack`" in told
    assert held(other) == before
    assert {row[3] for row in before} == {"Ms Ray", None}
    assert all(row[4].by == "the mother" for row in before[:6])
    for where, again in ((other, 0), (device, 0)):
        main(["device", "add", str(where), str(tmp_path / "p-17")])
        assert f"{again} samples added, 7 were there already" in capsys.readouterr().out
        assert held(where) == before, "nothing doubled"
    with Device.open(other) as opened:
        assert opened.store.subjects() == ["p-17", "Ms Ray"]
        opened.export("p-17")
    main(["device", "hand-over", str(other), "p-17", "--out", str(tmp_path / "again")])
    one, two = (json.loads((tmp_path / name / "export.json").read_text())["samples"] for name in ("p-17", "again"))
    assert [{**row, "sample_id": ""} for row in one] == [{**row, "sample_id": ""} for row in two]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[]", "is not what"),
        ('{"subject": "p", "samples": 3}', "is not what"),
        ('{"subject": "p", "samples": [{"inputs": {"word": "a cat"}}]}', "list of its inputs"),
        ('{"subject": "p", "samples": [{"inputs": {"picture": ["../secret.png"]}}]}', "cannot be read"),
        ('{"subject": "p", "samples": []}', "holds no sample"),
        ('{"subject": "p", "samples": [{"inputs": {"nose": ["x"]}}]}', "has no input 'nose'"),
    ],
)
def test_a_hand_over_that_is_none_is_refused_whole(say: Say, tmp_path: Path, document: str, says: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "export.json").write_text(document)
    assert says in say("add", tmp_path / "moved", code=3)
    assert "samples: 0" in say("status")


def test_what_is_written_for_a_person_is_whole_or_not_there(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say("add", sheet(tmp_path, f"{HEAD}a cat,cat,p-1,given,,\n"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "support.zip").write_bytes(b"last week's")

    def fill(path: Path, data: bytes) -> None:
        if path.name in ("export.json", "support.zip"):
            raise DiskFullError("no space left", where=str(path))
        write_durable(path, data)

    for module in ("homeroom.store.subject_export", "homeroom.agent.support_bundle"):
        monkeypatch.setattr(f"{module}.write_durable", fill)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.iterdir())
    for folder in ("empty", "new"):
        say("hand-over", "p-1", "--out", tmp_path / folder, code=8)
    say("support-bundle", "--out", tmp_path / "support.zip", code=8)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.iterdir()) == before
    assert list((tmp_path / "empty").iterdir()) == []
    assert (tmp_path / "support.zip").read_bytes() == b"last week's"


def test_of_one_who_is_held_it_never_says_that_nothing_is(say: Say, device: Path, tmp_path: Path) -> None:
    with Device.open(device) as opened:
        opened.store.add([StoredSample(inputs={"word": ["a cat"]}, subject="p-1 ")])  # as an earlier release stored it
        opened.add(Sample(word="a dog", subject="P\u20131"), Sample(word="a fish", subject=7), Sample(word="x"))  # type: ignore[arg-type]
    assert json.loads(say("hand-over", "p-1").partition("\nalso held")[0])["subject"] == "p-1 "
    told = say("forget", "p-1", "--yes")
    assert "forgotten: 1 sample," in told
    assert "also held: P\u20131" in told
    for near in ("07", "7.0"):
        told = say("forget", near, "--yes", code=3)
        assert f"nobody is held as '{near}', but as '7'" in told
        assert "also held: 7" in told
    assert "nothing is held about 'p-9'" in say("forget", "p-9", "--yes", code=3)
    rows = "word,label.category,subject\na cat,cat,p-1\na bird,bird,\n"
    told = say("add", sheet(tmp_path, rows))
    assert "1 of 2 name no subject: held as classroom" in told
    assert "p-1: also held: P\u20131" in told
    (tmp_path / "rows.jsonl").write_text('{"word": "a cat", "subject": "\\u200b"}\n')
    assert "names nobody" in say("add", tmp_path / "rows.jsonl", code=3)


def test_that_no_own_model_answers_is_said(say: Say) -> None:
    told = say("predict", "word=a cat", "--profile", "pupil-9")
    assert "no model of pupil-9 is here: the shared model answers" in told
    assert "category: " in told
