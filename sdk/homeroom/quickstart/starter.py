"""Where the starter bundle is: a file beside the wheel, in a clone's `dist/`, or in the folder at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from homeroom.errors import InputError
from homeroom.system.installation import Origin, find_origin

STARTER_FILE = "starter.homeroom"


def find_starter(given: Path | None) -> Path:
    """The starter bundle's file: the given one, or the first that is there. InputError where there is none."""
    if given is not None:
        return given
    origin = find_origin()
    found = next((path for path in places(origin) if path.is_file()), None)
    if found is None:
        how = {
            "clone": "in the clone: make starter (once, some minutes; its environment has torch)",
            "wheel": f"put the release's {STARTER_FILE} beside the wheel or here, or name it: --bundle FILE",
        }.get(origin.kind, f"put the release's {STARTER_FILE} here, or name it: --bundle FILE")
        looked = [f"looked for {path}" for path in places(origin)]
        raise InputError("there is no starter bundle", where=STARTER_FILE, details=looked, remedy=how)
    return found


def places(origin: Origin) -> Iterator[Path]:
    """Files that may be the starter bundle, the nearest first."""
    yield Path.cwd() / STARTER_FILE
    if origin.folder is not None:
        yield origin.folder / STARTER_FILE if origin.kind == "wheel" else origin.folder / "dist" / STARTER_FILE
