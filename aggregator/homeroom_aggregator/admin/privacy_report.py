"""Privacy report: the promise of a folder's private rounds and the budget spent, as figures and in plain words."""

from __future__ import annotations

import contextlib
from math import exp
from pathlib import Path
from typing import Any

import msgspec

from homeroom.contract.layout import Layout
from homeroom.contract.round import RoundConfiguration
from homeroom.system.printable import counted
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import LOG_FILE, open_folder_bundle, read_facts
from homeroom_aggregator.merge.configuration_change import in_force
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.privacy_ledger import PrivacyLedger


def folder_figures(folder: Path) -> dict[str, Any]:
    """The figures of a folder, for `report_lines`; while it serves or not."""
    facts = read_facts(folder)
    privacy, layout = facts.configuration.privacy, open_folder_bundle(folder, facts).manifest.layout
    if privacy is None:
        return {"institution": facts.institution, "private": False}
    with contextlib.closing(Log(folder / LOG_FILE, exclusive=False)) as log:
        configuration = in_force(log, facts.configuration)
        ledger = PrivacyLedger(log.database, privacy, facts.configuration.scale_bits)
        return {"institution": facts.institution, "private": True} | ledger_figures(ledger, layout, configuration)


def ledger_figures(ledger: PrivacyLedger, layout: Layout, configuration: RoundConfiguration) -> dict[str, Any]:
    """The figures of a ledger, for `report_lines`; the caller adds `institution` and `private`."""
    shares = ledger.shares()
    return {
        "promise": msgspec.to_builtins(ledger.privacy),
        "noise_multiplier_on_grid": ledger.event.noise_multiplier,
        "clip_norms": [event.sensitivity * 2.0**-event.scale_bits for event in ledger.events().values()]
        if ledger.privacy.adapts
        else [],
        "parameters": sum(segment.size for segment in configuration.merged(layout)),
        "buffer_size": configuration.buffer_size,
        "releases": len(ledger.events()),
        "uncharged_since": _uncharged_since(ledger.database),
        "releases_a_device": ledger.allowed,
        "devices": len(shares),
        "most_entered": max(shares.values(), default=0),
        "epsilon_spent": ledger.spent(),
        "devices_at_their_budget": sum(count >= ledger.allowed for count in shares.values()),
        "right_guesses_at_most": right_guess_limit(ledger.privacy.epsilon, ledger.privacy.delta),
    }


def _uncharged_since(database: Database) -> str:
    """Since when, UTC, ISO 8601, releases are missing, as a backup was put back without them; "" if none is."""
    sql = """SELECT min(coalesce(json_extract(about, '$.since'), at)) FROM audit
             WHERE event = 'restored' AND NOT coalesce(json_extract(about, '$.charged'), 0)"""
    return str(database.one(sql)[0] or "")


def right_guess_limit(epsilon: float, delta: float) -> float:
    """The largest share of right guesses of an attacker who saw every release, whether one device is in them.

    From the bound on true and false positives (Kairouz, Oh, Viswanath 2015, theorem 2.1); 0.5 is a blind guess.
    """
    odds = exp(-epsilon)
    return min(1.0, (1 + delta * odds) / (1 + odds))


def report_lines(figures: dict[str, Any]) -> list[str]:
    """The report, a paragraph each. figures: of `folder_figures`."""
    institution = figures["institution"]
    if not figures["private"]:
        says = "Nothing here is differential privacy: the aggregator keeps each update, and what a release says about"
        return [f"{institution}: plain rounds. {says} one school has no bound."]
    promise, spent = figures["promise"], figures["epsilon_spent"]
    clip, noise = promise["clip_norm"], promise["noise_multiplier"]
    unit, one, names = "device", "one device's updates", ""
    cut = f"an update is cut to a length of {clip:g},"
    if subjects := promise.get("subjects"):
        unit, one, names = "subject (pupil) of a device", "one subject's samples", "; a pupil under several names"
        cut = f"the part of an update that one subject's samples make is cut to a length of {clip:g}, by the device "
        cut += f"itself, at most {subjects} such parts are in an update,"
    how = f"The aggregator adds it to the sum of {counted(figures['buffer_size'], 'update')}, and forgets them."
    server = "the aggregator itself, which sees each update until its release"
    if promise["mechanism"] == "distributed":
        how = "The honest devices of a cohort add at least that, before they mask what they send."
        server = "a cohort of which more is corrupt than its rules count on"
    follows = ""
    if promise.get("quantile"):
        last = figures["clip_norms"][-1] if figures["clip_norms"] else clip
        follows = (
            f" The clip follows the updates, so that {100 * promise['quantile']:g} % of them are within it: {last:.3g} "
            f"at the last release, {clip:g} at the first. What it follows is noised and counted like the rest."
        )
    if bands := promise.get("bands"):
        follows = (
            f" The noise of {bands} releases in a row is correlated, so that much of it cancels out; a device enters "
            f"one of them at most, and the exact sums of the last {bands - 1} lie in the aggregator's log."
        )
    least = ""
    if since := figures.get("uncharged_since"):
        least = f" At least: a backup was put back, and what was released since {since}, before that, is not in it."
    return [
        f"{institution}: private rounds. The promise is part of the signed round configuration, and devices hold it.",
        f"Promised: epsilon {promise['epsilon']:g} at delta {promise['delta']:g} for each {unit}, over all releases. "
        f"Whoever sees every release and guesses whether {one} are in them is right at most "
        f"{100 * figures['right_guesses_at_most']:.1f} % of the time; 50 % is a blind guess.",
        f"How: {cut} and each of the {figures['parameters']:,} numbers of a sum gets "
        f"noise of {noise:g} times that. {how}{follows}",
        f"Spent: {counted(figures['releases'], 'release')}, {counted(figures['devices'], 'device')}. "
        f"The device that entered most entered "
        f"{figures['most_entered']} of them: epsilon {spent:.3g}.{least}",
        f"Left: a device may enter {figures['releases_a_device']} releases in all, and its updates are refused after "
        f"that; the one that entered most has {max(0, figures['releases_a_device'] - figures['most_entered'])} left. "
        f"{figures['devices_at_their_budget']} devices are there.",
        f"Not covered: {server}; that a device took part, and when; several devices that hold data of the same pupil, "
        f"each of which is protected by itself{names}.",
    ]
