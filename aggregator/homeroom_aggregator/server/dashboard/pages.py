"""The dashboard's pages: each gathers its figures and renders them with its template, always escaped.

A page is a function from a `PageContext` to HTML; it runs in a thread of its own, over a connection of its own.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homeroom.contract.names import NAME_LIMIT
from homeroom.contract.round import RoundConfiguration
from homeroom.data.tasks import kind_of
from homeroom.errors import InputError
from homeroom.system.clock import now
from homeroom.system.html.render import environment
from homeroom.system.printable import counted
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin import evaluation_figures, learned_addresses, privacy_report
from homeroom_aggregator.merge import rollback
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard import formatting, queries
from homeroom_aggregator.server.dashboard.actions import DONE_AGAIN, REWIND, Question
from homeroom_aggregator.server.dashboard.queries import AuditChain, PendingUpdates, VersionRow
from homeroom_aggregator.server.dashboard.school_status import WORST_FIRST, SchoolStatus, schools
from homeroom_aggregator.server.dashboard.sessions import Session
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import rewinds
from homeroom_aggregator.state.audit import AuditRecord
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger, epsilon
from homeroom_aggregator.state.schema import newest_version
from homeroom_aggregator.state.set_apart import reasons

RECENT_VERSIONS, VERSIONS_A_PAGE, ENTRIES_A_PAGE = 24, 20, 50  # in the plot, on a page, of the audit log on a page
SET_APART_SHOWN = 3  # the newest ones
FAR_TOO_LONG = 10  # times the bound of a release; honest updates stay below 2 or 3
CERTIFICATE_WARNING_DAYS = 14
TEMPLATES_FOLDER = Path(__file__).parent / "templates"
FILTERS = ("moment", "day", "count", "percent", "points", "short", "school", "title", "figures", "gain")


@dataclass(frozen=True)
class PageContext:
    """What a page may read. Of `service.rounds` the fixed parts only, the state is the writer's.

    database: a connection of the page's own. query: of the address.
    """

    database: Database
    service: Service
    waiting: PendingUpdates
    session: Session
    chain: Callable[[Database], AuditChain]
    query: dict[str, str]

    @property
    def rounds(self) -> Rounds:
        """The service's rounds."""
        return self.service.rounds

    @property
    def may_act(self) -> bool:
        """Whether this session may change anything."""
        return self.session.link.rank == "district"

    def number(self, name: str) -> int | None:
        """A number from the query; None where there is none."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


Page = Callable[[PageContext], str]
TEMPLATES = environment(TEMPLATES_FOLDER)
TEMPLATES.filters |= {name: getattr(formatting, name) for name in FILTERS}
TEMPLATES.globals |= {"tone": formatting.STATUS_TONE, "means": formatting.STATUS_MEANING}
TEMPLATES.globals |= {"event": formatting.event, "worst_first": WORST_FIRST}


def render(name: str, **values: Any) -> str:
    """The HTML of a template with these values."""
    return TEMPLATES.get_template(f"{name}.html").render(values)


def _page(context: PageContext, name: str, page: str | None = None, **values: Any) -> str:
    """The HTML of a template. page: the address in the navigation, by default the template's name."""
    session, institution = context.session, context.service.institution
    common = {"institution": institution, "page": name if page is None else page, "navigation": PAGES}
    return render(name, **common, rank=session.link.rank, form=session.form, may_act=context.may_act, **values)


def overview(context: PageContext) -> str:
    """The page that shows what needs attention, the newest version and the next one."""
    recent = queries.versions(context.database, RECENT_VERSIONS)
    statuses = _schools(context)
    configuration, least = context.rounds.configuration, context.rounds.configuration.min_devices
    return _page(
        context,
        "overview",
        "",
        newest=recent[0] if recent else None,
        recent=recent,
        manifest=context.rounds.bundle.manifest,
        round_kind=round_kind(configuration),
        waiting=context.waiting,
        secure=context.service.secure_rounds and context.service.secure_rounds.progress,
        secure_statistics=context.service.secure_statistics and context.service.secure_statistics.progress,
        automatic=context.service.configuration.automatic_buffer,
        settable=not context.service.configuration.automatic_buffer and not configuration.cohort,
        short_of=[n for n, fed in context.waiting.fed.items() if queries.counted(context.rounds, fed) < least],
        min_devices=least,
        k_of=configuration.k_of,
        waiting_schools=sorted((school.name, school.waiting) for school in statuses if school.waiting),
        status_counts=Counter(school.status for school in statuses),
        schools=statuses,
        needs=attention_list(context, statuses),
    )


