"""What answers now, and what to do next: said after a command that took a model away, brought one, or refused one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeroom.cli.options import hint, say
from homeroom.system.installation import quoted
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from homeroom.device.reader import DeviceReader
    from homeroom.device.status import Status
    from homeroom.store.records import VoidReport


def lines_on_use(device: DeviceReader, directory: Path) -> list[str]:
    """The version in use, what solved heads add to it, and the next step, a line each."""
    status = device.status()
    answers = [f"answers now: {line}" for line in status.solved]
    return [f"in use now: {_version(status)}", *answers, f"next: {_next(status, directory)}"]


def say_use(lines: Sequence[str]) -> None:
    """Says lines of `lines_on_use`; the last is what to do next."""
    for line in lines[:-1]:
        say(f"  {line}")
    for line in lines[-1:]:
        hint(f"  {line}")


def installed(device: DeviceReader, directory: Path) -> dict[str, Any]:
    """What `--json` prints of a device and the bundle that is installed in it."""
    manifest = device.bundle.manifest
    return {
        "directory": directory,
        "bundle": manifest.name,
        "version": manifest.version,
        "bundle_id": device.bundle.bundle_id,
        "in_use": device.status().in_use,
    }


def say_installed(device: DeviceReader, directory: Path) -> None:
    """Says which bundle is installed."""
    say(f"{directory}: {device.bundle.manifest.name} version {device.bundle.manifest.version}")


def say_judgement(
    lines: Sequence[str], worse: Mapping[str, str], dropped: VoidReport, *, rewound: bool = False
) -> None:
    """Says what validation samples say of the newest global version, and what of this device it made void.

    lines: of `lines_on_use` where it was refused, else none; worse: a sentence by task.
    rewound: versions with an update of this device were taken back.
    """
    if dropped.trainings or dropped.updates:
        gone = [(dropped.trainings, "training"), (dropped.updates, "unsent update"), (dropped.profiles, "profile")]
        what = ", ".join(counted(count, name) for count, name in gone if count)
        say(f"  the shared model unlearned an update that earlier versions held: {what} of this device grew from those")
        say("  and went with them; the samples are here: `homeroom device train` learns from them anew")
    elif rewound:
        say("  the shared model unlearned an update that earlier versions held, and what this device had sent to those")
        say("  went with it: `homeroom device train` learns from the samples anew, and the next sync sends that")
    if lines:
        say("  the new shared version is clearly worse on this device's validation samples, so it does not answer here")
    say_use(lines)
    for task, sentence in worse.items():
        say(f"  worse here, {task}: {sentence}")


def _version(status: Status) -> str:
    if isinstance(status.in_use, str):
        return "the bundle's own model, as it came: no training of this device is in it"
    name, base = status.in_use["version_id"][:8], status.in_use["base"]
    if status.in_use["kind"] == "global":
        return f"the shared version {base}"
    return f"version {name}, trained on this device" + (f" from the shared version {base}" if base else "")


def _next(status: Status, directory: Path) -> str:
    train = f"`homeroom device train {quoted(directory)}`"
    if not status.samples:
        return "no sample is held: add labelled ones with `homeroom device add`, then train"
    if isinstance(status.in_use, str):
        return f"{train} teaches it from the {counted(status.samples, 'sample')} held"
    return f"{train} goes on from it; `homeroom device undo {quoted(directory)}` goes back to the one before"
