"""What a disk may hold after the power went: a recording up to one moment, what was not synced lost or torn.

What POSIX promises, and no more: data of a file is safe once the file was synced, a name in a directory once that
directory was. What was not may be there, in part, or not at all; changes of one directory reach the disk in order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from faults.recording import (
    Create,
    Event,
    MakeDirectory,
    Remove,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
    Write,
)

Loss = Literal["nothing", "all", "some"]  # of what was not synced
SECTOR = 512
Change = Create | MakeDirectory | Rename | Remove


def after_power_cut(events: Sequence[Event], loss: Loss, seed: int, source: Path, target: Path) -> None:
    """Make `target` what the directory `source` may be after exactly these events."""
    chance = random.Random(seed)
    data: dict[int, list[Write | Truncate]] = {}
    safe: dict[int, int] = {}
    changes: dict[Path, list[tuple[int, Change]]] = {}
    safe_changes: dict[Path, int] = {}
    for number, event in enumerate(events):
        if isinstance(event, (Write, Truncate)):
            data.setdefault(event.file, []).append(event)
        elif isinstance(event, Sync):
            safe[event.file] = len(data.get(event.file, ()))
        elif isinstance(event, SyncDirectory):
            safe_changes[event.path] = len(changes.get(event.path, ()))
        elif isinstance(event, (Create, MakeDirectory, Remove)):
            changes.setdefault(event.path.parent, []).append((number, event))
        elif isinstance(event, Rename):
            assert event.source.parent == event.target.parent
            changes.setdefault(event.source.parent, []).append((number, event))

    happened: list[tuple[int, Change]] = []
    for folder, listed in changes.items():
        surely = safe_changes.get(folder, 0)
        extra = {"nothing": len(listed) - surely, "all": 0, "some": chance.randint(0, len(listed) - surely)}[loss]
        happened += listed[: surely + extra]
    names, folders = _tree([change for _, change in sorted(happened, key=lambda item: item[0])])

    target.mkdir(parents=True)
    for folder in sorted(folders):
        if all(parent in folders or parent == source or source.is_relative_to(parent) for parent in folder.parents):
            (target / folder.relative_to(source)).mkdir(parents=True, exist_ok=True)
    for path, file in names.items():
        place = target / path.relative_to(source)
        if place.parent.is_dir():
            place.write_bytes(_content(data.get(file, []), safe.get(file, 0), loss, chance))


def _tree(changes: Sequence[Change]) -> tuple[dict[Path, int], set[Path]]:
    names: dict[Path, int] = {}
    folders: set[Path] = set()
    for change in changes:
        if isinstance(change, Create):
            names[change.path] = change.file
        elif isinstance(change, MakeDirectory):
            folders.add(change.path)
        elif isinstance(change, Remove):
            names.pop(change.path, None)
        elif change.source in names:
            names[change.target] = names.pop(change.source)
    return names, folders


def _content(writes: Sequence[Write | Truncate], safe: int, loss: Loss, chance: random.Random) -> bytes:
    content = bytearray()
    for number, write in enumerate(writes):
        kept = number < safe or loss == "nothing" or (loss == "some" and chance.random() < 0.5)
        if isinstance(write, Truncate):
            if kept:
                content[write.length :] = bytes(max(0, write.length - len(content)))
            continue
        data = write.data
        if not kept:
            if loss == "all" or chance.random() < 0.5:
                continue
            # torn: only the first sectors reached the disk
            data = data[: chance.randrange(0, len(data) + 1, SECTOR)] if data else data
        if len(content) < write.offset:
            content.extend(bytes(write.offset - len(content)))
        content[write.offset : write.offset + len(data)] = data
    return bytes(content)