def _schools(context: PageContext) -> list[SchoolStatus]:
    tasks = context.rounds.bundle.manifest.tasks
    numbers = frozenset(task.name for task in tasks if kind_of(task).numbers)
    return schools(context.database, context.service.last_seen, context.waiting.members, numbers)


def round_kind(configuration: RoundConfiguration) -> str:
    """The kind of rounds, in words."""
    kinds = {"private": configuration.privacy, "secure": configuration.secure}
    kind = " ".join(name for name in kinds if kinds[name]) or "plain"
    limit, when = configuration.school_devices, "synchronous" if configuration.cohort else "at any hour"
    schools = f"; a roster has at most {counted(limit, 'device')} of one school" if limit else ""
    return f"{kind} rounds, {when}{schools}"


@dataclass(frozen=True)
class Attention:
    """Something that needs a person: a tone, its subject, the page that says more, and a sentence.

    advice: what can be done, in words; at least where there is no button. button, action: does it, or leads there.
    """

    tone: str
    subject: str
    address: str
    sentence: str
    advice: str
    button: str = ""
    action: str = ""


def attention_list(context: PageContext, statuses: list[SchoolStatus]) -> list[Attention]:
    """What needs attention, the worst first."""
    items = []
    if wrong := context.chain(context.database).wrong:
        advice = "Compare with a backup: `homeroom district audit verify` says from which entry on"
        items.append(Attention("bad", "The audit log", "audit", f"is damaged: {wrong}", advice))
    items += _about_version(context) if statuses else []
    items += _about_server(context)
    items += _about_rewind(context)
    items += _about_evaluation(context)
    for what, why in reasons(context.database)[-SET_APART_SHOWN:]:
        advice = "Nothing behind it waits; have it sent again, and tell the makers if it is set apart again"
        items.append(Attention("warn", "Set apart", "audit", f"{what}: {why}", advice))
    longest = queries.longest_updates(queries.versions(context.database, RECENT_VERSIONS))
    for school in statuses:
        items += _about_school(school)
        items += _about_lengths(school, longest)
    if over := _at_budget(context):
        says = f"{formatting.count(over, 'device')} spent the whole budget"
        advice = "They go on with every version, and send nothing more; which schools they are of stands under Privacy"
        items.append(Attention("warn", "Privacy", "privacy", says, advice, "Look at the budget", "privacy"))
    return sorted(items, key=lambda item: item.tone != "bad")


def _about_version(context: PageContext) -> Iterator[Attention]:
    wait, cohort = context.waiting.next, context.rounds.configuration.cohort
    if wait is None or not wait.hindrance:
        return
    if wait.reach < wait.needed and wait.fits <= wait.reach and not cohort:
        smaller = (f"Set the buffer to {wait.fits}", f"do/buffer?about={wait.fits}")
        yield Attention("bad", "The next version", "", wait.hindrance, "With a smaller buffer it comes", *smaller)
    else:
        advice = "Have further devices join, ask silent schools to sync, or record consents that are missing"
        advice += f"; or set --quorum to {wait.fits} at the next start" if cohort and wait.fits <= wait.reach else ""
        yield Attention("warn", "The next version", "", wait.hindrance, advice, "Look at the schools", "schools")


