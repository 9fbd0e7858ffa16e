"""A device directory that is only read: it answers while another process trains, adds or syncs there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from homeroom.contract.layout import FULL_TIER
from homeroom.data import ingest
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.base import match_name
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import find_task
from homeroom.device import profiles
from homeroom.device.held import learned_of
from homeroom.device.history import History, device_history
from homeroom.device.install import TIER, InstalledBundle, installed_bundle, offered_tier
from homeroom.device.local_labels import LabelCount, known_labels, label_counts, local_score, separated
from homeroom.device.model_in_use import ModelInUse, model_in_use
from homeroom.device.profiles import Profile
from homeroom.device.solved import HeadsInUse
from homeroom.device.status import Status, device_status
from homeroom.errors import InputError
from homeroom.inference.explain import Explanation, explain
from homeroom.inference.predict import noted
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Store
from homeroom.store.open import is_device
from homeroom.system.sqlite import closed_error
from homeroom.train.solve.local_labels import with_labels


class DeviceReader:
    """Answers from a device directory and changes nothing there. Get one with `Device.read`; a `Device` is one too.

    Any number of processes and threads may read while one process has the directory open. Each call reads the version
    in use at that moment, in milliseconds, and keeps nothing of it for the next: what is forgotten or rolled back in
    between answers no more. Repairs, migrations and the end of retention wait for a process that opens the directory.
    """

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        """Raises as `Device.read`."""
        if not is_device(directory):
            raise InputError("is no device directory", where=str(directory), remedy="name the folder of `device init`")
        self.directory, self._threads, self._closed = directory, threads, False
        with Store.snapshot(directory) as store:
            known = _in_use(store)
        self._opened, self._solved = (known, _open_graphs(directory, *known, threads)), HeadsInUse()

    @property
    def bundle(self) -> Bundle:
        """The installed bundle, as the last call found it."""
        return self._opened[1].bundle

    def close(self) -> None:
        """Ends reading; a later call raises StoreError (`closed`)."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _read(self) -> Iterator[tuple[Store, Graphs]]:
        """The store's present state and the graphs of its bundle; to be left before anything is computed."""
        if self._closed:
            raise closed_error(self.directory / "device.db")
        while True:
            with Store.snapshot(self.directory) as store:
                known, (opened, graphs) = _in_use(store), self._opened
                if known == opened:
                    yield store, graphs
                    return
            self._opened = known, _open_graphs(self.directory, *known, self._threads)

    def _model(self, profile: str | None = None) -> ModelInUse:
        with self._read() as (store, graphs):
            return model_in_use(store, graphs, self._solved, profile)

    def predict(self, sample: Sample, profile: str | None = None) -> dict[str, Answer]:
        """Answers every task, with probabilities and whether the inputs suffice.

        profile: a person whose own model answers; the shared one where there is none, which `reason` says.
        Raises InputError where an input is not one of the bundle's or cannot be read.
        """
        return self.predict_many([sample], profile)[0]

    def predict_many(self, samples: Sequence[Sample], profile: str | None = None) -> list[dict[str, Answer]]:
        """Answers as `predict`, for several samples. Poor inputs are ignored or count less; `reason` says so."""
        return self._model(profile).answer(samples)

    def explain(self, sample: Sample, task: str, label: str | None = None) -> Explanation:
        """Explains a task's answer: the words, regions, moments and columns for and against it, or `label`.

        The strongest are also removed one at a time, to see the answer without them. Raises InputError if the inputs do
        not let the task answer, BundleError if the bundle was exported without saliency graphs.
        """
        model = self._model()
        asked, view = find_task(task, model.bundle.manifest), model.checked(sample)
        if label is not None:
            self._refuse_local(model, task, label)
        stored = view.sample
        if asked.name in view.unread:
            raise InputError(f"nothing there can be read: {view.poor[asked.name]}", where=asked.name)

        def answers(samples: Sequence[StoredSample]) -> list[Answer]:
            return [answer[asked.name] for answer in model.answers(samples)]

        (example,) = model.examples([stored])
        answer = noted({task: answers([stored])[0]}, model.bundle.manifest, view)[task]
        if label is None:
            self._refuse_local(model, task, str(answer.best))
        solved = model.pull(asked.name, stored, example)
        return explain(model.bundle, model.graphs, model.theta, stored, example, answer, asked, label, answers, solved)

    def _refuse_local(self, model: ModelInUse, task: str, label: str) -> None:
        own = model.samples.get(task, {})
        if (name := match_name(label, list(own))) is not None:
            what = f"{name!r} is a label of this device, which is not explained"
            raise InputError(what, where=task, remedy="ask what speaks for one of the bundle's labels")

    def labels(self) -> list[LabelCount]:
        """The labels of each task, the bundle's and those of this device alone, with how many samples have them."""
        with self._read() as (store, graphs):
            return label_counts(store, graphs.bundle)

    def score(
        self,
        *samples: Sample | str | Path,
        profile: str | None = None,
        note: Callable[[str], None] | None = None,
        group: str = "",
    ) -> dict[str, Score]:
        """Scores by task of the model in use, or of a person's own, on labelled samples, which are not stored.

        Where solved heads answer with theta, `parts` has what each does alone; `learned` counts the samples that the
        device holds to learn from: of new ones fewer answers may be right.
        samples: as of `Device.add`. Raises InputError where one is not valid.
        note: takes a sentence on each file that was not read, on what was understood otherwise than it stands, on a
            model whose training was cut short, and on samples or groups that this device learns from.
        group: as of `Device.add`.
        """
        model = self._model(profile)
        intake = ingest.Intake(ingest.ReadOptions(group=group))
        manifest = model.bundle.manifest
        with self._read() as (store, _):
            known = known_labels(store, manifest)
        read = ingest.read(samples, with_labels(manifest, known.local), intake)
        stored = list(separated(read, known, intake.refuse))
        with self._read() as (store, _):
            learned = learned_of(store, manifest, stored)
        local = [sample for sample in stored if sample.local_labels] if note is not None else []
        told = [local_score(local, model.answers(local))] if local else []
        if note is not None:
            unread = (f"{name}: {why}" for name, why in intake.unread.items())
            for sentence in filter(None, (*intake.notes, *unread, model.note, *told, *learned.sentences)):
                note(sentence)
        return learned.counted(model.score(stored))

    def profile(self, subject: str) -> Profile | None:
        """A person's own model; None if there is none."""
        with self._read() as (store, _):
            return profiles.find_profile(store, subject)

    def history(self) -> History:
        """Past installs and trainings, with the scores by task of each."""
        with self._read() as (store, _):
            return device_history(store)

    def status(self) -> Status:
        """Status of the device: counts and facts, nothing about single subjects."""
        with self._read() as (store, graphs):
            return device_status(store, graphs.bundle)


def _in_use(store: Store) -> tuple[InstalledBundle, str]:
    """The bundle in use, and the tier; InputError in a directory without a bundle."""
    known = installed_bundle(store)
    if known is None:
        raise InputError("holds no bundle yet", where=str(store.directory), remedy="open it with bundle=…")
    return known, TIER.read(store) or FULL_TIER


def _open_graphs(directory: Path, known: InstalledBundle, tier: str, threads: int | None) -> Graphs:
    bundle = open_bundle(directory / "bundles" / known.bundle_id, root=known.root)
    return Graphs(bundle, known.precision, threads, offered_tier(bundle, tier), known.runtime)
