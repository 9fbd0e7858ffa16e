"""The structure of the house, measured from its sources, against its bounds.

    python benchmarks/structure.py --json structure.json

Nothing of the packages is imported; ruff counts the complexity of functions. The release to compare with is the wheel
in tests/data, whose lines of code are counted in the same way.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "tests" / "data" / "0.1.0" / "homeroom-0.1.0-py3-none-any.whl"
PACKAGES = {"homeroom": "sdk", "homeroom_exporter": "exporter", "homeroom_aggregator": "aggregator"}
USERS = ("sdk", "exporter", "aggregator", "benchmarks", "examples")  # whose use counts; tests do not
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "pycryptodome": "Crypto", "optimum-onnx": "optimum"}
# Declared for another reason than an import: a program, a plug-in, or another library's version held back.
NOT_IMPORTED = {"filelock", "fsspec", "huggingface-hub", "hf-xet", "python-dateutil"}
NOT_IMPORTED |= {"mypy", "ruff", "pytest-timeout", "pytest-xdist"}
NOT_IMPORTED |= {"uvloop"}  # uvicorn loads it by name
NOT_IMPORTED |= {"httptools"}  # of the server of 0.1.0, which a test runs
NOT_IMPORTED |= {"onnx-ir"}  # onnxruntime's int4 quantizer imports it, and does not declare it
NOT_IMPORTED |= {"mkdocs", "mkdocs-material", "mkdocstrings-python"}  # mkdocs.yml names them
PLAIN_BASES = {"Protocol", "Struct", "NamedTuple", "Exception", "Generic"}
LONGEST_FUNCTION = 60  # lines, without its docstring
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A source file: `name` dotted, `path` below the root, its `tree`."""

    name: str
    path: Path
    tree: ast.Module


@dataclass(frozen=True)
class Target:
    name: str
    value: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def modules() -> list[Module]:
    """Every module of the three packages."""
    found = []
    for package, top in PACKAGES.items():
        for path in sorted((ROOT / top / package).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / top / package).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path.relative_to(ROOT), ast.parse(path.read_text())))
    return found


def rooms(package: str) -> list[str]:
    """Folders, and modules that lie flat, right below a package."""
    folder = ROOT / PACKAGES[package] / package
    names = (path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
    return sorted(name for name in names if name != "__init__")


def code_lines(sources: Mapping[str, bytes]) -> int:
    """Lines with code: no blanks, no comments, no docstrings."""
    total = 0
    for source in sources.values():
        lines: set[int] = set()
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        for token in tokenize.tokenize(BytesIO(source).readline):
            if token.type not in (*skipped, tokenize.ENCODING, tokenize.ENDMARKER):
                lines |= set(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(ast.parse(source)):
            documented = isinstance(node, (*FUNCTION, ast.ClassDef, ast.Module)) and ast.get_docstring(node)
            if documented and isinstance(node.body[0].end_lineno, int):  # type: ignore[attr-defined]
                text = node.body[0]  # type: ignore[attr-defined]
                lines -= set(range(text.lineno, text.end_lineno + 1))
        total += len(lines)
    return total


def code_lines_of_the_release() -> int:
    with zipfile.ZipFile(RELEASE) as wheel:
        return code_lines({name: wheel.read(name) for name in wheel.namelist() if name.endswith(".py")})


def complexities() -> list[tuple[int, str]]:
    """McCabe complexity of every function, by ruff, highest first."""
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff), "check", "--isolated", "--ignore-noqa", "--select", "C901", "--output-format", "json"]
    command += ["--config", "lint.mccabe.max-complexity=1", *PACKAGES.values()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = []
    for row in json.loads(done.stdout):
        value = re.search(r"\((\d+) > ", row["message"])
        name = re.search(r"`(.*?)`", row["message"])
        if value and name:
            where = Path(row["filename"]).relative_to(ROOT)
            found.append((int(value[1]), f"{where}:{row['location']['row']} {name[1]}"))
    return sorted(found, reverse=True)


def function_lengths(found: list[Module]) -> list[tuple[int, str]]:
    """Lines of every function without its docstring, longest first."""
    rows = []
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, FUNCTION):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node) and node.body[0].end_lineno:
                    lines -= node.body[0].end_lineno - node.body[0].lineno + 1
                rows.append((lines, f"{module.path}:{node.lineno} {node.name}"))
    return sorted(rows, reverse=True)


