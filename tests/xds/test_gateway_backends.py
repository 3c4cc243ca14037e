"""Backends of gateways' routes: what policies say about one of them holds for the requests that are led there alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from envoy_data_plane.envoy.config.route import v3 as route

from shared.events.event import GLOBAL
from shared.model.resource import Resource
from tests.builders import gateway, mes, resource
from tests.xds.test_gateway_routes import compiled, everything_to, http_listener
from zone_cp.xds.inspect import decode
from zone_cp.xds.snapshot import ROUTE

EDGE = gateway("edge", "edge-gateway", http_listener("0", "a.test"))
MES, WEB = {"kind": "MeshExternalService", "name": "mes"}, {"kind": "MeshService", "name": "web"}
TOP = {"kind": "MeshGateway", "name": "edge"}


def timeout(seconds: int, to: dict[str, Any], top: dict[str, Any] = TOP) -> Resource:
    item = {"targetRef": to, "default": {"http": {"requestTimeout": f"{seconds}s"}}}
    return resource(type="MeshTimeout", name=f"t{seconds}", mesh="default", spec={"targetRef": top, "to": [item]})


def told(*written: Resource) -> tuple[timedelta | None, set[int]]:
    """The request timeout of the only route, and the events of global that are named as its causes."""
    made = compiled(EDGE, mes("mes"), *written).resources[ROUTE]["edge:HTTP:80:*"]
    found = decode(made)
    assert isinstance(found, route.RouteConfiguration)
    action = found.virtual_hosts[0].routes[0].route
    assert action is not None
    return action.timeout, {ref.n for ref in made.sources if ref.origin == GLOBAL}


ALL, ONE = timeout(3, {"kind": "Mesh"}), timeout(7, MES)


@pytest.mark.parametrize(
    ("backends", "seconds"), [((MES,), 7), ((WEB,), 3), ((MES, WEB), 3), ((MES, MES | {"weight": 0}, MES), 7)]
)
def test_what_is_said_of_a_destination_holds_for_the_requests_that_all_go_there(
    backends: tuple[dict[str, Any], ...], seconds: int
) -> None:
    """A request has its timeout before it is drawn where it goes: where backends differ, what is said of all holds."""
    found, causes = told(everything_to(*backends), ALL, ONE)
    assert found == timedelta(seconds=seconds)
    assert {5, 6} <= causes if MES in backends else 5 in causes


def test_what_is_said_of_a_route_goes_before_and_is_named_as_a_cause() -> None:
    """A MeshTimeout `to: MeshHTTPRoute` on a route of a gateway."""
    route_ref = {"kind": "MeshHTTPRoute", "name": "r"}
    on_mesh = {"kind": "Mesh"}
    others = (timeout(3, on_mesh, on_mesh), timeout(7, MES, on_mesh))
    found, causes = told(everything_to(MES), *others, timeout(9, route_ref, on_mesh))
    assert found == timedelta(seconds=9)
    assert 7 in causes


def test_what_is_said_of_a_route_is_merged_over_what_is_said_of_where_it_leads() -> None:
    """One says how long requests may be idle, the other how long they may take."""
    on_mesh = {"kind": "Mesh"}
    idle = {"targetRef": {"kind": "MeshHTTPRoute", "name": "r"}, "default": {"http": {"streamIdleTimeout": "9s"}}}
    route_policy = resource(type="MeshTimeout", name="idle", mesh="default", spec={"targetRef": on_mesh, "to": [idle]})
    found, causes = told(everything_to(MES), timeout(3, on_mesh, on_mesh), timeout(7, MES, on_mesh), route_policy)
    assert found == timedelta(seconds=7)
    assert {5, 6, 7} <= causes
