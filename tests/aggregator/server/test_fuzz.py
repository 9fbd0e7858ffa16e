"""The HTTP interface fuzzed along its own OpenAPI document, signed and unsigned, by members of every role.

A few examples of each operation in every run; HOMEROOM_FUZZ of them (12) in the extra one, which takes two minutes.

Whatever comes: no fault of the server's, every refusal has a code, words and a line in the log, and what is answered
has the form that the document promises.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.institution import ROOT, School, make_folder, running
from homeroom.contract import http_signatures
from homeroom.contract.roster import make_roster
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.federation.network.client import join
from homeroom_aggregator.admin.configuration import DeviceLimits
from homeroom_aggregator.admin.folder import make_invitations, replace_roster
from homeroom_aggregator.server import metrics
from homeroom_aggregator.server.openapi import document
from homeroom_aggregator.server.service import Service, open_service

ROLES = ("device", "school", "district", "auditor", "stranger", "nobody")
OPERATIONS = [(path, method) for path, rules in document()["paths"].items() for method in rules]
EXAMPLES = int(os.environ.get("HOMEROOM_FUZZ", "12"))  # of each operation, in each kind of round
FEW = 2


class Signature:
    """Signs a request that `requests` has prepared, with a fresh nonce."""

    def __init__(self, address: str, key: Any) -> None:
        self.address, self.key = address, key

    def __call__(self, prepared: Any) -> Any:
        nonce = httpx.get(f"{self.address}/v1/keys").headers[http_signatures.NONCE_HEADER]
        body = prepared.body or b""
        body = body.encode() if isinstance(body, str) else body
        prepared.headers["Host"] = self.address.removeprefix("http://")
        http_signatures.sign_request(prepared, body, self.key, nonce)
        return prepared


class Lines(logging.Handler):
    """The server's log, as it would go to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(record.getMessage()))


@pytest.fixture(scope="module", params=["plain", "secure"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tmp = tmp_path_factory.mktemp("fuzzed")
    more = {"secure": SecureRules(minimum=3, cohort=4)} if request.param == "secure" else {}
    opened = open_service(make_folder(tmp, **more))
    opened.meter.limits = DeviceLimits(0, 0, 0, 0)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def keys(service: Service, address: str) -> dict[str, Any]:
    """A key for each role; the device's is on the roster."""
    folder, found = folder_of(service), {role: School().key for role in ROLES[:-1]}
    for role in ROLES[:4]:
        (invitation,) = make_invitations(folder, address, [("Hill" if role == "school" else "", role)])  # type: ignore[list-item]
        join(invitation, found[role])
    signer, names = new_key(), [School(found["device"]).name, *(School().name for _ in range(3))]
    roster = make_roster(signer, certify(ROOT, "roster", signer, "t"), names, serial=1, minimum=3, institution="t")
    replace_roster(folder, msgspec.json.encode(roster))
    return found


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with running(service) as where:
        yield where


@pytest.fixture(scope="module")
def log() -> Iterator[Lines]:
    handler = Lines()
    metrics.LOGGER.addHandler(handler)
    metrics.LOGGER.setLevel(logging.INFO)
    yield handler
    metrics.LOGGER.removeHandler(handler)
    metrics.LOGGER.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def schema() -> Any:
    return pytest.importorskip("schemathesis").openapi.from_dict(document())


def folder_of(service: Service) -> Path:
    return service.rounds.log.database.path.parent


@pytest.mark.attack("bounds", "requests of any form, signed by every role and by nobody")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("examples", [FEW, pytest.param(EXAMPLES, marks=pytest.mark.extra)])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_comes_is_answered_as_promised_or_refused_with_a_reason(
    service: Service, keys: dict[str, Any], address: str, log: Lines, schema: Any, path: str, method: str, examples: int
) -> None:
    from schemathesis.specs.openapi import checks

    promised = [checks.response_schema_conformance, checks.content_type_conformance, checks.status_code_conformance]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(), role=st.sampled_from(ROLES))
    def one(case: Any, role: str) -> None:
        log.lines.clear()
        auth = {} if role == "nobody" else {"auth": Signature(address, keys[role])}
        answer = case.call(base_url=address, **auth)
        assert answer.status_code < 500
        if answer.status_code in (200, 206):
            case.validate_response(answer, checks=promised)
            return
        if answer.status_code == 304:
            return
        said = answer.json()
        assert set(said) == {"code", "message", "remedy"}
        assert said["code"]
        assert said["message"]
        assert log.lines[-1]["code"] == said["code"], "the log says the same"

    one()


def test_after_all_that_nothing_has_changed(service: Service) -> None:
    assert service.rounds.state.version == 0
    assert service.rounds.log.count("update") == 0
    assert service.rounds.verify() == []
