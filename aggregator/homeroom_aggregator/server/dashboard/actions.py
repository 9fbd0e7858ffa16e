"""What an officer can do on the dashboard: each action is asked for on one page and done by that page's form.

The form repeats a digest of the sentences that the page said. Where they would not be the same any more, nothing is
done: so an action happens as it was confirmed, and once. It stands in the audit log with the officer and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from homeroom.contract.canonical_json import canonical, digest
from homeroom.contract.names import check_name
from homeroom.errors import InputError
from homeroom.system.printable import counted
from homeroom_aggregator.admin import learned_addresses, officers, withdrawal
from homeroom_aggregator.admin.configuration import buffer_may_follow
from homeroom_aggregator.admin.configuration_file import bring_into_force, read_configuration
from homeroom_aggregator.admin.next_version import NextVersion
from homeroom_aggregator.admin.rewind_forecast import rewind_lines
from homeroom_aggregator.merge import rollback, round_state
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard import formatting, queries
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import audit

REWIND = "Rewind now"
DONE_AGAIN = "It is done again"  # of what a restored backup undid
AUTOMATIC = "automatic"  # a buffer that follows the devices
REASON = "Why? It stands in the audit log; name no pupil."


@dataclass(frozen=True)
class Action:
    """One action. `{}` in a title or a button stands for its subject.

    tells: the sentences of its page; InputError where it may not be done. It runs in the writer's thread.
    work: does it, by whom and why; inside one durable step of the writer's thread.
    back: the page that it belongs to. question: for the reason. records: whether `work` itself writes who and why.
    narrower: subjects of the same action that ask for less, with their words.
    """

    title: str
    tells: Callable[[Service, str], list[str]]
    work: Callable[[Service, str, officers.Officer, str], object]
    back: str
    button: str
    question: str = REASON
    records: bool = False
    narrower: Callable[[Service, str], list[tuple[str, str]]] = lambda _, __: []


@dataclass(frozen=True)
class Question:
    """An action's page: what it says, and `seen`, the digest of that."""

    title: str
    button: str
    sentences: list[str]
    seen: str
    action: Action
    narrower: list[tuple[str, str]]


def ask(service: Service, name: str, subject: str) -> Question:
    """The page of an action; RefusedError for an unknown one, InputError where it may not be done."""
    action = ACTIONS.get(name)
    if action is None:
        raise RefusedError(404, "no_page", "There is no such page")
    sentences, shown = action.tells(service, subject), _shown(name, subject)
    seen = digest(canonical([name, subject, sentences]))
    title, button = action.title.format(shown), action.button.format(shown)
    return Question(title, button, sentences, seen, action, action.narrower(service, subject))


def do(service: Service, name: str, subject: str, seen: str, by: officers.Officer, why: str) -> None:
    """Do what was confirmed, in one durable step; RefusedError where it is not as the page said any more."""
    question = ask(service, name, subject)
    if seen != question.seen:
        raise RefusedError(409, "moved_on", "It is not as the page said any more", "Look again, then decide.")
    check_name(why, "the reason")
    with service.rounds.change():
        if not question.action.records:
            audit.record(service.rounds.log.database, "ordered", action=question.button, by=by.name, why=why)
        question.action.work(service, subject, by, why)
        service.rounds.withdraw_gone()


def _shown(name: str, subject: str) -> str:
    if name not in ("revoke", "withdraw", "withdraw-school"):
        return subject
    whose, *part = subject.split("|", 1)
    return " of ".join([whose if name == "withdraw-school" else whose[:8], *(one.replace("|", " ") for one in part)])


# Consent


def _tells_consent(service: Service, school: str) -> list[str]:
    members = service.rounds.members
    _check_school(service, school)
    if members.consented(school):
        raise InputError("has consented already", where=school)
    return [f"{school}'s updates count from now on; its devices send what waits there with their next sync."]


def _tells_withdrawal_of_consent(service: Service, school: str) -> list[str]:
    _check_school(service, school)
    if not service.rounds.members.consented(school):
        raise InputError("has given no consent", where=school)
    return [
        f"Updates of {school} are refused from now on and wait on its devices, which still get every version.",
        "Those that wait here are erased at once.",
        "What earlier versions learned from them stays, unless it is withdrawn too, device by device.",
    ]


def _check_school(service: Service, school: str) -> None:
    if school not in {row["school"] for row in service.rounds.members.schools()}:
        raise InputError("is no school of this district", where=school)


def _consent(service: Service, school: str, by: officers.Officer, why: str) -> None:
    officers.change_consent(service.rounds.members, by, school, why, give=True)


def _withdraw_consent(service: Service, school: str, by: officers.Officer, why: str) -> None:
    officers.change_consent(service.rounds.members, by, school, by.name, give=False)


# Keys and their updates


def _tells_revocation(service: Service, key: str) -> list[str]:
    member = service.rounds.members.find(key)
    if member is None or member.role != "device":
        raise InputError("is no device's key here", where=key[:8])
    return [
        f"Key {key[:8]} of {formatting.school(member.school)} is refused from the next request on, for ever: "
        "its device keeps all it has, and joins again with a new invitation and a new folder.",
        "Its updates that wait here are erased at once; those in a version stay, until they are withdrawn too.",
    ]


