"""The pages: what each one needs, gathered from figures and schools, and put into its template; jinja2, escaped always.

A page is a function of an `Ask` that returns its HTML; it runs in a thread of its own, over a connection of its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from homeroom.contract.round import RoundConfiguration
from homeroom.errors import InputError
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin import privacy_report
from homeroom_aggregator.merge import rollback
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard import formatting, plots, queries
from homeroom_aggregator.server.dashboard.queries import AuditChain, PendingUpdates, VersionRow
from homeroom_aggregator.server.dashboard.school_status import WORST_FIRST, SchoolStatus, change, schools
from homeroom_aggregator.server.dashboard.sessions import Session
from homeroom_aggregator.state.last_seen import LastSeen
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger, epsilon

RECENT_VERSIONS, VERSIONS_A_PAGE, ENTRIES_A_PAGE = (
    24,
    20,
    50,
)  # versions in the plot, versions on a page, entries of the audit log on a page
TEMPLATES_FOLDER = Path(__file__).parent / "templates"
PAGE_STYLE = (TEMPLATES_FOLDER / "style.css").read_text("utf-8")
STYLE_HASH = base64.b64encode(hashlib.sha256(PAGE_STYLE.encode()).digest()).decode()
NAVIGATION = (
    ("", "Overview"),
    ("schools", "Schools"),
    ("segments", "Segments"),
    ("privacy", "Privacy"),
    ("versions", "Versions"),
    ("audit", "Audit"),
)
"""The pages by their addresses, in the navigation's order."""


@dataclass(frozen=True)
class PageContext:
    """What a page may look at. `rounds`: its fixed parts only, the state is the writer's; `given`: the query."""

    database: Database
    rounds: Rounds
    institution: str
    contacts: LastSeen
    waiting: PendingUpdates
    session: Session
    chain: Callable[[Database], AuditChain]
    given: dict[str, str]

    @property
    def may_go_back(self) -> bool:
        return self.session.link.rank == "district"

    def number(self, name: str) -> int | None:
        """A number from the query; None where there is none."""
        text = self.given.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


Page = Callable[[PageContext], str]


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        formatting.moment,
        formatting.day,
        formatting.count,
        formatting.percent,
        formatting.points,
        formatting.short,
        formatting.title,
    ):
        made.filters[function.__name__] = function
    made.filters["school"] = formatting.school
    made.globals |= {
        "style": Markup(PAGE_STYLE),
        "places": NAVIGATION,
        "tone": formatting.STATUS_TONE,
        "means": formatting.STATUS_MEANING,
    }
    made.globals |= {
        "event": formatting.event,
        "dumbbell": plots.dumbbell,
        "change": change,
        "worst_first": WORST_FIRST,
    }
    return made


TEMPLATES = _environment()


def render(name: str, **values: Any) -> str:
    return TEMPLATES.get_template(f"{name}.html").render(values)


def _page(ask: PageContext, name: str, place: str, **values: Any) -> str:
    common = {"institution": ask.institution, "place": place, "rank": ask.session.link.rank}
    return render(name, **common, form=ask.session.form, may_go_back=ask.may_go_back, **values)


def overview(ask: PageContext) -> str:
    recent = queries.versions(ask.database, RECENT_VERSIONS)
    found = schools(ask.database, ask.contacts, ask.waiting.members)
    configuration = ask.rounds.configuration
    held = {name: len(fed) for name, fed in ask.waiting.fed.items()}
    return _page(
        ask,
        "overview",
        "",
        newest=recent[0] if recent else None,
        bars=plots.bars(recent),
        recent=recent,
        manifest=ask.rounds.bundle.manifest,
        mode=round_kind(configuration),
        waiting=ask.waiting,
        short_of=sorted(name for name, fed in held.items() if fed < configuration.min_devices),
        least=configuration.min_devices,
        waiting_schools=sorted(_waiting_by_school(found).items()),
        standings=Counter(school.standing for school in found),
        schools=found,
        needs=attention_list(ask, found),
    )


def _waiting_by_school(found: list[SchoolStatus]) -> dict[str, int]:
    counted = {school.name: sum(machine.waits for machine in school.machines) for school in found}
    return {name: number for name, number in counted.items() if number}


def round_kind(configuration: RoundConfiguration) -> str:
    """What kind of rounds these are, in words."""
    kind = "private" if configuration.privacy else "plain"
    kind = f"{kind} secure" if configuration.privacy and configuration.secure else kind
    kind = "secure" if configuration.secure and not configuration.privacy else kind
    return f"{kind} rounds, {'synchronous' if configuration.cohort else 'at any hour'}"


