"""What a command writes goes into a folder that is there: one that was mistyped is named, and nothing is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from homeroom.cli.commands import COMMANDS
from homeroom.cli.main import homeroom, main
from homeroom.cli.parameters import Folder, OutputFile, OutputFolder

# Of the commands with a path that a person gives: what they write there.
WRITTEN = {
    "device add": {"--skip-bad"},
    "device explain": {"--html"},
    "device hand-over": {"--out"},
    "device profile show": {"--pack"},
    "device profile pack": {"file"},
    "device support-bundle": {"--out"},
    "bundle to-peft": {"out"},
    "bundle recipe new": {"--out"},
    "quickstart": {"folder"},
    "district init": {"folder", "--keys", "--out"},
    "district invite": {"--out"},
    "district dashboard": {"--key"},
    "district upgrade-bundle": {"folder"},
    "district backup": {"out"},
    "district unlearning report": {"out"},
    "district unlearning list": {"out"},
    "district restore": {"folder"},
    "trust root": {"key"},
    "trust certify": {"key"},
    "trust policy": {"--out"},
    "trust roster": {"out"},
    "research simulate": {"--plot", "--json"},
}
SPELLED = ("out", "html", "plot", "pack")  # how outputs are called: another of these is one too


def named(param: click.Parameter) -> str:
    return param.opts[0] if isinstance(param, click.Option) else str(param.name)


def parameters() -> Iterator[tuple[str, click.Parameter]]:
    for path in COMMANDS:
        found: click.Command | None = homeroom
        for word in path.split():
            assert isinstance(found, click.Group)
            found = found.get_command(click.Context(homeroom), word)
        assert found
        yield from ((path, param) for param in found.params if isinstance(param.type, click.Path))


def test_every_output_was_looked_at() -> None:
    checked, spelled = dict[str, set[str]](), set[tuple[str, str]]()
    for path, param in parameters():
        if isinstance(param.type, OutputFile | OutputFolder):
            checked.setdefault(path, set()).add(named(param))
        elif named(param).lstrip("-") in SPELLED:
            spelled.add((path, named(param)))
    assert checked == WRITTEN
    assert spelled == {("bundle export", "out"), ("bundle pull", "out")}, "which say so themselves, before any work"


def words(path: str, wanted: str, value: str, there: Path) -> list[str]:
    """A command line with every parameter that is needed, and this one."""
    found: click.Command | None = homeroom
    for word in path.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(homeroom), word)
    assert found
    given = path.split()
    for param in found.params:
        is_wanted = named(param) == wanted
        if is_wanted or param.required:
            kind = param.type
            other = str(there.parent if isinstance(kind, Folder) else there)
            text = value if is_wanted else kind.choices[0] if isinstance(kind, click.Choice) else other
            given += [named(param), text] if isinstance(param, click.Option) else [text]
    return given


@pytest.mark.parametrize(
    ("path", "wanted"), [(path, name) for path, names in WRITTEN.items() for name in sorted(names)]
)
def test_a_folder_that_is_not_there_is_named_and_not_made(
    path: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    given = words(path, wanted, "mistyped/one", tmp_path / "there")
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert f"the folder {tmp_path / 'mistyped'} is not there" in capsys.readouterr().err, given
    assert ended.value.code == 3
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


def test_an_export_says_so_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[3] / "examples" / "recipes" / "short_answers.toml"
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "export", str(recipe), str(tmp_path / "mistyped" / "out"), "--calibration", str(recipe)])
    assert ended.value.code == 3
    assert "mistyped is not there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