def _revoke(service: Service, key: str, by: officers.Officer, why: str) -> None:
    officers.revoke(service.rounds.members, by, key)


def _tells_withdrawal(service: Service, subject: str) -> list[str]:
    key, part = _part_of(service, subject)
    members = service.rounds.members
    school = formatting.school(members.school(members.name_of(key)))
    return _withdrawn(service, withdrawal.find(service.rounds, officers.OPERATOR, key, "", part), part, school)


def _tells_withdrawal_of_school(service: Service, subject: str) -> list[str]:
    school, part = _part_of(service, subject)
    found = withdrawal.find(service.rounds, officers.OPERATOR, "", school, part)
    return _withdrawn(service, found, part, formatting.count(len(found.updates), "device"))


def _withdrawn(service: Service, found: withdrawal.Found, part: withdrawal.Part, whose: str) -> list[str]:
    learned = f" that learned from {part}" if str(part) else ""
    return [
        f"{formatting.count(found.count, 'update')} ({whose}){learned} will be "
        f"taken out: those that wait at once, those in a version {how_unlearned(service.rounds)}. "
        "This cannot be undone.",
        *withdrawal.lines(found, part),
    ]


def _part_of(service: Service, subject: str) -> tuple[str, withdrawal.Part]:
    """The key or school of a subject, and the part after it: `3f9a…|task|grade`."""
    whose, kind, name = ["", "", *subject.rsplit("|", 2)][-3:]
    if kind not in ("task", "modality"):
        return subject, withdrawal.Part()
    return whose, withdrawal.Part(**{kind: name})


def _parts(service: Service, subject: str) -> list[tuple[str, str]]:
    """The same question about one task or modality: its words, and its subject."""
    whose, part = _part_of(service, subject)
    kinds = {
        kind: sorted({getattr(one, kind) for one in service.rounds.rules.layout} - {None})
        for kind in ("task", "modality")
    }
    found = [
        (f"Only what learned from {kind} {name}", f"{whose}|{kind}|{name}")
        for kind, names in kinds.items()
        for name in names
    ]
    return [] if str(part) else found


def how_unlearned(rounds: Rounds) -> str:
    """How a version loses an update, as the end of a sentence."""
    days = counted(rounds.configuration.unlearning.within_days, "day")
    whole = "with the whole secure sum that each is in, " if rounds.configuration.secure else ""
    return whole + (f"by a rewind within {days}" if rounds.configuration.rewinds else "with the next version")


def _tells_rewind(service: Service, _: str) -> list[str]:
    if (planned := service.rounds.to_unlearn()) is None:
        raise InputError("nothing waits to be unlearned")
    return rewind_lines(service.rounds, planned)


def _rewind(service: Service, subject: str, by: officers.Officer, why: str) -> None:
    service.rounds.rewind(by=by.name, why=why)


def _withdraw(service: Service, subject: str, by: officers.Officer, why: str) -> None:
    key, part = _part_of(service, subject)
    found = withdrawal.find(service.rounds, officers.OPERATOR, key, "", part)
    withdrawal.withdraw(service.rounds, found, by.name, why, part)


def _withdraw_school(service: Service, subject: str, by: officers.Officer, why: str) -> None:
    school, part = _part_of(service, subject)
    found = withdrawal.find(service.rounds, officers.OPERATOR, "", school, part)
    withdrawal.withdraw(service.rounds, found, by.name, why, part)


# The next version


def _next(service: Service) -> NextVersion:
    waiting = queries.pending_updates(service)
    if waiting.next is None:
        raise InputError("secure rounds have no buffer: each sum is a release")
    return waiting.next


def _tells_buffer(service: Service, wanted: str) -> list[str]:
    present, configuration = _next(service), service.rounds.configuration
    if wanted == AUTOMATIC:
        if service.configuration.automatic_buffer or not buffer_may_follow(msgspec.structs.asdict(configuration)):
            raise InputError("the buffer follows the devices already, or rounds have a deadline")
        size, how = present.fits, " It follows from now on: half of the devices of the last 30 days, at least "
        tail = f"{how}{present.least}."
    else:
        if not wanted.isdecimal() or len(wanted) > 9 or not int(wanted):
            raise InputError("is no number of updates", where=wanted[:20])
        size, tail = int(wanted), ""
        if size == configuration.buffer_size and not service.configuration.automatic_buffer:
            raise InputError("is what is in force", where=wanted)
        if size < present.least:
            raise InputError(f"is less than the {present.least} different devices of a release", where=wanted)
        try:
            msgspec.structs.replace(configuration, buffer_size=size)
        except ValueError as problem:
            raise InputError(str(problem), where=wanted) from None
    newest = service.rounds.state.version
    return [f"From version {newest + 1} on, a version comes after {formatting.count(size, 'update')}.{tail}"] + [
        f"Version {newest + 1} will be made at once: so many are here."
    ] * (present.updates >= size)


