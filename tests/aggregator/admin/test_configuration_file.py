"""The configuration as the file district.toml: written, read, refused with its place, compared with the log."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from aggregator.admin.starting import contents, start
from aggregator.institution import ROOT, School, make_folder, write_bundle
from homeroom.cli.main import homeroom
from homeroom.contract.invitation import read_invitation
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import CohortRules, RoundConfiguration, ServerOptimizer
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import write_key
from homeroom.errors import InputError
from homeroom_aggregator.admin import backup, configuration_file
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.certificate import lan_host
from homeroom_aggregator.admin.configuration import (
    CHANGE_TEXT,
    DERIVED,
    FIELD_OF_OPTION,
    DeviceLimits,
    DistrictConfiguration,
    LogSection,
    RequestLimits,
    ServerSection,
    change_of,
    field_names,
    with_options,
)
from homeroom_aggregator.admin.configuration_file import (
    CONFIGURATION_FILE,
    read_configuration,
    read_file,
    to_toml,
    write_file,
)
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.admin.reach import invited
from homeroom_aggregator.merge.configuration_change import ROUND_FIELDS
from homeroom_aggregator.server.service import Service, open_service

DOCS = Path(__file__).resolve().parents[3] / "docs" / "aggregator.md"
SECURE, ADAM = SecureRules(), ServerOptimizer(name="fedadam")
SYNCHRONOUS = {"max_staleness": 0, "cohort": CohortRules(deadline_s=60, quorum=1)}
PRIVATE = {"privacy": Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5)}


# The file


def test_every_field_stands_in_the_file_and_is_explained() -> None:
    text = to_toml(DistrictConfiguration())
    for name in set(field_names()) - DERIVED:
        table, _, key = name.rpartition(".")
        if f"[{name}]" not in text:
            block = text.split(f"[{table}]\n")[1].split("\n\n")[0] if table else text
            line = next(row for row in block.splitlines() if row.lstrip("#").startswith(f"{key} ="))
            above = block[: block.index(line)].splitlines()
            assert above[-1].startswith("# "), name
            assert "Changes:" in " ".join(above[-4:]), name
            said = " ".join(row[2:] for row in above[-4:] if row.startswith("# ")).partition("Changes:")[0]
            assert said.strip(), f"{name} has no line in the docstring of its type"


def test_the_docs_have_a_row_for_every_field() -> None:
    option_of = {name: f"`--{option.replace('_', '-')}`" for option, name in FIELD_OF_OPTION.items()}
    option_of |= {"institution": "`--institution`", "round.buffer_size": "`--buffer`", "round.scopes": "`--policy`"}
    option_of |= {"server.addresses": "`--address`", "server.trusted_proxies": "`--trusted-proxy`"}
    rules = {f"round.{name}": rule.waiting for name, rule in ROUND_FIELDS.items()}
    rows = [
        f"| `{name}` | {option_of.get(name, '')} | {CHANGE_TEXT[change_of(name)]} | {rules.get(name, '')} |"
        for name in field_names()
    ]
    assert "\n".join(rows) in DOCS.read_text(), "\n".join(rows)


text = st.text(st.characters(codec="utf-8"), max_size=20)
CONFIGURATIONS = st.builds(
    DistrictConfiguration,
    institution=text,
    round=st.builds(
        RoundConfiguration,
        bundle_id=st.just("0" * 64),
        codec=st.sampled_from(["fixed32", "int8", "int4", "topk"]),
        buffer_size=st.integers(1, 1 << 53),
        max_staleness=st.just(0),
        max_norm=st.floats(1e-300, 2.0**53),
        scopes=st.dictionaries(text, st.sampled_from(["shared", "institution", "personal"]), max_size=3),
        optimizer=st.sampled_from([None, ADAM]),
        cohort=st.sampled_from([None, CohortRules(deadline_s=1e-9, quorum=1)]),
    ),
    server=st.builds(ServerSection, host=text, announce=st.booleans(), port=st.integers(0, 65535)),
    log=st.builds(LogSection, retain=st.integers(0, 99)),
    device_limits=st.builds(DeviceLimits, burst=st.integers(0, 9)),
    request_limits=st.builds(RequestLimits, body_s=st.floats(1e-5, 1e9)),
)


@settings(max_examples=60)
@given(CONFIGURATIONS)
def test_what_is_written_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, one: DistrictConfiguration
) -> None:
    path = tmp_path_factory.mktemp("file") / CONFIGURATION_FILE
    path.write_text(to_toml(one))
    assert read_file(path) == one


def test_parts_and_paths_are_read_as_they_were(tmp_path: Path) -> None:
    for fields in ({"secure": SECURE}, PRIVATE, SYNCHRONOUS):
        asked = RoundConfiguration(bundle_id="0" * 64, **fields)
        server = ServerSection(tls_cert=Path("a b.pem"), tls_key=Path("\N{SNOWMAN}.pem"))
        one = DistrictConfiguration(round=asked, server=server)
        write_file(tmp_path, one)
        assert read_file(tmp_path / CONFIGURATION_FILE) == one


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("buffer_size = 2", "bufer_size = 2", "[round] bufer_size is no field"),
        ("buffer_size = 2", 'buffer_size = "2"', "[round] buffer_size: Expected `int`"),
        ("buffer_size = 2", "buffer_size = 0", "[round] buffer_size: Expected `int` >= 1"),
        ("max_norm = 50.0", "max_norm = inf", "[round] max_norm: inf is not a number"),
        ("max_norm = 50.0", "max_norm = nan", "[round] max_norm: nan is not a number"),
        ("buffer_size = 2", "buffer_size = 18014398509481984", "[round] buffer_size"),
        ("buffer_size = 2", f"buffer_size = 0x{'f' * 6000}", "[round] buffer_size: more than"),
        ("[server]", "[sever]", "sever is no field"),
        ("port = 8340", "port = 99999", "[server] port: Expected `int` <= 65535"),
        ("#tls_cert =", 'tls_cert = "a.pem"', "[server]: tls_cert and tls_key belong together"),
        ("#tls_cert =", 'tls_cert = "a"\ntls_key = "b"\ninsecure = true', "[server]: insecure says plain http"),
        ("trusted_proxies = []", 'trusted_proxies = ["proxy"]', "[server]"),
        ("#addresses =", 'addresses = ["https://a:99999"]', "[server]: https://a:99999 has no port"),
        ("#addresses =", 'addresses = ["ftp://a"]', "[server]"),
        ("buffer_size = 2", "buffer_size = ", "not TOML"),
        ("buffer_size = 2", f"buffer_size = {'9' * 6000}", "not TOML"),
        ("buffer_size = 2", 'buffer_size = 2\nbundle_id = "x"', "[round] bundle_id is not for people"),
        ("#[round.cohort]", "[round.cohort]\nquorum = 1", "[round] cohort: Object missing required field `deadline_s`"),
        ("#[round.cohort]", "[round.cohort]\nquorum = 1\ndeadline_s = 60", "[round]: a synchronous round has"),
        ('"District 7"', '"District 8"', "institution cannot change"),
        ("#[round.secure]", "[round.secure]", "secure cannot change"),
        ("scale_bits = 20", "scale_bits = 16", "scale_bits cannot change"),
        ("min_devices = 2", "min_devices = 1", "min_devices cannot be lowered"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_its_place(
    before: str, after: str, says: str, tmp_path: Path, started: list[Service]
) -> None:
    folder = make_folder(tmp_path)
    path = folder / CONFIGURATION_FILE
    assert start(folder).exit_code == 0
    known = contents(folder)
    known[CONFIGURATION_FILE] = path.read_bytes().replace(before.encode(), after.encode(), 1)
    path.write_bytes(known[CONFIGURATION_FILE])
    for words in (["district", "serve", str(folder), "--port", "0"], ["district", "configure", str(folder), "--check"]):
        done = CliRunner().invoke(homeroom, words)
        assert isinstance(done.exception, InputError), done.output
        assert (says in str(done.exception), str(path) in str(done.exception)) == (True, True), str(done.exception)
    assert contents(folder) == known


def test_a_byte_order_mark_changes_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_service(folder).close()
    path = folder / CONFIGURATION_FILE
    known = read_file(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_file(path) == known


def test_a_folder_without_a_file_gets_one_of_what_its_log_has_come_to(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=3, **PRIVATE)
    open_service(folder).close()
    path = folder / CONFIGURATION_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name == "nt"
    assert read_file(path, read_facts(folder).bundle_id).round == read_facts(folder).configuration
    open_service(folder, None, with_options(read_configuration(folder), {"buffer_size": 9})).close()
    text = path.read_text()
    path.unlink()
    with closing(open_service(folder)) as service:
        assert service.changes == []
    assert path.read_text() == text
    assert "buffer_size = 9" in text


def test_an_edited_file_comes_into_force_at_the_next_start_and_stays_as_it_was_written(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_service(folder).close()
    path = folder / CONFIGURATION_FILE
    path.write_text("# ours\n" + path.read_text().replace("buffer_size = 2", "buffer_size = 4"))
    done = CliRunner().invoke(homeroom, ["district", "configure", str(folder), "--check"], catch_exceptions=False)
    assert done.output == "with the next start: buffer_size 2 -> 4\n"
    with closing(open_service(folder)) as service:
        assert service.rounds.configuration.buffer_size == 4
    assert path.read_text().startswith("# ours\n")
    done = CliRunner().invoke(homeroom, ["district", "configure", str(folder)], catch_exceptions=False)
    assert "buffer_size = 4" in done.output
    assert done.output.endswith("fits what is in force\n")


def test_a_file_that_is_there_before_the_folder_is_made_counts(tmp_path: Path, started: list[Service]) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    folder = tmp_path / "district"
    folder.mkdir()
    (folder / CONFIGURATION_FILE).write_text('institution = "District 9"\n[round]\nmax_norm = 7.0\n[log]\nretain = 5\n')
    bundle = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem"]
    done = start(folder, *bundle, "--buffer", 8)
    assert done.exit_code == 0, done.output
    one = started[0].configuration
    assert (one.institution, one.round.max_norm, one.round.buffer_size, one.log.retain) == ("District 9", 7.0, 8, 5)
    assert read_facts(folder).configuration == one.round
    assert read_configuration(folder) == msgspec.structs.replace(one, server=ServerSection(addresses=()))


@pytest.mark.parametrize(
    ("server", "invited", "shown"),
    [
        ({}, "http://127.0.0.1:8340", "http://127.0.0.1:8340"),
        ({"host": "homeroom.school.example", "port": 9000}, "https://homeroom.school.example:9000", None),
        ({"host": "10.0.0.7", "insecure": True}, "http://10.0.0.7:8340", None),
        ({"addresses": ("https://a.example/b", "http://127.0.0.1:8340")}, "https://a.example/b", None),
        ({"host": "::1", "tls_cert": Path("a.pem"), "tls_key": Path("b.pem")}, "https://[::1]:8340", None),
        ({"host": "0.0.0.0", "port": 9000}, f"https://{lan_host('0.0.0.0')}:9000", "https://127.0.0.1:9000"),
        ({"host": "::", "insecure": True}, f"http://{lan_host('::')}:8340", "http://[::1]:8340"),
        ({"port": 0}, None, None),
    ],
)
def test_invitations_and_the_dashboard_have_the_address_of_the_file(
    server: dict[str, Any], invited: str | None, shown: str | None, tmp_path: Path
) -> None:
    folder, out = make_folder(tmp_path), tmp_path / "out"
    out.mkdir()
    open_service(folder).close()
    write_file(folder, msgspec.structs.replace(read_configuration(folder), server=ServerSection(**server)))
    done = CliRunner().invoke(homeroom, ["district", "invite", str(folder), "--out", str(out)])
    if invited:
        (written,) = out.iterdir()
        assert read_invitation(written).address == invited
    else:
        assert isinstance(done.exception, InputError)
        assert "--address" in str(done.exception)
        assert list(out.iterdir()) == []
    done = CliRunner().invoke(homeroom, ["district", "dashboard", str(folder)])
    if not (invited or shown):
        assert isinstance(done.exception, InputError)
        return
    assert done.output.splitlines()[-1].startswith(f"{shown or invited}/dashboard/enter?code=")


def test_it_goes_with_a_backup_and_with_a_newer_bundle(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, codec="int8")
    wanted = with_options(read_configuration(folder), {"buffer_size": 4, "codec": "topk"})
    open_service(folder, None, wanted).close()
    write_file(folder, msgspec.structs.replace(read_configuration(folder), log=LogSection(retain=5)))
    backup.backup(folder, tmp_path / "monday")
    backup.restore(tmp_path / "monday", tmp_path / "restored")
    upgrade_bundle(tmp_path / "newer", folder, write_bundle(tmp_path / "second", version=2))
    for place in (tmp_path / "restored", tmp_path / "newer"):
        with closing(open_service(place)) as service:
            assert service.changes == []
            present = service.rounds.configuration
            assert (present.buffer_size, present.codec, present.earlier_codecs) == (4, "topk", ("int8",))
            assert service.rounds.retain == 5
            assert service.rounds.verify() == []
    with pytest.raises(InputError, match="is a backup"):
        open_service(tmp_path / "monday")
    backup.restore(tmp_path / "monday", tmp_path / "untouched")


def test_a_backup_without_a_file_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    backup.backup(folder, tmp_path / "monday")
    monkeypatch.setattr(configuration_file, "open_log", lambda _: pytest.fail("an older log would be migrated"))
    with pytest.raises(InputError, match="is a backup"):
        open_service(tmp_path / "monday")


def test_sections_reach_what_they_set(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    sections = {
        "log": LogSection(retain=3, checkpoint_entries=2, checkpoint_mib=1),
        "device_limits": DeviceLimits(burst=1, requests_a_minute=1),
        "request_limits": RequestLimits(bodies_mib=3),
    }
    write_file(folder, msgspec.structs.replace(read_configuration(folder), **sections))
    with closing(open_service(folder)) as service:
        assert (service.meter.limits, service.room.limit_bytes) == (sections["device_limits"], 3 << 20)
        for school in (School(), School()):
            service.rounds.update(school.update(service.rounds.configuration), school.name)
        assert service.rounds.log.checkpoints(), "after two entries"


def test_what_is_missing_in_a_file_has_its_default_and_a_missing_file_changes_nothing(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_service(folder, None, with_options(read_configuration(folder), {"buffer_size": 9})).close()
    path = folder / CONFIGURATION_FILE
    text = path.read_text()
    path.write_text("")
    with pytest.raises(InputError, match="institution cannot change"):
        open_service(folder)
    path.write_text(text.replace("buffer_size = 9\n", ""))
    with closing(open_service(folder)) as service:
        assert service.rounds.configuration.buffer_size == service.rounds.configuration.min_devices
    path.unlink()
    with closing(open_service(folder)) as service:
        assert service.changes == []


def test_a_start_says_whether_private_rounds_will_learn(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path, privacy=Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5))
    done = start(folder)
    assert not done.exit_code, done.exception
    said = done.output
    assert "private rounds: the noise of a release will be 6.6 times its signal" in said
    assert "it needs about 5 devices, or --subjects" in said
    assert "it should learn" in start(folder, "--buffer", 80).output


def test_comments_of_people_stay_where_an_option_rewrites_the_file(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path)
    path = folder / CONFIGURATION_FILE
    assert start(folder, "--buffer", 3).exit_code == 0
    text = path.read_text().replace("buffer_size = 3", "# asked by Ms Lee\nbuffer_size = 3  # three schools")
    path.write_text(f"# Ask Ms Lee first.\n{text}\n# the end\n")
    assert start(folder, "--buffer", 4, "--max-staleness", 9).exit_code == 0
    after = path.read_text()
    assert "# asked by Ms Lee\nbuffer_size = 4  # three schools" in after
    assert after.startswith("# Ask Ms Lee first.\n")
    assert after.endswith("# the end\n")
    assert started[-1].rounds.configuration.max_staleness == 9


def test_comments_stay_where_an_invitation_adds_an_address(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = folder / CONFIGURATION_FILE
    path.write_text(
        '# Ask Ms Lee first.\ninstitution = "District 7"\n\n# how it is reached\n[server]  # two names\naddresses = [\n'
        '  "https://hill.example",  # the "Hill" School\'s\n  # and later more\n]\nport = 8341  # free here\n'
    )
    invited(folder, "https://dale.example/homeroom")
    after = path.read_text()
    for kept in ("# Ask Ms Lee first.\n", "# how it is reached\n[server]  # two names\n", "port = 8341  # free here\n"):
        assert kept in after
    added = 'addresses = ["https://hill.example", "https://dale.example/homeroom"]\n'
    assert f'# the "Hill" School\'s\n# and later more\n{added}' in after
    assert not path.with_name("district.toml.before").exists()


def test_a_file_of_few_lines_and_one_in_another_form_are_edited_too(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path)
    path = folder / CONFIGURATION_FILE
    path.write_text('institution = "District 7"  # ours\n\n[round] # of all\nmin_devices = 2\nbuffer_size = 2\n')
    assert start(folder, "--buffer", 4, "--max-staleness", 9).exit_code == 0
    assert path.read_text().startswith('institution = "District 7"  # ours\n\n[round] # of all\n')
    assert (started[-1].rounds.configuration.buffer_size, read_configuration(folder).round.max_staleness) == (4, 9)
    odd = '# mine\ninstitution = "District 7"\nround = {min_devices = 2, buffer_size = 4, max_staleness = 9}\n'
    path.write_text(odd)
    assert start(folder, "--buffer", 5).exit_code == 0
    assert read_configuration(folder).round.buffer_size == 5
    assert path.with_name("district.toml.before").read_text() == odd


def test_a_link_in_place_of_the_file_is_remarked(tmp_path: Path, started: list[Service]) -> None:
    folder = make_folder(tmp_path)
    assert start(folder, "--buffer", 3).exit_code == 0
    (folder / CONFIGURATION_FILE).rename(tmp_path / "elsewhere.toml")
    (folder / CONFIGURATION_FILE).symlink_to(tmp_path / "elsewhere.toml")
    assert "is a link" in start(folder).output
