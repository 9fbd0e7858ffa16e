"""The device: one directory that holds a bundle, samples and what was learned, with the verbs a teacher knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from homeroom.contract.invitation import read_invitation
from homeroom.contract.manifest import Runtime
from homeroom.contract.policy import Policy
from homeroom.data import ingest
from homeroom.data.samples import Sample, StoredSample, without_media
from homeroom.data.tasks.metrics import Score
from homeroom.data.validation import find_task, resolve
from homeroom.device import plan as planning
from homeroom.device import profile_transfer, profiles
from homeroom.device.install import installed, open_device, take_newer
from homeroom.device.profiles import Profile
from homeroom.device.reports import SyncReport, TrainReport
from homeroom.device.resources import planner
from homeroom.device.resources.budget import Budget, Watch
from homeroom.device.status import standing
from homeroom.errors import TrainError
from homeroom.federation import agreement, enrolment, make_update, offline, secure_round, sync, versions
from homeroom.federation.policy import admitted, may_teach, policy_in_force, take_policy
from homeroom.inference.explain import Explanation, explain
from homeroom.inference.predict import Answer, noted, predict
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.store import Export, ForgetReport, Store
from homeroom.train import label_errors
from homeroom.train.evaluate import by_language, evaluate
from homeroom.train.features.buffer import Seen, room_beside
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import Progress, examples
from homeroom.train.features.quality_gate import add_examined, as_asked, as_taught
from homeroom.train.fit import fit
from homeroom.train.input_weights import learned_weights
from homeroom.train.personalize.person import OutOfTimeError
from homeroom.train.settings import Settings, advised
from homeroom.train.state import TrainState


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
        found = admitted(policy_in_force(self.store), ingest.read(samples, self.bundle.manifest), self.store.today())
        return add_examined(self.store, self.bundle.manifest, found) if gates else self.store.add(found)

    def set_aside(self) -> list[StoredSample]:
        """Samples that do not teach, or not with all inputs or in full, without their inputs; `aside` says why."""
        return self.store.set_aside()

    def doubt(self, minutes: float = 10) -> list[str]:
        """Set aside samples whose labels look wrong in cross-validation, for a person to look at; return their ids."""
        watch, samples = Budget(minutes=minutes).begin(self.store.directory), self._lessons()
        ready = self._examples(samples, stop=watch.over)
        return label_errors.set_aside(self.store, self.bundle, self.graphs, ready, self._settings(None), watch.over)

    def put_back(self, *sample_ids: str) -> None:
        """Let samples that were set aside teach after all, with all their inputs."""
        self.store.put_back(sample_ids)

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
        begin = time.monotonic()
        watch = (budget or Budget(minutes=minutes, megabytes=megabytes)).begin(self.store.directory)
        self.store.expire()
        settings = settings or self._settings(epochs)
        if profile is not None:
            return self._train_profile(profile, begin, watch, settings, progress)
        samples = self._lessons()
        if not samples:
            raise TrainError("there is no labelled sample", remedy="add some with `add`")
        plan = planning.plan(self.store, self.bundle, self.graphs, samples, watch.budget, settings)
        samples = planner.apply(plan, self.bundle, samples)
        start, tag, state = versions.begin(self.store, self.bundle, self.graphs, settings, samples)
        ready = self._examples(samples, progress=progress, stop=watch.over)
        planning.check(watch, len(ready))
        feature_seconds = time.monotonic() - begin
        subjects = {*start.subjects, *(example.subject for example in ready)}
        train, validation = self._datasets(ready, settings)
        state = state if len(ready) == len(samples) else None  # it belongs to all of them
        key, asked = enrolment.device_key(self.store), agreement.known_round(self.store)
        parts = make_update.clipped_parts(self.store, self.bundle, self.graphs, ready, settings, key, asked, watch.over)
        result = fit(
            self.graphs,
            train,
            validation,
            start.theta,
            settings,
            stop=watch.over,
            resume=TrainState.decode(state) if state else None,
            checkpoint=lambda now: self.store.versions.save_state(now.encode(), tag, subjects),
            progress=progress,
        )
        scores = evaluate(self.graphs, validation, result.theta) if validation else {}
        weights = versions.weights(self.store, self.store.versions.current())
        if result.finished and validation:
            weights = learned_weights(self.graphs, validation, result.theta, weights)
        facts = versions.facts(
            self.bundle,
            examples=train.examples_by_segment(),
            temperatures=dict(result.temperatures),
            weights=weights,
            settings=msgspec.to_builtins(settings),
            start=start.name,
            finished=result.finished,
            tier=self.graphs.tier,
        )
        with self.store.step("train", len(samples)):
            version_id = self.store.versions.put(result.theta, "local", start.base, facts, subjects)
            self.store.versions.set_current(version_id)
            if result.finished:
                self.store.versions.drop_state()
            update = self._queue_update(parts)
        self.store.back_up()
        return TrainReport(
            version_id=version_id,
            samples=len(ready),
            left_out=len(samples) - len(ready),
            epochs=len(result.history),
            best_epoch=result.best_epoch,
            finished=result.finished,
            seconds=time.monotonic() - begin,
            feature_seconds=feature_seconds,
            scores=scores,
            update=update,
            resumed=state is not None,
            stopped=watch.spent,
            megabytes=watch.peak_bytes / 1e6,
            plan=plan,
            by_language=by_language(self.graphs, validation, result.theta) if validation else {},
            settled_after=result.settled_after,
        )

    def predict(self, sample: Sample, profile: str | None = None) -> dict[str, Answer]:
        """An answer for every task, each with probabilities and whether there is enough to go on.

        profile: a person whose own model answers; the shared one where there is none.
        """
        return self.predict_many([sample], profile)[0]

    def predict_many(self, samples: Sequence[Sample], profile: str | None = None) -> list[dict[str, Answer]]:
        """As `predict`, for several samples at once. Poor inputs are left out or count less; `reason` says so."""
        asked = [self._asked(sample) for sample in samples]
        ready = self._examples([sample for sample, _ in asked], kept=False)
        return [noted(answer, note) for answer, (_, note) in zip(self._answers(ready, profile), asked, strict=True)]

    def explain(self, sample: Sample, task: str, label: str | None = None) -> Explanation:
        """Which words, regions, moments and columns speak for a task's answer (or for `label`), and which against.

        Those that pull most are also taken away one at a time, to see what the answer would be. Raises InputError if
        the inputs do not let the task answer, BundleError if the bundle was exported without its saliency graphs.
        """
        asked, (stored, note) = find_task(task, self.bundle.manifest), self._asked(sample)
        theta = versions.theta_of(self.store, self.bundle, self.store.versions.current())

        def answers(samples: Sequence[StoredSample]) -> list[Answer]:
            return [found[asked.name] for found in self._answers(self._examples(samples, kept=False))]

        (example,) = self._examples([stored], kept=False)
        answer = noted({task: answers([stored])[0]}, note)[task]
        return explain(self.bundle, self.graphs, theta, stored, example, answer, asked, label, answers)

    def score(self, *samples: Sample | str | Path, profile: str | None = None) -> dict[str, Score]:
        """How well the theta in use (or a person's own) does on labelled samples, which are not stored."""
        stored = list(ingest.read(samples, self.bundle.manifest))
        own = self.store.profile(profile) if profile else None
        theta = versions.theta_of(self.store, self.bundle, self.store.versions.current())
        theta = profiles.theta_for(self.bundle, own, theta)
        ready = examples(None, self.bundle, self.graphs, stored)
        return evaluate(self.graphs, Dataset(self.bundle.manifest, ready), theta)

    def profile(self, subject: str) -> Profile | None:
        """What is known about a person's own model; None if there is none."""
        return profiles.profile_of(self.store, subject)

    def pack_profile(self, subject: str, path: str | Path, passphrase: str) -> None:
        """Write a person's profile for another device of this institution, sealed with a passphrase."""
        profile_transfer.pack_profile(self.store, subject, Path(path), passphrase, self._root())

    def take_profile(self, path: str | Path, passphrase: str) -> str:
        """Take a profile that another device of this institution packed; return whose it is."""
        return profile_transfer.take_profile(self.store, self.bundle, Path(path), passphrase, self._root())

    def join(self, invitation: str | Path) -> None:
        """Enrol with an aggregator, once; the invitation's code is then spent."""
        configuration = enrolment.enrol(self.store, self.bundle, read_invitation(Path(invitation)), self._root())
        with self.store.step("join"):
            agreement.agree(self.store, configuration)
            self._queue_update()
        self.store.back_up()

    def join_by_hand(self, invitation: str | Path) -> None:
        """As `join`, where there is no network: the request goes out with the next letter (`carry_out`)."""
        offline.prepare_join(self.store, self.bundle, read_invitation(Path(invitation)), self._root())
        self.store.back_up()

    def carry_out(self, stick: str | Path) -> offline.CarriedOut:
        """Write what waits to a folder that somebody carries to the aggregator; may be repeated."""
        self._queue_update()
        return offline.carry_out(self.store, self.bundle, Path(stick), self._root())

    def carry_in(self, stick: str | Path) -> offline.CarriedIn:
        """Take in the aggregator's answer: receipts, what it asks for, the newest global theta."""
        found = offline.carry_in(self.store, self.bundle, Path(stick), self._root(), self._validation_scores)
        self._queue_update()
        self.store.back_up()
        return found

    def sync(self) -> SyncReport:
        """Send what waits, fetch the newest global theta and use it unless it is clearly worse here.

        In secure rounds no update is sent by itself: the device does its next steps in its cohort and says how far.
        Raises NetworkError where there is no connection: everything stays queued. Raises TrustError, and sends nothing,
        where the aggregator promises less privacy than when this device joined.
        """
        sent, refused, sent_bytes, secure = list[str](), dict[str, str](), 0, ""
        with enrolment.connected(self.store) as client:
            asked = client.round()
            agreement.hold(self.store, asked)
            enrolment.remember(self.store, client)
            self._queue_update()
            unlearned, bounded = sync.ask_unlearning(self.store, client)
            if asked.secure:
                secure = secure_round.take_part(
                    secure_round.Self(self.store, self.bundle, client, client.key, self._root(), asked)
                )
            else:
                layout = self.bundle.manifest.layout
                sent, refused, sent_bytes = sync.send_updates(self.store, client, asked, layout)
            taken = sync.take_global(self.store, self.bundle, client, self._root(), self._validation_scores)
            clock_off_s = sync.clock_off_s(client)
        self.store.back_up()
        newest = versions.newest_global(self.store, self.bundle)
        return SyncReport(
            sent=tuple(sent),
            refused=refused,
            unlearned=tuple(unlearned),
            bounded=tuple(bounded),
            version=newest.base if newest else None,
            in_use=taken.in_use,
            sent_bytes=sent_bytes,
            received_bytes=taken.received_bytes,
            global_scores=taken.theirs,
            local_scores=taken.ours,
            clock_off_s=clock_off_s,
            secure=secure,
        )

    def rotate_key(self) -> None:
        """Let a new key speak for this device with its aggregator; the old one opens nothing any more."""
        enrolment.rotate(self.store)
        self.store.back_up()

    def update_bundle(self) -> bool:
        """Fetch the bundle that the aggregator serves; use it if it is a newer one of the same name and root.

        False if it is the one in use. Raises BundleError or TrustError, and changes nothing, if it is another one.
        """
        with enrolment.connected(self.store) as client:
            source = sync.offered_bundle(client, self.store.directory / sync.DOWNLOADS, self.bundle.bundle_id)
        if source is None:
            return False
        self.bundle, self.graphs = take_newer(self.store, source, self.bundle, self.graphs.threads)
        enrolment.follow(self.store, self.bundle)
        return True

    def policy(self, document: str | Path | None = None) -> Policy | None:
        """The institution's policy in force; `document` is a signed one that takes its place from now on."""
        if document is None:
            return policy_in_force(self.store)
        taken = take_policy(self.store, self.bundle, Path(document), self._root())
        self._queue_update()
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
        return standing(self.store, self.bundle)

    def _examples(self, samples: Sequence[StoredSample], kept: bool = True, **how: Any) -> Sequence[Example]:
        """As `collect.examples`, poor inputs weighed as the version in use has learned; kept: features are cached."""
        weights = versions.weights(self.store, self.store.versions.current())
        how |= {"weights": weights, "room": room_beside(len(samples))}
        return examples(self.store if kept else None, self.bundle, self.graphs, samples, **how)

    def _asked(self, sample: Sample) -> tuple[StoredSample, str]:
        manifest, weights = self.bundle.manifest, versions.weights(self.store, self.store.versions.current())
        return as_asked(resolve(sample, manifest), manifest, weights)

    def _answers(self, ready: Sequence[Example], profile: str | None = None) -> list[dict[str, Answer]]:
        """What the theta in use, or a person's own, says of each example."""
        version = self.store.versions.current()
        temperatures = versions.temperatures(self.store, version)
        trained = set(temperatures) if version and version.kind == "local" and version.base == 0 else None
        own = self.store.profile(profile) if profile else None
        theta = profiles.theta_for(self.bundle, own, versions.theta_of(self.store, self.bundle, version))
        temperatures = profiles.temperatures_for(own, temperatures)
        return predict(self.graphs, self.bundle.manifest, theta, ready, temperatures, trained)

    def _lessons(self, subject: str | None = None) -> Sequence[StoredSample]:
        """The stored samples (of one subject) that may be learned from, without those of their inputs left out."""
        policy, manifest = policy_in_force(self.store), self.bundle.manifest

        def chosen(one: StoredSample) -> bool:
            return may_teach(policy, one, manifest.needs_no_label) and subject in (None, one.subject)

        return Seen(self.store.those(chosen), lambda one: as_taught(without_media(one), manifest))

    def _settings(self, epochs: int | None) -> Settings:
        asked = agreement.known_round(self.store)
        chosen = {"epochs": epochs} if epochs else {}
        return advised(self.bundle.manifest, proximal=asked.proximal if asked else 0.0, **chosen)

    def _train_profile(
        self, subject: str, begin: float, watch: Watch, settings: Settings, progress: Progress | None
    ) -> TrainReport:
        samples = [sample for sample in self._lessons(subject) if sample.labels]
        if not samples:
            raise TrainError(f"there is no labelled sample of {subject!r}", remedy="add some with `add`")
        ready = self._examples(samples, progress=progress, stop=watch.over)
        feature_seconds, finished = time.monotonic() - begin, len(ready) == len(samples)
        if finished:
            try:
                profiles.train_profile(self.store, self.bundle, self.graphs, subject, ready, settings, watch.over)
            except OutOfTimeError:
                finished = False
        version = self.store.versions.current()
        return TrainReport(
            version_id=version.version_id if version else "bundle",
            samples=len(ready),
            left_out=len(samples) - len(ready),
            epochs=0,
            best_epoch=-1,
            finished=finished,
            seconds=time.monotonic() - begin,
            feature_seconds=feature_seconds,
            update="a profile stays here",
            stopped=watch.spent,
            megabytes=watch.peak_bytes / 1e6,
            profile=self.profile(subject),
        )

    def _datasets(self, ready: Sequence[Example], settings: Settings) -> tuple[Dataset, Dataset | None]:
        """Training and validation samples, no subject in both; no validation with too few subjects."""
        return Dataset(self.bundle.manifest, ready).split(settings.validation, settings.seed)

    def _validation_scores(self, theta: np.ndarray) -> Mapping[str, Score]:
        """How well theta does on the validation subjects of the last training."""
        samples = self._lessons()
        version = self.store.versions.newest_local()
        if not samples or version is None:
            return {}
        ready = self._examples(samples)
        _, validation = self._datasets(ready, msgspec.convert(version.facts["settings"], Settings))
        return evaluate(self.graphs, validation, theta) if validation else {}

    def _queue_update(self, parts: make_update.Parts | None = None) -> str:
        """Queue the update of the newest local version, if this device has joined."""
        key, asked = enrolment.device_key(self.store), agreement.known_round(self.store)
        version = self.store.versions.newest_local()
        if key is None or asked is None:
            return "not enrolled"
        if version is None:
            return "nothing trained yet"
        return make_update.queue_update(self.store, self.bundle, version, key, asked, parts)

    def _root(self) -> str:
        known = installed(self.store)
        assert known is not None  # a device has a bundle
        return known.root
