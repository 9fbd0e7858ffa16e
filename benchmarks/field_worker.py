"""One input of the field benchmark, in a process of its own: the commands, then what the store holds, as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import traceback
from pathlib import Path
from typing import Any


def run(arguments: list[str]) -> tuple[str, str, str]:
    """Runs a command of `homeroom`: what it printed, its error, and its traceback."""
    from homeroom.cli.main import main

    said, errors = io.StringIO(), io.StringIO()
    sys.argv = ["homeroom", *arguments]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as ended:
        failed = ended.code not in (None, 0)
        return said.getvalue() + ("" if failed else errors.getvalue()), errors.getvalue() if failed else "", ""
    except BaseException:
        return said.getvalue(), "", traceback.format_exc()
    return said.getvalue() + errors.getvalue(), "", ""


def import_inbox(device: Path, inbox: Path) -> str:
    """Takes in what is complete in the inbox, as the agent does; its traceback."""
    from homeroom.agent import inbox as entries
    from homeroom.device.device import Device

    try:
        found = entries.scan_inbox(inbox, 0.0)
        with Device.open(device) as opened:
            entries.import_entries(opened, found.samples)
    except BaseException:
        return traceback.format_exc()
    return ""


def summary(modality: Any, value: Any) -> Any:
    """What the model would get of an input, in a few figures."""
    from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, TextPreprocess
    from homeroom.data.preprocess import media, text

    if isinstance(modality.preprocess, ImagePreprocess):
        prepared = media.prepared(modality, value)
        pixels = next(iter(prepared.arrays.values()))
        mean, std = modality.preprocess.mean[0], modality.preprocess.std[0]
        grey = (pixels * std + mean) * 255.0
        half = grey.shape[2] // 2
        return {
            "mean": float(grey.mean()),
            "channels": [float(one) for one in grey.mean((1, 2))],
            "left": float(grey[0, :, :half].mean()),
            "right": float(grey[0, :, half:].mean()),
            "top": float(grey[0, :half].mean()),
            "spread": float(grey.std()),
        }
    if isinstance(modality.preprocess, AudioPreprocess):
        prepared = media.prepared(modality, value)
        wave = next(iter(prepared.arrays.values()))
        return {"rms": float((wave**2).mean() ** 0.5), "tokens": prepared.tokens}
    if isinstance(modality.preprocess, TextPreprocess):
        return text.read(value, modality.preprocess.version)
    return value


def stored(device: Path) -> list[dict[str, Any]]:
    """The samples of a device."""
    import msgspec

    from homeroom.device.device import Device

    samples = []
    with Device.open(device) as opened:
        manifest = opened.bundle.manifest
        for sample in opened.store.each_sample():
            inputs = {
                slot.name: [
                    None if value is None else summary(manifest.modality(slot.modality), value)
                    for value in sample.inputs[slot.name]
                ]
                for slot in manifest.slots
                if slot.name in sample.inputs
            }
            names = (
                "labels",
                "subject",
                "consent",
                "source",
                "retain_until",
                "language",
                "aside",
                "trainable",
                "author",
            )
            facts = {name: getattr(sample, name) for name in names}
            samples.append({"inputs": inputs, **msgspec.to_builtins(facts)})
    return samples


def peak_megabytes() -> float:
    """Peak memory of this process since it began, and of its largest child."""
    own = next(line for line in Path("/proc/self/status").read_text("utf-8").splitlines() if line.startswith("VmHWM"))
    return (int(own.split()[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1000


def word_of(word: str, device: Path, given: Path) -> str:
    """A word of a command, as `field_kind.Kind` describes them."""
    if word.startswith("FILE:"):
        sheet = given.parent / f"next-{len(list(given.parent.glob('next-*')))}.csv"
        sheet.write_text(word.removeprefix("FILE:"), encoding="utf-8")
        return str(sheet)
    if word == "FIRST-ID":
        from homeroom.device.device import Device

        with Device.open(device) as opened:
            return next(opened.store.each_sample()).sample_id
    return {"DIR": str(device), "GIVEN": str(given), "OUT": str(given.parent / "out")}.get(word, word)


def processor_seconds() -> float:
    """Seconds of processor time of this process and its children that ended: other programs do not lengthen them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    from homeroom.data.decoder import client

    task = json.loads(sys.argv[1])
    device, given = Path(task["device"]), Path(task["given"])
    began = processor_seconds()
    outcome: dict[str, Any] = {"said": "", "error": "", "traceback": ""}
    if task["inbox"]:
        outcome["traceback"] = import_inbox(device, given)
    else:
        for arguments in [["add", str(device), str(given), *task["options"]], *task["then"]]:
            command = ["device", *(word_of(one, device, given) for one in arguments)]
            said, error, failed = run(command)
            outcome["said"] += said
            outcome["error"], outcome["traceback"] = outcome["error"] or error, outcome["traceback"] or failed
            if outcome["error"] or outcome["traceback"]:
                break
    client.end()  # so that its time and memory are known
    outcome["seconds"] = processor_seconds() - began
    outcome["megabytes"] = peak_megabytes()
    if not outcome["traceback"]:
        try:
            outcome["samples"] = stored(device)
        except BaseException:
            outcome["traceback"] = traceback.format_exc()
    sys.__stdout__.write(json.dumps(outcome))


if __name__ == "__main__":
    main()
