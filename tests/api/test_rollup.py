"""One resource over all its zones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.api.rollup import rolled_up
from shared.api.store import ServiceStatus, StatusCondition
from tests.api.memory_store import ADMIN, READER, MemoryStore, Tokens

WEB = "/meshes/default/meshexternalservices/web"
MES = {
    "type": "MeshExternalService",
    "name": "web",
    "mesh": "default",
    "spec": {"match": {"port": 80}, "endpoints": [{"address": "example.com", "port": 80}]},
}


def row(zone: str, *conditions: StatusCondition) -> ServiceStatus:
    return ServiceStatus(zone, "default", "web", "global", "http", 80, "242.0.0.1", (), conditions, "7:3")


def ready(status: Any = "True", reason: str = "Served", position: str = "5:2") -> StatusCondition:
    return StatusCondition("Ready", status, reason, "", "", position)


def condition(found: Any, kind: str) -> Any:
    return next(one for one in found.conditions if one.type == kind)


@pytest.mark.parametrize(
    ("rows", "status", "summary"),
    [
        ([row("east", ready()), row("west", ready())], "True", "2/2 zones"),
        ([row("east", ready()), row("west", ready("False", "NoZoneEgress"))], "False", "1/2 zones"),
        ([row("east", ready()), row("west", ready("Unknown", "Delivering"))], "Unknown", "1/2 zones"),
        ([row("east", ready())], "Unknown", "1/2 zones"),
        ([], "Unknown", "0/2 zones"),
    ],
)
def test_ready_is_true_when_every_zone_says_so(rows: list[ServiceStatus], status: str, summary: str) -> None:
    """One zone that says no makes it False; one that has not said anything makes it Unknown."""
    found = condition(rolled_up("default", "web", "global", rows, ("east", "west")), "Ready")
    assert (found.status, found.summary) == (status, summary)
    assert [one.zone for one in found.zones] == ["east", "west"]


def test_every_condition_says_where_and_at_which_moment() -> None:
    """Zone, reason and position of each statement are kept; silence is a reason of its own."""
    found = rolled_up("default", "web", "global", [row("east", ready(position="9:4"))], ("east", "west"))
    east, west = condition(found, "Ready").zones
    assert (east.zone, east.position, east.reason) == ("east", "9:4", "Served")
    assert (west.zone, west.position, west.reason) == ("west", "", "NotReported")


def test_bad_news_of_one_zone_is_bad_news() -> None:
    """Degraded and Reachable count only where they are said; Degraded is true when any zone is degraded."""
    degraded = StatusCondition("Degraded", "True", "SubjectAltNameNotChecked")
    reachable = StatusCondition("Reachable", "False", "UpstreamFailure")
    rows = [row("east", ready(), degraded), row("west", ready(), reachable)]
    found = rolled_up("default", "web", "global", rows, ())
    assert condition(found, "Degraded").status == "True"
    assert (condition(found, "Reachable").status, condition(found, "Reachable").summary) == ("False", "0/1 zone")


@pytest.fixture
def api() -> Iterator[TestClient[Litestar]]:
    made = build_api(MemoryStore(), authenticator=Tokens(), role="global")
    with TestClient(made) as client:
        client.headers.update(ADMIN)
        resources = [{"type": "Mesh", "name": "default"}, *({"type": "Zone", "name": one} for one in ("east", "west"))]
        assert client.post("/apply", json={"resources": [*resources, MES]}).status_code == 200
        yield client


def test_the_api_rolls_up_one_and_all(api: TestClient[Litestar]) -> None:
    """`…/_status` of a resource, and the list that `zonal get mes` takes its READY from."""
    one = api.get(f"{WEB}/_status", headers=READER).json()
    assert (one["ready"], [c["type"] for c in one["conditions"]]) == (
        "1/2",
        ["VipLeased", "HostnamesGenerated", "Ready"],
    )
    assert api.get("/status/meshexternalservices/rollup").json()["items"] == [one]
    assert api.get("/meshes/default/meshexternalservices/none/_status").status_code == 404


def test_a_disabled_zone_is_not_waited_for(api: TestClient[Litestar]) -> None:
    """What counts are the zones that are to serve it."""
    assert api.put("/zones/west", json={"type": "Zone", "name": "west", "enabled": False}).status_code == 200
    assert api.get(f"{WEB}/_status").json()["ready"] == "1/1"


def test_only_a_zone_checks_tls(api: TestClient[Litestar]) -> None:
    """Global has no egress: there is no such route."""
    assert api.post(f"{WEB}/_check-tls").status_code == 404
