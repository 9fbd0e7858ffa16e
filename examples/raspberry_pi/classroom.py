"""A camera and a microphone for the classroom on a Raspberry Pi: one picture or recording, learned from or asked about.

    classroom.py learn --inbox /srv/homeroom/inbox --camera --label category=animals --subject p-17
    classroom.py ask --directory /var/lib/homeroom --camera

`learn` puts the sample into the inbox, from where the agent (`homeroom device run`) takes it in. Camera and microphone
are read through the programs of Debian's packages `rpicam-apps` and `alsa-utils`. Imports the standard library, and
homeroom where it asks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHOTO = ("rpicam-still", "--nopreview", "--immediate", "--width", "1024", "--height", "768", "--output")
RECORDER = ("arecord", "--quiet", "--format=S16_LE", "--rate=16000", "--channels=1")


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


def learn(args: argparse.Namespace) -> int:
    """Put one sample into the inbox; whole or not at all, since a name that begins with a dot is not looked at."""
    name = time.strftime("captured-%Y%m%d-%H%M%S", time.gmtime())
    args.inbox.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".capturing-", dir=args.inbox))
    folder.chmod(0o770)
    inputs = {modality: path.name for modality, path in capture(args, folder).items()}
    if args.text:
        inputs["text"] = args.text
    labels = dict(pair.split("=", 1) for pair in args.label)
    row = {**inputs, "labels": labels, "subject": args.subject}
    (folder / "samples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    folder.rename(args.inbox / name)
    print(f"put into the inbox as {name}")
    return 0


def ask(args: argparse.Namespace) -> int:
    """Answer every task for one sample, which is not kept; the agent leaves the directory free between its looks."""
    from homeroom import Device, Sample
    from homeroom.errors import HomeroomError

    try:
        with tempfile.TemporaryDirectory() as folder, Device.open(args.directory) as device:
            inputs: dict[str, str | Path] = {"text": args.text} if args.text else {}
            answers = device.predict(Sample(**inputs, **capture(args, Path(folder))))
    except HomeroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for task, answer in answers.items():
        print(f"{task}: {answer.best}" + ("" if answer.sure else f" (not sure: {answer.reason})"))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A camera and a microphone for the classroom.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, work in (("learn", learn), ("ask", ask)):
        verb = verbs.add_parser(name)
        verb.set_defaults(work=work)
        verb.add_argument("--text")
        verb.add_argument("--camera", action="store_true", help="take a picture (package rpicam-apps)")
        verb.add_argument("--microphone", type=int, default=0, metavar="SECONDS", help="record (package alsa-utils)")
        if name == "ask":
            verb.add_argument("--directory", type=Path, default=Path("/var/lib/homeroom"), help="the device's folder")
            continue
        verb.add_argument("--inbox", type=Path, default=Path("/srv/homeroom/inbox"))
        verb.add_argument("--label", action="append", required=True, metavar="TASK=LABEL")
        verb.add_argument("--subject", required=True, help="a pseudonym of the pupil")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    code: int = args.work(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
