"""What an error advises can be done: an option that it names is one of the command that prints it, or it stands in a
whole command. `conftest.py` holds every error that a test's command line prints against that command.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_docs import ROOT, mistake, options, subcommand

from homeroom.cli.commands import ALIASES, COMMANDS
from homeroom.cli.main import main
from homeroom.errors import HomeroomError, InputError
from homeroom.system.installation import quoted

TYPED = ROOT / "sdk" / "homeroom" / "cli" / "examples.py"  # `test_examples.py` types each of these
PRODUCT = sorted({path for part in ("sdk", "exporter", "aggregator") for path in (ROOT / part).rglob("*.py")} - {TYPED})
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+\b")
COMMAND = re.compile(r"`homeroom ([^`]+)`")
FULL = re.compile(r"\b(?:homeroom|flwr|flower-supernode|pip) [a-z-]+ .*")  # the rest of a line is another program's
CALLERS = {  # modules that commands share: every one of these has each option that the module names
    "aggregator/homeroom_aggregator/admin/backup.py": ["district restore"],
    "aggregator/homeroom_aggregator/admin/certificate.py": ["district serve"],
    "aggregator/homeroom_aggregator/admin/configuration.py": ["district init", "district serve"],
    "aggregator/homeroom_aggregator/admin/folder.py": ["district serve"],
    "aggregator/homeroom_aggregator/admin/invitations.py": ["district invite"],
    "aggregator/homeroom_aggregator/admin/lost_log.py": ["district restore"],
    "aggregator/homeroom_aggregator/admin/new_district.py": ["district init"],
    "aggregator/homeroom_aggregator/admin/reach.py": ["district init", "district invite"],
    "aggregator/homeroom_aggregator/cli/privacy.py": ["district init", "district serve"],
    "aggregator/homeroom_aggregator/cli/round_options.py": ["district init", "district serve"],
    "aggregator/homeroom_aggregator/server/dashboard/pages.py": ["district serve"],
    "aggregator/homeroom_aggregator/server/serve.py": ["district serve"],
    "aggregator/homeroom_aggregator/simulation/schools.py": ["research simulate"],
    "exporter/homeroom_exporter/encoders/checkpoint.py": ["bundle export"],
    "exporter/homeroom_exporter/export/estimate.py": ["bundle export"],
    "exporter/homeroom_exporter/export/extend.py": ["bundle export"],
    "exporter/homeroom_exporter/export/teach.py": ["bundle export"],
    "sdk/homeroom/data/cells.py": ["device add"],  # in a whole command, `Intake.advise`
    "sdk/homeroom/data/ingest/column_memory.py": ["device add"],
    "sdk/homeroom/data/ingest/intake.py": ["device add"],
    "sdk/homeroom/data/ingest/sheet.py": ["device add"],
    "sdk/homeroom/device/consents.py": ["device consent"],
    **{f"sdk/homeroom/pull/{name}.py": ["bundle pull"] for name in ("address", "local", "offer", "pull")},
    "sdk/homeroom/quickstart/starter.py": ["quickstart"],
    "sdk/homeroom/privacy/forecast.py": ["district init", "district serve"],
}


def sentences(text: str) -> Iterator[str]:
    """The strings of a module but docstrings; what is filled in is X."""
    nodes = list(ast.walk(ast.parse(text)))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner | docs:
            yield node.value


def bare_options(sentence: str) -> set[str]:
    """Options outside of whole commands; none of a string that is an option itself."""
    left = FULL.sub("", COMMAND.sub("", sentence))
    return set() if OPTION.fullmatch(sentence) else set(OPTION.findall(left))


def known(command: list[str]) -> set[str]:
    """The options of a command line's command, under an old spelling too."""
    for count in (3, 2, 1):
        if (path := " ".join(command[:count])) in ALIASES:
            command = ALIASES[path].split()
            break
    return set(options(subcommand(command)[0]))


