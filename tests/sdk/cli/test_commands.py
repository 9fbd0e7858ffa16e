"""Commands in their groups, and the spellings of 0.1.0, which go on working and name the new ones."""

from __future__ import annotations

import itertools
import subprocess
import sys

import click
import pytest

from homeroom.cli.commands import ALIASES, COMMANDS, GROUPS, OLD_ORDER
from homeroom.cli.examples import examples
from homeroom.cli.main import Commands, homeroom, main
from homeroom.system.installation import how_to_install


def command(path: str) -> click.Command:
    """The command at a path, old or new."""
    here: click.Command | None = homeroom
    for word in path.split():
        assert isinstance(here, Commands), path
        here = here.get_command(click.Context(here), word)
    assert here is not None, path
    return here


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        sys.exit(main([str(word) for word in words]))
    return int(ended.value.code or 0), *capsys.readouterr()


def arguments(path: str) -> list[click.Argument]:
    return [param for param in command(path).params if isinstance(param, click.Argument)]


def words_for(path: str) -> list[str]:
    """A word for each argument, by its name; none of them is there."""
    return [f"no-{argument.name}" for argument in arguments(path)]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_loads_and_lists_its_help(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *path.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Usage: homeroom {path} " in out
    heading = "\n  Example:\n" if len(examples(path)) == 1 else "\n  Examples:\n"
    assert out.partition(heading)[2] == "".join(f"    {line}\n" for line in examples(path)), "as they are typed"


@pytest.mark.parametrize("path", ["", *GROUPS])
def test_help_of_a_group_has_one_plain_line_for_each_command(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *path.split(), "--help")
    assert (code, err) == (0, "")
    listed = out.partition("Commands:\n")[2].splitlines()
    start = f"{path} " if path else ""
    below = {row[len(start) :].split()[0] for row in COMMANDS if row.startswith(start)}
    assert {line.split()[0] for line in listed} == below, "one line each, and none is broken"
    assert all(len(line.split()) > 2 for line in listed)
    assert not set(ALIASES) & {start + name for name in below} - set(GROUPS)


def test_every_group_is_reached_and_every_alias_leads_to_a_command() -> None:
    groups = {path.rpartition(" ")[0] for path in COMMANDS} - {""}
    assert set(GROUPS) == groups
    assert set(ALIASES.values()) <= set(COMMANDS)
    assert not set(ALIASES) & set(COMMANDS)


OPEN_NO_FOLDER = {"district unlearning test"}  # an auditor has a bundle and two versions, not the district


@pytest.mark.parametrize("path", COMMANDS)
def test_the_folder_comes_first(path: str) -> None:
    names = [argument.name for argument in arguments(path)]
    if path.split()[0] in ("device", "district") and path not in OPEN_NO_FOLDER:
        assert names[0] == {"device": "directory", "district": "folder"}[path.split()[0]]
    assert not {"directory", "folder"} & set(names[1:])


@pytest.mark.parametrize("path", COMMANDS)
def test_root_is_a_fingerprint_and_root_key_a_file(path: str) -> None:
    types = {name: option.type for option in command(path).params for name in option.opts}
    assert isinstance(types.get("--root", click.STRING), click.types.StringParamType)
    assert isinstance(types.get("--root-key", click.Path()), click.Path)


@pytest.mark.parametrize("path", COMMANDS)
def test_an_empty_name_is_no_path(path: str) -> None:
    paths = [param.type for param in command(path).params if isinstance(param.type, click.Path)]
    for kind in paths:
        with pytest.raises(click.UsageError, match="an empty name is no path"):
            kind.convert("", None, None)


@pytest.mark.parametrize("old", ALIASES)
def test_an_old_spelling_does_what_the_new_one_does_and_names_it_once_on_stderr(
    old: str, capsys: pytest.CaptureFixture[str], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    new = ALIASES[old]
    hint = f"homeroom: `homeroom {old}` is now `homeroom {new}`\n"
    by_name = {argument.name: word for argument, word in zip(arguments(new), words_for(new), strict=True)}
    in_old_order = [by_name[name] for name in OLD_ORDER.get(old, by_name)]
    code, out, err = run(capsys, *new.split(), *words_for(new))
    assert code != 0, "nothing of what is named is there"
    as_typed = err if "is not installed" in err else err.replace(new, old, 2)  # click's usage repeats what was typed
    assert run(capsys, *old.split(), *in_old_order) == (code, out, hint + as_typed)
    code, out, err = run(capsys, *old.split(), *in_old_order, "--no-such-option")
    assert (code, out, err.startswith(hint)) == (2, "", True), err
    assert {name for p in command(old).params for name in p.opts} >= {
        name for p in command(new).params if isinstance(p, click.Option) for name in p.opts
    }


def test_profile_is_a_group_and_its_old_spelling_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in itertools.permutations(("nowhere", "--json")):
        code, out, err = run(capsys, "device", "profile", *words)
        assert (code, out) == (2, "")
        assert err.startswith("homeroom: `homeroom device profile` is now `homeroom device profile show`\n")
        assert "Missing argument 'PERSON'" in err
    code, _, err = run(capsys, "device", "profile", "show", "nowhere")
    assert (code, "is now" in err) == (2, False)


@pytest.mark.parametrize("words", [["nonsense"], ["device", "nonsense"], ["audit", "nonsense"], ["--nonsense"]])
def test_what_never_was_a_command_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert "nonsense" in err


@pytest.mark.parametrize("words", [["export"], ["bundle", "export"], ["bundle", "export", "--help"]])
def test_a_missing_extra_is_named_by_the_new_spelling(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "homeroom_exporter.cli", None)
    code, out, err = run(capsys, *words, "recipe.toml")
    assert (code, out) == (13, "")
    assert "`homeroom bundle export` needs a part that is not installed" in err
    assert how_to_install("exporter") in err
    assert run(capsys, "bundle", "--help")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe that nobody reads is no error there")
def test_a_reader_who_leaves_ends_the_command_with_its_own_code() -> None:
    command = [sys.executable, "-m", "homeroom", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(60) == 141
    assert b"Error" not in said
