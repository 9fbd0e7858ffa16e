"""Field: what teachers really have, and what becomes of it, a kind of input a row.

    python benchmarks/field.py --json field.json
    python benchmarks/field.py --only sound,names          some groups; --kind "HEIC" those whose name has a word
    python benchmarks/field.py --docs docs/files.md        writes the page of what is promised of each, and runs nothing

Every input is made here. A device of its own takes each in by its commands, or by the agent's inbox, in a process of
its own; then the store is opened and read. Needs the tests' bundles, and so the exporter. Three ends must not happen: a
wrong result that looks right, a lost file, a traceback; nor a refusal that does not say what is the matter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import field_colours  # noqa: E402
import field_exports  # noqa: E402
import field_histories  # noqa: E402
import field_inbox  # noqa: E402
import field_media  # noqa: E402
import field_sheets  # noqa: E402
import field_sounds  # noqa: E402
from field_kind import Kind, Outcome, Verdict, verdict  # noqa: E402
from peers.verdict import finish, limited  # noqa: E402

GROUPS = {  # with the heading of each in the page
    "picture": "Pictures",
    "sound": "Sounds",
    "text": "Texts",
    "sheet": "Sheets",
    "number": "Numbers in sheets",
    "label": "Labels in sheets",
    "file": "Files of samples, and exports",
    "history": "Histories of answers",
    "name": "Names of people",
    "consent": "Consent and retention",
    "correction": "Corrections",
    "folder": "Folders",
    "inbox": "The agent's inbox",
}
LIMIT_S = 120.0  # for the whole of a kind
SLOWEST_S = 5.0
MEGABYTES = 400.0
LEAST_KINDS = 120


def template(folder: Path, *, tracing: bool = False) -> Path:
    """A device with the tiny bundle, or one that reads histories, and its keys beside it."""
    import tiny

    folder.mkdir(exist_ok=True)
    os.environ["HOMEROOM_KEYS"] = str(folder / "keys")
    from homeroom import Device

    Device.open(folder / "device", bundle=tracing_bundle(folder) if tracing else tiny.bundle().path).close()
    return folder


def tracing_bundle(folder: Path) -> Path:
    """A bundle of the example recipe for histories, with fewer weights."""
    from exporter.model.test_tracing import SMALL, calibration
    from exporter.small import assembled

    from homeroom_exporter.recipe.recipe import parse_recipe

    (folder / "work").mkdir()
    return assembled(parse_recipe(SMALL), calibration(folder / "work"), folder / "work")[0].path


def take_in(kind: Kind, prepared: Path, folder: Path) -> Outcome:
    """Writes the input and takes it in, in a copy of the prepared device."""
    shutil.copytree(prepared, folder)
    (folder / "given").mkdir()
    given = kind.write(folder / "given")
    task = {"device": str(folder / "device"), "given": str(given), "inbox": kind.inbox}
    task |= {"options": kind.options, "then": kind.then}
    environment = {**os.environ, "HOMEROOM_KEYS": str(folder / "keys"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "field_worker.py"), json.dumps(task)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT_S, cwd=folder)
        made = json.loads(ended.stdout) if ended.returncode == 0 else {"traceback": f"ended with {ended.returncode}"}
    except subprocess.TimeoutExpired:
        made = {"traceback": f"took more than {LIMIT_S:g} s", "seconds": LIMIT_S}
    left = {
        path.relative_to(folder / "given").as_posix(): path.lstat().st_size
        for path in sorted((folder / "given").rglob("*"))
        if not path.is_dir()
    }
    return Outcome(left=left, **made)


def every_kind() -> list[Kind]:
    """All kinds of input, whether they can be made here or not."""
    return [
        *field_media.kinds(),
        *field_sounds.kinds(),
        *field_colours.kinds(),
        *field_sheets.kinds(),
        *field_exports.kinds(),
        *field_histories.kinds(),
        *field_inbox.kinds(),
    ]


def page(kinds: Sequence[Kind]) -> str:
    """The page of docs/: what is promised of each kind of input, in Markdown."""
    lines = [
        "# What becomes of each kind of file",
        "",
        "What teachers have, and what is promised of it. `python benchmarks/field.py --docs docs/files.md`",
        "writes it; `python benchmarks/field.py --json field.json` tries each row with a device's commands, the inbox",
        "with its agent. How files are written stands in [cli.md](cli.md#samples), what is flagged as poor in",
        "[quality.md](quality.md). A refusal changes nothing, and says what was wrong, where, and what to do.",
    ]
    for group in dict.fromkeys([*GROUPS, *(kind.group for kind in kinds)]):
        rows = [f"| {_cell(kind.name)} | {_cell(kind.wanted)} |" for kind in kinds if kind.group == group]
        lines += ["", f"## {GROUPS[group]}", "| what | becomes |", "|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def row(kind: Kind, prepared: Path, folder: Path) -> dict[str, Any]:
    """A kind's row of the table."""
    try:
        outcome = take_in(kind, prepared, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    happened = outcome.traceback.strip().splitlines()[-1:] or outcome.error.strip().splitlines() or [outcome.said]
    return {
        "kind": kind.name,
        "group": kind.group,
        "wanted": kind.wanted,
        "verdict": verdict(kind, outcome).value,
        "happened": " ".join(" ".join(happened).split())[:300],
        "seconds": round(outcome.seconds, 2),
        "megabytes": round(outcome.megabytes),
    }


def targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bounds, over all rows."""
    counts = Counter(one["verdict"] for one in rows)
    bad = (Verdict.WRONG, Verdict.LOST, Verdict.TRACEBACK, Verdict.UNCLEAR)
    return [
        limited("kinds of input", len(rows), LEAST_KINDS, at_least=True),
        *(limited(each.value, counts[each.value], 0) for each in bad),
        limited("slowest input, seconds of processor time", max(one["seconds"] for one in rows), SLOWEST_S),
        limited("largest peak, megabytes", max(one["megabytes"] for one in rows), MEGABYTES),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="groups, separated by commas")
    parser.add_argument("--kind", default="", help="a part of a kind's name")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--docs", type=Path, help="write the page of what is promised there")
    options = parser.parse_args()
    if options.docs:
        options.docs.write_text(page(every_kind()), encoding="utf-8")
        return
    groups, began = set(filter(None, options.only.split(","))), time.monotonic()
    absent = sorted({one.needs for one in every_kind() if one.needs and not find_spec(one.needs)})
    if absent:
        print(f"not tried, as these are not installed: {', '.join(absent)}")
    kinds = [one for one in every_kind() if one.needs not in absent]
    kinds = [one for one in kinds if (not groups or one.group in groups) and options.kind in one.name]
    with tempfile.TemporaryDirectory(prefix="homeroom-field-") as scratch, ThreadPoolExecutor(options.workers) as pool:
        prepared = {
            tracing: template(Path(scratch) / f"prepared-{tracing:d}", tracing=tracing)
            for tracing in {one.tracing for one in kinds}
        }
        numbered = list(enumerate(kinds))
        rows = list(pool.map(lambda one: row(one[1], prepared[one[1].tracing], Path(scratch) / str(one[0])), numbered))
    width = max(len(one["kind"]) for one in rows)
    for group in dict.fromkeys(one["group"] for one in rows):
        print(f"\n{group}")
        for one in rows:
            if one["group"] == group:
                cost = f"{one['seconds']:6.2f} s {one['megabytes']:5} MB"
                print(f"  {one['kind']:{width}}  {one['verdict']:26}  {cost}  {one['happened'][:110]}")
    print()
    minutes = round((time.monotonic() - began) / 60, 1)
    finish({"rows": rows, "targets": targets(rows), "minutes": minutes}, options.json)


if __name__ == "__main__":
    main()
