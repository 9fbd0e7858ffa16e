"""The configuration: as a file, under options, on a second start, for devices, and when a start is cut short."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from aggregator.admin.starting import contents, start
from aggregator.institution import ROOT, START, School, learn, make_folder, running, write_bundle
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import CohortRules, ServerOptimizer, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key, write_key
from homeroom.errors import HomeroomError, InputError
from homeroom.federation.agreement import read_agreement
from homeroom.federation.enrolment import set_network
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.configuration import (
    ADAPTIVE,
    FIELD_OF_OPTION,
    DistrictConfiguration,
    with_options,
)
from homeroom_aggregator.admin.configuration_file import (
    CONFIGURATION_FILE,
    read_configuration,
    write_file,
)
from homeroom_aggregator.admin.folder import invite_devices, open_rounds
from homeroom_aggregator.cli.serve import ONCE_OPTIONS, serve
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.service import Service, open_service

DOCS = Path(__file__).resolve().parents[3] / "docs" / "aggregator.md"
SECURE, ADAM = SecureRules(), ServerOptimizer(name="fedadam")
SYNCHRONOUS = {"max_staleness": 0, "cohort": CohortRules(deadline_s=60, quorum=1)}
PRIVATE = {"privacy": Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5)}

# By option: what the folder was begun with, what is typed on the second start, and the value that is then in effect,
# or what the refusal names.
EFFECTS: dict[str, tuple[dict[str, Any], list[str], Any]] = {
    "buffer_size": ({}, ["--buffer", "3"], 3),
    "min_devices": ({}, ["--min-devices", "3"], 3),
    "k_of": ({}, ["--k-of", "schools"], "schools"),
    "rule": ({}, ["--rule", "bounded"], "bounded"),
    "school_share": ({}, ["--rule", "bounded", "--school-share", "0.25"], 0.25),
    "max_staleness": ({}, ["--max-staleness", "3"], 3),
    "codec": ({}, ["--codec", "int8"], "int8"),
    "deadline": (SYNCHRONOUS, ["--deadline", "30"], 30.0),
    "quorum": (SYNCHRONOUS, ["--quorum", "2"], 2),
    "over": (SYNCHRONOUS, ["--over", "2"], 2.0),
    "retain": ({}, ["--retain", "7"], 7),
    "optimizer": ({}, ["--optimizer", "fedyogi", "--server-rate", "0.1"], "fedyogi"),
    "server_rate": ({}, ["--server-rate", "0.5"], 0.5),
    "beta1": ({"optimizer": ADAM}, ["--beta1", "0.5"], 0.5),
    "beta2": ({"optimizer": ADAM}, ["--beta2", "0.5"], 0.5),
    "tau": ({"optimizer": ADAM}, ["--tau", "0.5"], 0.5),
    "proximal": ({}, ["--proximal", "0.5"], 0.5),
    "statistics": ({"statistics": StatisticsRules(mode="plain")}, ["--statistics", "off"], "off"),
    "evaluation": ({}, ["--evaluation", "plain"], "plain"),
    "cohort": ({"secure": SECURE}, ["--cohort", "30"], 30),
    "drop_rate": ({"secure": SECURE}, ["--drop-rate", "0.2"], 0.2),
    "corrupt_rate": ({"secure": SECURE}, ["--corrupt-rate", "0.2"], 0.2),
    "phase_hours": ({"secure": SECURE}, ["--phase-hours", "0.5"], 1800),
    "school_devices": ({"secure": SECURE}, ["--school-devices", "3"], 3),
    "host": ({}, ["--host", "localhost"], "localhost"),
    "port": ({}, ["--port", "0"], 0),
    "announce": ({}, ["--announce", "--host", "0.0.0.0"], True),
    "addresses": ({}, ["--address", "https://a.example/b"], ("https://a.example/b",)),
    "trusted_proxies": ({}, ["--trusted-proxy", "10.0.0.0/8"], ("10.0.0.0/8",)),
    "insecure": ({}, ["--host", "0.0.0.0", "--insecure"], True),
    "log_requests": ({}, ["--log-requests"], True),
}
REFUSALS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "bundle": ({}, ["--bundle", "{other}"], "--bundle"),
    "root_key": ({}, ["--root-key", "{key}"], "--root-key"),
    "key": ({}, ["--key", "{key}"], "--key"),
    "certificate": ({}, ["--certificate", "{certificate}"], "--certificate"),
    "institution": ({}, ["--institution", "District 8"], "--institution"),
    "by_school": ({}, ["--by-school"], "--by-school cannot change"),
    "epsilon": (PRIVATE, ["--epsilon", "9"], "--epsilon cannot change"),
    "delta": (PRIVATE, ["--delta", "1e-6"], "--delta cannot change"),
    "clip_norm": (PRIVATE, ["--clip-norm", "2"], "--clip-norm cannot change"),
    "noise_multiplier": (PRIVATE, ["--noise-multiplier", "3"], "--noise-multiplier cannot change"),
    "subjects": (PRIVATE, ["--subjects", "3"], "--subjects cannot change"),
    "clip_quantile": (PRIVATE, ["--clip-quantile", "0.5"], "--clip-quantile cannot change"),
    "bands": (PRIVATE, ["--bands", "4"], "--bands cannot change"),
    "secure": ({}, ["--secure"], "--secure cannot change"),
    "policy": ({}, ["--policy", "{policy}"], "--policy cannot change"),
    "roster": ({}, ["--roster", "{key}"], "roster"),
    "tls_cert": ({}, ["--tls-cert", "{key}"], "tls_cert and tls_key belong together"),
    "tls_key": ({}, ["--tls-key", "{key}"], "tls_cert and tls_key belong together"),
}
MORE_REFUSALS = [
    (PRIVATE, ["--min-devices", "1"], "--min-devices cannot be lowered"),
    ({"k_of": "schools"}, ["--k-of", "devices"], "--k-of cannot be lowered"),
    ({"secure": SECURE}, ["--corrupt-rate", "0.05"], "--corrupt-rate cannot be lowered"),
    ({}, ["--school-share", "0.5"], "school_share says nothing with rule mean"),
    ({"secure": SECURE}, ["--rule", "bounded"], "rule bounded needs plain rounds"),
    ({}, ["--epsilon", "8", "--clip-norm", "1", "--noise-multiplier", "2"], "--epsilon cannot change"),
    ({}, ["--over", "2"], "--over says nothing without --deadline and --quorum"),
    ({}, ["--cohort", "30"], "--cohort says nothing without --secure"),
    ({}, ["--school-devices", "3"], "school_devices is of rosters, and says nothing without secure rounds"),
    ({}, ["--beta1", "0.5"], "--beta1 says nothing without --optimizer"),
    ({}, ["--optimizer", "fedavg", "--tau", "0.1"], "--tau says nothing with the optimizer fedavg"),
    ({}, ["--delta", "1e-6"], "--delta says nothing without --epsilon"),
    ({}, ["--deadline", "30"], "belong together"),
    (SYNCHRONOUS, ["--max-staleness", "3"], "max_staleness 0"),
    ({}, ["--deadline", "30", "--quorum", "2", "--max-staleness", "3"], "max_staleness 0"),
    (PRIVATE, ["--codec", "int8"], "--codec: codec int8 is lossy, and a private round needs fixed32"),
    ({"secure": SECURE}, ["--codec", "int8"], "--codec int8 says nothing with --secure"),
    ({"secure": SECURE}, ["--buffer", "8"], "--buffer says nothing with --secure"),
    ({}, ["--optimizer", "fedadam"], "add --server-rate, from 0.01 to 0.1"),
    ({}, ["--statistics", "secure"], "secure statistics need secure rounds (`homeroom district init --secure`)"),
    ({"secure": SECURE}, ["--statistics", "plain"], "plain statistics would show what secure"),
    ({}, ["--statistics", "plain"], "the bundle has no statistics"),
    ({"secure": SECURE}, ["--evaluation", "plain"], "plain counts of an evaluation would show"),
    ({}, ["--evaluation", "secure"], "a secure evaluation needs secure rounds (`homeroom district init --secure`)"),
    (PRIVATE, ["--evaluation", "plain"], "plain counts of an evaluation would show"),
    ({}, ["--insecure"], "--insecure says nothing: 127.0.0.1 is this machine alone"),
    ({}, ["--no-insecure", "--host", "localhost"], "--no-insecure says nothing: localhost is this machine alone"),
]


def begun(tmp_path: Path, fields: dict[str, Any]) -> Path:
    return make_folder(tmp_path, **({"min_devices": 5, "buffer_size": 5} if "secure" in fields else {}) | fields)


def value_of(configuration: DistrictConfiguration, name: str) -> Any:
    value: Any = configuration
    for part in name.split("."):
        value = getattr(value, part)
    return value


def words_of(template: list[str], tmp_path: Path) -> list[str]:
    """The words of a command line, with the files that they name."""
    from homeroom.contract.policy import Policy, sign_policy

    key, signer = new_key(), new_key()
    files = {name: tmp_path / f"{name}.file" for name in ("key", "certificate", "policy")}
    write_key(files["key"], key)
    files["certificate"].write_bytes(msgspec.json.encode(certify(ROOT, "aggregator", key, "District 7")))
    policy = Policy(institution="School 12", version=1, scopes={"head.*": "personal"})
    files["policy"].write_bytes(sign_policy(policy, signer, certify(ROOT, "institution", signer, "School 12")))
    files["other"] = write_bundle(tmp_path / "newer", version=2)
    return [word.format(**files) for word in template]


# Options on a second start


def test_every_option_of_serve_is_tried() -> None:
    options = {one.name for one in serve.params if isinstance(one, click.Option)}
    assert options == EFFECTS.keys() | REFUSALS.keys()
    assert options - set(ONCE_OPTIONS) == FIELD_OF_OPTION.keys()
    nothing_typed = serve.make_context("serve", ["district"]).params
    assert [name for name, value in nothing_typed.items() if value is not None] == ["folder"], "no default overrides"


@pytest.mark.parametrize("option", EFFECTS)
def test_an_option_on_a_second_start_takes_effect(option: str, tmp_path: Path, started: list[Service]) -> None:
    fields, words, value = EFFECTS[option]
    folder, name = begun(tmp_path, fields), FIELD_OF_OPTION[option]
    assert start(folder).exit_code == 0
    done = start(folder, *words)
    assert done.exit_code == 0, done.output
    assert value_of(started[1].configuration, name) == value
    lasting = name.startswith("round.")
    with closing(open_rounds(folder)) as rounds:
        assert len(rounds.log.configurations()) == lasting
        assert not lasting or value_of(DistrictConfiguration(round=rounds.configuration), name) == value
        assert rounds.verify() == []
    assert start(folder).exit_code == 0
    assert (value_of(started[2].configuration, name) == value) == (lasting or option == "port")
    assert started[2].changes == []


@pytest.mark.parametrize("option", REFUSALS)
def test_an_option_that_a_second_start_cannot_take_is_refused_by_name(
    option: str, tmp_path: Path, started: list[Service]
) -> None:
    fields, template, says = REFUSALS[option]
    folder, words = begun(tmp_path, fields), words_of(template, tmp_path)
    assert start(folder).exit_code == 0
    before = contents(folder)
    done = start(folder, *words)
    assert isinstance(done.exception, HomeroomError), done.output
    assert says in str(done.exception)
    assert option.startswith("tls") or done.exception.remedy or option == "roster"
    assert (contents(folder), len(started)) == (before, 1)


@pytest.mark.parametrize(("fields", "words", "says"), MORE_REFUSALS)
def test_what_does_not_go_together_is_refused(
    fields: dict[str, Any], words: list[str], says: str, tmp_path: Path, started: list[Service]
) -> None:
    folder = begun(tmp_path, fields)
    assert start(folder).exit_code == 0
    before = contents(folder)
    done = start(folder, *words)
    assert isinstance(done.exception, InputError), done.output
    assert says in str(done.exception)
    assert "listening" not in done.output
    assert contents(folder) == before
    with pytest.raises(InputError):  # whoever opens it
        open_service(folder, None, with_options(read_configuration(folder), {"buffer_size": 3, "by_school": True}))
    assert contents(folder) == before


def test_rounds_become_synchronous_and_asynchronous_again(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path)
    assert start(folder, "--deadline", 30, "--quorum", 2).exit_code == 0
    present = started[0].rounds.configuration
    assert (present.cohort, present.max_staleness) == (CohortRules(deadline_s=30, quorum=2), 0)
    asked = msgspec.structs.replace(present, cohort=None, max_staleness=20)
    write_file(folder, msgspec.structs.replace(read_configuration(folder), round=asked))
    assert start(folder).exit_code == 0
    assert [one.name for one in started[1].changes] == ["max_staleness", "cohort"]
    assert started[1].rounds.synchronous is None


def test_the_minimum_of_a_secure_sum_follows_the_devices_of_a_release(tmp_path: Path, started: list[Service]) -> None:
    folder = begun(tmp_path, {"secure": SECURE})
    assert start(folder, "--min-devices", 8).exit_code == 0
    assert [str(one) for one in started[0].changes] == ["min_devices 5 -> 8", "secure.minimum 5 -> 8"]


def test_two_files_for_tls_take_effect_together(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path)
    assert start(folder, "--tls-cert", tmp_path / "chain.pem", "--tls-key", tmp_path / "key.pem").exit_code == 0
    assert started[0].configuration.server.tls_key == tmp_path / "key.pem"


def test_an_option_that_says_what_is_so_already_is_taken(tmp_path: Path, started: list[Service]) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    folder = make_folder(tmp_path, **PRIVATE)
    same = ["--buffer", 2, "--epsilon", 8, "--clip-norm", 1, "--noise-multiplier", 2, "--delta", "1e-5"]
    once = ["--bundle", tmp_path / "bundle", "--root-key", tmp_path / "root.pem", "--institution", "District 7"]
    once += ["--key", folder / "key.pem"]
    done = start(folder, *same, *once)
    assert done.exit_code == 0, done.output
    assert started[0].changes == []


def test_a_policy_that_only_raises_the_minimum_takes_effect(tmp_path: Path, started: list[Service]) -> None:
    from homeroom.contract.policy import Policy, sign_policy

    signer, folder = new_key(), make_folder(tmp_path)
    certificate = certify(ROOT, "institution", signer, "School 12")
    (tmp_path / "policy").write_bytes(
        sign_policy(Policy(institution="School 12", version=1, min_devices=4), signer, certificate)
    )
    assert start(folder, "--policy", tmp_path / "policy").exit_code == 0
    assert [str(one) for one in started[0].changes] == ["min_devices 2 -> 4"]


def test_options_without_effect_are_refused_on_a_first_start_too(tmp_path: Path, started: list[Service]) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    folder = tmp_path / "district"
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem", "--secure"]
    for option, value in (("--codec", "int8"), ("--buffer", 8)):
        done = start(folder, *words, option, value)
        assert isinstance(done.exception, InputError), done.output
        assert f"{option} " in done.exception.what
        assert done.exception.remedy
    private = ["--epsilon", 8, "--clip-norm", 1, "--noise-multiplier", 2]
    assert start(folder, *words, *private, "--buffer", 8).exit_code == 0, "the divisor of a private sum"


@pytest.mark.parametrize("optimizer", ADAPTIVE)
def test_an_adaptive_optimizer_at_the_usual_rate_is_refused_on_a_first_start_too(
    optimizer: str, tmp_path: Path, started: list[Service]
) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    folder = tmp_path / "district"
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem"]
    done = start(folder, *words, "--optimizer", optimizer)
    assert isinstance(done.exception, InputError), done.output
    assert f"--optimizer {optimizer} moves each value by about the server rate" in done.exception.what
    assert "add --server-rate" in done.exception.remedy
    assert not folder.exists()
    assert start(folder, *words, "--optimizer", optimizer, "--server-rate", 0.1).exit_code == 0


def test_a_buffer_below_the_devices_of_a_release_is_spoken_of_on_a_first_start_too(
    tmp_path: Path, started: list[Service]
) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem", "--min-devices", 3]
    says = "a release also needs min_devices = 3"
    assert says in start(tmp_path / "a", *words, "--buffer", 2).output
    assert says not in start(tmp_path / "b", *words, "--buffer", 3).output


def test_what_a_folder_has_been_served_by_is_taken_again(tmp_path: Path, started: list[Service]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    secure = begun(tmp_path / "a", {"secure": SECURE, "codec": "int8"})
    assert start(secure, "--secure", "--codec", "int8", "--buffer", 5).exit_code == 0
    adaptive = begun(tmp_path / "b", {"optimizer": ADAM})
    assert start(adaptive, "--optimizer", "fedadam").exit_code == 0


def test_a_buffer_below_the_devices_of_a_release_is_spoken_of(tmp_path: Path, started: list[Service]) -> None:
    folder, says = make_folder(tmp_path, min_devices=3, buffer_size=3), "a release also needs min_devices = 3"
    assert says not in start(folder).output
    for words in (["--buffer", 2], []):
        assert says in start(folder, *words).output
    checked = CliRunner().invoke(homeroom, ["district", "configure", str(folder), "--check"])
    assert says in checked.output


# A start that is cut short


def test_a_start_that_is_killed_between_file_and_log_leaves_one_or_the_other(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_service(folder).close()
    script = "import os, sys; from homeroom_aggregator.merge.rounds import Rounds; from homeroom.cli.main import main;"
    script += "Rounds.configure = lambda *_: os._exit(9); main(sys.argv[1:])"
    words = ["district", "serve", str(folder), "--port", "0", "--buffer", "4"]
    assert subprocess.run([sys.executable, "-c", script, *words], timeout=60, stdout=subprocess.DEVNULL).returncode == 9
    with closing(open_rounds(folder)) as rounds:
        assert rounds.configuration.buffer_size == 2
        assert rounds.verify() == []
    assert read_configuration(folder).round.buffer_size == 4
    with closing(open_service(folder)) as service:
        assert [str(one) for one in service.changes] == ["buffer_size 2 -> 4"]


@pytest.mark.parametrize("broken", ["file", "log"])
def test_what_cannot_be_written_changes_nothing_in_the_log(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path)
    open_service(folder).close()
    before = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise InputError("no space left")

    wanted = with_options(read_configuration(folder), {"buffer_size": 4})
    with monkeypatch.context() as patched:
        if broken == "file":
            patched.setattr("homeroom_aggregator.admin.configuration_file.write_durable", full)
        else:
            patched.setattr(Rounds, "_note", full)
        with pytest.raises(InputError, match="no space"):
            open_service(folder, None, wanted)
    after = contents(folder)
    assert after["log"] == before["log"]
    assert (after == before) == (broken == "file")
    open_service(folder, None, wanted).close()
    with closing(open_rounds(folder)) as rounds:
        assert rounds.configuration.buffer_size == 4


def test_a_start_beside_a_running_server_changes_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with closing(open_service(folder)):
        before = (folder / CONFIGURATION_FILE).read_bytes()
        with pytest.raises(HomeroomError):
            open_service(folder, None, with_options(read_configuration(folder), {"buffer_size": 4}))
        assert (folder / CONFIGURATION_FILE).read_bytes() == before


def test_a_second_server_says_only_that_the_folder_is_in_use(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with closing(open_service(folder)):
        done = start(folder)
    assert isinstance(done.exception, HomeroomError)
    assert done.output == ""


# Devices


def test_a_device_gets_the_new_signed_configuration_and_what_it_made_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # it holds no graphs
    folder = make_folder(tmp_path, codec="int8", min_devices=1)
    (invitation,) = invite_devices(folder, "http://district.example", 1)
    steps: list[tuple[dict[str, Any], Callable[[Device], None]]] = [
        ({}, lambda device: None),
        ({"codec": "topk", "buffer_size": 1, "server_rate": 0.5}, lambda device: learn(device, 2.0**-10)),
    ]
    for number, (options, act) in enumerate(steps):
        service = open_service(folder, None, with_options(read_configuration(folder), options))
        with running(service) as address, Device.open(tmp_path / "room", tmp_path / "bundle") as device:
            set_network(device.store, address=address, lan="off")
            if number == 0:
                here = msgspec.structs.replace(invitation, address=address)
                (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(here))
                device.join(tmp_path / "invitation.json")
                learn(device, 2.0**-10)
                from homeroom.federation.make_update import queue_newest_update

                assert queue_newest_update(device.store, device.bundle).code == "queued"  # as int8, before the change
            else:
                report = device.sync()
                assert (len(report.sent), dict(report.refused), report.version) == (1, {}, 1)
                agreed = read_agreement(device.store).configuration
                assert agreed is not None
                assert (agreed.codec, agreed.earlier_codecs, agreed.buffer_size) == ("topk", ("int8",), 1)
                act(device)
                assert device.sync().version == 2
        if number:
            assert service.rounds.verify() == []
            np.testing.assert_allclose(service.rounds.state.theta[:7], START[:7] + 2.0**-10, rtol=0, atol=1e-6)
        service.close()


def test_the_announced_configuration_is_the_one_in_force(tmp_path: Path) -> None:
    folder, school = make_folder(tmp_path), School()
    wanted = with_options(read_configuration(folder), {"buffer_size": 4, "proximal": 0.5})
    service = open_service(folder, None, wanted)
    with running(service) as address:
        (invitation,) = invite_devices(folder, address, 1)
        with closing(Client(join(invitation, school.key), school.key)) as client:
            assert client.round() == service.rounds.configuration
            assert client.round().proximal == 0.5
    service.close()
