"""`homeroom device …`: the verbs of a school's device; imports device when used."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from homeroom.cli import agent
from homeroom.cli.numbers import Finite, Folder, Whole
from homeroom.cli.options import budget_of, budget_options
from homeroom.errors import InputError

if TYPE_CHECKING:
    from homeroom.data.samples import Sample
    from homeroom.device.device import Device
    from homeroom.device.profiles import Profile

DIRECTORY = Folder()
ANY = click.Path(path_type=Path)
Command = Callable[..., Any]


def with_bundle(command: Command) -> Command:
    """The options of a command that may make the directory."""
    command = click.option("--bundle", type=ANY, help="Bundle to install; needed the first time.")(command)
    return click.option("--root", help="Fingerprint of the institution's root key.")(command)


for_person = click.option("--profile", metavar="PERSON", help="This person's own model.")
as_json = click.option("--json", "machine", is_flag=True, help="Print one JSON object.")


@contextmanager
def opened(directory: Path, bundle: Path | None = None, root: str | None = None, **options: Any) -> Iterator[Device]:
    from homeroom.device.device import Device

    with Device.open(directory, bundle, root, **options) as device:
        yield device


@click.group()
def device() -> None:
    """One directory that holds a school's samples and what was learned from them."""


@device.command()
@click.argument("directory", type=DIRECTORY)
@with_bundle
@click.option("--tier", help="How large an adapter, if not the full one: inspect names those there are.")
@click.option("--runtime", type=click.Choice(["onnx", "litert"]), help="What runs the graphs, from now on.")
@click.option("--anew", is_flag=True, help="Start again in a directory whose key is not on this machine.")
def init(
    directory: Path, bundle: Path | None, root: str | None, tier: str | None, runtime: str | None, anew: bool
) -> None:
    """Make the device DIRECTORY with a bundle, or install a newer bundle in it.

    Example: homeroom device init classroom/ --bundle vocabulary.homeroom
    """
    with opened(directory, bundle, root, anew=anew, tier=tier, runtime=runtime) as found:
        click.echo(f"{directory}: {found.bundle.manifest.name} version {found.bundle.manifest.version}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("samples", type=ANY, nargs=-1, required=True)
@click.option("--as-they-are", is_flag=True, help="Set none aside for its quality, or as a near copy.")
@with_bundle
def add(directory: Path, samples: tuple[Path, ...], as_they_are: bool, bundle: Path | None, root: str | None) -> None:
    """Add SAMPLES: .jsonl and .csv files, or folders with pictures, sounds and texts. All of them, or none.

    Example: homeroom device add classroom/ lesson.csv --bundle vocabulary.homeroom
    """
    with opened(directory, bundle, root) as found:
        before, aside = found.store.count(), len(found.set_aside())
        given = len(found.add(*samples, gates=not as_they_are))
        new, poor = found.store.count() - before, len(found.set_aside()) - aside
        click.echo(f"{new} samples added" + (f", {given - new} were there already" if given > new else ""))
        if poor:
            click.echo(f"  {poor} of them set aside, or one of their inputs: see `homeroom device review {directory}`")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--minutes", type=Finite(0, min_open=True), default=10.0, show_default=True, help="Budget.")
@budget_options
@click.option("--epochs", type=Whole(1), help="In place of what the bundle recommends.")
@for_person
@as_json
def train(
    directory: Path, minutes: float, epochs: int | None, profile: str | None, machine: bool, **limits: Any
) -> None:
    """Learn from all samples that teach something within a budget; goes on where it was interrupted.

    Example: homeroom device train classroom/ --minutes 10
    """
    budget, progress = budget_of(minutes, limits), None if machine else _progress
    with opened(directory) as found:
        report = found.train(epochs=epochs, budget=budget, profile=profile, progress=progress)
    if machine:
        click.echo(_json(asdict(report)))
        return
    if profile is not None:
        click.echo(f"\r{report.samples} samples, {report.seconds:.1f} s".ljust(60))
        click.echo(_told(report.profile))
        if not report.finished:
            click.echo(f"  {report.stopped}: nothing was changed; give it more")
        return
    settled = f" (the heads alone after {report.settled_after})" if report.settled_after else ""
    click.echo(f"\r{report.samples} samples, {report.epochs} epochs{settled}, {report.seconds:.1f} s".ljust(60))
    for task, score in report.scores.items():
        if score.n:
            click.echo(f"  {task}: {score.accuracy:.0%} right on {score.n} samples of other pupils")
    for language, scores in report.by_language.items():
        told = ", ".join(f"{task} {score.accuracy:.0%} of {score.n}" for task, score in scores.items() if score.n)
        click.echo(f"  in language {language}: {told or 'no sample to judge by'}")
    if report.plan is not None:
        for reason in report.plan.why:
            click.echo(f"  {reason}")
        if report.plan.seconds is not None:
            said = f"predicted {report.plan.seconds:.1f} s and {report.plan.megabytes:.0f} MB"
            click.echo(f"  {said}; took {report.seconds:.1f} s and {report.megabytes:.0f} MB")
    if not report.finished:
        click.echo(f"  {report.stopped}: run it again to go on")
    click.echo(f"  update: {report.update}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("inputs", nargs=-1, required=True, metavar="SLOT=VALUE…")
@for_person
@as_json
def predict(directory: Path, inputs: tuple[str, ...], profile: str | None, machine: bool) -> None:
    """Answer every task for one sample; a value is a text or a file.

    Example: homeroom device predict classroom/ image=photo.jpg text="el gato"
    """
    sample = sample_of(inputs)
    with opened(directory) as found:
        answers = found.predict(sample, profile)
    if machine:
        click.echo(_json({task: asdict(answer) for task, answer in answers.items()}))
        return
    for task, answer in answers.items():
        best = answer.best
        chance = answer.probabilities.get(str(best).lower() if isinstance(best, bool) else str(best))
        named = ", ".join(map(str, best)) or "none" if isinstance(best, list) else best
        said = "-" if best is None else f"{named}" + (f" ({chance:.0%})" if chance is not None else "")
        click.echo(f"{task}: {said}" + ("" if answer.sure else f"  not sure: {answer.reason}"))


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("invitation", type=click.Path(dir_okay=False, path_type=Path))
@with_bundle
def join(directory: Path, invitation: Path, bundle: Path | None, root: str | None) -> None:
    """Enrol with the aggregator that INVITATION names, once.

    Example: homeroom device join classroom/ invitation.json
    """
    with opened(directory, bundle, root) as found:
        found.join(invitation)
    click.echo("joined")


@device.command()
@click.argument("directory", type=DIRECTORY)
@as_json
def sync(directory: Path, machine: bool) -> None:
    """Send what waits, fetch the newest global theta, and use it unless it is clearly worse here.

    Example: homeroom device sync classroom/
    """
    with opened(directory) as found:
        report = found.sync()
    if machine:
        click.echo(_json(asdict(report)))
        return
    if report.secure:
        click.echo(f"secure round: {report.secure}")
    else:
        click.echo(f"sent {len(report.sent)} updates ({report.sent_bytes / 1e6:.2f} MB)")
    for update_id, reason in report.refused.items():
        click.echo(f"  refused {update_id[:8]}: {reason}")
    if report.unlearned:
        click.echo(f"asked to unlearn {len(report.unlearned)} updates")
    if report.bounded:
        click.echo(
            f"{len(report.bounded)} updates are in private releases: what these tell of them is bounded, not undone"
        )
    click.echo(f"global version {report.version or 0}; in use: {report.in_use}")
    if report.clock_off_s is not None and abs(report.clock_off_s) > 86_400:
        click.echo(
            f"this machine's clock is {abs(report.clock_off_s) / 86_400:.0f} days off: retention dates depend on it"
        )


@device.command("rotate-key")
@click.argument("directory", type=DIRECTORY)
def rotate_key(directory: Path) -> None:
    """Give this device a new key with its aggregator; the old one then opens nothing.

    Example: homeroom device rotate-key classroom/
    """
    with opened(directory) as found:
        found.rotate_key()
    click.echo("a new key is in use")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(directory: Path, subject: str, yes: bool) -> None:
    """Destroy the key of SUBJECT and everything under it. This cannot be undone, not with a backup either.

    Example: homeroom device forget classroom/ p-17
    """
    if not yes:
        click.confirm(f"Forget {subject} for ever?", abort=True)
    with opened(directory) as found:
        report = found.forget(subject)
    click.echo(
        f"forgotten: {report.samples} samples, {report.versions} versions, {report.profiles} profiles, "
        f"{report.unsent_updates} unsent updates; "
        f"{len(report.unlearning)} sent updates will be unlearned at the next sync"
    )


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("subject")
@click.option("--out", type=DIRECTORY, help="Write it into this folder, media as files; else print JSON without media.")
def export(directory: Path, subject: str, out: Path | None) -> None:
    """Show all that is held about SUBJECT.

    Example: homeroom device export classroom/ p-17 --out p-17/
    """
    from homeroom.store.subject_export import describe, write_export

    with opened(directory) as found:
        held = found.export(subject)
    if out is None:
        click.echo(_json(describe(held)))
    else:
        click.echo(f"{write_export(held, out)} files in {out}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@as_json
def status(directory: Path, machine: bool) -> None:
    """Say what the device holds, what waits, and what was found damaged.

    Example: homeroom device status classroom/
    """
    with opened(directory) as found:
        facts = found.status()
    if machine:
        click.echo(_json(facts))
        return
    for name, value in facts.items():
        if isinstance(value, list):
            click.echo(f"{name.replace('_', ' ')}: {len(value) or 'none'}")
            for line in value:
                click.echo(f"  {line}")
        else:
            shown = ", ".join(str(v) for v in value.values() if v is not None) if isinstance(value, dict) else value
            click.echo(f"{name.replace('_', ' ')}: {shown}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("samples", type=ANY, nargs=-1, required=True)
@as_json
def score(directory: Path, samples: tuple[Path, ...], machine: bool) -> None:
    """Say how well the theta in use does on labelled SAMPLES, which are not stored.

    Example: homeroom device score classroom/ test.csv
    """
    with opened(directory) as found:
        scores = found.score(*samples)
    if machine:
        click.echo(_json({task: _plain(value) for task, value in scores.items()}))
        return
    for task, value in scores.items():
        if value.n:
            area = "" if value.auc is None else f"AUC {value.auc:.3f}, "
            click.echo(f"{task}: {area}accuracy {value.accuracy:.3f}, macro-F1 {value.macro_f1:.3f}, {value.n} samples")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("document", type=ANY, required=False)
@as_json
def policy(directory: Path, document: Path | None, machine: bool) -> None:
    """Keep an institution's signed policy from now on; without DOCUMENT, show what holds here.

    Example: homeroom device policy classroom/ policy.json
    """
    from homeroom.federation.policy import layout_here

    with opened(directory) as found:
        held = found.policy(document)
        scopes = {s.name: s.scope for s in layout_here(found.store, found.bundle.manifest.layout)}
    if machine:
        click.echo(_json({"policy": held and _plain(held), "scopes": scopes}))
        return
    click.echo(f"{held.institution}, version {held.version}" if held else "no policy: the bundle's own scopes hold")
    for name, scope in scopes.items():
        click.echo(f"  {name}: {scope}")
    if held:
        click.echo(f"  consent: {'with each sample' if held.consent else 'not asked for'}")
        click.echo(f"  kept: {f'at most {held.retain_days} days' if held.retain_days else 'as each sample says'}")
        click.echo(f"  released from: {held.min_devices} devices, in rounds that are {' or '.join(held.rounds)}")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--put-back", multiple=True, metavar="ID", help="Let this sample teach after all; may be repeated.")
@click.option("--doubt", is_flag=True, help="First set aside labels that look wrong; this trains for some minutes.")
@as_json
def review(directory: Path, put_back: tuple[str, ...], doubt: bool, machine: bool) -> None:
    """List the samples that were set aside, wholly or in part, and why; or put some back.

    Example: homeroom device review classroom/ --put-back 3f2a…
    """
    with opened(directory) as found:
        found.put_back(*put_back)
        if doubt:
            found.doubt()
        samples = found.set_aside()
    rows = [{"id": s.sample_id, "subject": s.subject, "why": s.quarantine_reason, "labels": s.labels} for s in samples]
    lines = "\n".join(f"{s.sample_id}  {s.subject}: {s.quarantine_reason}" for s in samples)
    click.echo(_json(rows) if machine else lines or "none is set aside")


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("person")
@click.option("--pack", type=click.Path(dir_okay=False, path_type=Path), help="Write it, sealed, for another device.")
@as_json
def profile(directory: Path, person: str, pack: Path | None, machine: bool) -> None:
    """Show what is known about PERSON's own model, or pack it for another device of the same school.

    Example: homeroom device profile classroom/ p-17 --pack p-17.profile
    """
    with opened(directory) as found:
        if pack is not None:
            found.pack_profile(person, pack, _passphrase(confirm=True))
            click.echo(f"{pack}: keep the passphrase apart from it")
            return
        known = found.profile(person)
    click.echo(_json(known and asdict(known)) if machine else _told(known))


@device.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def take(directory: Path, file: Path) -> None:
    """Take the profile in FILE, which `profile --pack` wrote on another device of the same school.

    Example: homeroom device take classroom/ p-17.profile
    """
    with opened(directory) as found:
        click.echo(f"the profile of {found.take_profile(file, _passphrase())} is here")


@device.command()
@click.argument("directory", type=DIRECTORY)
def rollback(directory: Path) -> None:
    """Use the version of theta before the present one.

    Example: homeroom device rollback classroom/
    """
    with opened(directory) as found:
        click.echo(f"in use: {found.rollback()}")


def _told(known: Profile | None) -> str:
    if known is None:
        return "  no profile: the shared model answers"
    how = (
        "the shared model, nothing was better" if known.method == "shared" else f"{known.method}, {known.share:.0%} own"
    )
    again = "" if known.fresh else "; a newer shared model is here, train it again"
    return f"  {known.subject}: {how}, from {known.samples} samples{again}"


def _passphrase(*, confirm: bool = False) -> str:
    """From HOMEROOM_PASSPHRASE, or asked for without showing it."""
    given = os.environ.get("HOMEROOM_PASSPHRASE")
    return given or str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


def _progress(stage: str, done: int, total: int) -> None:
    if done == total or done % max(1, total // 50) == 0:
        click.echo(f"\r{stage}: {done} of {total}".ljust(60), nl=False, err=True)


def sample_of(inputs: tuple[str, ...]) -> Sample:
    """The sample that SLOT=VALUE words describe; a slot that comes again has several places."""
    from homeroom.data.samples import Sample

    pairs: dict[str, Any] = {}
    for item in inputs:
        slot, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"{item!r} is not SLOT=VALUE", remedy='write for example text="el gato"')
        if slot in pairs:
            pairs[slot] = [*(pairs[slot] if isinstance(pairs[slot], list) else [pairs[slot]]), value]
        else:
            pairs[slot] = json.loads(value) if value.startswith(("{", "[")) and _is_json(value) else value
    return Sample(**pairs)


def _is_json(value: str) -> bool:
    """An object, or a list of interactions."""
    try:
        found = json.loads(value)
    except ValueError:
        return False
    return isinstance(found, dict) or (isinstance(found, list) and all(isinstance(one, list | dict) for one in found))


def _plain(value: Any) -> Any:
    import msgspec

    if isinstance(value, datetime.date):
        return value.isoformat()
    return msgspec.to_builtins(value)


def _json(document: Any) -> str:
    return json.dumps(document, default=_plain, ensure_ascii=False, indent=1)


for command in agent.commands:
    device.add_command(command)
commands: list[click.Command] = [device]
