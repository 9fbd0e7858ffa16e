"""A new district: root key, certificates, the bundle under that root, and the invitations of its schools.

Each step is whole or not there, and is left as it is by the next run: so a making that was killed is finished by the
same command.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.invitation import read_invitation
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import Role, certify, fingerprint, new_key, public_hex, read_key, write_key
from homeroom.errors import InputError
from homeroom.runtime.bundle import Bundle, install, read_bundle_id, write_signature
from homeroom.runtime.fallback import take_along
from homeroom.system.files import make_directory, write_durable
from homeroom.system.installation import quoted
from homeroom_aggregator.admin import invitations
from homeroom_aggregator.admin.configuration import FIELD_OF_OPTION, DistrictConfiguration, shown_option
from homeroom_aggregator.admin.configuration_file import CONFIGURATION_FILE, read_configuration, write_file
from homeroom_aggregator.admin.folder import (
    FACTS_FILE,
    ROSTER_FILE,
    check_statistics,
    create_folder,
    narrow_by_policy,
    open_log,
    read_facts,
)
from homeroom_aggregator.admin.invitations import InvitationRequest
from homeroom_aggregator.admin.reach import reached
from homeroom_aggregator.state.members import Members
from homeroom_aggregator.state.one_time_codes import code_digest

ROOT_KEY_FILE, EXPORTER_KEY_FILE, PAGE_FILE = "root.pem", "exporter.pem", "invitations.html"
ROSTER_KEY_FILE = "roster.pem"  # signs which devices may take part in secure rounds


def check_places(folder: Path, keys: Path, out: Path) -> None:
    """InputError where keys or invitations would lie in the folder that is served and backed up."""
    for path, what in ((keys, "the root key"), (out, "invitations")):
        if path.resolve().is_relative_to(folder.resolve()):
            says = f"{what} would lie in the server's folder"
            raise InputError(says, where=str(path), remedy="keep them apart from the server")


def check_same(folder: Path, bundle: Path, name: str, keys: Path) -> bool:
    """Whether the folder is made already; InputError where it is another district's."""
    if not (folder / FACTS_FILE).exists():
        return False
    facts, root = read_facts(folder), keys / ROOT_KEY_FILE
    same = facts.institution == name and facts.bundle_id == read_bundle_id(bundle)
    if not same or (root.exists() and fingerprint(public_hex(read_key(root))) != facts.root):
        says = f"is the folder of {facts.institution} already, with another name, bundle or root key"
        raise InputError(says, where=str(folder), remedy="choose another folder, or give what it was made with")
    return True


def check_made_so(folder: Path, wanted: DistrictConfiguration, typed: Iterable[str], policy: Path | None) -> None:
    """InputError where the folder is made already, otherwise than these options say: then they would do nothing.

    wanted: the configuration by all options. typed: the options of `FIELD_OF_OPTION` that were given.
    """
    if not (folder / CONFIGURATION_FILE).exists():  # of a making that was killed
        return
    facts, present, idle = read_facts(folder), read_configuration(folder), list[str]()
    for option in typed:
        field = "round.secure.minimum" if option == "secure" else FIELD_OF_OPTION[option]
        if _value(present, field) != _value(wanted, field):
            idle.append(shown_option(option))
    if set(wanted.server.addresses or ()) - set(present.server.addresses or ()):
        idle.append("--address")
    if policy and narrow_by_policy(present.round, policy, facts.root, facts.certificate.name) != present.round:
        idle.append("--policy")
    if idle:
        says, change = (
            f"is made already, and otherwise: {', '.join(idle)} would say nothing",
            "`homeroom district serve`",
        )
        raise InputError(
            says, where=str(folder), remedy=f"leave it out; {change} and district.toml change what may change"
        )


def _value(configuration: DistrictConfiguration, field: str) -> Any:
    value: Any = configuration
    for name in field.split("."):
        value = getattr(value, name, None)
    return value


def check_bundle(bundle: Path, configuration: RoundConfiguration) -> None:
    """Refuses a bundle that is none, or that has nothing for the statistics asked for, before any key is made."""
    read_bundle_id(bundle)
    if configuration.statistics.mode != "off":
        with tempfile.TemporaryDirectory() as scratch:
            check_statistics(configuration, install(bundle, Path(scratch), root=None), bundle)


def make_keys(keys: Path, name: str, *, secure: bool) -> None:
    """The root key, and beside it keys with certificates for bundles to come and, if `secure`, for rosters.

    Only what is missing is made.
    """
    make_directory(keys)
    root, files = _kept(keys / ROOT_KEY_FILE), list[tuple[Role, str]]([("exporter", EXPORTER_KEY_FILE)])
    files += [("roster", ROSTER_KEY_FILE)] if secure else []
    for role, file in files:
        certificate, path = certify(root, role, _kept(keys / file), name), (keys / file).with_suffix(".json")
        if not path.exists():
            write_durable(path, msgspec.json.format(msgspec.json.encode(certificate), indent=1))


def _kept(path: Path) -> Ed25519PrivateKey:
    if not path.exists() or not path.stat().st_size:  # empty: of a making that was killed
        path.unlink(missing_ok=True)
        write_key(path, new_key())
    return read_key(path)


