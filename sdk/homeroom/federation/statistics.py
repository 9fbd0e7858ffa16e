"""Statistics of this device in plain rounds: sends the change of its total, fetches the total of all schools.

Nothing leaves before a person said yes to these rules on this device. A message is durable before it is sent, and the
aggregator's word on what it has decides what goes next; so a kill or a restored copy sends nothing twice.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import digest
from homeroom.contract.layout import Layout
from homeroom.contract.manifest import Manifest, Task
from homeroom.contract.policy import Policy
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.limits import check_release, letter_tasks
from homeroom.contract.statistics.messages import (
    StatisticsStatus,
    Support,
    digest_of,
    make_change,
    read_release,
)
from homeroom.contract.statistics.pooling import SHARED_KINDS, Pooling, pool, poolings_of
from homeroom.contract.statistics.sums import NOTHING, Statistics, check_total, difference
from homeroom.errors import InputError, TrustError, UpdateError
from homeroom.federation.agreement import read_agreement
from homeroom.federation.enrolment import has_joined
from homeroom.federation.own_statistics import (
    GONE,
    Fingerprints,
    OwnTotal,
    held_tasks,
    keep_tasks,
    own_total,
    takes_away,
)
from homeroom.federation.policy import kept_segments, local_layout, policy_in_force
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import bytes_record, json_record, msgpack_record
from homeroom.system.printable import counted
from homeroom.train.solve.vectors.samples import covered, sums_id, sums_ids

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client


class SentTotal(msgspec.Struct, frozen=True, kw_only=True):
    """A total on its way or with the aggregator, and what it was made of.

    sums_id: what it means. waits_since: the day since when something that was removed here waits to be taken away.
    """

    sequence: int
    sums_id: str
    total: bytes
    subjects: tuple[Support, ...]
    prints: Fingerprints
    poolings: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]
    salt: bytes
    waits_since: str = ""


class ReceivedRelease(msgspec.Struct, frozen=True, kw_only=True):
    """The newest release. others: of all other devices, or b"" where this device's part in it is not known any more."""

    number: int
    sums_id: str
    others: bytes


