"""Mutations: removes security checks one at a time, and counts how many removals the tests notice.

    python benchmarks/mutations.py --json mutations.json     100 drawn by a seed, and those always tried (hours)
    python benchmarks/mutations.py --quick                   ten drawn ones only
    python benchmarks/mutations.py --list                    every check that can be removed, without a run

Checks are found in the syntax tree of `FOLDERS`: a condition that raises or refuses, a part of such a condition, a call
whose name says that it checks, a comparison that a function returns. A removal is noticed where a related test fails or
hangs. A test file is related to a check if it enters the check's function, in whatever process: each file runs once
beforehand, and a profiler records the functions that it enters.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mutation_cases import EQUIVALENT, FOLDERS, SURVIVORS, Removal
from peers.verdict import finish, limited

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("sdk", "exporter", "aggregator", "tests", "examples", "docs", "benchmarks", ".ci")
SOURCES = ("sdk", "exporter", "aggregator")
CHECKING = ("check", "verify", "require", "refuse", "ensure", "validate", "bounded", "reject")
REFUSING = ("refus", "reject", "problem", "error", "denied", "forbidden")
SECONDS_A_FILE = 600  # a test file that takes longer hangs
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

# Every Python process of a test writes the functions of the house that it enters, each once, as it enters them.
PROFILER = """
import os, sys, threading
_log, _root = os.environ.get("MUTATIONS_LOG"), os.environ.get("MUTATIONS_ROOT")
if _log and _root:
    _file, _known = open(_log, "a", buffering=1), set()
    def _entered(frame, event, _argument):
        code = frame.f_code
        if event == "call" and code not in _known:
            _known.add(code)
            if code.co_filename.startswith(_root):
                _file.write(f"{code.co_filename[len(_root):]}:{code.co_qualname}\\n")
    threading.setprofile(_entered)
    sys.setprofile(_entered)
"""


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

    @property
    def key(self) -> str:
        """Names the check wherever its lines move to."""
        return f"{self.path}::{self.function}::{self.kind}::{self.text}"


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
        return Check(where, function, node.lineno, kind, start, end, replacement, brief)  # type: ignore[attr-defined]

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


def survivor(removal: Removal) -> Check:
    """The check of a removal that is always tried. Raises SystemExit where its text no longer stands exactly once."""
    text = (ROOT / removal.path).read_text("utf-8")
    if text.count(removal.text) != 1:
        raise SystemExit(f"{removal.name}: its text stands {text.count(removal.text)} times in {removal.path}: mend it")
    start = text.index(removal.text)
    line = text.count("\n", 0, start) + 1
    around = [one for one in functions_of(ast.parse(text)) if one[1].lineno <= line <= (one[1].end_lineno or 0)]
    function = max(around, key=lambda one: one[1].lineno)[0]
    end = start + len(removal.text)
    return Check(removal.path, function, line, removal.name, start, end, removal.replacement, removal.text)


@dataclass(frozen=True)
class Runner:
    """A copy of the house that tests run in."""

    folder: Path

    def run(self, test: str, environment: Mapping[str, str] | None = None) -> bool:
        """Whether a test file passes."""
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(self.folder.parent / "profiler"), *(str(self.folder / one) for one in SOURCES)]
            ),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOMEROOM_DEVICE_PYTHON": os.environ.get(
                "HOMEROOM_DEVICE_PYTHON", str(ROOT / ".venv-device" / "bin" / "python")
            ),
            **(environment or {}),
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not extra", test]
        with tempfile.TemporaryFile() as output:
            try:
                ended = subprocess.run(
                    command, cwd=self.folder, env=variables, stdout=output, stderr=output, timeout=SECONDS_A_FILE
                )
            except subprocess.TimeoutExpired:
                return False
        return ended.returncode in (0, 5)  # 5: every test of the file is an extra


def prepare(folder: Path) -> Runner:
    """Copies the house into a folder."""
    folder.mkdir()
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)
    return Runner(folder)


def tests_by_function(runners: queue.Queue[Runner], pool: ThreadPoolExecutor) -> dict[str, list[tuple[float, str]]]:
    """For each function, as path:name, the seconds and names of the test files that enter it, the quickest first."""

    def record(test: str) -> tuple[str, float, set[str]]:
        runner = runners.get()
        try:
            log = runner.folder.parent / f"calls-{test.replace('/', '-')}"
            began = time.monotonic()
            passed = runner.run(test, {"MUTATIONS_LOG": str(log), "MUTATIONS_ROOT": f"{runner.folder}/"})
            seconds = time.monotonic() - began
        finally:
            runners.put(runner)
        if not passed:
            print(f"left out, since it fails without any mutation: {test}", file=sys.stderr)
        return test, seconds, set(log.read_text("utf-8").split()) if passed and log.is_file() else set()

    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    related: dict[str, list[tuple[float, str]]] = {}
    for test, seconds, entered in pool.map(
        record, [one for one in files if "/exporter/" not in one and "/flower/" not in one]
    ):
        for function in entered:
            related.setdefault(function, []).append((round(seconds, 1), test))
    return {function: sorted(tests) for function, tests in related.items()}


def related_tests(check: Check, related: Mapping[str, Sequence[tuple[float, str]]]) -> list[tuple[float, str]]:
    """The tests that enter the check's function, the quickest first; of one that none enters, those of its module."""
    tests = related.get(f"{check.path}:{check.function}")
    if tests is None:
        others = (tests for name, tests in related.items() if name.startswith(f"{check.path}:"))
        tests = [(seconds, test) for some in others for seconds, test in some]
    return sorted({test: (seconds, test) for seconds, test in tests}.values())


