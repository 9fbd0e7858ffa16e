"""Options that would do nothing in some combination are refused by name; every option is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from aggregator.institution import ROOT, make_folder, write_bundle
from homeroom.cli.commands import COMMANDS
from homeroom.cli.main import homeroom, main
from homeroom.contract.signing import certify, new_key, write_key
from homeroom_aggregator.admin.backup import backup

COMMANDS_HERE = (
    "device run",
    "device train",
    "device fetch",
    "trust ",
    "district ",
    "research simulate",
    "bundle export",
)

# Words after the command that leave the option without effect, by command and option. {} is a folder of the test's.
IDLE = {
    ("device run", "--settled"): "{}/device --settled 5",
    ("device run", "--port"): "{}/device --port 8000 --no-page",
    ("device run", "--sync-minutes"): "{}/device --once --sync-minutes 5",
    ("device train", "--epochs"): "{}/device --profile Ana --epochs 3",
    ("device train", "--distillation"): "{}/device --profile Ana --distillation 1",
    ("device train", "--threads"): "{}/device --profile Ana --threads 2",
    (
        "district init",
        "--roster",
    ): "{}/new --bundle {}/bundle --name D --schools {}/schools.csv --roster {}/schools.csv",
    ("district init", "--buffer"): "{}/made --bundle {}/bundle --name D --schools {}/schools.csv --buffer 9",
    ("district init", "--secure"): "{}/made --bundle {}/bundle --name D --schools {}/schools.csv --secure",
    (
        "district init",
        "--address",
    ): "{}/made --bundle {}/bundle --name D --schools {}/schools.csv --address https://a.example",
    ("district serve", "--school-share"): "{}/district --school-share 0.5",
    ("district serve", "--certificate"): "{}/new --bundle {}/bundle --root-key {}/root.pem --certificate {}/root.json",
    ("district serve", "--bundle"): "{}/district --bundle {}/other",
    ("district serve", "--root-key"): "{}/district --root-key {}/other.pem",
    ("district serve", "--key"): "{}/district --key {}/other.pem",
    ("district serve", "--institution"): "{}/district --institution Other",
    ("district serve", "--codec"): "{}/district --secure --codec int8",
    ("district serve", "--buffer"): "{}/district --secure --buffer 9",
    ("district serve", "--over"): "{}/district --over 2",
    ("district serve", "--quorum"): "{}/district --quorum 2",
    ("district serve", "--deadline"): "{}/district --deadline 2",
    ("district serve", "--beta1"): "{}/district --beta1 0.5",
    ("district serve", "--beta2"): "{}/district --optimizer fedavgm --server-rate 0.1 --beta2 0.5",
    ("district serve", "--tau"): "{}/district --optimizer fedavgm --server-rate 0.1 --tau 0.5",
    ("district serve", "--delta"): "{}/district --delta 0.001",
    ("district serve", "--epsilon"): "{}/district --epsilon 2",
    ("district serve", "--clip-norm"): "{}/district --clip-norm 2",
    ("district serve", "--noise-multiplier"): "{}/district --noise-multiplier 2",
    ("district serve", "--subjects"): "{}/district --subjects 2",
    ("district serve", "--clip-quantile"): "{}/district --clip-quantile 0.5",
    ("district serve", "--bands"): "{}/district --bands 2",
    ("district serve", "--cohort"): "{}/district --cohort 9",
    ("district serve", "--drop-rate"): "{}/district --drop-rate 0.1",
    ("district serve", "--corrupt-rate"): "{}/district --corrupt-rate 0.1",
    ("district serve", "--phase-hours"): "{}/district --phase-hours 2",
    ("district serve", "--school-devices"): "{}/district --school-devices 2",
    ("district serve", "--roster"): "{}/district --roster {}/schools.csv",
    ("district serve", "--insecure"): "{}/district --insecure",
    ("district serve", "--tls-cert"): "{}/district --tls-cert {}/root.pem",
    ("district serve", "--tls-key"): "{}/district --tls-key {}/root.pem",
    ("district serve", "--announce"): "{}/district --announce",
    ("district invite", "--count"): "{}/district --csv {}/schools.csv --count 2",
    ("district invite", "--school"): "{}/district --csv {}/schools.csv --school A",
    ("district invite", "--consent"): "{}/district --consent letter",
    ("district invite", "--role"): "{}/district --csv {}/schools.csv --role auditor",
    ("district invite", "--csv"): "{}/district --list --csv {}/schools.csv",
    ("district invite", "--days"): "{}/district --list --days 3",
    ("district invite", "--address"): "{}/district --list --address https://a.example",
    ("district invite", "--out"): "{}/district --list --out {}/out",
    ("district invite", "--qr"): "{}/district --revoke abc --qr",
    ("district invite", "--dry-run"): "{}/district --revoke abc --dry-run",
    ("district consent", "--by"): "{}/district --by letter",
    ("district consent", "--withdraw"): "{}/district --withdraw",
    ("district dashboard", "--role"): "{}/schools.csv --role auditor",
    ("district dashboard", "--by"): "{}/schools.csv --by me",
    ("district dashboard", "--address"): "{}/schools.csv --address https://a.example",
    ("district dashboard", "--minutes"): "{}/schools.csv --minutes 3",
    ("district dashboard", "--key"): "{}/district --key {}/root.pem",
    ("district dashboard", "--qr"): "{}/district --json --qr",
    ("research simulate", "--school-share"): "{}/bundle {}/schools.csv --school-share 0.5",
    ("research simulate", "--beta1"): "{}/bundle {}/schools.csv --beta1 0.5",
    ("research simulate", "--beta2"): "{}/bundle {}/schools.csv --optimizer fedavgm --beta2 0.5",
    ("research simulate", "--tau"): "{}/bundle {}/schools.csv --optimizer fedavgm --tau 0.5",
    ("research simulate", "--delta"): "{}/bundle {}/schools.csv --delta 0.001",
    ("research simulate", "--epsilon"): "{}/bundle {}/schools.csv --epsilon 2",
    ("research simulate", "--clip-norm"): "{}/bundle {}/schools.csv --clip-norm 2",
    ("research simulate", "--noise-multiplier"): "{}/bundle {}/schools.csv --noise-multiplier 2",
    ("research simulate", "--subjects"): "{}/bundle {}/schools.csv --subjects 2",
    ("research simulate", "--clip-quantile"): "{}/bundle {}/schools.csv --clip-quantile 0.5",
    ("research simulate", "--bands"): "{}/bundle {}/schools.csv --bands 2",
    ("district restore", "--uncharged"): "{}/new {}/saved --uncharged",
    ("bundle export", "--key"): "{}/recipe.toml --dry-run --key {}/root.pem",
    ("bundle export", "--certificate"): "{}/recipe.toml --dry-run --certificate {}/root.json",
    ("bundle export", "--zip"): "{}/recipe.toml --dry-run --zip",
    ("bundle export", "--extends"): "{}/recipe.toml --dry-run --extends {}/root.pem",
}

OF_EVERY_COMMAND = ("machine", "brief", "verbose")  # tests/sdk/cli/test_output.py

# Options that always take effect where the command does anything.
COUNTS = {
    "device run": "--inbox --window --minutes --megabytes --threads --free-megabytes --battery --celsius --quiet"
    " --no-page --once --bundle --root --join",
    "device train": "--minutes --megabytes --free-megabytes --battery --celsius --quiet --profile",
    "trust certify": "--root-key --name",
    "trust policy": "--key --certificate --out",
    "trust roster": "--key --device --devices --members --minimum --drop-rate --corrupt-rate --serial --institution",
    "district init": "--bundle --name --schools --keys --out --days --policy --host --port --announce"
    " --min-devices --k-of --rule --school-share --max-staleness --codec --deadline --quorum --over --by-school"
    " --optimizer --server-rate --beta1 --beta2 --tau --proximal --epsilon --delta --clip-norm --noise-multiplier"
    " --subjects --clip-quantile --bands --cohort --drop-rate --corrupt-rate --phase-hours --school-devices"
    " --statistics --evaluation",  # of the same code as serve's
    "district serve": "--min-devices --k-of --rule --max-staleness --by-school --retain --optimizer --server-rate"
    " --proximal --policy --secure --host --port --address --trusted-proxy --log-requests --statistics"
    " --evaluation",
    "district configure": "--check",
    "district invite": "--list --revoke",
    "district members": "--schools",
    "district recover": "--key --certificate",
    "district rebuild": "--release",
    "district restore": "--from-lost --withdrawals",
    "district withdraw": "--school --task --modality --by --why --yes",
    "district unlearning test": "--withdrawn --others --root",
    "district go-back": "--by --why",
    "district rewind": "--by --why --yes",
    "district new-total": "--by --why",
    "district upgrade-bundle": "--bundle",
    "district audit verify": "--noted",
    "research simulate": "--rounds --epochs --participation --lag --rule --optimizer --server-rate --proximal --seed"
    " --engine --measure-every --plot --json --statistics",
    "bundle export": "--calibration --peft --threads --dry-run --teach",
}


def commands() -> Iterator[tuple[str, click.Command]]:
    for path in COMMANDS:
        if path.startswith(COMMANDS_HERE):
            found: click.Command | None = homeroom
            context = click.Context(homeroom)
            for word in path.split():
                assert isinstance(found, click.Group)
                found = found.get_command(context, word)
            assert found
            yield path, found


def test_every_option_was_looked_at() -> None:
    known = set(IDLE) | {(path, option) for path, options in COUNTS.items() for option in options.split()}
    there = {
        (path, option.opts[0])
        for path, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and option.name not in ("help", *OF_EVERY_COMMAND)
    }
    assert there - known == set(), "say for each when it does nothing, and refuse that; or that it always counts"
    assert known - there == set()


def test_no_help_shows_a_range_without_bounds() -> None:
    for path, command in commands():
        assert "None" not in command.get_help(click.Context(command, info_name=path))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("idle")
    make_folder(where).rename(where / "district")
    write_bundle(where / "other", version=2)
    backup(where / "district", where / "saved")
    write_key(where / "other.pem", new_key())
    if not (where / "root.pem").exists():
        write_key(where / "root.pem", ROOT)
    import msgspec

    (where / "root.json").write_bytes(msgspec.json.encode(certify(ROOT, "exporter", new_key(), "x")))
    (where / "schools.csv").write_text("school,devices\nA,1\n")
    recipe = (Path(__file__).parents[3] / "examples" / "recipes" / "short_answers.toml").read_text()
    (where / "recipe.toml").write_text(recipe)
    made = f"district init {where}/made --bundle {where}/bundle --name D --schools {where}/schools.csv"
    result = CliRunner().invoke(homeroom, made.split())
    assert result.exit_code == 0, (result.output, result.exception)
    return where


@pytest.mark.parametrize(("command", "option"), IDLE)
def test_an_option_that_would_do_nothing_is_refused_by_name(
    command: str, option: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.toml")}
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), *IDLE[command, option].replace("{}", str(place)).split()])
    said = capsys.readouterr().err
    assert ended.value.code not in (0, None)
    field = option.removeprefix("--").replace("-", "_")
    assert option in said or field in said or f"no{option[1:]}" in said, said
    assert "Traceback" not in said
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.toml")} == before, "nothing changes"
    assert not (place / "new").exists()