class StatisticsText(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands, for people: what was sent, by task what is held and why, and what the next release waits for.

    round: how the secure round stands, where statistics are summed in one. nameless: by task, which rows of this
    device have no name in its sum.
    """

    sent: bool = False
    why_not: str = ""
    held: dict[str, str] = {}
    waits: str = ""
    to_subtract_since: str = ""
    round: str = ""
    nameless: dict[str, str] = {}


NO = bytes_record("identity.statistics_no")  # there where a person said no
YES = json_record("identity.statistics_yes", StatisticsRules)  # the rules of plain ones that a person said yes to
ACCEPTED = msgpack_record("identity.statistics", SentTotal)
PENDING = msgpack_record("identity.statistics_pending", SentTotal)
PENDING_MESSAGE = bytes_record("identity.statistics_message")
EARLIER = msgpack_record("identity.statistics_earlier", dict[int, bytes])  # totals that a release may still hold
RELEASE = msgpack_record("identity.statistics_release", ReceivedRelease)
LETTERS_STAY = "it reads the letters of texts, which leave a device in secure rounds alone"
TEXT = json_record("identity.statistics_text", StatisticsText)
BY_HAND = json_record("identity.statistics_by_hand", StatisticsStatus)  # there since an answer by hand told of them


@dataclass(frozen=True)
class StatisticsReport:
    """What a sync did with statistics. sent: whether a change was. release: number of the newest that is here.

    round: how the secure round stands, where they are summed in one. nameless: as in `StatisticsText`.
    """

    sent: bool = False
    release: int | None = None
    why_not: str = ""
    held: Mapping[str, str] = field(default_factory=dict)
    waits: str = ""
    round: str = ""
    nameless: Mapping[str, str] = field(default_factory=dict)


def agree(store: Store, *, yes: bool, mode: Literal["plain", "secure"] = "plain") -> StatisticsRules:
    """Notes that a person says yes or no to statistics; InputError where the aggregator collects none in this mode."""
    configuration = read_agreement(store).configuration
    rules = configuration.statistics if configuration else StatisticsRules()
    if yes and not has_joined(store):
        raise InputError("this device has joined no aggregator", remedy="`homeroom device join` first")
    if yes and rules.mode == "off":
        raise InputError("the aggregator collects no statistics", remedy="`homeroom device sync` asks it again")
    if yes and rules.mode != mode:
        what = f"the aggregator collects {rules.mode} statistics, not {mode}"
        raise InputError(what, remedy="say yes to those, or no")
    with store.step("statistics agreed"):
        YES.write(store, rules if yes and mode == "plain" else None)
        NO.write(store, None if yes else b"1")
        if configuration and (text := TEXT.read(store)):
            TEXT.write(store, msgspec.structs.replace(text, why_not=why_not(store, configuration)))
    return rules


def why_not(store: Store, configuration: RoundConfiguration) -> str:
    """Why no statistics leave this device, in words; empty where they may.

    Plain ones need a person's yes. Secure ones leave as updates do, unless a person said no.
    """
    rules, yes = configuration.statistics, YES.read(store)
    if why := policy_refuses(policy_in_force(store), rules):
        return why
    if rules.mode == "secure":
        return (
            "somebody said no: `homeroom device network DIR --statistics secure` says yes" if NO.exists(store) else ""
        )
    if yes is None:
        return "nobody said yes yet: `homeroom device network DIR --statistics plain`"
    if _weaker(rules, yes):
        return "the aggregator promises less than when somebody said yes: say it again if your school agrees"
    return ""


def policy_refuses(policy: Policy | None, rules: StatisticsRules) -> str:
    """Why an institution's policy lets no statistics out under these rules; empty where it does."""
    if policy is not None and rules.mode not in policy.rounds:
        return f"the policy allows rounds that are {' or '.join(policy.rounds)}, statistics are {rules.mode}"
    if policy is not None and rules.k < policy.min_devices:
        asked = f"the policy asks for at least {counted(policy.min_devices, 'device')} in a release"
        return f"{asked}, statistics for {rules.k}"
    return ""


def agreed_words(store: Store) -> str:
    """What may leave this device, in a few words."""
    if (yes := YES.read(store)) is not None:
        return f"plain, released from {yes.k} {yes.k_of}"
    configuration = read_agreement(store).configuration
    secure = configuration is not None and configuration.statistics.mode == "secure" and not NO.exists(store)
    return "secure" if secure else "keep"


def _weaker(rules: StatisticsRules, yes: StatisticsRules) -> bool:
    return rules.k < yes.k or rules.subjects < yes.subjects or (rules.k_of, yes.k_of) == ("devices", "schools")


def shared_tasks(manifest: Manifest, local: Layout, configuration: RoundConfiguration) -> dict[str, Task]:
    """The tasks whose sums may leave: covered ones whose head is shared; with letters in secure rounds alone.

    local: segments as the policy scopes them.
    """
    kept = set(kept_segments(local, configuration))
    kept_tasks = {segment.task for segment in manifest.layout if segment.name in kept and segment.task}
    kept_tasks |= {*(letter_tasks(manifest) if configuration.statistics.mode != "secure" else ())}
    tasks = [task for task in covered(manifest) if task.kind in SHARED_KINDS]
    return {task.name: task for task in tasks if task.name not in kept_tasks}


def exchange_statistics(
    store: Store, bundle: Bundle, client: Client, configuration: RoundConfiguration, root: str, folder: Path
) -> StatisticsReport | None:
    """Sends what changed and fetches the newest release; None where the aggregator collects no statistics.

    Raises NetworkError where there is no connection: everything waits.

    folder: of unfinished downloads.
    """
    if configuration.statistics.mode != "plain" or not sums_id(bundle.manifest):
        forget_sent(store)
        return None
    reason, status = why_not(store, configuration), client.statistics()
    sent, held = False, dict[str, str]()
    try:
        pending, held = prepare_change(store, bundle, client.key, configuration, status, allowed=not reason)
        if pending is not None:
            client.send_statistics(PENDING_MESSAGE.read(store) or b"")
            _accept(store, pending)
            sent, status = True, client.statistics()
    except UpdateError as problem:
        held = {"": f"refused: {problem}"}
    fetch_release(store, bundle, client, status, root, folder)
    if BY_HAND.exists(store):
        BY_HAND.write(store, status)
    return note_how_it_stands(store, reason, held, status, sent=sent)


def note_how_it_stands(
    store: Store, reason: str, held: Mapping[str, str], status: StatisticsStatus, *, sent: bool
) -> StatisticsReport:
    """Stores for people how plain statistics stand, and reports it. reason: why none may leave. sent: now."""
    accepted, release = ACCEPTED.read(store), release_mark(store)
    text = StatisticsText(
        sent=bool(accepted and read(accepted.total).cells),
        why_not=reason,
        held=dict(held),
        waits=status.waits,
        to_subtract_since=accepted.waits_since if accepted else "",
    )
    TEXT.write(store, text)
    return StatisticsReport(sent, release or None, reason, held, status.waits)


def prepare_change(
    store: Store,
    bundle: Bundle,
    key: Ed25519PrivateKey,
    configuration: RoundConfiguration,
    status: StatisticsStatus,
    *,
    allowed: bool,
) -> tuple[SentTotal | None, dict[str, str]]:
    """Stores the message of this device's change; its total, or None where it has none, and what is held and why.

    key: this device's. status: what the aggregator has. allowed: else what was sent is taken out again.
    """
    meaning = sums_id(bundle.manifest)
    accepted = settled(store, status, meaning)
    before = _own(accepted) if accepted else OwnTotal()
    salt = accepted.salt if accepted else secrets.token_bytes(16)
    after, held, since = OwnTotal(), dict[str, str](), ""
    if allowed:
        sums = {name_of(salt, name): one for name, one in store.each_subjects_sums(meaning)}
        tasks = shared_tasks(bundle.manifest, local_layout(store, bundle.manifest.layout), configuration)
        after, held = own_total(tasks, sums, configuration.statistics.sample_limit)
        today, since = store.today(), accepted.waits_since if accepted else ""
        late = bool(since) and (today - datetime.date.fromisoformat(since)).days >= configuration.statistics.within_days
        waiting = held_tasks(before, after, late=late)
        removed = any(takes_away(before, after, task) for task in waiting)
        since = (since or today.isoformat()) if removed else ""
        if accepted and accepted.waits_since != since:
            ACCEPTED.write(store, accepted := msgspec.structs.replace(accepted, waits_since=since))
        lettered = dict.fromkeys(letter_tasks(bundle.manifest), LETTERS_STAY)
        after, held = keep_tasks(before, after, waiting), held | waiting | lettered
    nothing_here = not status.sequence or status.total == digest_of(NOTHING)
    if after.total == before.total and (accepted or nothing_here):
        return None, held
    known = max(status.sequence, accepted.sequence if accepted else 0)
    base = before.total if accepted else None
    change = difference(after.total, before.total)
    message = make_change(
        key,
        bundle.bundle_id,
        known + 1,
        base,
        after.total,
        after.subjects,
        takes_away=any(takes_away(before, after, cell.task) for cell in change.cells),
    )
    pending = _sent(known + 1, meaning, after, salt, since)
    with store.step("statistics"):
        PENDING.write(store, pending)
        PENDING_MESSAGE.write(store, message)
    return pending, held


def settled(store: Store, status: StatisticsStatus, meaning: str) -> SentTotal | None:
    """The total that the aggregator has of this device; None where it has none, or one that is not known here."""
    accepted, pending = ACCEPTED.read(store), PENDING.read(store)
    there = (meaning, status.sequence, status.total)
    for one in (pending, accepted):
        if one and (one.sums_id, one.sequence, digest(one.total)) == there:
            if one is pending:
                _accept(store, pending)
            return one
    return None


def _accept(store: Store, pending: SentTotal) -> None:
    with store.step("statistics accepted"):
        ACCEPTED.write(store, pending)
        keep_for_releases(store, pending.sequence, pending.total)
        PENDING.write(store, None)
        PENDING_MESSAGE.write(store, None)


def keep_for_releases(store: Store, sequence: int, total: bytes) -> None:
    """Keeps a total of this device until no release holds it any more. sequence: as the aggregator numbers it."""
    EARLIER.write(store, {**(EARLIER.read(store) or {}), sequence: total})


def put_text(store: Store, text: StatisticsText) -> None:
    """Stores how statistics stand, for people."""
    TEXT.write(store, text)


def fetch_release(
    store: Store, bundle: Bundle, client: Client, status: StatisticsStatus, root: str, folder: Path
) -> None:
    """Fetches the newest release, checks it, and keeps it less this device's own part."""
    known = known_release(store, bundle)
    if status.release and status.release != known:
        take_release(store, bundle, client.statistics_release(status, folder), status, root)


def known_release(store: Store, bundle: Bundle) -> int:
    """Number of the newest release that is here for this bundle; 0 where none is."""
    known = RELEASE.read(store)
    return known.number if known is not None and known.sums_id == sums_id(bundle.manifest) else 0


def take_release(store: Store, bundle: Bundle, data: bytes, status: StatisticsStatus, root: str) -> None:
    """Checks a release, and keeps it less this device's own part. status: what the aggregator said with it."""
    known, meaning = known_release(store, bundle), sums_id(bundle.manifest)
    header, shared = read_release(data, bundle_id=bundle.bundle_id, root_fingerprint=root, after=known)
    if header.number != status.release:
        raise TrustError("is another release than was offered", where="released statistics")
    check_release(shared, bundle.manifest)
    earlier = EARLIER.read(store) or {}
    known_own = {0: NOTHING} | {number: read(total) for number, total in earlier.items() if number == status.included}
    others = less_own(shared, known_own.get(status.included))
    with store.step("statistics received", header.number):
        RELEASE.write(
            store,
            ReceivedRelease(number=header.number, sums_id=meaning, others=b"" if others is None else encode(others)),
        )
        EARLIER.write(store, {number: total for number, total in earlier.items() if number >= status.included})


def less_own(shared: Statistics, own: Statistics | None) -> Statistics | None:
    """A release without a device's own total that is in it; None where that is not known, or was not in it."""
    if own is None:
        return None
    try:
        rest = difference(shared, pool(own, poolings_of(shared)))
        check_total(rest)
    except UpdateError:
        return None
    return rest


def others_total(store: Store, bundle: Bundle) -> Statistics:
    """The sums of all other devices, as they were last released; nothing where there are none, or none without own."""
    release = RELEASE.read(store)
    if release is None or release.sums_id not in sums_ids(bundle.manifest) or not release.others:
        return NOTHING
    return read(release.others)


def release_mark(store: Store) -> int:
    """A number that changes with `others_total`; 0 where there are none."""
    release = RELEASE.read(store)
    return release.number if release else 0


def note_removed(store: Store, subject: str = "") -> bool:
    """After a subject or samples were removed: nothing that was made with them is sent; whether they were sent.

    subject: who was forgotten; only that somebody was stays known. What the aggregator has is taken away with a sync
    to come; until then the last totals stay under the device's key.
    """
    accepted = ACCEPTED.read(store)
    if accepted is None and not PENDING.exists(store):
        return False
    with store.step("statistics to take away"):
        PENDING.write(store, None)
        PENDING_MESSAGE.write(store, None)
        if accepted is None:
            return False
        name = name_of(accepted.salt, subject)
        if name not in accepted.prints:
            return False
        prints = {GONE + secrets.token_hex(8) if known == name else known: p for known, p in accepted.prints.items()}
        since = accepted.waits_since or store.today().isoformat()
        ACCEPTED.write(store, msgspec.structs.replace(accepted, prints=prints, waits_since=since))
    return True


def forget_sent(store: Store) -> None:
    """Forgets what was sent and received, where no statistics are plain any more."""
    TEXT.write(store, None)
    if ACCEPTED.exists(store) or RELEASE.exists(store):
        with store.step("statistics off"):
            for record in (ACCEPTED, PENDING, PENDING_MESSAGE, EARLIER, RELEASE, BY_HAND):
                record.write(store, None)


def name_of(salt: bytes, subject: str) -> str:
    """A subject's name in records that only this device can tell."""
    return sha256(salt + subject.encode()).hexdigest()[:16]


def _sent(sequence: int, meaning: str, own: OwnTotal, salt: bytes, since: str) -> SentTotal:
    poolings = {task: (tuple(sorted(p.named)), tuple(sorted(p.pairs))) for task, p in own.poolings.items()}
    return SentTotal(
        sequence=sequence,
        sums_id=meaning,
        total=encode(own.total),
        subjects=own.subjects,
        prints=own.prints,
        poolings=poolings,
        salt=salt,
        waits_since=since,
    )


def _own(sent: SentTotal) -> OwnTotal:
    poolings = {task: Pooling(frozenset(named), frozenset(pairs)) for task, (named, pairs) in sent.poolings.items()}
    return OwnTotal(read(sent.total), sent.subjects, sent.prints, poolings)
