"""The invitations of a new district: what a killed making left is written anew, what is another district's stays."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, make_folder, write_bundle
from homeroom.cli.main import homeroom, main
from homeroom.contract.invitation import read_invitation
from homeroom.contract.signing import fingerprint, new_key, public_hex, write_key
from homeroom.errors import InputError
from homeroom_aggregator.admin.configuration_file import read_configuration
from homeroom_aggregator.admin.folder import open_log
from homeroom_aggregator.admin.invitations import InvitationRequest
from homeroom_aggregator.admin.new_district import invite_schools
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.one_time_codes import code_digest

SCHOOLS = [InvitationRequest("Hill", 2, "device", ""), InvitationRequest("Lake", 1, "device", "")]


def invite(folder: Path, out: Path) -> list[Path]:
    return [path for _, path in invite_schools(folder, "https://d.example", SCHOOLS, out, 30)]


def known(folder: Path, paths: list[Path]) -> list[bool]:
    with closing(open_log(folder)) as log:
        members = Members(log.database)
        return [members.invitation(code_digest(read_invitation(path).code)) is not None for path in paths]


def test_invitations_that_nobody_recorded_are_written_anew(tmp_path: Path) -> None:
    """As where the making was killed between its files and its log, or its folder was thrown away and made anew."""
    folder, out = make_folder(tmp_path), tmp_path / "out"
    paths = invite(folder, out)
    written = [path.read_bytes() for path in paths]
    assert invite(folder, out) == paths
    assert [path.read_bytes() for path in paths] == written, "they count already"
    shutil.rmtree(folder)
    folder = make_folder(tmp_path)
    assert known(folder, paths) == [False] * 3
    invite(folder, out)
    assert known(folder, paths) == [True] * 3


def test_another_districts_invitations_are_not_written_over(tmp_path: Path) -> None:
    folder, out = make_folder(tmp_path), tmp_path / "out"
    paths = invite(folder, out)
    others = msgspec.structs.replace(read_invitation(paths[2]), root=fingerprint(public_hex(new_key())))
    paths[2].write_bytes(msgspec.json.encode(others))
    shutil.rmtree(folder)
    folder, written = make_folder(tmp_path), [path.read_bytes() for path in sorted(out.iterdir())]
    with pytest.raises(InputError, match="another district's invitation"):
        invite(folder, out)
    assert [path.read_bytes() for path in sorted(out.iterdir())] == written
    with closing(open_log(folder)) as log:
        assert Members(log.database).invitations() == []


def test_the_help_says_where_it_listens_and_what_a_release_waits_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = " ".join(CliRunner().invoke(homeroom, ["district", "init", "--help"]).output.split())
    assert "(0.0.0.0, or 127.0.0.1 with --address)" in told
    assert "(follows the devices; 5 with --secure or --deadline)" in told
    bundle, schools = write_bundle(tmp_path / "bundle"), tmp_path / "schools.csv"
    schools.write_text("school,devices\nHill,1\n")
    made = {}
    for name, *more in (("plain",), ("proxy", "--address", "https://d.example"), ("secure", "--secure")):
        always = ["--bundle", str(bundle), "--name", "D", "--schools", str(schools)]
        assert main(["district", "init", str(tmp_path / name), *always, *more]) == 0
        made[name] = read_configuration(tmp_path / name)
    said = [line for line in capsys.readouterr().out.splitlines() if "district serve" in line]
    assert ["it is reached at https://" in line for line in said] == [True, False, True]
    assert "(it listens on 127.0.0.1 port 8340, to which a proxy of yours has to pass on https://d.example)" in said[1]
    assert [made[name].server.host for name in made] == ["0.0.0.0", "127.0.0.1", "0.0.0.0"]
    assert [made[name].automatic_buffer for name in made] == [True, True, False]
    assert made["secure"].round.buffer_size == 5


def test_the_forecast_of_private_rounds_reckons_with_the_fewest_devices_where_the_buffer_follows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, schools = write_bundle(tmp_path / "bundle"), tmp_path / "schools.csv"
    schools.write_text("school,devices\nHill,1\nLake,1\nMill,1\n")
    private = ["--epsilon", "8", "--clip-norm", "0.5", "--noise-multiplier", "1.2", "--min-devices", "3"]
    for name, more, devices in (("follows", (), 3), ("stated", ("--buffer", "7"), 7)):
        always = ["--bundle", str(bundle), "--name", "D", "--schools", str(schools)]
        assert main(["district", "init", str(tmp_path / name), *always, *private, *more]) == 0
        assert f"{devices} devices in a release" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("rows", "more", "told"),
    [
        ("Hill,4\n", (), "a version needs devices of 3 different schools, and 1 is invited"),
        ("Hill,4\nLake,1\n", (), "a version needs devices of 3 different schools, and 2 are invited"),
        ("Hill,4\nLake,1\nMill,1\n", (), ""),
        ("Hill,4\n", ("--k-of", "devices"), ""),
    ],
)
def test_who_invites_fewer_schools_than_a_version_needs_is_told_so(
    rows: str, more: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, schools = write_bundle(tmp_path / "bundle"), tmp_path / "schools.csv"
    schools.write_text("school,devices\n" + rows)
    always = ["--bundle", str(bundle), "--name", "D", "--schools", str(schools), "--min-devices", "3"]
    assert main(["district", "init", str(tmp_path / "d"), *always, *more]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert told in said
    assert ("different schools" in said) == bool(told)


def test_statistics_of_a_bundle_without_any_are_refused_before_a_key_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["district", *command])
        assert ended.value.code == 3
        return capsys.readouterr().err

    bundle, schools, district = write_bundle(tmp_path / "bundle"), tmp_path / "schools.csv", str(tmp_path / "d")
    schools.write_text("school,devices\nHill,1\n")
    command = ["init", district, "--bundle", str(bundle), "--name", "D", "--schools", str(schools)]
    assert "bundle: statistics.mode: the bundle has no statistics" in refused(*command, "--statistics", "plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "schools.csv"]
    write_key(tmp_path / "root.pem", ROOT)
    first = ["serve", str(tmp_path / "e"), "--bundle", str(bundle), "--root-key", str(tmp_path / "root.pem")]
    assert "the bundle has no statistics" in refused(*first, "--institution", "D", "--statistics", "plain")
    assert not (tmp_path / "e").exists()
    assert main(["district", *command]) == 0
    edited = (tmp_path / "d" / "district.toml").read_text().replace('mode = "off"', 'mode = "plain"')
    (tmp_path / "d" / "district.toml").write_text(edited)
    assert "district.toml: statistics.mode: the bundle has no statistics" in refused("configure", district, "--check")
