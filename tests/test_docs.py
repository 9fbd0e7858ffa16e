"""Names in README, docs and examples exist: modules, functions, files, links, make targets, commands and options."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import homeroom
from homeroom import errors
from homeroom.cli.commands import COMMANDS
from homeroom.cli.main import homeroom as command_line
from homeroom.errors import HomeroomError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "homeroom": ROOT / "sdk" / "homeroom",
    "homeroom_exporter": ROOT / "exporter" / "homeroom_exporter",
    "homeroom_aggregator": ROOT / "aggregator" / "homeroom_aggregator",
}
PAGES = [
    ROOT / "README.md",
    *(ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
SECRETS = {"agent.training", "privacy.ledger"}  # rows of the store, not modules
LOGGERS = {"homeroom.aggregator"}
FOREIGN_CLASSES = {"PeftModel", "Image"}
FILE_SUFFIXES = (".db", ".json", ".py", ".md", ".toml")

PATH = re.compile(r"(?<![\w/.-])(?:\.\./)*((?:tests|benchmarks|docs|examples|sdk|exporter|aggregator|\.ci)/[\w./-]*\w)")
DOTTED = re.compile(r"(?<![\w./-])homeroom(?:_exporter|_aggregator)?(?:\.[A-Za-z_]\w*)+")
CLASS_ATTRIBUTE = re.compile(r"(?<![\w.-])([A-Z]\w*[a-z]\w*)\.([a-z_]\w*)(?![\w.])")
DEVICE_VERB = re.compile(r"(?<![\w.])[Dd]evice\.([a-z_]\w*)(?![\w.])(\([^()]*\))?")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


@cache
def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return FENCE.findall(page.read_text())


@cache
def spans(page: Path) -> list[str]:
    """Code between single backticks outside fences, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text()))]


def code() -> Iterator[tuple[Path, str]]:
    """Every span and fence with its page."""
    for page in PAGES:
        yield from ((page, text) for text in (*spans(page), *(text for _, text in fences(page))))


def on(page: Path, what: str) -> str:
    return f"{page.relative_to(ROOT)}: {what}"


@cache
def definitions(module: Path) -> dict[str, ast.AST]:
    """Names that a module defines or imports."""
    names: dict[str, ast.AST] = {}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return names


def members(node: ast.AST) -> set[str]:
    """Methods and fields of a class."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    fields = {item.target.id for item in body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    return fields | {item.name for item in body if isinstance(item, ast.FunctionDef)}


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to a folder, a module, one of its definitions, or a member of a class there."""
    package, *rest = dotted.split(".")
    folder = PACKAGES[package]
    while rest and (folder / rest[0] / "__init__.py").exists():
        folder /= rest.pop(0)
    module = folder / "__init__.py"
    if rest and (folder / f"{rest[0]}.py").exists():
        module = folder / f"{rest.pop(0)}.py"
    names = definitions(module)
    return not rest or (rest[0] in names and set(rest[1:]) <= members(names[rest[0]]))


@cache
def classes() -> dict[str, set[str]]:
    """Members of every class of the packages, by its name."""
    nodes = (node for root in PACKAGES.values() for path in root.rglob("*.py") for node in definitions(path).values())
    return {node.name: members(node) for node in nodes if isinstance(node, ast.ClassDef)}


def test_dotted_names_exist() -> None:
    names = {(page, name) for page, text in code() for name in DOTTED.findall(text)}
    assert sorted(on(p, n) for p, n in names if not n.endswith(FILE_SUFFIXES) and not resolves(n)) == []


