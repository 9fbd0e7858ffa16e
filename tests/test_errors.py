"""Errors are told apart by class and code: each stands in the tree, and no module looks into a message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeroom import errors
from homeroom.contract.update import REFUSALS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sdk/homeroom", "exporter/homeroom_exporter", "aggregator/homeroom_aggregator")
SCRIPTS = ("benchmarks", "examples")  # their tables have names with blanks
SENTENCE = re.compile(r"[a-z]{2,} [a-z]{2,}")
SEARCHES = {"startswith", "endswith", "find", "rfind", "index", "count"}
OTHER_WORDS = {  # where another library's words decide, since it gives no code: file -> why
    "sdk/homeroom/cli/main.py": "the loader of shared libraries says in words alone that memory ran out",
    "sdk/homeroom/runtime/litert.py": "LiteRT raises RuntimeError for every failure, a failed allocation too",
    "sdk/homeroom/runtime/onnx.py": "onnxruntime raises its one error for a failed allocation too",
    "exporter/homeroom_exporter/encoders/checkpoint.py": "transformers raises OSError for a missing network and "
    "ValueError for code of a model's authors",
    "benchmarks/exporter_strict.py": "what an error says is the figure",
    "exporter/homeroom_exporter/encoders/hidden_states.py": "transformers' sentence is cut before its advice",
}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def searches(source: str, *, sentences_too: bool = True) -> Iterator[int]:
    """Lines of a module that compare or search a message of an error, or look for a sentence in any text."""
    module = ast.parse(source)
    nodes = list(ast.walk(module))
    caught = {n.name for n in nodes if isinstance(n, ast.ExceptHandler)} | {"problem", "error"}
    sentences = {
        target.id
        for n in module.body
        if sentences_too and isinstance(n, ast.Assign)
        for target in n.targets
        if isinstance(target, ast.Name) and has_sentence(n.value)
    }
    sentences |= {
        n.target.id
        for n in nodes
        if isinstance(n, ast.comprehension) and isinstance(n.target, ast.Name) and of(n.iter, sentences)
    }
    texts: set[str] = set()

    def is_message(node: ast.AST) -> bool:
        match node:
            case ast.Attribute(value=ast.Name("args")):  # of a command line
                return False
            case ast.Attribute(attr="what" | "remedy"):
                return True
            case ast.Name(name):
                return name in texts
            case ast.Call(func=ast.Name("str" | "repr"), args=[ast.Name(name)]):
                return name in caught
            case ast.JoinedStr(values=[ast.FormattedValue(value=ast.Name(name))]):
                return name in caught
            case ast.Call(func=ast.Attribute(value=value)) | ast.Subscript(value=value):
                return is_message(value)
        return False

    for node in nodes:
        if isinstance(node, ast.Assign) and is_message(node.value):
            texts |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in nodes:
        match node:
            case ast.Compare(left=left, ops=ops, comparators=rest) if any(
                isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for op in ops
            ):
                operands = [left, *rest]
            case ast.Call(func=ast.Attribute(value=ast.Name("re")), args=operands):
                operands = operands[1:]
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=args) if name in SEARCHES:
                operands = [value, *args]
            case ast.Match(subject=subject):
                operands = [subject]
            case _:
                continue
        if any(
            is_message(operand) or (sentences_too and has_sentence(operand)) or of(operand, sentences)
            for operand in operands
        ):
            yield node.lineno


def has_sentence(node: ast.AST) -> bool:
    constants = [node, *getattr(node, "elts", [])]
    return any(
        isinstance(n, ast.Constant) and isinstance(n.value, str) and bool(SENTENCE.search(n.value)) for n in constants
    )


def of(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def test_no_module_compares_or_searches_a_message() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(*PACKAGES, *SCRIPTS)
        if str(path.relative_to(ROOT)) not in OTHER_WORDS
        for line in searches(path.read_text(), sentences_too=path.relative_to(ROOT).parts[0] not in SCRIPTS)
    ]
    assert not wrong


def test_every_exception_for_other_libraries_words_is_still_needed() -> None:
    assert [name for name in OTHER_WORDS if not list(searches((ROOT / name).read_text()))] == []


@pytest.mark.parametrize(
    "line",
    [
        'if "no labelled sample" in problem.what: pass',
        'if "busy" in str(problem): pass',
        'if f"{problem}".lower().startswith("busy"): pass',
        'text = str(error)\nif "busy" in text: pass',
        're.search("busy", str(problem))',
        'PHRASES = ("another bundle",)\nany(phrase in text for phrase in PHRASES)',
        'if report.update == "nothing trained yet": pass',
        'match problem.what:\n    case "busy": pass',
        'if any(p.remedy == "again" for p in problems): pass',
    ],
)
def test_the_check_sees_each_way_to_look_into_a_message(line: str) -> None:
    assert list(searches(line))


def test_every_error_stands_in_the_tree_or_is_a_signal_inside_the_house() -> None:
    names = {name for name, found in vars(errors).items() if isinstance(found, type)}
    wrong = []
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path != ROOT / "sdk/homeroom/errors.py":
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if any(base.endswith(("Error", "Exception", "Warning")) for base in bases) and bases != {"SignalError"}:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not wrong
    assert "SignalError" in names


def test_every_code_that_is_given_is_one_of_the_tables() -> None:
    given = set()
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in vars(errors):
                codes = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                given |= {str(code.value) for code in codes if isinstance(code, ast.Constant)}
    assert given <= {*REFUSALS, *errors.Code}


def test_the_codes_are_in_the_docs() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    tree = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.HomeroomError)]
    assert [code for code in (*(e.code for e in tree), *errors.Code) if f"`{code}`" not in page] == []
