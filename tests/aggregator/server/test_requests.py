"""Devices and the aggregator over real HTTP: who is let in, what is refused, and that nothing else changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from aggregator.institution import START, School, latest, make_folder, running
from homeroom.contract import http_signatures
from homeroom.contract.invitation import Enrolment
from homeroom.contract.layout import Layout
from homeroom.contract.signing import new_key
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import AnswerError, NetworkError, TrustError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.service import Service, open_service


def folder(service: Service) -> Path:
    return service.rounds.log.database.path.parent


def enrol(service: Service, address: str, school: School | None = None) -> tuple[School, Client]:
    school = school or School()
    (invitation,) = invite_devices(folder(service), address, 1)
    return school, Client(join(invitation, school.key), school.key)


def test_two_schools_join_send_and_fetch_the_version_that_both_made(service: Service, address: str) -> None:
    (one, first), (two, second) = enrol(service, address), enrol(service, address)
    configuration = first.round()
    assert latest(first, 0) is None
    assert first.update(one.update(configuration, 0.25)) == "accepted"
    assert latest(first, 0) is None
    assert second.update(two.update(configuration, 0.75)) == "accepted"
    data = latest(first, 0)
    assert data is not None
    bundle = service.rounds.bundle
    header, theta = read_version(
        data, bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=first.enrolment.root
    )
    assert header.version == 1
    assert header.devices == {"ladder.table": 2, "head.grade": 2}
    np.testing.assert_array_equal(theta[:7], START[:7] + np.float32(0.5))
    np.testing.assert_array_equal(theta[7:], START[7:])  # the personal segment never left
    assert latest(second, 1) is None


def test_an_update_sent_twice_counts_once(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    data = school.update(client.round())
    assert [client.update(data), client.update(data)] == ["accepted", "already"]
    assert service.rounds.state.pending == 1


def test_an_update_sent_by_many_connections_at_once_counts_once(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    data = school.update(client.round())
    clients = [Client(client.enrolment, school.key) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: one.update(data), clients))
    assert sorted(found) == ["accepted", *["already"] * 7]
    assert service.rounds.state.pending == service.rounds.log.count("update") == 1


def test_what_is_withdrawn_before_it_comes_stays_out(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    data = school.update(client.round())
    update_id = read_update(data, service.rounds.configuration, service.rounds.rules.layout).header.update_id
    assert client.unlearn(update_id).status == "accepted"
    assert [client.update(data), client.unlearn(update_id).status, client.update(data)] == [
        "already",
        "accepted",
        "already",
    ]
    assert service.rounds.state.pending == 0


def test_an_invitation_enrols_one_device_and_may_be_repeated_by_it(service: Service, address: str) -> None:
    (invitation,) = invite_devices(folder(service), address, 1)
    school = School()
    join(invitation, school.key)
    join(invitation, school.key)
    with pytest.raises(TrustError, match="used by another"):
        join(invitation, new_key())
    assert service.members.count() == 1


def test_a_made_up_invitation_is_refused(service: Service, address: str) -> None:
    (invitation,) = invite_devices(folder(service), address, 1)
    with pytest.raises(TrustError, match="not one of ours"):
        join(msgspec.structs.replace(invitation, code="A" * 48), new_key())


def test_a_server_that_another_root_vouches_for_is_not_joined(service: Service, address: str) -> None:
    (invitation,) = invite_devices(folder(service), address, 1)
    with pytest.raises(AnswerError, match="this device trusts"):
        join(msgspec.structs.replace(invitation, root="0" * 64), new_key())
    assert service.members.count() == 0


def test_a_stranger_reads_and_sends_nothing(service: Service, address: str) -> None:
    _, client = enrol(service, address)
    stranger = School()
    outside = Client(client.enrolment, stranger.key)
    with pytest.raises(UpdateError) as caught:
        outside.round()
    assert caught.value.code == "unknown_device"
    with pytest.raises(UpdateError):
        outside.update(stranger.update(client.round()))
    with pytest.raises(UpdateError):
        outside.send("GET", "/v1/versions/latest")


def test_somebody_elses_update_is_refused(service: Service, address: str) -> None:
    _, client = enrol(service, address)
    with pytest.raises(UpdateError, match="another device"):
        client.update(School().update(client.round()))
    assert service.rounds.state.pending == 0


def signed_headers(address: str, path: str, body: bytes, school: School, nonce: str) -> dict[str, str]:
    request = http_signatures.Request("POST", address + path, {"host": address.removeprefix("http://")})
    http_signatures.sign_request(request, body, school.key, nonce)
    return dict(request.headers)


def test_a_recorded_request_cannot_be_replayed(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    body = school.update(client.round())
    nonce = httpx.get(f"{address}/v1/keys").headers[http_signatures.NONCE_HEADER]
    headers = signed_headers(address, "/v1/updates", body, school, nonce)
    first = httpx.post(f"{address}/v1/updates", content=body, headers=headers)
    again = httpx.post(f"{address}/v1/updates", content=body, headers=headers)
    assert (first.status_code, again.status_code) == (200, 401)
    assert again.json()["code"] == "nonce"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("body", lambda h, b: (h, b[:-1] + bytes([b[-1] ^ 1]))),
        ("digest", lambda h, b: ({**h, "Content-Digest": "sha-256=:" + "A" * 43 + "=:"}, b)),
        ("signature", lambda h, b: ({k: v for k, v in h.items() if k != "Signature"}, b)),
        ("nonce", lambda h, b: ({**h, "Signature-Input": h["Signature-Input"].replace('nonce="', 'nonce="x')}, b)),
        ("coverage", lambda h, b: ({**h, "Signature-Input": h["Signature-Input"].replace('"@path" ', "")}, b)),
    ],
)
def test_a_request_that_was_touched_on_the_way_is_refused(service: Service, address: str, part: str, change) -> None:  # type: ignore[no-untyped-def]
    school, client = enrol(service, address)
    body = school.update(client.round())
    nonce = httpx.get(f"{address}/v1/keys").headers[http_signatures.NONCE_HEADER]
    headers, sent = change(signed_headers(address, "/v1/updates", body, school, nonce), body)
    answer = httpx.post(f"{address}/v1/updates", content=sent, headers=headers)
    assert answer.status_code == 401, part
    assert set(answer.json()) == {"code", "message", "remedy"}
    assert service.rounds.state.pending == 0


def test_a_signed_request_for_one_path_does_not_open_another(service: Service, address: str) -> None:
    school, _ = enrol(service, address)
    nonce = httpx.get(f"{address}/v1/keys").headers[http_signatures.NONCE_HEADER]
    headers = signed_headers(address, "/v1/updates", b"{}", school, nonce)
    assert httpx.post(f"{address}/v1/unlearn", content=b"{}", headers=headers).status_code == 401


def test_an_update_is_bounded_before_it_is_read(service: Service, address: str) -> None:
    _, client = enrol(service, address)
    limit = service.rounds.configuration.update_limit_bytes
    with pytest.raises(NetworkError, match="more than"):  # it is refused unread, and so as no answer to this device
        client.update(bytes(limit + 1))


@pytest.mark.parametrize("data", [b"", b"HRUPDAT1", b"\x80\x04.", bytes(300)], ids=["empty", "cut", "pickle", "zeros"])
def test_what_is_no_update_is_refused_with_a_reason(service: Service, address: str, data: bytes) -> None:
    _, client = enrol(service, address)
    with pytest.raises(UpdateError) as caught:
        client.update(data)
    assert caught.value.code == "malformed"
    assert service.rounds.log.count("update") == 0


def test_the_client_says_so_where_nobody_answers(service: Service) -> None:
    enrolment = Enrolment(address="http://127.0.0.1:9", root="0" * 64, institution="x", bundle_id="0" * 64)
    with pytest.raises(NetworkError, match="no connection"):
        Client(enrolment, new_key()).round()


def test_after_a_restart_devices_go_on_with_a_fresh_nonce(tmp_path: Path) -> None:
    place_ = make_folder(tmp_path)
    service = open_service(place_)
    with running(service) as address:
        school, client = enrol(service, address)
        client.round()
    service.close()
    again = open_service(place_)
    with running(again) as address:
        moved = Client(msgspec.structs.replace(client.enrolment, address=address), school.key)
        moved._nonce = client._nonce  # of before the restart
        assert moved.update(school.update(moved.round())) == "accepted"
    again.close()


def test_health_metrics_and_openapi(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    client.update(school.update(client.round()))
    assert httpx.get(f"{address}/v1/health").json() == {"status": "ok", "version": 0}
    told = httpx.get(f"{address}/v1/metrics").text
    assert "homeroom_pending 1.0" in told
    document = httpx.get(f"{address}/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/join", "/v1/updates", "/v1/unlearn"} <= set(document["paths"])


def test_metrics_ask_for_the_token_once_there_is_one(service: Service, address: str) -> None:
    service.token = "word"
    assert httpx.get(f"{address}/v1/metrics").status_code == 403
    assert httpx.get(f"{address}/v1/openapi.json").json()["code"] == "operator_only"
    headers = {"authorization": "Bearer word"}
    assert httpx.get(f"{address}/v1/metrics", headers=headers).status_code == 200


def test_a_personal_segment_is_refused_at_the_door(service: Service, address: str) -> None:
    school, client = enrol(service, address)
    configuration = client.round()
    layout = service.rounds.rules.layout
    shared = Layout(tuple(msgspec.structs.replace(s, scope="shared", widest="shared") for s in layout))
    from homeroom.contract.update import make_update

    data = make_update(school.key, configuration, shared, np.ones(10, np.float32), {"own": 3}, 0)
    with pytest.raises(UpdateError) as caught:
        client.update(data)
    assert caught.value.code == "personal_segment"


@pytest.mark.parametrize("update_id", ["g" * 32, "A" * 32, "a" * 31, "a" * 33, ""])
def test_an_update_is_named_by_32_hexadecimal_digits(service: Service, address: str, update_id: str) -> None:
    _, client = enrol(service, address)
    with pytest.raises(UpdateError, match="32 hexadecimal digits"):
        client.unlearn(update_id)
