"""Sync with an aggregator: sends updates and unlearning requests, fetches and judges the newest global theta."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from homeroom.contract.evaluation_report import make_report
from homeroom.contract.invitation import Invitation, enrolment_of
from homeroom.contract.layout import Layout
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import REFUSALS
from homeroom.contract.version import read_version
from homeroom.data.tasks.metrics import Score, clearly_worse
from homeroom.errors import Code, FallbackNeededError, NetworkError, UpdateError
from homeroom.federation import agreement, enrolment, evaluation, privacy_ledger, secure_round
from homeroom.federation.make_update import queue_newest_update
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.secure_evaluation import take_part_in_evaluation
from homeroom.federation.secure_statistics import exchange_secure_statistics, forget_summed
from homeroom.federation.secure_update import UpdateContribution
from homeroom.federation.statistics import StatisticsReport, exchange_statistics
from homeroom.federation.unlearning import UnlearningOutcome, ask_unlearning
from homeroom.federation.versions import (
    carry_over_global,
    newest_global,
    stored_theta,
    theta_of,
    version_facts,
    with_local_segments,
)
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.fallback import second_file
from homeroom.runtime.unpack import SECOND_SUFFIX, SIZE_LIMIT_BYTES
from homeroom.store import Store
from homeroom.store.device_state import json_record
from homeroom.store.records import VoidReport
from homeroom.system.clock import now

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client

RESTORED_STEP = 100  # a restored aggregator's version is at least so much above; asking again after others does no harm
DOWNLOADS_FOLDER = "downloads"  # of unfinished downloads, in the device's directory

WAITING = json_record("identity.waiting", tuple[int, int])  # updates for the next version, as the aggregator last told

Scores = Mapping[str, Score]
ScoreThetas = Callable[[Sequence[np.ndarray]], list[Scores]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class SyncReport:
    """The report of one sync.

    refused: the aggregator's reason by update id.
    version: the newest global one.
    sent_bytes: of updates, or of this device's messages in the secure round of updates.
    clock_off_s: seconds by which this machine's clock is ahead of the aggregator's signed time.
    secure: this device's status in the secure round under way, in words; empty in plain rounds.
    waiting: updates that the aggregator has for the next version, of those it needs; None where it does not tell.
    held: why updates wait on this device, where its school has not consented; it gets versions all the same.
    statistics: what was done with statistics; None where the aggregator collects none.
    worse: what the global version in use answers clearly worse than this device's last training, or than one part of
        the model alone: a sentence by task.
    dropped: what was learned here on versions that are void, since they held an update that was unlearned.
    evaluation: what was done with counts of the newest version; None where the aggregator asks for none.
    rewound: a sum or version with an update of this device was taken back, since another's was unlearned: train again.
    unlearned_by: the day, ISO 8601, by which a version without `unlearned` comes; "" where it is the next one.
    """

    sent: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    unlearned: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()  # cannot be unlearned: a private release holds them, which bounds what they tell
    kept: tuple[str, ...] = ()  # cannot be unlearned: what the versions that hold them were made of is not kept there
    version: int | None = None
    in_use: str = "unchanged"  # "global", "local" (clearly better here) or "unchanged"
    sent_bytes: int = 0
    received_bytes: int = 0
    global_scores: Mapping[str, Any] = field(default_factory=dict)
    local_scores: Mapping[str, Any] = field(default_factory=dict)
    clock_off_s: float | None = None
    secure: str = ""
    waiting: tuple[int, int] | None = None
    held: str = ""
    statistics: StatisticsReport | None = None
    worse: Mapping[str, str] = field(default_factory=dict)
    dropped: VoidReport = field(default_factory=VoidReport)
    unlearned_by: str = ""

    @property
    def unlearning(self) -> UnlearningOutcome:
        """What becomes of the updates that were asked to be unlearned."""
        return UnlearningOutcome(self.unlearned, self.bounded, self.kept, self.unlearned_by)

    evaluation: evaluation.EvaluationOutcome | None = None
    rewound: bool = False


def sync(store: Store, bundle: Bundle, root: str, score: ScoreThetas, count: evaluation.Count) -> SyncReport:
    """Sends waiting updates or takes part in the secure round, and fetches the newest global theta; as `Device.sync`.

    store: this device's, enrolled with an aggregator.
    bundle: the one in use.
    root: fingerprint of the trusted root key.
    score: of thetas, each float32 [P], on this device's validation samples, by task.
    count: of right and wrong answers of thetas, on the same.
    """
    store.check_unedited()
    sent, refused, sent_bytes, secure, held = list[str](), dict[str, str](), 0, "", ""
    with enrolment.connect(store) as client:
        configuration = client.round()
        context = secure_round.SecureRoundContext(store, bundle, client, client.key, root, configuration)
        agreement.renew_round(store, configuration)
        carry_over_global(store, bundle, configuration)
        if agreement.OFFLINE_MESSAGES.exists(store):
            agreement.OFFLINE_MESSAGES.write(store, [])  # an answer on its way is older than this round
        enrolment.store_aggregator(store, client.certificate, client.school)
        queue_newest_update(store, bundle)
        asked = ask_unlearning(store, client)
        first = FetchedTheta()
        if configuration.secure and configuration.rewinds:  # nobody else sees what a masked update was learned on
            first = fetch_global(store, bundle, client, root, score)
        sent_before = client.sent_bytes
        try:
            if configuration.secure:
                secure = secure_round.take_part(context, UpdateContribution(context))
            else:
                sent, refused, sent_bytes = send_updates(store, client, configuration, bundle.manifest.layout)
        except UpdateError as problem:
            if problem.code != "no_consent":
                raise
            held = problem.what
        if configuration.secure:
            sent_bytes = client.sent_bytes - sent_before
        fetched = first.then(fetch_global(store, bundle, client, root, score))
        shared, told = _share_statistics(context), _tell_counts(context, count)
        ahead_s, waiting = clock_ahead_s(client), client.waiting
    store.back_up()
    WAITING.write(store, waiting)
    secure_round.ROUND_TEXT.write(store, secure or None)
    newest = newest_global(store, bundle)
    return SyncReport(
        sent=tuple(sent),
        refused=refused,
        unlearned=asked.unlearned,
        bounded=asked.bounded,
        kept=asked.kept,
        version=newest.base if newest else None,
        in_use=fetched.in_use,
        sent_bytes=sent_bytes,
        received_bytes=fetched.received_bytes,
        global_scores=fetched.theirs,
        local_scores=fetched.ours,
        clock_off_s=ahead_s,
        secure=secure,
        waiting=waiting,
        held=held,
        statistics=shared,
        dropped=fetched.dropped,
        unlearned_by=asked.by,
        evaluation=told,
        rewound=fetched.rewound,
    )


def _share_statistics(context: secure_round.SecureRoundContext) -> StatisticsReport | None:
    """Statistics by the mode of the round; None where the aggregator collects none."""
    store, configuration = context.store, context.configuration
    folder = store.directory / DOWNLOADS_FOLDER
    if configuration.statistics.mode == "secure":
        return exchange_secure_statistics(context, folder)
    forget_summed(store)
    return exchange_statistics(store, context.bundle, context.client, configuration, context.root, folder)


def _tell_counts(
    context: secure_round.SecureRoundContext, count: evaluation.Count
) -> evaluation.EvaluationOutcome | None:
    """Counts of right and wrong answers, by the mode of the round; None where the aggregator asks for none."""
    store, bundle, configuration = context.store, context.bundle, context.configuration
    if configuration.evaluation.mode == "secure":
        return take_part_in_evaluation(context, evaluation.counter(store, bundle, configuration, count))
    return evaluation.tell(store, bundle, context.client, configuration, count)


def clock_ahead_s(client: Client) -> float | None:
    """Seconds by which this machine's clock is ahead of the aggregator's; None where it gave no signed time."""
    server_time = client.server_time
    return None if server_time is None else (now() - server_time).total_seconds()


def send_updates(
    store: Store, client: Client, configuration: RoundConfiguration, layout: Layout
) -> tuple[list[str], dict[str, str], int]:
    """Sends every waiting update under its own id; returns the ids sent, those refused with the reason, and bytes.

    In a private round an update that breaks the round's promise is refused here, before a byte of it leaves.

    store: whose outbox is emptied.
    client: connected to the aggregator.
    configuration: of the round.
    layout: of the bundle in use.
    """
    sent: list[str] = []
    refused: dict[str, str] = {}
    size = 0
    for update in store.outbox.pending():
        try:
            if len(update.data) > configuration.update_limit_bytes:
                raise UpdateError(REFUSALS["too_long"], code="too_long")
            privacy_ledger.charge_update(store, update.data, update.update_id, configuration, layout)
            store.outbox.mark_sending(update.update_id)
            size += len(update.data)
            client.update(update.data)
        except UpdateError as problem:
            if problem.code in ("not_selected", "full"):  # the update waits: for a round that selects it, or for room
                break
            if problem.code in ("unknown_device", "no_consent"):  # the update waits until that is resolved
                if sent or refused:
                    break  # the next sync meets it first
                raise
            store.outbox.mark_refused(update.update_id)
            refused[update.update_id] = str(problem)
        else:
            store.outbox.mark_sent(update.update_id)
            sent.append(update.update_id)
    return sent, refused, size


@dataclass(frozen=True)
class FetchedTheta:
    """The outcome of a fetch: `in_use` is "global", "local" (clearly better here) or "unchanged"; scores by task.

    dropped: what was learned here on versions that are void. rewound: as of `SyncReport`.
    """

    in_use: str = "unchanged"
    received_bytes: int = 0
    theirs: Scores = field(default_factory=dict)
    ours: Scores = field(default_factory=dict)
    dropped: VoidReport = field(default_factory=VoidReport)
    rewound: bool = False

    def then(self, later: FetchedTheta) -> FetchedTheta:
        """What both fetches of one sync brought: the scores are those of the last one that brought a version."""
        last = self if later.in_use == "unchanged" else later
        received, rewound = self.received_bytes + later.received_bytes, self.rewound or later.rewound
        return replace(last, received_bytes=received, dropped=self.dropped.plus(later.dropped), rewound=rewound)


def fetch_global(store: Store, bundle: Bundle, client: Client, root: str, score: ScoreThetas) -> FetchedTheta:
    """Fetches the newest global theta, verifies it, and uses it unless it is clearly worse on the validation samples.

    The next training starts from it in either case.

    store: of this device.
    bundle: in use.
    client: connected to the aggregator.
    root: fingerprint of the trusted root key.
    score: of thetas, each float32 [P], on this device's validation samples, by task.
    """
    newest = newest_global(store, bundle)
    theta = stored_theta(store, bundle, newest)
    data, received = client.newest(newest.base if newest else 0, theta, store.directory / DOWNLOADS_FOLDER)
    fetched = FetchedTheta() if data is None else use_global(store, bundle, data, root, score)
    report_scores(store, bundle, client, fetched)
    return replace(fetched, received_bytes=received)


def report_scores(store: Store, bundle: Bundle, client: Client, fetched: FetchedTheta) -> None:
    """Reports this device's scores of a fetched version, if its settings allow (`NetworkSettings.scores`).

    A failed report does not fail the sync: the next version is reported again.

    store: of this device.
    bundle: in use.
    client: connected to the aggregator.
    fetched: the version's outcome here.
    """
    newest = newest_global(store, bundle)
    if fetched.in_use == "unchanged" or newest is None or enrolment.network_settings(store).scores != "tell":
        return
    if (report := make_report(newest.base, fetched.in_use, fetched.theirs, fetched.ours)) is not None:
        with contextlib.suppress(NetworkError, UpdateError):
            client.report(report)


def use_global(store: Store, bundle: Bundle, data: bytes, root: str, score: ScoreThetas) -> FetchedTheta:
    """Verifies a signed version and uses it, as `fetch_global` does.

    store: of this device.
    bundle: in use.
    data: the signed version.
    root: fingerprint of the trusted root key.
    score: of thetas, each float32 [P], on this device's validation samples, by task.
    """
    newest, present = newest_global(store, bundle), store.versions.current()
    after = newest.base if newest else 0
    header, theta = read_version(
        data, bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=root, after=after
    )
    if header.version == after:
        return FetchedTheta(received_bytes=len(data))
    sound = present is not None and not header.is_void(present.base)
    compared = [with_local_segments(store, bundle, theta), *([theta_of(store, bundle, present)] if sound else [])]
    theirs, ours = [*score(compared), {}][:2]
    worse, clip = clearly_worse(theirs, ours), {}
    if header.clip_norm is not msgspec.UNSET:
        clip["clip_norm"] = header.clip_norm
    if header.version - after >= RESTORED_STEP:
        store.outbox.ask_unlearning_again()
    with store.step("global theta", header.version):
        version_id = store.versions.put(
            theta, "global", header.version, version_facts(bundle, devices=header.devices, **clip)
        )
        dropped = store.drop_void(header.is_void)
        if not worse:
            store.versions.set_current(version_id)
    void = () if header.void is msgspec.UNSET else header.void
    rewound = any(last >= after for _, last in void) and bool(store.outbox.sent())
    return FetchedTheta("local" if worse else "global", len(data), theirs, ours, dropped, rewound)


def download_bundle(client: Client, folder: Path, present: str | None, code: str = "") -> Path | None:
    """Downloads the aggregator's bundle into a folder; None if it is the present one.

    The caller verifies the file and removes it. Raises NetworkError where the aggregator does not hand its bundle out.

    client: connected to the aggregator.
    folder: of downloads.
    present: bundle id of the one in use, if any.
    code: of an invitation, for a device that has not joined.
    """
    keys = client.keys()
    if keys.bundle_id == present:
        return None
    if keys.bundle is None:
        raise NetworkError(
            "does not hand out its bundle",
            code=Code.BUNDLE_NOT_OFFERED,
            where=client.enrolment.address,
            remedy="ask for the .homeroom file",
        )
    return client.fetch(keys.bundle, folder, "bundle", SIZE_LIMIT_BYTES, code=code)


def download_first_bundle(invitation: Invitation, folder: Path) -> Path:
    """Downloads the bundle of an invitation, for a device that has none yet."""
    with first_client(invitation) as client:
        client.check_server()
        path = download_bundle(client, folder, None, invitation.code)
    assert path is not None  # no bundle is present
    return path


@contextlib.contextmanager
def first_client(invitation: Invitation) -> Iterator[Client]:
    """A connection to the aggregator of an invitation, with a key that is not enrolled."""
    from homeroom.federation.network.client import Client
    from homeroom.federation.network.discovery import locate

    enrolment, key = enrolment_of(invitation), new_key()
    with contextlib.closing(Client(enrolment, key, locate(enrolment, key, NetworkSettings()))) as client:
        yield client


def fetching_fallback(
    source: Path, connect: Callable[[], AbstractContextManager[Client]], use: Callable[[], Result], code: str = ""
) -> Result:
    """What `use` makes of a downloaded bundle; where this machine needs its second file, that is fetched beside it.

    source: the bundle's file.
    connect: opens a client of the aggregator that it came from.
    use: is called again with the second file in place; BundleError of either call is raised.
    code: of an invitation, for a device that has not joined.
    """
    second = second_file(source)
    try:
        return use()
    except FallbackNeededError as needed:
        with connect() as client:
            if (offer := client.keys().fallback) is None:
                what = f"{needed.what}, which the aggregator does not hand out"
                remedy = f"ask for NAME.homeroom and NAME{SECOND_SUFFIX}, and put both into one folder: "
                remedy += "`homeroom device init DIR --bundle NAME.homeroom`"
                where = client.enrolment.address
                raise FallbackNeededError(what, needed.graphs, where=where, remedy=remedy) from None
            client.fetch(offer, source.parent, "fallback", SIZE_LIMIT_BYTES, code=code).replace(second)
        return use()
    finally:
        second.unlink(missing_ok=True)