def _set_buffer(service: Service, wanted: str, by: officers.Officer, why: str) -> None:
    folder, rounds = service.rounds.log.database.path.parent, service.rounds
    size = _next(service).fits if wanted == AUTOMATIC else int(wanted)
    changed = msgspec.structs.replace(rounds.configuration, buffer_size=size, earlier_codecs=())
    for present in (read_configuration(folder), service.configuration):
        configuration = msgspec.structs.replace(present, round=changed, automatic_buffer=wanted == AUTOMATIC)
        if present is not service.configuration:
            bring_into_force(folder, rounds, configuration)
    service.configuration = configuration


def _tells_release(service: Service, _: str) -> list[str]:
    waiting, rounds = _next(service), service.rounds
    if not round_state.ready(rounds.state, rounds.rules):
        says = f"no segment was fed by {waiting.least} different {rounds.configuration.k_of} since the last version"
        raise InputError(says, remedy="none is released that fewer fed")
    cost = ["Each device in it spends one release of its privacy budget."] if rounds.ledger else []
    newest = rounds.state.version
    return [
        f"Version {newest + 1} will be made at once, without waiting for a full buffer. Segments that fewer than "
        f"{waiting.least} {rounds.configuration.k_of} fed go on waiting.",
        *cost,
    ]


def _release(service: Service, subject: str, by: officers.Officer, why: str) -> None:
    service.rounds.release_now()


# Addresses


def _tells_addresses(service: Service, _: str) -> list[str]:
    if not service.addresses or not service.addresses.open_to_all:
        raise InputError("the server answers to its own addresses alone already")
    listed = learned_addresses.came(service.rounds.log.database)
    return [
        f"Devices came by {', '.join(listed)}." if listed else "Devices came by this machine's own names alone.",
        "A request that was signed for any other server is refused from now on: its device keeps all it has, and "
        "`homeroom district invite --address` adds an address.",
    ]


def _close_addresses(service: Service, subject: str, by: officers.Officer, why: str) -> None:
    service.close_addresses()


# A restored backup


def _tells_restore(service: Service, _: str) -> list[str]:
    restore = queries.unchecked_restore(service.rounds.log.database, DONE_AGAIN)
    if restore is None:
        raise InputError("no backup was put back since somebody looked")
    return [
        f"A backup with version {restore[0]} was put back. Keys that were revoked, consents that were withdrawn and "
        "updates that were withdrawn or unlearned after it was made count again.",
        "Do that again first, under Schools; ask schools that had pupils forgotten. This ends the reminder alone.",
    ]


# The way back


def _tells_rollback(service: Service, number: str) -> list[str]:
    to, database = int(number) if number.isdecimal() and len(number) < 16 else -1, service.rounds.log.database
    rollback.check_target(database, to)
    newest, old = service.rounds.state.version, next(iter(queries.versions(database, 1, to + 1)), None) if to else None
    made = ", the bundle's own" if to == 0 else f", made {formatting.moment(old.at)}" if old and old.at else ""
    left = f"s {to + 1} to {newest}" if newest - to > 1 else f" {newest}"
    return [
        f"Version {newest + 1} will be made at once, with the numbers of version {to}{made}. Devices fetch it when "
        "they next sync, and each still judges for itself whether it is better there.",
        f"What version{left} learned is left out of it, and stays in the log. Updates that wait go on waiting. You can "
        "go back on this the same way.",
    ]


def _roll_back(service: Service, number: str, by: officers.Officer, why: str) -> None:
    service.rounds.roll_back(int(number), by.name, why)


ACTIONS = {
    "consent": Action(
        "Record the consent of {}?",
        _tells_consent,
        _consent,
        "schools",
        "Record the consent of {}",
        "Who gave it, and how? A name, a letter's date; it stands in the audit log.",
    ),
    "withdraw-consent": Action(
        "Withdraw the consent of {}?",
        _tells_withdrawal_of_consent,
        _withdraw_consent,
        "schools",
        "Withdraw the consent of {}",
    ),
    "revoke": Action("Revoke key {}?", _tells_revocation, _revoke, "schools", "Revoke key {}"),
    "withdraw": Action(
        "Withdraw the updates of key {}?",
        _tells_withdrawal,
        _withdraw,
        "schools",
        "Withdraw the updates of key {}",
        records=True,
        narrower=_parts,
    ),
    "withdraw-school": Action(
        "Withdraw the updates of {}?",
        _tells_withdrawal_of_school,
        _withdraw_school,
        "schools",
        "Withdraw the updates of {}",
        records=True,
        narrower=_parts,
    ),
    "rewind": Action("Rewind now?", _tells_rewind, _rewind, "versions", REWIND),
    "buffer": Action("Change the buffer?", _tells_buffer, _set_buffer, "", "Set the buffer: {}"),
    "addresses": Action(
        "Answer to these addresses alone?", _tells_addresses, _close_addresses, "", "Answer to these addresses alone"
    ),
    "restored": Action("Is it all done again?", _tells_restore, lambda *_: None, "", DONE_AGAIN),
    "release": Action("Release a version now?", _tells_release, _release, "", "Release now"),
    "back": Action(
        "Go back to version {}?", _tells_rollback, _roll_back, "versions", "Go back to version {}", records=True
    ),
}
