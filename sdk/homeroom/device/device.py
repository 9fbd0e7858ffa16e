"""The facade `Device`: a directory with a bundle, samples and trained versions, and everything one does with it."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import msgspec
import numpy as np

from homeroom.contract.evaluation_counts import Group
from homeroom.contract.invitation import read_invitation
from homeroom.contract.manifest import Runtime
from homeroom.contract.policy import Policy
from homeroom.data import ingest
from homeroom.data.consent import Consent
from homeroom.data.decoder import client as decoder
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks.metrics import Score
from homeroom.device import consents, local_labels, profile_transfer
from homeroom.device.held import grouped_alike
from homeroom.device.install import installed_bundle, open_device, upgrade_bundle
from homeroom.device.judging import judge_in_use
from homeroom.device.local_labels import known_labels, separated
from homeroom.device.local_samples import (
    to_examples,
    training_samples,
    training_settings,
    validation_counts,
    validation_scores,
)
from homeroom.device.reader import DeviceReader
from homeroom.device.receipt import AddReceipt, Tally, write_receipt
from homeroom.device.reports import TrainReport
from homeroom.device.resources.budget import Budget, BudgetWatch, checked_budget
from homeroom.device.solved import HeadsInUse
from homeroom.device.training_data import TrainingRun
from homeroom.device.training_run import train, train_profile
from homeroom.errors import InputError
from homeroom.federation import agreement, enrolment, evaluation, make_update, offline, secure_statistics, sync
from homeroom.federation.policy import admit_samples, install_policy, policy_in_force, refuse_unconsented
from homeroom.federation.sync import SyncReport
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import AddReport, ConsentReport, Export, ForgetReport, RemoveReport, Store
from homeroom.system.sqlite import closed_error
from homeroom.train import label_errors
from homeroom.train.features.compute import Progress
from homeroom.train.features.quality_gate import add_checked
from homeroom.train.settings import Settings, check_settings
from homeroom.train.solve.local_labels import with_labels

P = ParamSpec("P")
Result = TypeVar("Result")


def one_at_a_time(verb: Callable[Concatenate[Device, P], Result]) -> Callable[Concatenate[Device, P], Result]:
    """A verb that changes the device: other threads wait with theirs until it ends."""

    @functools.wraps(verb)
    def run(device: Device, /, *arguments: P.args, **options: P.kwargs) -> Result:
        with device.changes:
            if device.closing:  # before the next of those who wait, else a busy program could not close
                raise closed_error(device.directory / "device.db")
            return verb(device, *arguments, **options)

    return run


class Device(DeviceReader):
    """A device directory. Open it with `Device.open`, close it or use it in a `with`; one process at a time.

    Any thread may use it. Verbs that change it run one after another; `predict`, `explain` and `score` answer meanwhile
    with the model that was in use when they began. Other processes answer beside it: see `Device.read`.
    """

    def __init__(self, store: Store, graphs: Graphs) -> None:
        self.store, self.graphs = store, graphs
        self.directory = store.directory
        self.changes, self.closing, self._solved = threading.RLock(), False, HeadsInUse()
        self._watch: BudgetWatch | None = None  # of the newest training

    @property
    def bundle(self) -> Bundle:
        """The installed bundle."""
        return self.graphs.bundle

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
        """Opens a device directory, made if need be.

        Raises InputError, BundleError, TrustError or StoreError; a new directory is then removed again.

        directory: of the device.
        bundle: folder or .homeroom file to install; needed the first time.
        root: fingerprint of the institution's root key; without one, the first bundle's is trusted from then on.
        threads: of the runtime.
        anew: start again in a directory whose master key is not on this machine.
        tier: of the adapter to train and use, "full" or a smaller one of the bundle; stored.
        runtime: of the graphs, "onnx" or "litert" (extra `litert`); stored.
        """
        source = Path(bundle) if bundle else None
        return cls(*open_device(Path(directory), source, root, threads=threads, anew=anew, tier=tier, runtime=runtime))

    @classmethod
    def read(cls, directory: str | Path, *, threads: int | None = None) -> DeviceReader:
        """Reads a device directory that this or another process may have open meanwhile.

        Raises InputError where it is no device, StoreError where its key is missing, an older homeroom holds it, or it
        has to be migrated or repaired first: open it once.

        threads: of the runtime.
        """
        return DeviceReader(Path(directory), threads)

    @contextlib.contextmanager
    def _read(self) -> Iterator[tuple[Store, Graphs]]:
        yield self.store, self.graphs

    def close(self) -> None:
        """Closes the store, once what another thread changes has ended; changes that wait are told so.

        A training that runs is cancelled: it ends after its step, and what it has learned is kept.
        """
        self.closing = True
        if (watch := self._watch) is not None:
            watch.end()
        with self.changes:
            self.store.close()

    def add(self, *samples: Sample | str | Path, gates: bool = True, group: str = "") -> list[str]:
        """Checks and stores samples, all or none; returns their ids. Raises InputError where one is not valid.

        samples: or .jsonl files, sheets (.csv, .tsv, .xlsx) and folders of media.
        gates: check their quality, and quarantine poor inputs and near copies (`set_aside`).
        group: a slot, or a further column or field, whose content is held out whole to judge by.
        """
        return list(self.take_in(*samples, gates=gates, options=ingest.ReadOptions(group=group)).sample_ids)

    @one_at_a_time
    def take_in(
        self, *samples: Sample | str | Path, gates: bool = True, options: ingest.ReadOptions | None = None
    ) -> AddReceipt:
        """Adds as `add`; the receipt names what was taken, what was not and why, and what was understood otherwise.

        options: how sheets are read; with `skip_bad`, rows that are not valid are left out, and stand in the receipt.
        """
        today, tally, changes = self.store.today(), Tally(self.bundle), AddReport()
        intake = ingest.Intake(options or ingest.ReadOptions(), today.isoformat(), adding=True)
        manifest, policy = self.bundle.manifest, policy_in_force(self.store)
        known = known_labels(self.store, manifest)
        read = separated(ingest.read(samples, with_labels(manifest, known.local), intake), known, intake.refuse)
        admitted = grouped_alike(self.store, tally.of(admit_samples(policy, read, today, intake.refuse)))
        refuse_new, before = refuse_unconsented(policy, intake.refuse), self.store.count()
        if gates:
            ids = add_checked(self.store, manifest, admitted, changes, refuse_new)
        else:
            ids = self.store.add(admitted, report=changes, refuse_new=refuse_new)
        ingest.remember_columns(intake)
        self.learn_labels()
        if tally.local:
            intake.note(local_labels.local_note(tally.local))
        return write_receipt(self.store, ids, before, tally, intake, changes)

    def set_aside(self) -> list[StoredSample]:
        """Quarantined samples, whole or in some inputs, without their inputs; `aside` says why."""
        return self.store.quarantined()

    @one_at_a_time
    def change_labels(self, change: Callable[[Store, Bundle], Result]) -> Result:
        """Adds, renames, merges or removes labels of this device, in one step (`homeroom.device.local_labels`).

        What is left of them is learned at once. InputError, with nothing changed, where `change` raises it.
        """
        with self.store.step("labels"):
            result = change(self.store, self.bundle)
        self.learn_labels()
        self.store.back_up()
        return result

    @one_at_a_time
    def doubt(self, minutes: float = 10) -> list[str]:
        """Quarantines samples whose labels look wrong in cross-validation; returns their ids."""
        watch, samples = self._begin(Budget(minutes=minutes)), training_samples(self.store, self.bundle)
        ready = to_examples(self.store, self.bundle, self.graphs, samples, stop=watch.over)
        settings = training_settings(self.store, self.bundle)
        return label_errors.quarantine_suspects(self.store, self.bundle, self.graphs, ready, settings, watch.over)

    @one_at_a_time
    def put_back(self, *sample_ids: str) -> None:
        """Releases samples from quarantine, with all their inputs."""
        self.store.release(sample_ids)
        self.learn_labels()

    @one_at_a_time
    def train(
        self,
        minutes: float = 10,
        epochs: int | None = None,
        *,
        megabytes: float | None = None,
        budget: Budget | None = None,
        profile: str | None = None,
        distillation: float | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> TrainReport:
        """Trains on all labelled samples within a budget, and resumes an interrupted training.

        Samples without a label count too where the bundle has a task or objectives that need none. Raises InputError
        where a setting or a limit is not valid, TrainError where no sample teaches anything or nothing fits the budget.

        minutes: at most.
        epochs: in place of the bundle's.
        megabytes: of memory, 10^6 bytes, at most.
        budget: further limits, in place of `minutes` and `megabytes`.
        profile: a person, for whom a model of their own is trained on their samples, on top of the one in use.
        distillation: weight of the answers of before beside the labels, in place of that of the settings.
        settings: in place of the bundle's.
        progress: called with stage, done and total.
        cancel: once another thread sets it, the training ends after its step, and what was learned is kept.
        """
        began_s = time.monotonic()
        settings = settings if settings is not None else training_settings(self.store, self.bundle, epochs)
        check_settings(settings, self.bundle.manifest)
        if distillation is not None:
            settings = msgspec.structs.replace(settings, distillation=distillation)
            check_settings(settings, self.bundle.manifest)
        budget = checked_budget(budget if budget is not None else Budget(minutes=minutes, megabytes=megabytes))
        decoder.end()  # the store's samples are decoded here, and its memory is needed
        watch = self._begin(budget, cancel)
        self.store.expire()
        run = TrainingRun(self.store, self.bundle, self.graphs, watch, settings, progress, began_s)
        return train(run) if profile is None else train_profile(run, profile)

    def pack_profile(self, subject: str, path: str | Path, passphrase: str) -> None:
        """Writes a person's profile for another device of this institution, sealed with a passphrase."""
        profile_transfer.pack_profile(self.store, subject, Path(path), passphrase, self._root())

    @one_at_a_time
    def take_profile(self, path: str | Path, passphrase: str) -> str:
        """Imports a profile that another device of this institution packed; returns whose it is."""
        return profile_transfer.import_profile(self.store, self.bundle, Path(path), passphrase, self._root())

    @one_at_a_time
    def join(self, invitation: str | Path) -> None:
        """Enrols with an aggregator, once; the invitation's code is then spent. invitation: its file, or its text.

        Whoever joins one that asks for an evaluation (`evaluation.mode`) says yes to it (docs/evaluation.md).
        """
        configuration = enrolment.enrol(self.store, self.bundle, read_invitation(invitation), self._root())
        with self.store.step("join"):
            agreement.store_round(self.store, configuration)
            evaluation.note_joined(self.store, configuration)
            make_update.queue_newest_update(self.store, self.bundle)
        self.store.back_up()

    @one_at_a_time
    def join_by_hand(self, invitation: str | Path) -> None:
        """Joins without a network: the request goes out with the next message (`carry_out`)."""
        offline.prepare_join(self.store, self.bundle, read_invitation(invitation), self._root())
        self.store.back_up()

    @one_at_a_time
    def carry_out(self, stick: str | Path) -> offline.ExportedMessage:
        """Writes waiting updates and requests to a removable folder for the aggregator; repeating it is harmless."""
        make_update.queue_newest_update(self.store, self.bundle)
        return offline.export_message(self.store, self.bundle, Path(stick), self._root())

    @one_at_a_time
    def carry_in(self, stick: str | Path) -> offline.ImportedAnswer:
        """Imports the aggregator's answer: receipts, the round configuration, the newest global theta."""
        imported = offline.import_answer(self.store, self.bundle, Path(stick), self._root(), self._validation_scores)
        make_update.queue_newest_update(self.store, self.bundle)
        worse = judge_in_use(self.store, self.bundle, self.graphs)
        self.store.back_up()
        return replace(imported, worse=worse)

    @one_at_a_time
    def sync(self) -> SyncReport:
        """Sends waiting updates, fetches the newest global theta, and uses it unless it is clearly worse here.

        In a secure round no update is sent by itself: the device does its next steps in the cohort and reports its
        status. Raises NetworkError where there is no connection, and everything stays queued; TrustError, with nothing
        sent, where the aggregator promises less privacy than when this device joined.
        """
        report = sync.sync(self.store, self.bundle, self._root(), self._validation_scores, self._validation_counts)
        return replace(report, worse=judge_in_use(self.store, self.bundle, self.graphs))

    @one_at_a_time
    def rotate_key(self) -> None:
        """Replaces this device's key with a new one; the aggregator no longer accepts the old one."""
        enrolment.rotate_key(self.store)
        self.store.back_up()

    @one_at_a_time
    def update_bundle(self) -> bool:
        """Fetches the aggregator's bundle and uses it if it is a newer one; False if it is the one in use.

        Raises BundleError or TrustError, and changes nothing, if it has another name or root, or is not newer.
        """
        with enrolment.connect(self.store) as client:
            source = sync.download_bundle(client, self.store.directory / sync.DOWNLOADS_FOLDER, self.bundle.bundle_id)
        if source is None:
            return False
        try:
            self.graphs = sync.fetching_fallback(
                source,
                lambda: enrolment.connect(self.store),
                lambda: upgrade_bundle(self.store, source, self.bundle, self.graphs.threads),
            )
        finally:
            source.unlink(missing_ok=True)
        self.learn_labels()
        return True

    def policy(self, document: str | Path | None = None) -> Policy | None:
        """The institution's policy in force, after installing the signed `document`, if one is given."""
        if document is None:
            return policy_in_force(self.store)
        with self.changes:
            policy = install_policy(self.store, self.bundle, Path(document), self._root())
            make_update.queue_newest_update(self.store, self.bundle)
            self.store.back_up()
        return policy

    @one_at_a_time
    def remove(self, *sample_ids: str) -> RemoveReport:
        """Removes samples by id, and all that was learned with their subjects' samples, as `forget` does.

        What was sent is asked to be unlearned. InputError, with nothing changed, where an id is not clear.
        """
        report = self.store.remove(sample_ids)
        self.learn_labels()
        secure_statistics.note_removed(self.store)
        return report

    @one_at_a_time
    def set_consent(self, consent: Consent, *, subject: str | None = None, text: str | None = None) -> ConsentReport:
        """Sets the consent of a subject's samples, or of those where a person has yet to decide what `text` means.

        InputError where there is none.
        """
        report = consents.set_consent(self.store, consent, subject, text)
        self.learn_labels()
        secure_statistics.note_removed(self.store)
        return report

    @one_at_a_time
    def forget(self, subject: str) -> ForgetReport:
        """Destroys a subject's key and all data under it, and queues unlearning of what was sent."""
        name = self.store.name_of(subject)
        report = self.store.forget(subject)
        return replace(report, subtracting=secure_statistics.note_removed(self.store, name))

    def export(self, subject: str) -> Export:
        """Everything stored about a subject."""
        return self.store.export(subject)

    @one_at_a_time
    def rollback(self) -> str:
        """Uses the version of theta before the present one; returns its id, or "bundle".

        Raises InputError where the bundle's own is in use.
        """
        if self.store.versions.current() is None:
            raise InputError("the bundle's own theta is in use: there is none before it")
        with self.store.step("rollback"):
            version = self.store.versions.step_back()
        return version.version_id if version else "bundle"

    def learn_labels(self) -> None:
        """Learns the labels of this device again, from the samples that have them now."""
        local_labels.learn(self.store, self.bundle, self.graphs)

    def _begin(self, budget: Budget, cancel: threading.Event | None = None) -> BudgetWatch:
        """The watch of a training, which `close` ends."""
        self._watch = watch = budget.begin(self.store.directory, cancel)
        if self.closing:  # asked after the watch can be seen: `close` looks for it after it says so
            watch.end()
        return watch

    def _validation_scores(self, thetas: Sequence[np.ndarray]) -> list[Mapping[str, Score]]:
        return validation_scores(self.store, self.bundle, self.graphs, thetas)

    def _validation_counts(self, thetas: Sequence[np.ndarray]) -> list[dict[str, dict[Group, np.ndarray]]]:
        return validation_counts(self.store, self.bundle, self.graphs, thetas)

    def _root(self) -> str:
        known = installed_bundle(self.store)
        assert known is not None  # a device has a bundle
        return known.root