def attention_list(ask: PageContext, found: list[SchoolStatus]) -> list[tuple[str, str, str, str]]:
    """What somebody should look at, the worst first: tone, what it is about, the page that says more, a sentence."""
    told = []
    if wrong := ask.chain(ask.database).wrong:
        told.append(("bad", "The audit log", "audit", f"is damaged: {wrong}"))
    for school in found:
        name, place = formatting.school(school.name), f"schools#{anchor(school)}"
        if formatting.STATUS_TONE[school.standing] in ("bad", "warn"):
            told.append((formatting.STATUS_TONE[school.standing], name, place, school.says))
        for machine in school.machines:
            if machine.twin:
                told.append(("bad", name, place, f"key {machine.key[:8]} is used by two machines"))
    if over := _at_budget(ask):
        told.append(("warn", "Privacy", "privacy", f"{formatting.count(over, 'device')} spent the whole budget"))
    return sorted(told, key=lambda one: one[0] != "bad")


def _ledger(ask: PageContext) -> PrivacyLedger | None:
    """The ledger, read through this page's own connection."""
    known = ask.rounds.ledger
    return known and known.through(ask.database)


def _at_budget(ask: PageContext) -> int:
    ledger = _ledger(ask)
    return sum(count >= ledger.allowed for count in ledger.shares().values()) if ledger else 0


def anchor(school: SchoolStatus) -> str:
    """A name for a place on the page that no school's name can break."""
    return f"s-{hashlib.sha256(school.name.encode()).hexdigest()[:12]}"


def all_schools(ask: PageContext) -> str:
    found = schools(ask.database, ask.contacts, ask.waiting.members)
    standings = Counter(school.standing for school in found)
    return _page(ask, "schools", "schools", schools=found, standings=standings, anchor=anchor)


def segments(ask: PageContext) -> str:
    recent = queries.versions(ask.database, RECENT_VERSIONS)
    rows = queries.segments(ask.rounds, recent, ask.waiting)
    return _page(ask, "segments", "segments", rows=rows, shown=recent[:6], least=ask.rounds.configuration.min_devices)


def privacy(ask: PageContext) -> str:
    ledger, rounds = _ledger(ask), ask.rounds
    said: dict[str, Any] = {"institution": ask.institution, "private": False}
    rows = []
    if ledger:
        said |= {"private": True} | privacy_report.ledger_figures(ledger, rounds.rules.layout, rounds.configuration)
        shares, costs = ledger.shares(), dict[int, float]()
        for school in schools(ask.database, ask.contacts, ask.waiting.members):
            entered = sorted((shares.get(machine.name, 0) for machine in school.machines), reverse=True)
            if entered:
                most = entered[0]
                if most not in costs:
                    costs[most] = epsilon([(ledger.event, most)], ledger.privacy.delta) if most else 0.0
                rows.append((school.name, len(entered), most, costs[most], max(0, ledger.allowed - most)))
    rows.sort(key=lambda row: (-row[2], row[0]))
    return _page(
        ask,
        "privacy",
        "privacy",
        said=said,
        words=privacy_report.report_lines(said),
        rows=rows,
        mode=round_kind(rounds.configuration),
    )


def versions(ask: PageContext) -> str:
    before = ask.number("before")
    found = queries.versions(ask.database, VERSIONS_A_PAGE, before)
    back = {version.number for version in found if ask.may_go_back and _can(ask, version.number)}
    older = found[-1].number if found and found[-1].number > 1 else None
    return _page(
        ask, "versions", "versions", versions=found, back=back, older=older, newest=queries.newest(ask.database)
    )


def _can(ask: PageContext, number: int) -> bool:
    try:
        rollback.check_target(ask.database, number)
    except InputError:
        return False
    return True


def rollback_page(ask: PageContext, number: int, problem: str = "") -> str:
    """The page that asks whether to go back to a version; InputError where one may not."""
    rollback.check_target(ask.database, number)
    newest = queries.newest(ask.database)
    old: VersionRow | None = next(iter(queries.versions(ask.database, 1, number + 1)), None) if number else None
    limit = rollback.REASON_LIMIT
    return _page(ask, "rollback", "versions", number=number, old=old, newest=newest, problem=problem, limit=limit)


def audit(ask: PageContext) -> str:
    found = queries.events(ask.database, ENTRIES_A_PAGE, ask.number("before"))
    older = found[-1].number if found and found[-1].number > 1 else None
    return _page(ask, "audit", "audit", chain=ask.chain(ask.database), entries=found, older=older)


PAGES: dict[str, Page] = {
    "": overview,
    "schools": all_schools,
    "segments": segments,
    "privacy": privacy,
    "versions": versions,
    "audit": audit,
}
