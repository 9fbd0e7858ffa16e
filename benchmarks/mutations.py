"""Mutations: removes security checks one at a time, and counts how many removals the tests notice.

    python benchmarks/mutations.py --json mutations.json     a hundred drawn checks, and those always tried
    python benchmarks/mutations.py --work FOLDER tests/…     keeps what was found, and goes on there; only some tests
    python benchmarks/mutations.py --list                    every check that can be removed, without a run

Checks are found in the syntax tree of `FOLDERS`: a condition that raises or refuses, a part of such a condition, a call
whose name says that it checks, a comparison that a function returns. Only a test in which a check refuses can notice
that it is gone. So each check of a copy of the house is instrumented: a test runs and notes which checks refuse, in
whatever process; then it runs again without each of them. A removal is noticed where a test fails or hangs without it.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mutation_cases import EQUIVALENT, FOLDERS, SURVIVORS, TESTS, Removal
from peers.verdict import finish, limited

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sdk", "exporter", "aggregator", "tests", "examples", "docs", "benchmarks", ".ci")
SOURCES = ("sdk", "exporter", "aggregator", "benchmarks")
CHECKING = ("check", "verify", "require", "refuse", "ensure", "validate", "bounded", "reject")
REFUSING = ("refus", "reject", "problem", "error", "denied", "forbidden")
SECONDS_A_RUN = 600  # tests of one removal that take longer hang
TESTS_ALONE = (
    4  # how many tests are tried, in a process of their own, for a check that none noticed together with others
)
RESTARTS = 20  # after a test that ended its process
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Check:
    """A check in the sources. `replacement` takes the place of the text from offset `start` to `end` of its file."""

    path: str
    function: str  # its qualified name, as a code object has it
    line: int
    kind: str
    start: int
    end: int
    replacement: str
    text: str
    column: int = 0
    same: int = 0  # how many checks of the same text stand before it in the function

    @property
    def key(self) -> str:
        """Names the check wherever its lines move to."""
        return f"{self.path}::{self.function}::{self.kind}::{self.text}" + (f"::{self.same}" if self.same else "")

    @property
    def number(self) -> int:
        return zlib.crc32(self.key.encode())


def offsets(text: str) -> list[int]:
    """The offset at which each line begins."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def checks_of(path: Path) -> Iterator[Check]:
    """The checks of one source file."""
    text = path.read_text("utf-8")
    begins, lines = offsets(text), text.splitlines(keepends=True)

    def offset(line: int, column: int) -> int:
        return begins[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def check(function: str, node: ast.AST, kind: str, replacement: str) -> Check:
        start = offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        where = path.relative_to(ROOT).as_posix()
        brief = " ".join(text[start:end].split())
        same = seen[(function, kind, brief)]
        seen[(function, kind, brief)] += 1
        line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
        return Check(where, function, line, kind, start, end, replacement, brief, column, same)

    seen: Counter[tuple[str, str, str]] = Counter()
    for name, function in functions_of(ast.parse(text)):
        for node in own_nodes(function):
            for part, kind, replacement in removals(node, function):
                yield check(name, part, kind, replacement)


def functions_of(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The functions below a node, each with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTION):
            yield prefix + child.name, child
            yield from functions_of(child, f"{prefix}{child.name}.<locals>.")
        else:
            yield from functions_of(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, FUNCTION):
            yield child
            yield from own_nodes(child)


def removals(node: ast.AST, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[ast.AST, str, str]]:
    """What can be removed at a node: the part of the syntax tree, the kind, and what stands there afterwards."""
    if isinstance(node, ast.If) and refuses(node.body):
        yield node.test, "condition", "False"
        if isinstance(node.test, ast.BoolOp):
            neutral = "False" if isinstance(node.test.op, ast.Or) else "True"
            yield from ((operand, "part of a condition", neutral) for operand in node.test.values)
    elif isinstance(node, ast.If) and refuses(node.orelse):
        yield node.test, "condition", "True"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and called(node.value).startswith(CHECKING):
        yield node, "call", "pass"
    elif isinstance(node, ast.Return) and node.value is not None and returns_bool(function):
        for part in ast.walk(node.value):
            if isinstance(part, ast.Compare):
                yield part, "comparison", "True"


def refuses(body: Sequence[ast.stmt]) -> bool:
    """Whether a block ends in a raise, or returns or calls a refusal."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.Raise):
        return True
    value = last.value if isinstance(last, ast.Return | ast.Expr) else None
    return isinstance(value, ast.Call) and any(word in called(value).lower() for word in REFUSING)


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr.lstrip("_")
    return call.func.id.lstrip("_") if isinstance(call.func, ast.Name) else ""


def returns_bool(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "bool"


def all_checks() -> list[Check]:
    """Every check of `FOLDERS`, in the order of files and lines; those listed as equivalent are left out."""
    found = [check for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) for check in checks_of(path)]
    unknown = set(EQUIVALENT) - {check.key for check in found}
    if unknown:
        raise SystemExit("listed as equivalent, and no longer in the sources:\n" + "\n".join(sorted(unknown)))
    return [check for check in found if check.key not in EQUIVALENT]


def drawn_checks(checks: Sequence[Check], count: int, seed: int) -> list[Check]:
    """As many checks, drawn by a seed: the same ones after other checks came or went."""
    return sorted(checks, key=lambda check: hashlib.sha256(f"{seed} {check.key}".encode()).digest())[:count]


def instrumented(text: str, checks: Sequence[Check]) -> str:
    """A source file whose checks call `mutation_runtime`."""
    inserted: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for check in checks:
        length = check.end - check.start
        if check.kind == "call":
            inner = " " * (check.column + 4)
            before = f"if not _mutation.removed({check.number}):\n{inner}try:\n{inner}    "
            after = f"\n{inner}except BaseException:\n{inner}    _mutation.note({check.number})\n{inner}    raise"
        else:
            before, after = f"_mutation.condition({check.number}, ", f", {check.replacement})"
        inserted[check.start].append((-length, before))  # the longest begins first
        inserted[check.end].append((length - len(text), after))  # and ends last, before others begin
    for offset in sorted(inserted, reverse=True):
        addition = "".join(one for _, one in sorted(inserted[offset]))
        text = text[:offset] + addition + text[offset:]
    first = "from __future__ import annotations\n"
    if text.count(first) != 1:
        raise SystemExit(f"{checks[0].path}: a file with checks begins with {first}")
    return text.replace(first, first.rstrip() + "; from homeroom import _mutation\n")


@dataclass
class House:
    """A copy of the house in a folder that keeps what was found, so that a run can go on."""

    folder: Path
    checks: Sequence[Check]
    tried: set[int] = field(default_factory=set)
    marks: str = "not extra and not slow"
    rows: list[dict[str, Any]] = field(default_factory=list)
    passing: dict[str, bool] = field(default_factory=dict)

    @property
    def copy(self) -> Path:
        return self.folder / "house"

    def prepare(self) -> None:
        """Copies the house anew, and instruments the copy."""
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir(parents=True)
        for name in COPIED:
            shutil.copytree(ROOT / name, self.copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, self.copy / path.name)
        files: dict[str, list[Check]] = defaultdict(list)
        for check in self.checks:
            files[check.path].append(check)
        for name, checks in files.items():
            (self.copy / name).write_text(instrumented((ROOT / name).read_text("utf-8"), checks), "utf-8")
        shutil.copy2(ROOT / "benchmarks" / "mutation_runtime.py", self.copy / "sdk" / "homeroom" / "_mutation.py")
        (self.folder / "state").write_bytes(bytes(16))
        (self.folder / "log").write_bytes(b"")
        wanted = json.dumps([[check.number for check in self.checks], sorted(self.tried)])
        (self.folder / "wanted.json").write_text(wanted, "utf-8")
        (self.folder / "temporary").mkdir(exist_ok=True)

    def pytest(self, arguments: Sequence[str], limit_s: float | None = None, only: int = -1) -> int:
        """The exit code of pytest in the copy, 1 where it takes too long. only: the one check that is removed."""
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(self.copy / one) for one in SOURCES),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.folder / "temporary"),
            "MUTATIONS_FOLDER": str(self.folder),
            "MUTATIONS_ONLY": str(only),
        }
        device = str(ROOT / ".venv-device" / "bin" / "python")
        variables.setdefault("HOMEROOM_DEVICE_PYTHON", device)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "mutation_plugin"]
        command += ["-o", "timeout=0", "-m", self.marks, *arguments]
        with (self.folder / "output.txt").open("ab") as output:
            try:
                return subprocess.run(
                    command, cwd=self.copy, env=variables, stdout=output, stderr=output, timeout=limit_s
                ).returncode
            except subprocess.TimeoutExpired:
                return 1

    def passes(self, tests: str) -> bool:
        """Whether tests pass with all checks."""
        if tests not in self.passing:
            self.passing[tests] = self.pytest(tests.split(), SECONDS_A_RUN, 0) == 0
        return self.passing[tests]

    def run(self, tests: Sequence[str]) -> None:
        """Runs the tests that have not yet run; again after one that ended its process."""
        for _ in range(RESTARTS):
            if self.pytest(tests) in (0, 1, 5):  # 5: no test is left
                break
        results = self.folder / "results.jsonl"
        self.rows = [json.loads(line) for line in results.read_text("utf-8").splitlines()]

    def noticed(self) -> dict[int, str]:
        """The test that noticed the removal of a check, for each that any did."""
        return {number: row["test"] for row in self.rows for number in row["noticed"]}

    def refused(self) -> dict[int, list[str]]:
        """The tests in which a check refused and that pass with all checks, the quickest first."""
        found: dict[int, list[str]] = defaultdict(list)
        for row in sorted(self.rows, key=lambda row: float(row["seconds"])):
            for number in row["refused"] if row["passed"] else ():
                found[number].append(row["test"])
        return found

    def alone(self, check: Check) -> str:
        """Tries, in a process of their own, tests that were too slow or cannot run twice; the first that notices."""
        for row in sorted(self.rows, key=lambda row: float(row["seconds"])):
            open_ = row["passed"] and check.number in row["refused"]
            if open_ and (check.number not in row["tried"] or check.number in row["unsure"]):
                noticed = self.pytest([row["test"]], SECONDS_A_RUN, check.number) == 1
                row["tried"] = sorted({*row["tried"], check.number})
                row["unsure"] = sorted({*row["unsure"]} - {check.number})
                row["noticed"] = sorted({*row["noticed"], *([check.number] if noticed else [])})
                (self.folder / "results.jsonl").write_text(
                    "".join(json.dumps(one) + "\n" for one in self.rows), "utf-8"
                )
                if noticed:
                    return str(row["test"])
        return ""


def survivor(removal: Removal, house: House) -> dict[str, Any]:
    """A removal that is always tried, in its tests. Raises SystemExit where its text does not stand once."""
    source = ROOT / removal.path
    text = source.read_text("utf-8")
    if text.count(removal.text) != 1:
        raise SystemExit(f"{removal.name}: its text stands {text.count(removal.text)} times in {removal.path}: mend it")
    target = house.copy / removal.path
    before = target.read_text("utf-8")
    target.write_text(text.replace(removal.text, removal.replacement), "utf-8")
    try:
        noticed = house.pytest(["-x", *removal.test.split()], SECONDS_A_RUN, 0) == 1
    finally:
        target.write_text(before, "utf-8")
    noticed = noticed and house.passes(removal.test)
    row = {**asdict(removal), "noticed_by": removal.test if noticed else ""}
    print(f"{'noticed ' if noticed else 'SURVIVED'}  always: {removal.name}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drawn", type=int, default=100, help="how many checks are drawn")
    parser.add_argument("--all", action="store_true", help="try every check")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="a folder that keeps what was found; a run with it goes on")
    parser.add_argument("--slow", action="store_true", help="slow tests too")
    parser.add_argument("--only", choices=("always", "drawn"), help="a part of it")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("tests", nargs="*", default=TESTS, help="files or folders of tests")
    options = parser.parse_args()
    checks = all_checks()
    if options.list:
        for check in checks:
            print(f"{check.path}:{check.line}  {check.kind}: {check.text[:100]}")
        print(f"{len(checks)} checks, {len(EQUIVALENT)} more are equivalent")
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="homeroom-mutations-") as scratch:
        drawn = checks if options.all else drawn_checks(checks, options.drawn, options.seed)
        house = House((options.work or Path(scratch)).resolve(), checks, {check.number for check in drawn})
        if options.slow:
            house.marks = "not extra"
        house.prepare()
        always = [] if options.only == "drawn" else [survivor(removal, house) for removal in SURVIVORS]
        rows = [] if options.only == "always" else judged(house, options)
    finish(document(rows, always, options.seed, began), options.json)


def files_of(tests: Sequence[str]) -> list[str]:
    """The files with tests, each once, in the order given."""
    found = (path for test in tests for path in (sorted((ROOT / test).rglob("test_*.py")) or [ROOT / test]))
    return list(dict.fromkeys(path.relative_to(ROOT).as_posix() for path in found))


def judged(house: House, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a check: where it stands, in how many tests it refuses, and the test that noticed its removal."""
    house.run(files_of(options.tests))
    refused = house.refused()
    rows = []
    for check in house.checks:
        tried, tests = check.number in house.tried, refused.get(check.number, [])
        killer = house.noticed().get(check.number, "") or (house.alone(check) if tried else "")
        rows.append({**asdict(check), "tried": tried, "refuses_in": len(tests), "noticed_by": killer})
        if not (killer if tried else tests):
            state = f"refuses in {tests[0]}" if tests else "refuses in no test"
            verdict = "SURVIVED" if tried else "untested"
            print(f"{verdict} {check.path}:{check.line} {check.kind}: {check.text[:90]} [{state}]", flush=True)
    return rows


def document(
    rows: Sequence[dict[str, Any]], always: Sequence[dict[str, Any]], seed: int, began: float
) -> dict[str, Any]:
    """What the benchmark writes."""
    targets = []
    tried = [one for one in rows if one["tried"]]
    for name, some, found in (
        (f"share of {len(tried)} removals that a test notices", tried, "noticed_by"),
        (f"share of all {len(rows)} checks that refuse in a test", rows, "refuses_in"),
    ):
        if some:
            share = sum(bool(one[found]) for one in some) / len(some)
            targets.append(limited(name, share, 0.97, at_least=True))
    if always:
        noticed = sum(bool(one["noticed_by"]) for one in always)
        targets.append(limited("removals that once survived, noticed now", noticed, len(SURVIVORS), at_least=True))
    minutes = round((time.monotonic() - began) / 60, 1)
    return {
        "seed": seed,
        "checks": len(rows),
        "equivalent": EQUIVALENT,
        "rows": rows,
        "always": always,
        "targets": targets,
        "minutes": minutes,
    }


if __name__ == "__main__":
    main()