@contextlib.contextmanager
def under_root(bundle: Path, keys: Path, name: str) -> Iterator[Bundle]:
    """The bundle, verified, signed by the district's exporter key where another root vouches for it."""
    with tempfile.TemporaryDirectory() as scratch:
        installed = take_along(install(bundle, Path(scratch), root=None), bundle)
        root, exporter = read_key(keys / ROOT_KEY_FILE), read_key(keys / EXPORTER_KEY_FILE)
        if installed.certificate.root != public_hex(root):
            write_signature(installed.path, installed.manifest, certify(root, "exporter", exporter, name), exporter)
        yield installed


def make_folder(
    folder: Path, bundle: Path, name: str, keys: Path, configuration: DistrictConfiguration, policy: Path | None = None
) -> None:
    """The aggregator's folder, with its bundle and `district.toml`.

    folder, bundle: as of `create_folder`. name: of the district. keys: of `make_keys`. policy: signed, or None.
    """
    wanted = msgspec.structs.replace(configuration, institution=name)
    if not (folder / FACTS_FILE).exists():
        with under_root(bundle, keys, name) as vouched:
            root, rounds = read_key(keys / ROOT_KEY_FILE), wanted.round
            create_folder(folder, vouched.path, institution=name, root_key=root, configuration=rounds, policy=policy)
    if not (folder / CONFIGURATION_FILE).exists():
        write_file(folder, msgspec.structs.replace(wanted, round=read_facts(folder).configuration))


def invite_schools(
    folder: Path, address: str, schools: Sequence[InvitationRequest], out: Path, days: float
) -> list[tuple[InvitationRequest, Path]]:
    """The schools' invitations as files in `out` with a page to print; those of before, where they count already.

    folder, address: as of `make_invitations`. days: until they expire.
    Raises InputError where some count already and others do not, or a file in `out` is another district's.
    """
    planned, page = invitations.plan_files(schools, out, anew=True), out / PAGE_FILE
    _check_own(folder, [path for _, path in planned if path.exists()])
    if not (page.exists() and _recorded(folder, [path for _, path in planned])):
        make_directory(out)
        invitations.write_invitations(folder, address, planned, days, qr=False, page=page)
    return planned


def few_schools_note(configuration: RoundConfiguration, schools: Sequence[InvitationRequest]) -> str:
    """What to say where fewer schools are invited than a release needs; empty where they are enough."""
    invited = [school for school in schools if school.role == "device"]
    there = len({school.school for school in invited} - {""}) + sum(s.count for s in invited if not s.school)
    if configuration.k_of == "devices" or there >= configuration.min_devices:
        return ""
    return (
        f"a version needs devices of {configuration.min_devices} different schools, and {there} "
        f"{'is' if there == 1 else 'are'} invited: invite more, or begin a folder with --k-of devices"
    )


def _check_own(folder: Path, paths: Iterable[Path]) -> None:
    """InputError where a file that would be written is another district's invitation, or none."""
    root = read_facts(folder).root
    for path in paths:
        if read_invitation(path).root != root:
            raise InputError("is another district's invitation", where=str(path), remedy="choose another --out")


def _recorded(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether the aggregator knows the codes of these files; InputError where it knows some of them only."""
    with contextlib.closing(open_log(folder)) as log:
        members = Members(log.database)
        known = [path.exists() and bool(members.invitation(code_digest(read_invitation(path).code))) for path in paths]
    if any(known) and not all(known):
        says = f"{known.count(True)} of {len(known)} invitations are here already"
        raise InputError(says, where=str(paths[0].parent), remedy="`homeroom district invite` makes further ones")
    return all(known)


def checklist(folder: Path, keys: Path, out: Path, schools: Sequence[InvitationRequest], address: str) -> list[str]:
    """What is next, a line each."""
    facts, key = read_facts(folder), keys / ROSTER_KEY_FILE
    roster = (
        f"when all have joined: homeroom trust roster {quoted(folder / ROSTER_FILE)} --key {quoted(key)} "
        f"--members {quoted(folder)}"
    )
    missing = sorted({school.school for school in schools if school.role == "device" and not school.consent})
    consents = [f"record the consent of {', '.join(missing)}: on the dashboard, under Schools"] if missing else []
    steps = [
        f"keep {keys} off this machine, in two places: who has {ROOT_KEY_FILE} is the district",
        f"homeroom district serve {quoted(folder)}   ({reached(folder, address)})",
        f"print {out / PAGE_FILE}, and give each school its invitation with its file",
        "each school: homeroom device join classroom/ ITS-FILE, then homeroom device run classroom/ --inbox lessons/",
        *consents,
        *([roster] if facts.configuration.secure else ()),
        f"homeroom district dashboard {quoted(folder)}   (a link for your browser: who came, what waits)",
        f"homeroom district backup {quoted(folder)} OUT   (every week, to another machine)",
    ]
    return [f"root: {facts.root}", *(f"{number}. {step}" for number, step in enumerate(steps, 1))]