def test_names_that_begin_at_a_folder_exist() -> None:
    """`train.fit` is `homeroom.train.fit`; in the flow charts of the architecture too."""
    folders = {path.parent.name: name for name, root in PACKAGES.items() for path in root.glob("*/__init__.py")}
    verbs = {f"device.{verb}" for verb in dir(homeroom.Device)}
    architecture = ROOT / "docs" / "architecture.md"
    prose = [(page, re.sub(r"^\|.*$", "", page.read_text(), flags=re.M)) for page in PAGES]  # tables list fields too
    names = {(page, name) for page, text in prose for name in re.findall(r"`([a-z_]+(?:\.[a-z_]\w*)+)`", text)}
    names |= {
        (architecture, name) for name in re.findall(r"(?<![\w.])[a-z_]+(?:\.[a-z_]\w*)+", architecture.read_text())
    }
    names = {(page, name) for page, name in names if name not in SECRETS and not name.endswith(FILE_SUFFIXES)}
    named = [(page, name) for page, name in names if name.split(".")[0] in folders and name not in verbs]
    dotted = [(page, f"{folders[name.split('.')[0]]}.{name}") for page, name in named]
    assert len(dotted) > 20
    assert sorted(on(page, name) for page, name in dotted if not resolves(name)) == []


def test_members_of_classes_exist() -> None:
    names = {(page, *pair) for page, text in code() for pair in CLASS_ATTRIBUTE.findall(text)}
    known = classes()
    wrong = [on(p, f"{c}.{m}") for p, c, m in names if c not in FOREIGN_CLASSES and m not in known.get(c, ())]
    assert sorted(wrong) == []


def test_verbs_of_a_device_and_their_parameters_exist() -> None:
    wrong = []
    for page, text in code():
        for verb, arguments in DEVICE_VERB.findall(text):
            method = getattr(homeroom.Device, verb, None)
            keywords = set(re.findall(r"(\w+)=", re.sub(r'"[^"]*"|Sample\(.*', "", arguments)))
            if method is None and (f".{verb}" in FILE_SUFFIXES or resolves(f"homeroom.device.{verb}")):
                continue
            if method is None or not keywords <= set(inspect.signature(method).parameters):
                wrong.append(on(page, f"device.{verb}{arguments}"))
    assert wrong == []


def test_imports_of_python_examples_exist() -> None:
    blocks = [(page, text) for page in PAGES for language, text in fences(page) if language == "python"]
    nodes = [(page, node) for page, text in blocks for node in ast.walk(ast.parse(text))]
    imports = [(page, node) for page, node in nodes if isinstance(node, ast.ImportFrom)]
    names = [
        (p, f"{n.module}.{a.name}") for p, n in imports for a in n.names if str(n.module).split(".")[0] in PACKAGES
    ]
    assert [on(page, name) for page, name in names if not resolves(name)] == []


def test_paths_exist() -> None:
    names = {(page, path) for page, text in code() for path in PATH.findall(text)}
    assert sorted(on(page, path) for page, path in names if not (ROOT / path).exists()) == []


@cache
def sources() -> list[tuple[Path, str]]:
    """Sources whose docstrings, messages and comments name other files, each with its text."""
    parts = (
        "sdk",
        "exporter",
        "aggregator",
        "benchmarks",
        "examples",
        "tests/sdk",
        "tests/exporter",
        "tests/aggregator",
    )
    files = [ROOT / "Makefile", *(path for part in parts for path in (ROOT / part).rglob("*"))]
    suffixes = (".py", ".toml", ".service", ".sh")
    return [(path, path.read_text()) for path in files if path.suffix in suffixes or path.name == "Makefile"]


def test_paths_in_sources_exist() -> None:
    pattern = re.compile(r"(?<![\w/])(?:docs|tests|benchmarks)/[\w/.-]+\.(?:md|py)\b")
    names = {(path, name) for path, text in sources() for name in pattern.findall(text)}
    assert sorted(on(path, name) for path, name in names if not (ROOT / name).exists()) == []


def test_dotted_names_in_sources_exist() -> None:
    names = {(path, name) for path, text in sources() for name in re.findall(f"`({DOTTED.pattern})`", text)}
    wrong = [on(p, n) for p, n in names if n not in LOGGERS and not n.endswith(FILE_SUFFIXES) and not resolves(n)]
    assert sorted(wrong) == []


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if "://" not in target and not (file.exists() and (not anchor or anchor in anchors(file))):
                wrong.append(on(page, target))
    assert wrong == []


def test_pages_are_named_by_links() -> None:
    """A reader can follow a link, but not a code span."""
    pattern = r"(?:docs/)?[\w/-]+\.md(?:#[\w-]+)?"
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    names = {(page, span) for page in PAGES for span in spans(page) if re.fullmatch(pattern, span)}
    names = {(page, span) for page, span in names if span.partition("#")[0].removeprefix("docs/") in pages}
    assert sorted(on(page, span) for page, span in names) == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(pages - named) == []