def _about_server(context: PageContext) -> Iterator[Attention]:
    service = context.service
    if service.addresses and service.addresses.open_to_all:
        listed = ", ".join(learned_addresses.came(context.database))
        says = f"takes requests that were signed for any server; devices came by {listed or 'its own names alone'}"
        button = ("Answer to these addresses alone", "do/addresses")
        yield Attention("warn", "The server", "", says, "Once these are all, no other need count", *button)
    if restore := queries.unchecked_restore(context.database, DONE_AGAIN):
        since = f", since {formatting.moment(restore[1])}," if restore[1] else ""
        says = f"with version {restore[0]} was put back: what was done after it{since} is undone"
        advice = "Revoke keys, and withdraw consents and updates, again where that was so"
        yield Attention("bad", "A backup", "schools", says, advice, DONE_AGAIN, "do/restored")
    if service.tls_end and service.tls_end < now() + datetime.timedelta(days=CERTIFICATE_WARNING_DAYS):
        advice = "Put a newer one into the files of --tls-cert and --tls-key: it is taken at once"
        yield Attention("bad", "The TLS certificate", "", f"ends {formatting.moment(str(service.tls_end))}", advice)


def _about_rewind(context: PageContext) -> Iterator[Attention]:
    if (planned := rewinds.waiting(context.database, context.rounds.configuration.unlearning)) is None:
        return
    most = context.rounds.configuration.unlearning.most_versions
    waits = f"{formatting.count(len(planned.update_ids), 'update')} in a version to be unlearned"
    advice = f"Versions since version {planned.to} become void then ({planned.versions}), and devices train anew"
    if planned.versions > most:
        says = f"{waits}; more than {formatting.count(most, 'version')} would become void, so a person decides"
        yield Attention("bad", "Unlearning", "versions", says, advice, REWIND, "do/rewind")
    else:
        says = f"{waits} by {planned.due}"
        yield Attention("warn", "Unlearning", "versions", says, advice, REWIND, "do/rewind")


def _about_evaluation(context: PageContext) -> Iterator[Attention]:
    if context.rounds.configuration.evaluation.mode != "secure":
        return
    if (refused := queries.refused_evaluation(context.database)) is not None:
        of = f", of roster {', '.join(map(str, refused.rosters))}" if refused.rosters else ""
        sums = formatting.count(refused.sums, "sum")
        says = f"of version {refused.version} is not shown: no samples have such counts ({sums} refused{of})"
        advice = (
            "One device or more lied or is broken, and masks hide which: the audit log names all that were in a sum. "
        )
        advice += "A roster without a part of them shows whether it was among these"
        yield Attention("warn", "The evaluation", "audit", says, advice, "Look at the audit log", "audit")


def _about_school(school: SchoolStatus) -> Iterator[Attention]:
    name, address = formatting.school(school.name), f"schools#{anchor(school)}"
    if (tone := formatting.STATUS_TONE[school.status]) in ("bad", "warn"):
        advice, button, action = formatting.STATUS_ADVICE[school.status]
        action = action.format(school=quote(school.name), anchor=anchor(school))
        yield Attention(tone, name, address, school.sentence, advice, button.format(name), action)
    for device in school.devices:
        if device.twin:
            says, key = f"key {device.key[:8]} is used by two machines", device.key
            advice = "One is a copy, and only one may go on: shut the key out, and invite the right one anew"
            revoke = (f"Revoke key {key[:8]}", f"do/revoke?about={key}")
            yield Attention("bad", name, address, says, advice, *revoke)


def _about_lengths(school: SchoolStatus, longest: Mapping[str, tuple[float, int]]) -> Iterator[Attention]:
    name, address = formatting.school(school.name), f"schools#{anchor(school)}"
    for device in school.devices:
        times, version = longest.get(device.name, (0.0, 0))
        if times >= FAR_TOO_LONG:
            says = f"key {device.key[:8]} sent an update {times:.3g} times as long as the bound of version {version}"
            advice = "It was shortened, and did little harm; a broken training does that, or a liar: ask there"
            button = (f"Withdraw the updates of {device.key[:8]}", f"do/withdraw?about={device.key}")
            yield Attention("warn", name, address, says, advice, *button)


def _ledger(context: PageContext) -> PrivacyLedger | None:
    """The ledger, read through this page's own connection."""
    ledger = context.rounds.ledger
    return ledger and ledger.through(context.database)


