"""The rules of docs/architecture.md, read from the page itself and checked against the sources."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import homeroom
import structure
from homeroom import errors

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = {
    "homeroom": ROOT / "sdk" / "homeroom",
    "homeroom_exporter": ROOT / "exporter" / "homeroom_exporter",
    "homeroom_aggregator": ROOT / "aggregator" / "homeroom_aggregator",
}
TORCH = {"torch", "onnx", "onnxscript", "transformers", "optimum", "peft", "sklearn", "accelerate"}
POSIX = ("fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "pty", "posix", "readline", "curses")
POSIX_CALLS = {
    *("fork", "getuid", "geteuid", "getgid", "setuid", "chown", "fchown", "fchmod", "statvfs", "fstatvfs"),
    *("mkfifo", "nice", "getloadavg", "sysconf", "sync", "killpg", "setsid", "uname", "sched_getaffinity"),
}
PINNED_WHEELS = {"efficientnet_lite_pytorch"}  # imported from a wheel whose hash is checked, never installed
LIMIT_LINES = 450


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    folder = PACKAGES[package]
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported module with its line; `from a import b` counts as a and as a.b, since b may be a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: the house writes absolute imports"
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{name.name}", node.lineno) for name in node.names)


def named(path: Path, known: set[str]) -> set[str]:
    """Modules that a string names whole, to import or to run them: the rule holds for these too."""
    strings = {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and node.value in known}
    return {str(name) for name in strings}


def inside(package: str, known: set[str]) -> dict[str, set[str]]:
    """For every module of a package, the modules of `known` that it imports."""
    graph = {}
    for module, path in modules(package).items():
        graph[module] = ({name for name, _ in imports(path) if name in known} | named(path, known)) - {module}
        # `from a.b import c` names both a.b and a.b.c; where c is a module, only c is meant
        graph[module] -= {n for n in graph[module] if any(other.startswith(n + ".") for other in graph[module])}
    return graph


def folders(package: str) -> list[str]:
    """The folders (or single modules) of a package in the page's order: "- `name` - what it is", lowest first."""
    section = re.search(rf"^#+ Folders of `{package}`\n(.*?)(?=^#|\Z)", PAGE, re.S | re.M)
    assert section, f"docs/architecture.md has no section with the folders of {package}"
    lines = re.findall(r"^- (.*?) - ", section[1], re.M)
    return [name for line in lines for name in re.findall(r"`(\w+)`", line)]


def folder_of(module: str) -> str:
    """The folder right below its package, or the module itself where it lies flat; `__init__` of the package."""
    return module.split(".")[1] if "." in module else "__init__"


