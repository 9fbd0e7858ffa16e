"""`homeroom device join`, `sync`, `network` and others: a device and its aggregator over the network."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from homeroom.cli.in_use import installed, lines_on_use, say_installed, say_judgement, say_use
from homeroom.cli.options import as_json, hint, opened, plain, print_record, say, with_bundle
from homeroom.cli.parameters import FOLDER, INVITATION, PATH
from homeroom.federation.unlearning import unlearning_lines
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.federation.evaluation import EvaluationOutcome
    from homeroom.federation.statistics import StatisticsReport


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--address", help="Address of the aggregator, in place of the invitation's; empty: the invitation's.")
@click.option("--proxy", help="http://name:port; empty: what HTTPS_PROXY and NO_PROXY say.")
@click.option(
    "--metered",
    type=click.Choice(["auto", "allow", "refuse"]),
    help="On mobile data: stay offline where the system tells (auto), sync (allow), or sync only where it says no.",
)
@click.option("--clock", type=click.Choice(["auto", "ignore"]), help="ignore: not the dates of TLS certificates.")
@click.option("--lan", type=click.Choice(["auto", "off"]), help="Look for the aggregator on the local network [lan].")
@click.option(
    "--scores",
    type=click.Choice(["keep", "tell"]),
    help="tell: the aggregator learns how each new version does on the validation samples here (docs/network.md).",
)
@click.option(
    "--statistics",
    type=click.Choice(["keep", "plain", "secure"]),
    help="plain, secure: yes, this device's statistics may leave so (docs/statistics.md); keep: no, take them back.",
)
@click.option(
    "--evaluation",
    type=click.Choice(["keep", "tell"]),
    help="tell: yes, how often versions are right here may leave as counts (docs/evaluation.md); keep: no.",
)
@as_json
def network(
    directory: Path,
    statistics: Literal["keep", "plain", "secure"] | None,
    evaluation: Literal["keep", "tell"] | None,
    **changes: str | None,
) -> None:
    """Show how the device reaches its aggregator, or change it."""
    from homeroom.federation import evaluation as counts
    from homeroom.federation.enrolment import set_network
    from homeroom.federation.network.metered import is_metered
    from homeroom.federation.statistics import agree, agreed_words

    with opened(directory) as device:
        if statistics:
            agree(device.store, yes=statistics != "keep", mode="secure" if statistics == "secure" else "plain")
        if evaluation:
            counts.agree(device.store, yes=evaluation == "tell")
        words, tells = agreed_words(device.store), counts.agreed_words(device.store)
        settings = set_network(device.store, **{name: value for name, value in changes.items() if value is not None})
    facts = {"connection_metered": is_metered(), "statistics_agreed": words, "evaluation_agreed": tells}
    print_record({**plain(settings), **facts})
    metered = {True: "yes", False: "no", None: "the system does not tell"}[is_metered()]
    say(f"address: {settings.address or 'as the invitation says'}")
    say(f"proxy: {settings.proxy or 'as the environment says'}")
    say(f"metered: {settings.metered} (this connection: {metered})")
    for name in ("clock", "lan", "scores"):
        say(f"{name}: {getattr(settings, name)}")
    say(f"statistics: {words}")
    say(f"evaluation: {tells}")


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("invitation", type=INVITATION)
@as_json
def fetch(directory: Path, invitation: Path) -> None:
    """Make the device DIRECTORY with the bundle of INVITATION, fetched from the aggregator; `join` comes next.

    Run it again after a break: it goes on where it was.
    """
    print_record(fetch_device(directory, invitation))
    hint(f"next: homeroom device join {quoted(directory)} INVITATION")


def fetch_device(directory: Path, invitation: str | Path) -> dict[str, Any]:
    """Make the device in a directory with the bundle of an invitation, fetched from the aggregator; its `installed`."""
    from homeroom.contract.invitation import read_invitation
    from homeroom.federation.sync import DOWNLOADS_FOLDER, download_first_bundle, fetching_fallback, first_client

    invited = read_invitation(invitation)
    bundle = download_first_bundle(invited, directory / DOWNLOADS_FOLDER)

    def make() -> dict[str, Any]:
        with opened(directory, bundle, invited.root) as device:
            say_installed(device, directory)
            return installed(device, directory)

    made = fetching_fallback(bundle, lambda: first_client(invited), make, invited.code)
    bundle.unlink()
    return made


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def upgrade(directory: Path) -> None:
    """Fetch and install the bundle that the aggregator serves, if it is newer than the one in use."""
    from homeroom.contract.changed_encoders import changed_encoders

    with opened(directory) as device:
        before = device.bundle.manifest
        new = device.update_bundle()
        manifest, told = device.bundle.manifest, lines_on_use(device, directory) if new else []
        encoders = changed_encoders(before, manifest)
        print_record(installed(device, directory) | {"upgraded": new, "encoders": encoders})
    say(f"{manifest.name} version {manifest.version} " + ("is now in use" if new else "is the newest"))
    for name, (old, later) in encoders.items():
        say(f"  {name}: {later} reads it now, {old} before: what was learned through it does not go on")
    say_use(told)


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("invitation", type=INVITATION)
@with_bundle
@as_json
def join(directory: Path, invitation: str | Path, bundle: Path | None, root: str | None) -> None:
    """Enrol with the aggregator that INVITATION names, once; a new DIRECTORY first fetches its bundle there.

    INVITATION is a file, its line of text, or - for standard input.
    """
    from homeroom.federation.agreement import read_agreement
    from homeroom.federation.evaluation import SAY_NO, asks_words
    from homeroom.store.open import is_device

    if bundle is None and not is_device(directory):
        fetch_device(directory, invitation)
    with opened(directory, bundle, root) as device:
        device.join(invitation)
        terms = read_agreement(device.store).configuration
        print_record({"joined": True, "device": device.status().device_key, "terms": terms and plain(terms)})
    if terms is None:
        say("joined")
    else:
        least = counted(terms.min_devices, "school" if terms.k_of == "schools" else "device")
        say(f"joined: a version here is made of what {least} learned, or more")
        if terms.school_devices:
            say(f"a sum has at most {counted(terms.school_devices, 'device')} of one school")
        if terms.evaluation.mode != "off":
            say(f"{asks_words(terms.evaluation.mode)}; {SAY_NO}")


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def sync(directory: Path) -> None:
    """Send what waits, fetch the newest global theta, and use it unless it is clearly worse here."""
    with opened(directory) as device:
        report = device.sync()
        told = lines_on_use(device, directory) if report.in_use == "local" else []
    print_record(asdict(report))
    if report.secure:
        say(f"secure round: {report.secure}; sent {report.sent_bytes / 1e6:.2f} MB")
    else:
        say(f"sent {counted(len(report.sent), 'update')} ({report.sent_bytes / 1e6:.2f} MB)")
    for update_id, reason in report.refused.items():
        say(f"  refused {update_id[:8]}: {reason}")
    for line in unlearning_lines(report.unlearning):
        say(line)
    if report.statistics:
        for line in statistics_lines(report.statistics):
            say(line)
    if report.evaluation:
        for line in evaluation_lines(report.evaluation):
            say(line)
    if report.held:
        say(f"updates wait on this device: {report.held}")
    if report.waiting:
        here, needed = report.waiting
        say(f"for the next version, {here} of {counted(needed, 'update')} here")
    say(f"global version {report.version or 0}; in use: {report.in_use}")
    say_judgement(told, report.worse, report.dropped, rewound=report.rewound)
    days_off = abs(report.clock_off_s or 0) / 86_400
    if days_off > 1:
        say(f"this machine's clock is {days_off:.0f} days off: retention dates depend on it")


def evaluation_lines(outcome: EvaluationOutcome) -> list[str]:
    """What a sync did with counts of a version, a line each."""
    lines = [f"evaluation: told of version {outcome.version}"] if outcome.version else []
    lines += [f"evaluation: {outcome.round}"] if outcome.round else []
    lines += [f"evaluation stays here: {outcome.why_not}"] if outcome.why_not else []
    return lines + [f"evaluation of {task} stays here: {why}" for task, why in outcome.held.items()]


def statistics_lines(report: StatisticsReport) -> list[str]:
    """What a sync did with statistics, a line each."""
    lines = [f"statistics: {report.round}"] if report.round else []
    if report.sent and not report.round:
        lines = [f"statistics: {'taken back' if report.why_not else 'sent what changed'}"]
    lines += [f"statistics stay here: {report.why_not}"] if report.why_not else []
    lines += [f"statistics{f' of {task}' if task else ''} wait here: {why}" for task, why in report.held.items()]
    lines += [f"statistics of {task}: {why}" for task, why in report.nameless.items()]
    lines += [f"statistics of all schools: release {report.release}"] if report.release else []
    return lines + ([f"statistics wait at the aggregator: {report.waits}"] if report.waits else [])


@click.command()
@click.argument("directory", type=FOLDER)
@click.argument("document", type=PATH, required=False)
@as_json
def policy(directory: Path, document: Path | None) -> None:
    """Keep an institution's signed policy from now on; without DOCUMENT, show what holds here."""
    from homeroom.federation.policy import local_layout

    with opened(directory) as device:
        held = device.policy(document)
        scopes = {s.name: s.scope for s in local_layout(device.store, device.bundle.manifest.layout)}
        without = device.status()["without_consent"]
    print_record({"policy": held and plain(held), "scopes": scopes, "without_consent": without})
    say(f"{held.institution}, version {held.version}" if held else "no policy: the bundle's own scopes hold")
    for name, scope in scopes.items():
        say(f"  {name}: {scope}")
    if held:
        aside = f"; {counted(without, 'sample')} without one, not trained on" if without else ""
        say(f"  consent: {'with each sample' if held.consent else 'not asked for'}{aside}")
        days = held.retain_days
        say(f"  kept: {'at most ' + counted(days, 'day') if days else 'as each sample says'}")
        say(f"  released from: {counted(held.min_devices, 'device')}, in rounds that are {' or '.join(held.rounds)}")


@click.command("rotate-key")
@click.argument("directory", type=FOLDER)
@as_json
def rotate_key(directory: Path) -> None:
    """Give this device a new key with its aggregator; the old one then opens nothing."""
    with opened(directory) as device:
        device.rotate_key()
        print_record({"device": device.status().device_key})
    say("a new key is in use")
