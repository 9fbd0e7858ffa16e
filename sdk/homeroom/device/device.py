"""The device: one directory that holds a bundle, samples and what was learned, with the verbs a teacher knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from homeroom.contract.invitation import read_invitation
from homeroom.contract.manifest import Runtime
from homeroom.contract.policy import Policy
from homeroom.data import ingest
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import find_task, resolve
from homeroom.device import profile_transfer, profiles
from homeroom.device.install import installed_bundle, open_device, upgrade_bundle
from homeroom.device.local_samples import to_examples, training_samples, training_settings, validation_scores
from homeroom.device.profiles import Profile
from homeroom.device.reports import TrainReport
from homeroom.device.resources.budget import Budget
from homeroom.device.status import device_status
from homeroom.device.training_run import TrainingRun, train, train_profile
from homeroom.federation import agreement, enrolment, make_update, offline, sync, versions
from homeroom.federation.policy import admit_samples, install_policy, policy_in_force
from homeroom.federation.sync import SyncReport
from homeroom.inference.explain import Explanation, explain
from homeroom.inference.predict import Answer, noted, predict
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Export, ForgetReport, Store
from homeroom.train import label_errors
from homeroom.train.evaluate import evaluate
from homeroom.train.features.compute import Progress
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.features.quality_gate import add_checked, prediction_view
from homeroom.train.settings import Settings


class Device:
    """Open it with `Device.open`; close it, or use it in a `with`. One process at a time."""

    def __init__(self, store: Store, bundle: Bundle, graphs: Graphs) -> None:
        self.store, self.bundle, self.graphs = store, bundle, graphs

    @classmethod
    def open(
        cls,
        directory: str | Path,
        bundle: str | Path | None = None,
        root: str | None = None,
        *,
        threads: int | None = None,
        anew: bool = False,
        tier: str | None = None,
        runtime: Runtime | None = None,
    ) -> Device:
        """Open a device directory, made if need be; `bundle` (folder or .homeroom file) is installed the first time.

        root: fingerprint of the institution's root key; without one, the first bundle's is trusted from then on.
        anew: start again in a directory whose master key is not on this machine.
        tier: how large an adapter to train and use, of those in the bundle ("full", or a smaller one); kept.
        runtime: what runs the graphs, "onnx" or "litert" (extra `litert`); kept.
        """
        source = Path(bundle) if bundle else None
        return cls(*open_device(Path(directory), source, root, threads=threads, anew=anew, tier=tier, runtime=runtime))

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, *samples: Sample | str | Path, gates: bool = True) -> list[str]:
        """Check and store samples, or those of a .jsonl or .csv file or folder, all or none; return their ids.

        gates: look at their quality, and set aside what is poor and near copies until a person has (`set_aside`).
        """
        found = admit_samples(
            policy_in_force(self.store), ingest.read(samples, self.bundle.manifest), self.store.today()
        )
        return add_checked(self.store, self.bundle.manifest, found) if gates else self.store.add(found)

    def set_aside(self) -> list[StoredSample]:
        """Samples that do not teach, or not with all inputs or in full, without their inputs; `aside` says why."""
        return self.store.quarantined()

    def doubt(self, minutes: float = 10) -> list[str]:
        """Set aside samples whose labels look wrong in cross-validation, for a person to look at; return their ids."""
        watch, samples = Budget(minutes=minutes).begin(self.store.directory), training_samples(self.store, self.bundle)
        ready = to_examples(self.store, self.bundle, self.graphs, samples, stop=watch.over)
        settings = training_settings(self.store, self.bundle)
        return label_errors.quarantine_suspects(self.store, self.bundle, self.graphs, ready, settings, watch.over)

    def put_back(self, *sample_ids: str) -> None:
        """Let samples that were set aside teach after all, with all their inputs."""
        self.store.release(sample_ids)

    def train(
        self,
        minutes: float = 10,
        epochs: int | None = None,
        *,
        megabytes: float | None = None,
        budget: Budget | None = None,
        profile: str | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> TrainReport:
        """Learn from all samples that teach something within the budget; goes on where a training was cut short.

        Those are the labelled ones, and all others too where the bundle has a task or objectives that need no label.

        megabytes: of memory. budget: further limits, in place of both. epochs, settings: in place of what the bundle
        recommends. profile: a person, whose own samples alone then teach a model for that person, on top of the one in
        use. Raises TrainError where there is nothing to learn from, or nothing that fits.
        """
        began_s = time.monotonic()
        watch = (budget or Budget(minutes=minutes, megabytes=megabytes)).begin(self.store.directory)
        self.store.expire()
        settings = settings or training_settings(self.store, self.bundle, epochs)
        run = TrainingRun(self.store, self.bundle, self.graphs, watch, settings, progress, began_s)
        return train(run) if profile is None else train_profile(run, profile)

    def predict(self, sample: Sample, profile: str | None = None) -> dict[str, Answer]:
        """An answer for every task, each with probabilities and whether there is enough to go on.

        profile: a person whose own model answers; the shared one where there is none.
        """
        return self.predict_many([sample], profile)[0]

    def predict_many(self, samples: Sequence[Sample], profile: str | None = None) -> list[dict[str, Answer]]:
        """As `predict`, for several samples at once. Poor inputs are left out or count less; `reason` says so."""
        asked = [self._asked(sample) for sample in samples]
        ready = self._uncached([sample for sample, _ in asked])
        return [noted(answer, note) for answer, (_, note) in zip(self._answers(ready, profile), asked, strict=True)]

    def explain(self, sample: Sample, task: str, label: str | None = None) -> Explanation:
        """Which words, regions, moments and columns speak for a task's answer (or for `label`), and which against.

        Those that pull most are also taken away one at a time, to see what the answer would be. Raises InputError if
        the inputs do not let the task answer, BundleError if the bundle was exported without its saliency graphs.
        """
        asked, (stored, note) = find_task(task, self.bundle.manifest), self._asked(sample)
        theta = versions.theta_of(self.store, self.bundle, self.store.versions.current())

        def answers(samples: Sequence[StoredSample]) -> list[Answer]:
            return [found[asked.name] for found in self._answers(self._uncached(samples))]

        (example,) = self._uncached([stored])
        answer = noted({task: answers([stored])[0]}, note)[task]
        return explain(self.bundle, self.graphs, theta, stored, example, answer, asked, label, answers)

    def score(self, *samples: Sample | str | Path, profile: str | None = None) -> dict[str, Score]:
        """How well the theta in use (or a person's own) does on labelled samples, which are not stored."""
        stored = list(ingest.read(samples, self.bundle.manifest))
        own = self.store.profile(profile) if profile else None
        theta = versions.theta_of(self.store, self.bundle, self.store.versions.current())
        theta = profiles.personal_theta(self.bundle, own, theta)
        ready = examples(None, self.bundle, self.graphs, stored)
        return evaluate(self.graphs, Dataset(self.bundle.manifest, ready), theta)

    def profile(self, subject: str) -> Profile | None:
        """What is known about a person's own model; None if there is none."""
        return profiles.find_profile(self.store, subject)

    def pack_profile(self, subject: str, path: str | Path, passphrase: str) -> None:
        """Write a person's profile for another device of this institution, sealed with a passphrase."""
        profile_transfer.pack_profile(self.store, subject, Path(path), passphrase, self._root())

    def take_profile(self, path: str | Path, passphrase: str) -> str:
        """Take a profile that another device of this institution packed; return whose it is."""
        return profile_transfer.import_profile(self.store, self.bundle, Path(path), passphrase, self._root())

    def join(self, invitation: str | Path) -> None:
        """Enrol with an aggregator, once; the invitation's code is then spent."""
        configuration = enrolment.enrol(self.store, self.bundle, read_invitation(Path(invitation)), self._root())
        with self.store.step("join"):
            agreement.store_round(self.store, configuration)
            make_update.queue_newest_update(self.store, self.bundle)
        self.store.back_up()

    def join_by_hand(self, invitation: str | Path) -> None:
        """As `join`, where there is no network: the request goes out with the next letter (`carry_out`)."""
        offline.prepare_join(self.store, self.bundle, read_invitation(Path(invitation)), self._root())
        self.store.back_up()

    def carry_out(self, stick: str | Path) -> offline.ExportedMessage:
        """Write what waits to a folder that somebody carries to the aggregator; may be repeated."""
        make_update.queue_newest_update(self.store, self.bundle)
        return offline.export_message(self.store, self.bundle, Path(stick), self._root())

    def carry_in(self, stick: str | Path) -> offline.ImportedAnswer:
        """Take in the aggregator's answer: receipts, what it asks for, the newest global theta."""
        found = offline.import_answer(self.store, self.bundle, Path(stick), self._root(), self._validation_scores)
        make_update.queue_newest_update(self.store, self.bundle)
        self.store.back_up()
        return found

    def sync(self) -> SyncReport:
        """Send what waits, fetch the newest global theta and use it unless it is clearly worse here.

        In secure rounds no update is sent by itself: the device does its next steps in its cohort and says how far.
        Raises NetworkError where there is no connection: everything stays queued. Raises TrustError, and sends nothing,
        where the aggregator promises less privacy than when this device joined.
        """
        return sync.sync(self.store, self.bundle, self._root(), self._validation_scores)

    def rotate_key(self) -> None:
        """Let a new key speak for this device with its aggregator; the old one opens nothing any more."""
        enrolment.rotate_key(self.store)
        self.store.back_up()

    def update_bundle(self) -> bool:
        """Fetch the bundle that the aggregator serves; use it if it is a newer one of the same name and root.

        False if it is the one in use. Raises BundleError or TrustError, and changes nothing, if it is another one.
        """
        with enrolment.connect(self.store) as client:
            source = sync.download_bundle(client, self.store.directory / sync.DOWNLOADS_FOLDER, self.bundle.bundle_id)
        if source is None:
            return False
        self.bundle, self.graphs = upgrade_bundle(self.store, source, self.bundle, self.graphs.threads)
        enrolment.follow_bundle(self.store, self.bundle)
        return True

    def policy(self, document: str | Path | None = None) -> Policy | None:
        """The institution's policy in force; `document` is a signed one that takes its place from now on."""
        if document is None:
            return policy_in_force(self.store)
        taken = install_policy(self.store, self.bundle, Path(document), self._root())
        make_update.queue_newest_update(self.store, self.bundle)
        self.store.back_up()
        return taken

    def forget(self, subject: str) -> ForgetReport:
        """Destroy a subject's key and everything under it; ask the aggregator to unlearn what was sent."""
        return self.store.forget(subject)

    def export(self, subject: str) -> Export:
        """All that is held about a subject."""
        return self.store.export(subject)

    def rollback(self) -> str:
        """Use the version of theta before the present one; return its id, or "bundle"."""
        with self.store.step("rollback"):
            version = self.store.versions.step_back()
        return version.version_id if version else "bundle"

    def status(self) -> dict[str, Any]:
        """Counts and facts, nothing about single subjects."""
        return device_status(self.store, self.bundle)

    def _uncached(self, samples: Sequence[StoredSample]) -> Sequence[Example]:
        return to_examples(self.store, self.bundle, self.graphs, samples, cached=False)

    def _asked(self, sample: Sample) -> tuple[StoredSample, str]:
        manifest, weights = self.bundle.manifest, versions.input_weights(self.store, self.store.versions.current())
        return prediction_view(resolve(sample, manifest), manifest, weights)

    def _answers(self, ready: Sequence[Example], profile: str | None = None) -> list[dict[str, Answer]]:
        """What the theta in use, or a person's own, says of each example."""
        version = self.store.versions.current()
        temperatures = versions.temperatures(self.store, version)
        trained = set(temperatures) if version and version.kind == "local" and version.base == 0 else None
        own = self.store.profile(profile) if profile else None
        theta = profiles.personal_theta(self.bundle, own, versions.theta_of(self.store, self.bundle, version))
        temperatures = profiles.personal_temperatures(own, temperatures)
        return predict(self.graphs, self.bundle.manifest, theta, ready, temperatures, trained)

    def _validation_scores(self, theta: np.ndarray) -> Mapping[str, Score]:
        return validation_scores(self.store, self.bundle, self.graphs, theta)

    def _root(self) -> str:
        known = installed_bundle(self.store)
        assert known is not None  # a device has a bundle
        return known.root
