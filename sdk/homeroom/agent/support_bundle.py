"""The support bundle: a zip for whoever helps from afar, with nothing about a pupil.

Only what is listed here goes in: counts, times, versions, measurements and kinds of problems. No sample, label, name,
key, theta or database, no file name from the inbox.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from homeroom.agent import status
from homeroom.device.doctor import examine
from homeroom.errors import HomeroomError
from homeroom.federation.enrolment import has_joined
from homeroom.store import Store
from homeroom.system.files import check_folder_of, write_durable

LOG_FILE, LOG_LIMIT_BYTES = "agent.log", 256 << 10
PACKAGES = ("homeroom", "onnxruntime", "numpy", "cryptography", "tokenizers", "Pillow", "soundfile", "soxr", "msgspec")


def write_support(directory: Path, out: Path) -> list[str]:
    """Writes the zip `out`, whole or not at all; returns the names of its files."""
    check_folder_of(out)
    checks, costs = examine(directory)
    parts: dict[str, Any] = {
        "doctor.json": [asdict(check) for check in checks],
        "costs.json": msgspec.to_builtins(costs),
        "versions.json": {name: _version(name) for name in PACKAGES},
        "status.json": msgspec.to_builtins(status.read_status(directory)),
        "files.json": _sizes(directory),
        "store.json": _store(directory),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, document in parts.items():
            archive.writestr(name, json.dumps(document, indent=1))
        log = directory / status.AGENT_FOLDER / LOG_FILE
        if log.is_file():
            archive.writestr(LOG_FILE, log.read_bytes()[-LOG_LIMIT_BYTES:])
        names = archive.namelist()
    write_durable(out, file.getvalue())
    return names


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _sizes(directory: Path) -> dict[str, int]:
    """Bytes by path of the directory's files; bundles are named by id, and their files are public."""
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "page.json"
    }


def _store(directory: Path) -> dict[str, Any]:
    """Counts of the store, and its audit log, which names no one."""
    try:
        with Store.open(directory) as store:
            return {
                "samples": store.count(),
                "subjects": len(store.subjects()),
                "versions": Counter(version.kind for version in store.versions.all()),
                "updates_waiting": len(store.outbox.pending()),
                "updates_sent": len(store.outbox.sent()),
                "joined": has_joined(store),
                "moved": store.moved,
                "damage": store.damage(),
                "audit": store.audit()[-500:],
            }
    except HomeroomError as problem:
        return {"cannot be opened": status.describe_error(problem)}