def noticed(check: Check, runner: Runner, tests: Sequence[tuple[float, str]]) -> str:
    """The first related test file that fails without the check; empty where all pass."""
    path = runner.folder / check.path
    text = path.read_text("utf-8")
    path.write_text(text[: check.start] + check.replacement + text[check.end :], "utf-8")
    try:
        return next((test for _, test in tests if not runner.run(test)), "")
    finally:
        path.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="ten drawn checks, and none of those always tried")
    parser.add_argument("--drawn", type=int, default=100, help="how many checks are drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="test files at a time")
    parser.add_argument(
        "--calls", type=Path, help="which tests enter which function: read if it is there, else written"
    )
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    checks = all_checks()
    if options.list:
        for check in checks:
            print(f"{check.path}:{check.line}  {check.kind}: {check.text[:100]}")
        print(f"{len(checks)} checks, {len(EQUIVALENT)} more are equivalent")
        return
    began = time.monotonic()
    drawn = random.Random(options.seed).sample(checks, 10 if options.quick else options.drawn)
    always = [] if options.quick else [survivor(removal) for removal in SURVIVORS]
    with (
        tempfile.TemporaryDirectory(prefix="homeroom-mutations-") as folder,
        ThreadPoolExecutor(options.workers) as pool,
    ):
        rows = judge(Path(folder), pool, drawn + always, options.workers, options.calls)
    finish(document(rows[: len(drawn)], rows[len(drawn) :], options.seed, len(checks), began), options.json)


def judge(
    folder: Path, pool: ThreadPoolExecutor, checks: Sequence[Check], workers: int, calls: Path | None
) -> list[dict[str, Any]]:
    """A row a check: where it stands, how many test files are related, and the one that noticed its removal."""
    (folder / "profiler").mkdir()
    (folder / "profiler" / "sitecustomize.py").write_text(PROFILER, "utf-8")
    runners: queue.Queue[Runner] = queue.Queue()
    for number in range(workers):
        runners.put(prepare(folder / f"copy{number}"))
    if calls and calls.is_file():
        related = json.loads(calls.read_text("utf-8"))
    else:
        related = tests_by_function(runners, pool)
        if calls:
            calls.write_text(json.dumps(related), "utf-8")

    def row(check: Check) -> dict[str, Any]:
        runner = runners.get()
        try:
            tests = related_tests(check, related)
            killer = noticed(check, runner, tests)
        finally:
            runners.put(runner)
        print(
            f"{'noticed ' if killer else 'SURVIVED'}  {check.path}:{check.line}  {check.kind}: {check.text[:90]}",
            flush=True,
        )
        return {**asdict(check), "related": len(tests), "noticed_by": killer}

    return list(pool.map(row, checks))


def document(
    drawn: Sequence[dict[str, Any]], always: Sequence[dict[str, Any]], seed: int, checks: int, began: float
) -> dict[str, Any]:
    """What the benchmark writes."""
    share = sum(bool(one["noticed_by"]) for one in drawn) / max(1, len(drawn))
    targets = [limited("share of the drawn removals that a test notices", share, 0.97, at_least=True)]
    if always:
        noticed_always = sum(bool(one["noticed_by"]) for one in always)
        targets.append(
            limited("removals that once survived, noticed now", noticed_always, len(SURVIVORS), at_least=True)
        )
    return {
        "seed": seed,
        "checks": checks,
        "equivalent": EQUIVALENT,
        "drawn": drawn,
        "always": always,
        "targets": targets,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }


if __name__ == "__main__":
    main()
