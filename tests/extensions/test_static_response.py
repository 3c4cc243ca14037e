"""Extensions: the registry, and the one that ships."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from envoy_data_plane.envoy.config.route import v3 as route
from immutables import Map

from shared.model.resource import Extension as Wanted
from shared.model.resource import Protocol, ResourceKey
from tests.xds.views import Secrets, egress, mesh_view, service, sidecar, zone_view
from zone_cp import extensions
from zone_cp.extensions.extension import Generated
from zone_cp.extensions.registry import EXTENSIONS, generated
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds.compile import compile_proxy, compile_whole
from zone_cp.xds.inspect import decode
from zone_cp.xds.snapshot import ROUTE


def answering(
    name: str = "page", *, kind: str = "static-response", protocol: Protocol = "http", **config: Any
) -> ExternalServiceView:
    plain = service(name, protocol=protocol, endpoints=())
    return msgspec.structs.replace(plain, extension=Wanted(type=kind, config=Map(config)))


def test_every_extension_stands_under_its_own_type() -> None:
    """The registry is by type."""
    assert {kind: one.type for kind, one in EXTENSIONS.items()} == {kind: kind for kind in EXTENSIONS}
    assert "static-response" in EXTENSIONS


@pytest.mark.parametrize(
    ("made", "reason", "field"),
    [
        (answering(kind="Lambda"), "UnknownExtension", "spec.extension.type"),
        (answering(protocol="tcp"), "InvalidExtension", "spec.match.protocol"),
        (answering(stauts=200), "InvalidExtension", "spec.extension.config.stauts"),
        (answering(status=199), "InvalidExtension", "spec.extension.config.status"),
        (answering(status=True), "InvalidExtension", "spec.extension.config.status"),
        (answering(body="x" * 65_537), "InvalidExtension", "spec.extension.config.body"),
        (answering(body=1), "InvalidExtension", "spec.extension.config.body"),
        (answering(headers=()), "InvalidExtension", "spec.extension.config.headers"),
        (answering(headers=Map({"a b": "c"})), "InvalidExtension", 'spec.extension.config.headers["a b"]'),
        (answering(headers=Map({"Host": "c"})), "InvalidExtension", 'spec.extension.config.headers["Host"]'),
        (answering(headers=Map({"a": "c\r\nd"})), "InvalidExtension", 'spec.extension.config.headers["a"]'),
    ],
)
def test_what_an_extension_cannot_do_is_a_condition(made: ExternalServiceView, reason: str, field: str) -> None:
    """The service is closed with a reason and a field; nothing of it is guessed, and its neighbours are served."""
    found = generated(made)
    assert isinstance(found, Failure)
    assert (found.reason, found.field) == (reason, field)
    view = zone_view(mesh_view(made, service("other", vip="127.16.0.2")))
    closed = compile_whole(view, egress(), Secrets()).failures
    assert closed == Map({made.key: found})


def test_a_static_response_is_a_route_of_its_service_alone() -> None:
    """The route is guarded by the header that names the cluster, and stands before the one for everything."""
    page = answering(status=503, body="back at noon", headers=Map({"Retry-After": "100%"}))
    for mesh, proxy in (
        (mesh_view(page), egress()),
        (mesh_view(page, mtls=False, origination="sidecar"), sidecar("bind-vips")),
    ):
        snapshot = compile_proxy(zone_view(mesh), proxy, Secrets())
        made: Any = decode(snapshot.resources[ROUTE]["outside/default"])
        first, *_, last = made.virtual_hosts[0].routes
        assert first.match.prefix == last.match.prefix == "/"
        assert [(one.name, one.string_match.exact) for one in first.match.headers] == [
            ("x-zonal-cluster", page.cluster)
        ]
        assert (first.direct_response.status, first.direct_response.body.inline_string) == (503, "back at noon")
        assert [(one.header.key, one.header.value) for one in first.response_headers_to_add] == [
            ("retry-after", "100%%")
        ]
        assert last.route.cluster_header == "x-zonal-cluster"


def test_a_mesh_that_forbids_external_services_forbids_extensions_too() -> None:
    """In direct mode the routes themselves say so; an egress asks before it routes (e2e/test_egress_two_meshes.py)."""
    mesh = mesh_view(answering(), mtls=False, origination="sidecar", forbid_external=True)
    made: Any = decode(
        compile_proxy(zone_view(mesh), sidecar("bind-vips"), Secrets()).resources[ROUTE]["outside/default"]
    )
    assert [one.direct_response.status for one in made.virtual_hosts[0].routes] == [403]


def test_the_example_of_the_docstring_is_an_extension() -> None:
    """Ten lines that work as they stand."""
    text = (extensions.__doc__ or "").partition("list it in `registry.py`:\n\n")[2]
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.strip()]
    assert len(lines) <= 10
    names: dict[str, Any] = {"ExternalServiceView": ExternalServiceView, "Failure": Failure}
    exec("\n".join(lines), names)
    redirect = names["EXTENSION"]
    wanted = msgspec.structs.replace(
        answering(kind="redirect", to="new.test"), key=ResourceKey("MeshExternalService", "default", "moved")
    )
    found = generated(wanted, {"redirect": redirect})
    assert isinstance(found, Generated)
    made: Any = route.Route.parse(found.routes[0])
    assert made.redirect.host_redirect == "new.test"
    refused = generated(answering(kind="redirect"), {"redirect": redirect})
    assert refused == Failure("InvalidExtension", "must be a host name", "spec.extension.config.to")
