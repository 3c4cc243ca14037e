"""`POST …/_check-tls` in a zone: who may ask, and what is said when no check can be made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.api.openapi import document
from shared.api.tls_check import CheckImpossible, CheckStep, EndpointCheck, TlsReport
from shared.model.resource import ResourceKey
from tests.api.memory_store import ADMIN, PROXY, READER, MemoryStore, Tokens

WEB = "/meshes/default/meshexternalservices/web"
CHECK = f"{WEB}/_check-tls"
MES = {
    "type": "MeshExternalService",
    "name": "web",
    "mesh": "default",
    "spec": {"match": {"port": 80}, "endpoints": [{"address": "example.com", "port": 80}]},
}


class Checker:
    """A zone that has tried before it was asked."""

    def __init__(self) -> None:
        self.asked: list[ResourceKey] = []
        self.impossible: CheckImpossible | None = None

    async def check_tls(self, key: ResourceKey) -> TlsReport:
        self.asked.append(key)
        if self.impossible is not None:
            raise self.impossible
        steps = (CheckStep("names", "failed", "no", "spec.tls.verification.serverName", "yes", {"SAN": "none"}),)
        there = (EndpointCheck("example.com", 443, steps),)
        return TlsReport("default", "web", "east", ".egress", "failed", "g1.z1", (), there)


@pytest.fixture
def checker() -> Checker:
    return Checker()


@pytest.fixture
def api(checker: Checker) -> Iterator[TestClient[Litestar]]:
    hub = MemoryStore()
    with TestClient(build_api(hub, authenticator=Tokens(), role="global")) as client:
        client.headers.update(ADMIN)
        assert client.put("/meshes/default", json={}).status_code == 201
        assert client.put(WEB, json=MES).status_code == 201
    zone = MemoryStore("east", hub.writer.state)
    with TestClient(build_api(zone, authenticator=Tokens(), role="zone", zone="east", checker=checker)) as client:
        client.headers.update(ADMIN)
        yield client


def test_a_check_is_authorised_as_a_write(api: TestClient[Litestar], checker: Checker) -> None:
    """It dials out and shows a client certificate: a reader and a proxy may not ask for it."""
    assert api.post(CHECK, headers=READER).status_code == 403
    assert api.post(CHECK, headers=PROXY).status_code == 403
    assert api.post(CHECK, headers={"Authorization": ""}).status_code == 401
    assert checker.asked == []


def test_a_report_is_told_as_it_is_documented(api: TestClient[Litestar], checker: Checker) -> None:
    """200 also when a check fails: that the report says. The document of a zone has the route, global's has not."""
    answer = api.post(CHECK)
    assert (answer.status_code, answer.json()["result"]) == (200, "failed")
    step = answer.json()["endpoints"][0]["steps"][0]
    assert (step["name"], step["field"], step["facts"]) == (
        "names",
        "spec.tls.verification.serverName",
        {"SAN": "none"},
    )
    assert checker.asked == [ResourceKey("MeshExternalService", "default", "web")]
    path = "/meshes/{mesh}/meshexternalservices/{name}/_check-tls"
    zones: dict[str, Any] = document("zone", "1")["paths"]
    assert "post" in zones[path]
    assert path not in document("global", "1")["paths"]


@pytest.mark.parametrize("status", [404, 409, 504])
def test_a_check_that_cannot_be_made_says_why(api: TestClient[Litestar], checker: Checker, status: Any) -> None:
    """No egress attached, no VIP yet, no answer in time: a problem document with the reason."""
    checker.impossible = CheckImpossible(status, "no zone egress of zone east is attached")
    answer = api.post(CHECK)
    assert (answer.status_code, answer.json()["detail"]) == (status, "no zone egress of zone east is attached")


def test_the_zones_own_service_goes_first(api: TestClient[Litestar], checker: Checker) -> None:
    """As for reading: the zone's own origin, then global's; `?zone=` picks one; what is nowhere is 404."""
    assert api.put(WEB, json=MES).status_code == 201
    api.post(CHECK)
    api.post(f"{CHECK}?zone=")
    assert [key.zone for key in checker.asked] == ["east", ""]
    assert api.post(f"{CHECK}?zone=west").status_code == 404
    assert api.post("/meshes/default/meshexternalservices/none/_check-tls").status_code == 404