def test_troubleshooting_has_every_error() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HomeroomError)]
    codes = {*errors.Code, *(kind.code for kind in kinds)}
    listed = {code for row in re.findall(r"^\| (`\w.*?) \|", page, re.M) for code in re.findall(r"`(\w+)`", row)}
    assert sorted(codes - listed) == []
    assert sorted(listed - codes) == []
    numbers = {int(number): name for number, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.M)}
    assert {kind.exit_code for kind in kinds} - {1} == set(numbers)
    assert all(getattr(errors, name).exit_code == number for number, name in numbers.items())


def shell_lines() -> Iterator[tuple[Path, list[str]]]:
    """Words of each command in code spans and in `sh` fences, with its page."""
    for page in PAGES:
        for text in (*spans(page), *(text for language, text in fences(page) if language == "sh")):
            for line in text.replace("\\\n", " ").splitlines():
                for part in re.split(r" && |; | \| ", re.sub(r"(^|\s)#.*", "", line)):
                    words = _words(part)
                    if words:
                        yield page, words


def _words(command: str) -> list[str]:
    """Words of a command without assignments before it; none where a quote is open, as in other languages."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    while words and (words[0] == "as_homeroom" or re.match(r"[A-Z_]+=", words[0])):
        words.pop(0)
    return [words[0].removeprefix(".venv-flower/bin/"), *words[1:]] if words else []


def test_make_targets_and_their_variables_exist() -> None:
    text = (ROOT / "Makefile").read_text()
    values = dict(re.findall(r"^(\w+) [:?]?= ?(.*)$", text, re.M))
    rules = re.findall(r"^([\w.$()/-]+):", text, re.M)
    targets = {re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], rule) for rule in rules}
    variables = {
        *re.findall(r"\$\((?:if \$\()?(\w+)", text),
        *re.findall(r"^export ([A-Z_ ]+)$", text, re.M)[0].split(),
    }
    wrong = []
    for page, words in shell_lines():
        if words[0] == "make" and len(words) > 1:
            assigned = {word.partition("=")[0] for word in words[2:] if re.match(r"[A-Z_]+=", word)}
            wrong += [] if words[1] in targets and assigned <= variables else [on(page, " ".join(words))]
    assert wrong == []


def subcommand(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` begin with, and the words after it; a KeyError names a word that is no command."""
    command: click.Command = command_line
    for index, word in enumerate(words):
        if not isinstance(command, click.Group) or word.startswith("-"):
            return command, words[index:]
        context = click.Context(command)
        below = command.get_command(context, word) if word in command.list_commands(context) else None
        if below is None:
            raise KeyError(word)
        command = below
    return command, []


def options(command: click.Command) -> dict[str, click.Option]:
    return {
        name: param
        for param in command.params
        if isinstance(param, click.Option)
        for name in (*param.opts, *param.secondary_opts)
    }


def mistake(words: list[str]) -> str | None:
    """What is wrong with the words after `homeroom`; None if nothing is."""
    if set(words) & {"GROUP", "COMMAND"}:
        return None
    try:
        command, rest = subcommand(words)
    except KeyError as unknown:
        return f"no command {unknown}"
    if isinstance(command, click.Group):
        return None
    known, values, arguments = options(command), 0, 0
    for word in rest:
        name = word.strip("[]").partition("=")[0]
        if values:
            values -= 1
        elif name in ("--help", "-h"):
            pass
        elif name.startswith("--") or re.fullmatch("-[a-z]", name):
            if name not in known:
                return f"no option {name}"
            values = 0 if known[name].is_flag or "=" in word else known[name].nargs
        else:
            arguments += word != "…"
    counts = [param.nargs for param in command.params if isinstance(param, click.Argument)]
    return f"{arguments} arguments" if -1 not in counts and arguments > sum(counts) else None


def test_commands_and_their_options_exist() -> None:
    wrong = [
        on(page, f"{' '.join(words)}: {problem}")
        for page, words in shell_lines()
        if words[0] == "homeroom" and (problem := mistake(words[1:]))
    ]
    assert wrong == []