def unknown_options(problem: HomeroomError, arguments: list[str]) -> set[str]:
    """Options that an error names and the command that printed it lacks."""
    said = (problem.what, problem.remedy, *problem.details)
    return set().union(*map(bare_options, said)) - known(arguments)


def callers(path: Path) -> list[str]:
    name = str(path.relative_to(ROOT))
    module = name.split("/", 1)[1].removesuffix(".py").replace("/", ".")
    return CALLERS.get(name) or [path for path, (target, _) in COMMANDS.items() if target.partition(":")[0] == module]


def test_options_that_a_sentence_names_are_of_its_commands() -> None:
    wrong = []
    for path in PRODUCT:
        named = set().union(*map(bare_options, sentences(path.read_text())))
        commands = callers(path) if named else []
        has = [known(command.split()) for command in commands]
        all_of, any_of = (set.intersection(*has), set.union(*has)) if has else (set(), set())
        lacking = named - (all_of if str(path.relative_to(ROOT)) in CALLERS else any_of)
        wrong += [f"{path.relative_to(ROOT)}: {option}: {commands}" for option in sorted(lacking)]
    assert wrong == []


def test_whole_commands_in_sentences_exist() -> None:
    said = {(path, words) for path in PRODUCT for one in sentences(path.read_text()) for words in COMMAND.findall(one)}
    wrong = [f"{path.relative_to(ROOT)}: {words}: {mistake(words.split())}" for path, words in said if words != "X"]
    assert sorted(line for line in wrong if not line.endswith("None")) == []


def test_a_remedy_of_another_command_is_found() -> None:
    wrong = InputError("3 of 9 rows cannot be taken", remedy="take the others with --skip-bad BAD.csv")
    assert unknown_options(wrong, ["bundle", "export", "r.toml", "out"]) == {"--skip-bad"}
    assert unknown_options(wrong, ["device", "add", "d", "x.csv"]) == set()
    assert unknown_options(wrong, ["export", "r.toml"]) == {"--skip-bad"}  # an old spelling
    whole = InputError("3 of 9", remedy="or `homeroom device add … --skip-bad BAD.csv`")
    assert unknown_options(whole, ["bundle", "export", "r.toml", "out"]) == set()


@pytest.mark.parametrize("rows", ["word,label.category\n,cat\n,dog\n", "Word?,label.category\nthe cat,cat\n"])
def test_a_bad_calibration_file_advises_what_an_export_has(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `device add`, whose options are named there alone."""
    pytest.importorskip("torch")
    bad, recipe = tmp_path / "bad.csv", tmp_path / "r.toml"
    bad.write_text(rows)
    recipe.write_text(
        'name = "lesson"\nversion = 1\n[encoders.text]\nsource = "pip:minilm"\n[slots]\nword = "text"\n'
        '[tasks.category]\nkind = "classification"\nreads = ["word"]\nlabels = ["cat", "dog"]\n'
    )
    with pytest.raises(SystemExit):
        main(["bundle", "export", str(recipe), str(tmp_path / "out"), "--calibration", str(bad)])
    said = capsys.readouterr().err
    assert bad.name in said
    assert "--" not in said.replace("No --key was given", "")


SPOKEN = re.compile(r"homeroom (?:device|district|bundle|trust|research) [^\"'`{]*\{(\w[^}]*)\}")
NO_PATHS = {"options", "files", "device"}  # made of quoted words already


def test_a_command_that_is_printed_can_be_copied_though_a_folder_has_a_blank_in_its_name() -> None:
    bare = []
    for part in ("sdk", "exporter", "aggregator"):
        for path in sorted((ROOT / part).rglob("*.py")):
            for found in SPOKEN.finditer(path.read_text("utf-8")):
                if not found[1].startswith("quoted(") and found[1] not in NO_PATHS:
                    bare.append(f"{path.name}: {found[0]}")
    assert not bare
    assert quoted(Path("my lesson") / "classroom") == "'my lesson/classroom'"
