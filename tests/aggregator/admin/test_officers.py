"""What an officer may do, by role: nobody acts on members or invitations of the own rank or a higher one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Attack

from aggregator.institution import make_folder
from homeroom.errors import Code, InputError
from homeroom_aggregator.admin.configuration import ServerSection
from homeroom_aggregator.admin.folder import make_invitations
from homeroom_aggregator.admin.officers import OPERATOR, Officer, acting, change_consent, take_back
from homeroom_aggregator.state.members import Role

OFFICERS = (
    Officer("district", "district"),
    Officer("auditor", "auditor"),
    Officer("school", "school", "Hill School"),
    Officer("device", "device"),
)


@pytest.mark.attack("who is speaking", "an officer who takes the invitation of an equal back")
@pytest.mark.parametrize("role", ["district", "auditor", "school", "device"])
@pytest.mark.parametrize("officer", OFFICERS, ids=lambda officer: officer.name)
def test_invitations_are_taken_back_by_whoever_ranks_above(
    officer: Officer, role: Role, tmp_path: Path, attack: Attack
) -> None:
    folder = make_folder(tmp_path)
    school = "Hill School" if role in ("school", "device") else ""
    make_invitations(folder, "https://d.example", [(school, role)])
    with acting(folder) as members:
        (row,) = members.invitations()
        if officer.role == "district" and role != "district":
            take_back(members, officer, row["invitation"])
        else:
            with pytest.raises(InputError) as refused:
                take_back(members, officer, row["invitation"])
            assert refused.value.code == Code.NOT_ALLOWED
            attack.got = int(members.invitations()[0]["status"] != "open")
            attack.noticed = refused.value.what
            take_back(members, OPERATOR, row["invitation"])
        assert members.invitations()[0]["status"] == "taken back"


@pytest.mark.attack("who is speaking", "an officer who speaks for another school")
def test_a_school_speaks_for_itself_only(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path)
    make_invitations(folder, "https://d.example", [("Hill School", "device"), ("Lake School", "device")])
    with acting(folder) as members:
        for officer in (OFFICERS[1], OFFICERS[3], Officer("lake", "school", "Lake School")):
            with pytest.raises(InputError, match="speaks for itself"):
                change_consent(members, officer, "Hill School", "a letter", give=True)
        attack.got = int(members.consented("Hill School"))
        for officer in (OPERATOR, OFFICERS[0], OFFICERS[2]):
            change_consent(members, officer, "Hill School", "a letter", give=True)
            assert members.consented("Hill School")
            change_consent(members, officer, "Hill School", "a letter", give=False)
            assert not members.consented("Hill School")


@pytest.mark.parametrize("role", ["school", "king"])
def test_a_role_without_its_school_is_none(role: Role, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs a school|is no role"):
        make_invitations(make_folder(tmp_path), "https://d.example", [("", role)])


def test_plain_http_and_a_certificate_exclude_each_other() -> None:
    cert, key = Path("cert.pem"), Path("key.pem")
    assert ServerSection(insecure=True).insecure
    assert ServerSection(tls_cert=cert, tls_key=key).tls_cert
    for wrong in ({"tls_cert": cert}, {"tls_key": key}, {"tls_cert": cert, "tls_key": key, "insecure": True}):
        with pytest.raises(ValueError, match=r"tls_cert"):
            ServerSection(**wrong)