def class_names_twice(found: list[Module]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for module in found:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(module.path))
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def constant_names_often(found: list[Module]) -> dict[str, list[str]]:
    """Constants by a name that more than two modules define."""
    places = defaultdict(list)
    for module in found:
        for node in module.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper():
                    places[target.id].append(str(module.path))
    return {name: where for name, where in sorted(places.items()) if len(where) > 2}


def public_functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods without an underscore, at the top of a module or of a class in it, with qualified names."""
    for node in module.tree.body:
        if isinstance(node, FUNCTION) and not node.name.startswith("_"):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for inner in node.body:
                if isinstance(inner, FUNCTION) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def undocumented(found: list[Module]) -> tuple[float, list[str]]:
    """The share of public functions with a docstring, and those without."""
    rows = [(f"{m.path}:{node.lineno} {name}", node) for m in found for name, node in public_functions(m)]
    missing = [where for where, node in rows if not ast.get_docstring(node)]
    return 1 - len(missing) / len(rows), missing


def uses() -> Counter[str]:
    """How often each identifier stands in sources and templates outside of tests, definitions not counted."""
    counted: Counter[str] = Counter()
    for top in USERS:
        for path in (ROOT / top).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.Name):
                    counted[node.id] += 1
                elif isinstance(node, ast.Attribute):
                    counted[node.attr] += 1
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
                    counted.update(re.findall(r"\w+", node.value) if re.fullmatch(r"[\w.:]+", node.value) else ())
        for path in (ROOT / top).rglob("*.html"):
            counted.update(re.findall(r"\w+", path.read_text()))
    return counted


def used_by_tests_only(found: list[Module]) -> list[str]:
    """Public functions, methods and classes that no source names but their own definition, and modules nobody imports.

    A method of a class with a library's base is called by that library.
    """
    counted, public = uses(), documented_names()
    classes = {n.name for m in found for n in m.tree.body if isinstance(n, ast.ClassDef)}
    dead = []
    for module in found:
        foreign = {
            node.name
            for node in module.tree.body
            if isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).split("[")[0].split(".")[-1] not in classes | PLAIN_BASES for base in node.bases)
        }
        for name, node in public_functions(module):
            if name.split(".")[0] in foreign:
                continue
            by_decorator = any(ast.unparse(d).split("(")[0].split(".")[-1] in DOORS for d in node.decorator_list)
            if not counted[node.name] and not by_decorator and node.name not in public:
                dead.append(f"{module.path}:{node.lineno} {name}")
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not counted[node.name] and node.name not in public:
                dead.append(f"{module.path}:{node.lineno} {node.name}")
    return dead + [str(m.path) for m in found if m.path.name != "__init__.py" and not imported(m.name)]


DOORS = {"command", "group", "callback", "result_callback", "overload", "field_validator", "validator", "setter"}


def documented_names() -> set[str]:
    """Public names of the SDK, and the verbs of `Device`, as docs and README spell them: `device.name(`."""
    text = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    return set(re.findall(r"\bdevice\.(\w+)\(", text)) | set(re.findall(r"`(?:Device\.)?(\w+)\(?[^`]*`", text))


def imported(name: str) -> bool:
    """Whether any source imports or names a module; packages' doors and `__main__` need not be."""
    if name.endswith("__main__") or name.count(".") == 0:
        return True
    parent, _, last = name.rpartition(".")
    pattern = re.compile(rf"{re.escape(name)}\b|from {re.escape(parent)} import [^\n]*\b{last}\b|\(\s[^)]*\b{last}\b")
    if name.split(".")[1] == "encoders" or last == "cli":
        return True  # families are imported by name, from a table; so are commands
    return any(pattern.search(path.read_text()) for top in USERS for path in (ROOT / top).rglob("*.py"))