def _at_budget(context: PageContext) -> int:
    ledger = _ledger(context)
    return sum(count >= ledger.allowed for count in ledger.shares().values()) if ledger else 0


def anchor(school: SchoolStatus) -> str:
    """The anchor of a school on its page, which no school's name can break."""
    return f"s-{hashlib.sha256(school.name.encode()).hexdigest()[:12]}"


def all_schools(context: PageContext) -> str:
    """The page of every school's status."""
    statuses = _schools(context)
    counts = Counter(school.status for school in statuses)
    recent = queries.versions(context.database, RECENT_VERSIONS)
    longest = queries.longest_updates(recent) if context.rounds.configuration.rule != "mean" else None
    about: dict[str, Any] = {"longest": longest, "longest_of": len(recent)}
    about |= {"served": evaluation_figures.evaluation_figures(context.database, context.rounds.bundle.manifest)}
    about |= {"evaluated": context.rounds.configuration.evaluation.mode != "off"}
    about |= {"share": evaluation_figures.percent, "between": evaluation_figures.between}
    return _page(context, "schools", schools=statuses, status_counts=counts, anchor=anchor, **about)


def segments(context: PageContext) -> str:
    """The page of segments and the devices that fed them."""
    recent = queries.versions(context.database, RECENT_VERSIONS)
    rows, configuration = queries.segments(context.rounds, recent, context.waiting), context.rounds.configuration
    least, k_of = configuration.min_devices, configuration.k_of
    return _page(context, "segments", rows=rows, shown=recent[:6], min_devices=least, k_of=k_of)


def privacy(context: PageContext) -> str:
    """The page of the privacy budget."""
    ledger, rounds = _ledger(context), context.rounds
    report: dict[str, Any] = {"institution": context.service.institution, "private": False}
    rows = []
    if ledger:
        report |= {"private": True} | privacy_report.ledger_figures(ledger, rounds.rules.layout, rounds.configuration)
        shares, costs = ledger.shares(), dict[int, float]()
        for school in _schools(context):
            entered = sorted((shares.get(device.name, 0) for device in school.devices), reverse=True)
            if entered:
                most = entered[0]
                if most not in costs:
                    costs[most] = epsilon([(ledger.event, most)], ledger.privacy.delta) if most else 0.0
                rows.append((school.name, len(entered), most, costs[most], max(0, ledger.allowed - most)))
    rows.sort(key=lambda row: (-row[2], row[0]))
    lines, kind = privacy_report.report_lines(report), round_kind(rounds.configuration)
    return _page(context, "privacy", report=report, report_lines=lines, rows=rows, round_kind=kind)


def versions(context: PageContext) -> str:
    """The page of versions, and the way back to each."""
    before = context.number("before")
    rows = queries.versions(context.database, VERSIONS_A_PAGE, before)
    back = {version.number for version in rows if context.may_act and _can_go_back(context, version.number)}
    newest = newest_version(context.database)
    return _page(context, "versions", versions=rows, back=back, older=_older(rows), newest=newest)


def _older(rows: Sequence[VersionRow | AuditRecord]) -> int | None:
    """Where the next page begins, after these rows; None where there is none."""
    return rows[-1].number if rows and rows[-1].number > 1 else None


def _can_go_back(context: PageContext, number: int) -> bool:
    try:
        rollback.check_target(context.database, number)
    except InputError:
        return False
    return True


def action_page(context: PageContext, question: Question, address: str, problem: str = "") -> str:
    """The page that asks whether to do something. address: of its form. problem: with what the form said before."""
    limit, page = NAME_LIMIT, question.action.back
    return _page(context, "action", page, question=question, address=address, problem=problem, limit=limit)


def audit(context: PageContext) -> str:
    """The page of the audit log."""
    entries = queries.events(context.database, ENTRIES_A_PAGE, context.number("before"))
    return _page(context, "audit", chain=context.chain(context.database), entries=entries, older=_older(entries))


PAGES: dict[str, Page] = {
    "": overview,
    "schools": all_schools,
    "segments": segments,
    "privacy": privacy,
    "versions": versions,
    "audit": audit,
}