@cache
def script_options(script: Path) -> set[str]:
    """Options that a script spells out; those that it makes of the fields of a data class too."""
    text = script.read_text()
    made = re.findall(r"^    (\w+): ", text, re.M) if 'f"--{' in text else []
    return {*re.findall(r"--[a-z][a-z-]+", text), *("--" + name.replace("_", "-") for name in made)}


def test_options_that_stand_alone_exist() -> None:
    known = {name for path in COMMANDS for name in options(subcommand(path.split())[0])}
    scripts = [path for part in ("benchmarks", "examples") for path in (ROOT / part).rglob("*")]
    known |= {name for path in scripts if path.suffix in (".py", ".sh") for name in script_options(path)}
    words = {(page, word) for page in PAGES for span in spans(page) for word in span.split()}
    wrong = [on(p, w) for p, w in words if re.match(r"--[a-z]", w) and w.partition("=")[0] not in known]
    assert sorted(wrong) == []


def test_benchmarks_have_the_options_and_sections_that_are_named() -> None:
    wrong = []
    for page, words in shell_lines():
        script = next((word for word in words[:2] if re.fullmatch(r"benchmarks/\w+\.py", word)), None)
        if script is None:
            continue
        wrong += [on(page, w) for w in words if w.startswith("--") and w not in script_options(ROOT / script)]
        sections = words[words.index("--only") + 1].split(",") if "--only" in words else []
        family = [path.stem for path in (ROOT / "benchmarks").glob(f"{Path(script).stem}_*.py")]
        wrong += [on(page, s) for s in sections if f"{Path(script).stem}_{s}" not in family]
    assert wrong == []


def test_the_page_of_commands_lists_every_command() -> None:
    page, listed = (ROOT / "docs" / "cli.md").read_text(), set()
    for section in page.split("\n## ")[1:]:
        group = re.match(r"`homeroom (\w+)`", section)
        cells = re.findall(r"^\| (`.*?) \|", section, re.M) if group or section.startswith("Others") else []
        for span in re.findall(r"`([^`]+)`", " ".join(cells)):
            words = [*([group[1]] if group else []), *span.removeprefix("homeroom ").split()]
            assert mistake(words) is None, f"{span}: {mistake(words)}"
            listed |= {path for path in COMMANDS if words[: len(path.split())] == path.split()}
    assert sorted(set(COMMANDS) - listed) == []


def test_the_table_of_exit_codes_is_the_error_tree() -> None:
    rows = re.findall(r"^\| (\d+) \|.*?\(`(\w+Error)`\) \|$", (ROOT / "docs" / "cli.md").read_text(), re.M)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HomeroomError)]
    named = {kind.__name__: kind.exit_code for kind in kinds if kind is not HomeroomError}
    assert {name: int(exit_code) for exit_code, name in rows}.items() <= named.items()
    assert {int(exit_code) for exit_code, _ in rows} == set(named.values())


@pytest.mark.parametrize(
    "name", ["homeroom.train.nothing", "homeroom.nowhere.fit", "homeroom.train.fit.nothing", "homeroom.Device.nothing"]
)
def test_a_wrong_dotted_name_is_found(name: str) -> None:
    assert not resolves(name)


@pytest.mark.parametrize("words", ["device ad DIR", "device add DIR --no-such", "serve DIR", "device undo DIR MORE"])
def test_a_wrong_command_is_found(words: str) -> None:
    assert mistake(words.split()) is not None


def test_tests_that_pages_name_exist() -> None:
    named = [(page, *found) for page, text in code() for found in TEST.findall(text)]
    assert named
    assert [on(page, f"{path}::{name}") for page, path, name in named if name not in definitions(ROOT / path)] == []


def test_each_claim_of_the_threat_model_names_its_test() -> None:
    page = ROOT / "docs" / "threat-model.md"
    claims = [
        row
        for table in page.read_text().split("| cannot | test |\n")[1:]
        for row in table.split("\n\n")[0].splitlines()
    ]
    assert len(claims) > 30
    assert [row for row in claims if not row.startswith("|---") and not TEST.search(row)] == []