def declared(*extras: str) -> set[str]:
    """The top-level modules that the distribution with these extras may import, by pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    names = {re.split(r"[\s<>=!~\[;]", line)[0] for line in lines}
    renamed = {"Pillow": "PIL", "scikit-learn": "sklearn", "resvg-py": "resvg_py", "pycryptodome": "Crypto"}
    return {renamed.get(name, name.replace("-", "_")).lower() for name in names}


@pytest.mark.parametrize(
    ("package", "extras", "neighbours"),
    [
        ("homeroom", ("secure", "sheets", "lan", "litert", "heic", "av"), set()),
        ("homeroom_aggregator", ("aggregator", "flower"), {"homeroom"}),
        ("homeroom_exporter", ("exporter", "litert", "convert"), {"homeroom", *PINNED_WHEELS}),
    ],
)
def test_a_package_imports_only_what_its_installation_brings(
    package: str, extras: tuple[str, ...], neighbours: set[str]
) -> None:
    allowed = declared(*extras) | neighbours | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(package).values()
        for name, line in imports(path)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names
        and top.lower() not in {a.lower() for a in allowed}
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["homeroom", "homeroom_aggregator"])
def test_torch_and_its_family_live_in_the_exporter_only(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(package).values()
        for name, line in imports(path)
        if name.split(".")[0] in TORCH
    ]
    assert not wrong


@pytest.mark.parametrize("package", list(PACKAGES))
def test_modules_import_only_from_their_own_folder_or_one_named_before_it(package: str) -> None:
    order = folders(package)
    wrong = [
        f"{module} imports {other}, which stands above it"
        for module, others in inside(package, set(modules(package))).items()
        for other in others
        if other != package and order.index(folder_of(other)) > order.index(folder_of(module))
    ]
    assert not wrong


@pytest.mark.parametrize("package", list(PACKAGES))
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph = {m: {o for o in others if o != package} for m, others in inside(package, set(modules(package))).items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, "circle: " + " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("package", list(PACKAGES))
def test_the_page_names_every_folder_once_and_no_other(package: str) -> None:
    assert sorted(folders(package)) == sorted({folder_of(module) for module in modules(package)})


def sources() -> list[Path]:
    folders = [*PACKAGES.values(), ROOT / "benchmarks", ROOT / "examples", ROOT / "tests"]
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def test_files_are_short_and_open_with_a_sentence_about_themselves() -> None:
    wrong = []
    for path in sources():
        lines = path.read_text().count("\n")
        if lines >= LIMIT_LINES:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
        if lines and path.name != "__init__.py" and not ast.get_docstring(tree(path)):
            wrong.append(f"{path.relative_to(ROOT)} has no docstring")
    assert not wrong


def test_no_name_stands_for_two_things_and_nothing_is_declared_or_written_for_tests_alone() -> None:
    found = structure.modules()
    assert not structure.class_names_twice(found)
    assert not structure.constant_names_often(found)
    assert not structure.used_by_tests_only(found)
    assert not structure.unused_dependencies()
    assert structure.function_lengths(found)[0][0] <= structure.LONGEST_FUNCTION


def test_pickle_is_never_read() -> None:
    wrong = []
    for path in (p for package in PACKAGES for p in modules(package).values()):
        wrong += [f"{path}:{line}: {n}" for n, line in imports(path) if n in ("pickle", "shelve", "marshal", "dill")]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                if ast.unparse(node.func) == "torch.load" and given.get("weights_only") is not True:
                    wrong.append(f"{path}:{node.lineno}: torch.load without weights_only=True")
                if given.get("allow_pickle"):
                    wrong.append(f"{path}:{node.lineno}: allow_pickle")
    assert not wrong


def test_no_file_of_other_peoples_is_read_without_a_bound() -> None:
    own = {  # of the system, of this package, and what this very device wrote
        *("system/hardware.py", "system/identity.py", "system/html/render.py", "data/decoder/limits.py"),
        *("runtime/bundle.py", "agent/support_bundle.py", "data/preprocess/svg.py", "system/installation.py"),
        *("quickstart/drawings.py", "quickstart/session.py"),
    }
    wrong = []
    for package in ("homeroom", "homeroom_aggregator"):
        for path in modules(package).values():
            calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
            names = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
            if names & {"read_bytes", "read_text", "readlines"} and str(path.relative_to(PACKAGES[package])) not in own:
                wrong.append(f"{path.relative_to(ROOT)}: homeroom.system.files has readers with a bound")
    assert not wrong


def guarded(path: Path) -> set[int]:
    """Lines that run under an `if`, a conditional expression or a `try`: the corners where POSIX is allowed."""
    lines: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.If | ast.IfExp | ast.Try):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def test_nothing_in_the_sdk_needs_posix_outside_a_guarded_corner() -> None:
    wrong = []
    for path in modules("homeroom").values():
        corners = guarded(path)
        wrong += [f"{path}:{line}: {n}" for n, line in imports(path) if n in POSIX and line not in corners]
        wrong += [
            f"{path}:{node.lineno}: os.{node.attr}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and node.attr in POSIX_CALLS
            and node.lineno not in corners
        ]
    assert not wrong


def test_every_sdk_module_can_be_imported_where_posix_modules_do_not_exist() -> None:
    names = [n for n in modules("homeroom") if not n.endswith("__main__")]
    script = f"""
import importlib, sys
for name in {("fcntl", "grp", "pwd", "resource", "termios", "syslog")!r}:
    sys.modules[name] = None
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_homeroom_loads_no_runtime_and_no_network_library() -> None:
    heavy = (
        "onnxruntime",
        "ai_edge_litert",
        "httpx",
        "keyring",
        "soundfile",
        "PIL",
        "resvg_py",
        "tokenizers",
        "stamina",
        "jinja2",
        "torch",
    )
    script = f"import sys, homeroom; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_the_ones_that_are_promised() -> None:
    page = re.search(r"The public names are (.*?)\.\s", PAGE, re.S)
    assert page, "docs/architecture.md does not list the public names"
    assert sorted(homeroom.__all__) == sorted(re.findall(r"`(\w+)`", page[1]))
    for name in homeroom.__all__:
        assert getattr(homeroom, name).__module__.startswith("homeroom")


def test_the_device_has_the_verbs_of_the_ten_line_example() -> None:
    verbs = ("open", "join", "add", "train", "predict", "sync", "forget", "export", "status", "rollback")
    assert [v for v in verbs if not callable(getattr(homeroom.Device, v, None))] == []


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn, above = {}, {}
    for indent, name, number, code in re.findall(r"^([│ ├└─]*)(\w+Error)\s+(\d+)  (\w+)", errors.__doc__ or "", re.M):
        above[len(indent)] = name
        drawn[name] = (above.get(len(indent) - 4, "Exception"), int(number), code)
    tree = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.HomeroomError)]
    assert drawn == {c.__name__: (c.__bases__[0].__name__, c.exit_code, c.code) for c in tree}
    own = [c.exit_code for c in tree if "exit_code" in vars(c)]
    codes = [*(c.code for c in tree), *errors.Code]
    assert (len(set(own)), len(set(codes))) == (len(own), len(codes))


def test_the_neighbours_of_the_sdk_are_found_by_name_and_not_imported() -> None:
    for package in ("homeroom_exporter", "homeroom_aggregator"):
        assert importlib.util.find_spec(package) is not None
        assert not [p for p in modules("homeroom").values() for n, _ in imports(p) if n.split(".")[0] == package]