def unused_dependencies() -> list[str]:
    """Declared distributions that nothing imports: of the packages' own, no package; of `dev`, nothing at all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    tools = extras.pop("dev")
    own = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    tops = {folder: imported_names(folder) for folder in (*USERS, "tests")}
    packages = set().union(*(tops[folder] for folder in PACKAGES.values()))
    everything = set().union(*tops.values())
    unused = _distributions(own) - _with_import(own, packages) | _distributions(tools) - _with_import(tools, everything)
    return sorted(unused - NOT_IMPORTED - {"homeroom"})


def _distributions(lines: list[str]) -> set[str]:
    return {re.split(r"[\s<>=!~\[;]", line)[0].lower() for line in lines}


def _with_import(lines: list[str], tops: set[str]) -> set[str]:
    return {n for n in _distributions(lines) if IMPORT_NAMES.get(n, n.replace("-", "_")).lower() in tops}


def imported_names(folder: str) -> set[str]:
    """Top-level names that a folder imports, or names in a string as `find_spec` and `-m` do; lower case."""
    tops: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0].lower() for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops.add(node.module.split(".")[0].lower())
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                tops.add(node.value.split(".")[0].lower())
    return tops


def main() -> None:
    """Measure, print a table and each offender, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true", help="name every offender")
    args = parser.parse_args()
    found = modules()
    lengths, complex_, (share, missing) = function_lengths(found), complexities(), undocumented(found)
    twice, often = class_names_twice(found), constant_names_often(found)
    dead, unused = used_by_tests_only(found), unused_dependencies()
    now = code_lines({str(m.path): (ROOT / m.path).read_bytes() for m in found})
    before = code_lines_of_the_release()
    targets = [
        Target("rooms of homeroom", len(rooms("homeroom")), 15),
        Target("rooms of homeroom_exporter", len(rooms("homeroom_exporter")), 10),
        Target("rooms of homeroom_aggregator", len(rooms("homeroom_aggregator")), 8),
        Target("longest function, lines", lengths[0][0], LONGEST_FUNCTION),
        Target("highest complexity", complex_[0][0], 15),
        Target("class names that exist twice", len(twice), 0),
        Target("constant names in more than two modules", len(often), 0),
        Target("modules and public functions that only tests use", len(dead), 0),
        Target("declared dependencies that nothing imports", len(unused), 0),
        Target("public functions with a docstring, share", round(share, 3), 0.95, at_least=True),
        Target(f"lines of code (release before: {before})", now, before),
    ]
    for target in targets:
        sign = ">=" if target.at_least else "<="
        print(f"{'met   ' if target.met else 'MISSED'}  {target.name:<55} {target.value:>8g}  {sign} {target.bound:g}")
    if args.list:
        print("\nlong:", *(f"  {n} {where}" for n, where in lengths if n > LONGEST_FUNCTION), sep="\n")
        print("\ncomplex:", *(f"  {n} {where}" for n, where in complex_ if n > 15), sep="\n")
        print("\ntwice:", *(f"  {name}: {', '.join(where)}" for name, where in twice.items()), sep="\n")
        print("\noften:", *(f"  {name}: {', '.join(where)}" for name, where in often.items()), sep="\n")
        print("\nonly tests:", *dead, sep="\n  ")
        print("\nunused:", *unused, sep="\n  ")
        print("\nundocumented:", *missing, sep="\n  ")
    if args.json:
        rows = [{"name": t.name, "value": t.value, "bound": t.bound, "met": t.met} for t in targets]
        facts = {"class_names_twice": twice, "constant_names_often": often, "only_tests": dead, "unused": unused}
        args.json.write_text(json.dumps({"targets": rows, **facts}, indent=1))


if __name__ == "__main__":
    main()
