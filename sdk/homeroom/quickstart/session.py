"""A first session: a new device learns the starter lesson, is asked, explains, and says where it is not sure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from homeroom.contract.signing import fingerprint
from homeroom.data.samples import Sample
from homeroom.data.tasks.metrics import Score
from homeroom.device.device import Device
from homeroom.quickstart.lesson import ASKED, ASKED_SOUNDS, TASK, TAUGHT, write_nothing, write_rows, write_samples
from homeroom.system.files import make_directory

CLASSROOM, LESSON, NEW = "classroom", "lesson", "questions"
NEW_WORDS = (
    ("a dog", "animals"),
    ("a rose", "plants"),
    ("a lorry", "vehicles"),
    ("a bed", "home"),
    ("a horse", "animals"),
)
FOREIGN_WORD = "собака"
NEW_PICTURE, NEW_SOUND = "boat-2.svg", "train-9.wav"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class QuestionAsked:
    """A question, what is right ("" where nothing is), and the device's answer.

    probability: of the answer, 0 to 1. reason: why the device is not sure, or what else it notes.
    """

    asked: str
    right: str
    answer: str
    probability: float
    sure: bool
    reason: str

    def words(self) -> str:
        """The answer as one line."""
        verdict = "" if not self.right else ", right" if self.answer == self.right else f", wrong: {self.right}"
        told = f"{self.answer} ({self.probability:.0%}{verdict})"
        return f"{self.asked}: {told}" if self.sure else f"{self.asked}: not sure. {told}: {self.reason}"


@dataclass(frozen=True)
class LessonSession:
    """What a session showed. seconds: from its beginning to the last answer.

    score: on twenty new drawings alone. explained: sentences on one answer.
    """

    device: str
    bundle: str
    root: str
    samples: int
    seconds: float
    score: Score
    questions: tuple[QuestionAsked, ...]
    explained: tuple[str, ...]


def run_session(folder: Path, bundle: Path, tell: Tell) -> LessonSession:
    """Runs the session in a new folder. Raises as `Device.open`, `Device.add` and `Device.train`.

    tell: takes a line for each step.
    """
    began = time.monotonic()
    make_directory(folder)
    lesson, new = write_samples(folder / LESSON, TAUGHT), write_samples(folder / NEW, ASKED)
    nothing = write_nothing(folder / NEW)
    write_samples(folder / NEW / "sounds", ASKED_SOUNDS)
    with Device.open(folder / CLASSROOM, bundle=bundle) as device:
        root = fingerprint(device.bundle.certificate.root)
        tell(f"{device.directory} is a device with the bundle {bundle}, signed by root {root[:16]}…")
        receipt = device.take_in(lesson)
        tell(
            f"it has {receipt.added} samples of four made-up pupils: drawings, words, and a sound with every second one"
        )
        report = device.train(minutes=2)
        tell(f"it learned in {report.seconds:.0f} s, without torch")
        score = device.score(pictures_alone(new))[TASK]
        right = round(score.n * (score.accuracy or 0))
        tell(f"of {score.n} drawings that it never saw, without their words, it names the kind of {right}")
        questions = tuple(ask(device, folder, nothing))
        for question in questions:
            tell(f"  {question.words()}")
        sample = Sample(word="a small boat", picture=str(folder / NEW / "media" / NEW_PICTURE))
        explained = tuple(device.explain(sample, TASK).sentences())
        tell(_limits(questions))
        tell("why, for a drawing with its word:")
        for sentence in explained:
            tell(f"  {sentence}")
        device_path = str(device.directory)
    seconds = time.monotonic() - began
    return LessonSession(device_path, str(bundle), root, receipt.added, seconds, score, questions, explained)


def pictures_alone(samples: Path) -> Path:
    """The same samples without words and sounds, in a file beside; its path."""
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    kept = ("picture", "labels", "subject")
    return write_rows(samples.with_name("pictures.jsonl"), ({name: row[name] for name in kept} for row in rows))


def ask(device: Device, folder: Path, nothing: Path) -> Iterator[QuestionAsked]:
    """Asks about new words and media, and about what the lesson does not have."""
    media = folder / NEW
    asked = [
        ("a new drawing of a boat", "vehicles", Sample(picture=str(media / "media" / NEW_PICTURE))),
        ("a new sound of an engine", "vehicles", Sample(sound=str(media / "sounds" / "media" / NEW_SOUND))),
        *((f"the word {word!r}, which the lesson lacks", right, Sample(word=word)) for word, right in NEW_WORDS),
        (f"the word {FOREIGN_WORD!r}, in letters that its text model does not read", "", Sample(word=FOREIGN_WORD)),
        ("a scribble, which is none of the four kinds", "", Sample(picture=str(nothing))),
    ]
    for (what, right, _), found in zip(asked, device.predict_many([sample for *_, sample in asked]), strict=True):
        answer = found[TASK]
        best = str(answer.best)
        yield QuestionAsked(what, right, best, answer.probabilities[best], answer.sure, answer.reason)


def _limits(questions: tuple[QuestionAsked, ...]) -> str:
    """What the answers show of what it does not know."""
    unsure = sum(not question.sure for question in questions)
    wrong = sum(question.sure and question.answer != question.right for question in questions)
    return (
        f"it knows four kinds and no other, so whatever it is shown is answered with one of them: of these "
        f"{len(questions)} answers it is not sure of {unsure}, and sure and wrong in {wrong}"
    )
