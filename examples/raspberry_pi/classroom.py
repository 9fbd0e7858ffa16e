"""A classroom on a Raspberry Pi: takes in what lies in an inbox, trains within a budget, and shares what was learned.

    classroom.py run --directory /var/lib/homeroom --inbox /srv/homeroom/inbox --minutes 20
    classroom.py learn --directory … --camera --label category=animals --subject p-17
    classroom.py ask --directory … --camera

`run` is what the systemd timer starts. Camera and microphone are read through the programs of Debian's packages
`rpicam-apps` and `alsa-utils`; nothing here needs them unless it is asked for. Imports the standard library,
and homeroom once the system is known to be able to run it.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeroom import Device, Sample

SETTLED_S = 30.0  # a file that changed more recently may still be on its way in
UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart")
PHOTO = ("rpicam-still", "--nopreview", "--immediate", "--width", "1024", "--height", "768", "--output")
RECORDER = ("arecord", "--quiet", "--format=S16_LE", "--rate=16000", "--channels=1")


def refuse_32_bit() -> None:
    """Exit with one sentence where Python is 32-bit: the graph runtime is published for 64-bit systems only."""
    if struct.calcsize("P") < 8:
        sys.exit("This is a 32-bit system, which Homeroom cannot run on: install the 64-bit Raspberry Pi OS.")


def settled(inbox: Path, now: float, settled_s: float) -> list[Path]:
    """Entries of the inbox that are complete: not hidden, not half copied, and quiet for `settled_s` seconds."""

    def newest(entry: Path) -> float:
        paths = [entry, *entry.rglob("*")] if entry.is_dir() else [entry]
        return max(path.stat().st_mtime for path in paths)

    return [
        entry
        for entry in sorted(inbox.iterdir())
        if not entry.name.startswith(".")
        and entry.name != "refused"
        and entry.suffix not in UNFINISHED
        and (entry.is_dir() or entry.suffix in (".jsonl", ".csv"))
        and now - newest(entry) >= settled_s
    ]


def take_in(device: Device, inbox: Path, settled_s: float) -> tuple[int, int]:
    """Add each settled entry (a folder, .jsonl or .csv) and delete it; return how many samples came, entries refused.

    The device's copy is encrypted, the inbox is not, so nothing stays there. An entry that the device refuses moves to
    refused/ with the reason beside it. A power cut between adding and deleting adds the same samples again, which the
    device recognises by their content.
    """
    from homeroom.errors import BundleError, InputError

    added = refused = 0
    for entry in settled(inbox, time.time(), settled_s):
        try:
            added += len(device.add(entry))
        except (InputError, BundleError) as error:
            aside = inbox / "refused"
            aside.mkdir(exist_ok=True)
            moved = aside / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{entry.name}"
            shutil.move(entry, moved)
            moved.with_name(moved.name + ".why.txt").write_text(f"{error}\n")
            print(f"{entry.name} was refused: {error}", file=sys.stderr)
            refused += 1
        else:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return added, refused


def run(device: Device, args: argparse.Namespace) -> int:
    """Inbox, training, sync; return the exit code. No network is no failure: the update waits in the outbox."""
    from homeroom.errors import NetworkError, TrainError

    args.inbox.mkdir(parents=True, exist_ok=True)
    added, refused = take_in(device, args.inbox, args.settled)
    print(f"{added} samples added, {refused} entries refused")
    try:
        trained = device.train(minutes=args.minutes)
        print(f"trained {trained.seconds:.0f} s on {trained.samples} samples, {trained.epochs} epochs")
    except TrainError as error:
        print(f"not trained: {error}")
    if args.invitation and args.invitation.exists():
        device.join(args.invitation)
        args.invitation.unlink()  # its code works once
    if not device.status()["joined"]:
        print("not joined: what was learned stays here")
        return 1 if refused else 0
    try:
        done = device.sync()
        print(f"synchronised: {len(done.sent)} updates sent, {done.in_use} theta in use")
    except NetworkError as error:
        print(f"not synchronised, the update waits: {error}")
    return 1 if refused else 0


def capture(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """One picture or one recording, as `{modality: file}`; exits with one sentence where the program is missing."""
    made: dict[str, Path] = {}
    wanted = []
    if args.camera:
        made["image"] = folder / "photo.jpg"
        wanted.append(("rpicam-apps", [*PHOTO, str(made["image"])]))
    if args.microphone:
        made["audio"] = folder / "voice.wav"
        wanted.append(("alsa-utils", [*RECORDER, f"--duration={args.microphone}", str(made["audio"])]))
    for package, command in wanted:
        if shutil.which(command[0]) is None:
            sys.exit(f"{command[0]} is missing: sudo apt install {package}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + args.microphone)
        if done.returncode:
            sys.exit(f"{command[0]} failed: {done.stderr.strip() or 'no reason given'}")
    return made


def sample(args: argparse.Namespace, folder: Path, labels: dict[str, str]) -> Sample:
    """What was typed, named or captured, bound to the modalities text, image and audio."""
    from homeroom import Sample

    inputs: dict[str, str | Path] = {k: v for k in ("text", "image", "audio") if (v := getattr(args, k))}
    inputs |= capture(args, folder)
    return Sample(**inputs, labels=labels, subject=getattr(args, "subject", None))


def learn(device: Device, args: argparse.Namespace) -> int:
    labels = dict(pair.split("=", 1) for pair in args.label)
    with tempfile.TemporaryDirectory() as folder:
        device.add(sample(args, Path(folder), labels))
    print("one sample added")
    return 0


def ask(device: Device, args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        answers = device.predict(sample(args, Path(folder), {}))
    for task, answer in answers.items():
        print(f"{task}: {answer.best}" + ("" if answer.sure else f" (not sure: {answer.reason})"))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A classroom on a Raspberry Pi.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, work in (("run", run), ("learn", learn), ("ask", ask)):
        verb = verbs.add_parser(name)
        verb.set_defaults(work=work)
        verb.add_argument("--directory", type=Path, default=Path("/var/lib/homeroom"), help="the device's own folder")
        verb.add_argument("--bundle", type=Path, help="a bundle to install; needed the first time")
        verb.add_argument("--root", help="fingerprint of the institution's root key, where no invitation pins it")
        if name == "run":
            verb.add_argument("--inbox", type=Path, default=Path("/srv/homeroom/inbox"))
            verb.add_argument("--minutes", type=float, default=20, help="training budget")
            verb.add_argument("--settled", type=float, default=SETTLED_S, help="seconds without a change")
            verb.add_argument("--invitation", type=Path, help="joins with it once, then deletes it")
            continue
        verb.add_argument("--text")
        verb.add_argument("--image", type=Path)
        verb.add_argument("--audio", type=Path)
        verb.add_argument("--camera", action="store_true", help="take a picture (package rpicam-apps)")
        verb.add_argument("--microphone", type=int, default=0, metavar="SECONDS", help="record (package alsa-utils)")
        if name == "learn":
            verb.add_argument("--label", action="append", required=True, metavar="TASK=LABEL")
            verb.add_argument("--subject", required=True, help="a pseudonym of the pupil")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    refuse_32_bit()
    args = parse(argv)
    from homeroom import Device
    from homeroom.errors import HomeroomError

    try:
        with Device.open(args.directory, bundle=args.bundle, root=args.root) as device:
            code: int = args.work(device, args)
    except HomeroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())
