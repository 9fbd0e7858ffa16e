"""The OpenAPI document has exactly the routes of the server, and a served route answers as the document says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from aggregator.institution import make_folder, running
from homeroom_aggregator.server.openapi import OPERATIONS, HttpOperation, document
from homeroom_aggregator.server.routes import API_ROUTES, make_app
from homeroom_aggregator.server.service import Service, open_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    opened = open_service(make_folder(tmp_path_factory.mktemp("described")))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with running(service) as where:
        yield where


def test_the_document_has_every_route_of_the_server_and_no_other(service: Service) -> None:
    described = {
        (method, path, bool(operation.get("security")), tuple(operation.get("x-roles", ())))
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }
    assert len(described) == len(OPERATIONS) == len(API_ROUTES), "each once"
    plain = {route: re.sub(r":\w+}", "}", f"/v1{route.path}") for route in API_ROUTES}
    assert described == {
        (route.method.lower(), plain[route], route.signed is not None, route.roles if route.signed else ())
        for route in API_ROUTES
    }
    served = {
        (method, re.sub(r":\w+}", "}", route.path))  # type: ignore[attr-defined]
        for route in make_app(service).routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert served == {(operation.method.upper(), f"/v1{operation.path}") for operation in OPERATIONS}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}")
def test_each_operation_is_served(address: str, operation: HttpOperation) -> None:
    """Open ones answer with the fields that are promised; signed ones ask for a signature, and not for another path."""
    path = re.sub(r"{(\w+)}", "1", operation.path)
    answer = httpx.request(operation.method, f"{address}/v1{path}")
    if operation.signed:
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature")
        return
    assert answer.status_code == 200
    if "properties" in operation.answer:
        assert set(operation.answer["required"]) <= answer.json().keys() <= set(operation.answer["properties"])


def test_what_is_not_in_the_document_is_not_served(address: str) -> None:
    assert httpx.get(f"{address}/v1/nothing").json()["code"] == "no_route"
    assert httpx.delete(f"{address}/v1/updates").json()["code"] == "no_method"
