"""Gateways: which MeshGateway a gateway Dataplane is bound to, and what it listens for, port by port."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model.resource import Dataplane, Sealed, Secret
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, gateway, mesh, resource
from zone_cp.view.gateways import GatewayView, PortView, bound_gateway
from zone_cp.view.project import project
from zone_cp.view.zone_view import TlsMaterial

SEALED = Sealed(kid="k1", nonce="bg==", ciphertext="Yw==", digest="d")
TAGS = {"kuma.io/service": "edge-gateway", "team": "a"}


def proxy(**tags: str) -> Dataplane:
    """A gateway Dataplane."""
    return dataplane("edge-1", inbound=[], gateway={"type": "BUILTIN", "tags": TAGS | tags})


def selecting(name: str, *matches: dict[str, str], port: int = 8080) -> Any:
    """A MeshGateway with these selectors."""
    selectors = [{"match": one} for one in matches]
    conf = {"listeners": [{"port": port, "protocol": "HTTP"}]}
    return resource(type="MeshGateway", name=name, mesh="default", selectors=selectors, conf=conf)


def bound(*writes: Any, local: tuple[Any, ...] = (), zone: str = "east", **tags: str) -> GatewayView | None:
    """What the Dataplane serves once these are written, a second apart."""
    hub, own = LogBuilder(), ZoneBuilder(zone)
    hub.append(applied(mesh()))
    for number, one in enumerate(writes):
        hub.append(applied(one), seconds=number)
    own.follow(hub)
    for number, one in enumerate(local):
        own.apply(one, seconds=len(writes) + number)
    return bound_gateway(project(own.state).meshes["default"], proxy(**tags))


def named(found: GatewayView | None) -> str:
    return found.key.name if found is not None else ""


SERVICE = {"kuma.io/service": "edge-gateway"}


@pytest.mark.parametrize(
    ("gateways", "wins"),
    [
        ({}, ""),
        ({"other": [{"kuma.io/service": "other"}]}, ""),
        ({"more": [SERVICE | {"team": "a"}], "less": [SERVICE]}, "more"),
        ({"exact": [SERVICE], "any": [{"kuma.io/service": "*"}]}, "exact"),
        ({"any-two": [SERVICE | {"team": "*"}], "exact-one": [SERVICE]}, "any-two"),
        ({"best-of-two": [{"kuma.io/service": "x"}, SERVICE | {"team": "a"}], "one": [SERVICE]}, "best-of-two"),
        ({"older": [SERVICE], "newer": [SERVICE]}, "newer"),
        ({"z-newer": [SERVICE], "a-newest": [SERVICE]}, "a-newest"),
    ],
)
def test_the_best_selector_binds(gateways: dict[str, list[dict[str, str]]], wins: str) -> None:
    """More tags, then more exact ones, then who is newer (A3)."""
    assert named(bound(*(selecting(name, *matches) for name, matches in gateways.items()))) == wins


def test_of_equally_old_ones_the_first_name_binds() -> None:
    """One write may create both."""
    hub, own = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(selecting("b", SERVICE)), applied(selecting("a", SERVICE)))
    own.follow(hub)
    assert named(bound_gateway(project(own.state).meshes["default"], proxy())) == "a"


def test_a_change_does_not_make_newer() -> None:
    """Creation counts."""
    again = selecting("older", SERVICE, port=9090)
    assert named(bound(selecting("older", SERVICE), selecting("newer", SERVICE), again)) == "newer"


def test_a_zones_own_gateway_is_bound_there() -> None:
    """And is in no other zone's view."""
    found = bound(selecting("global", SERVICE), local=(selecting("local", SERVICE),))
    assert found is not None
    assert (found.key.name, found.key.zone) == ("local", "east")


def ports(*listeners: dict[str, Any]) -> tuple[PortView, ...]:
    found = bound(gateway("edge", "edge-gateway", *listeners))
    assert found is not None
    return found.ports


def test_listeners_of_a_port_stand_by_exactness() -> None:
    """Exact names by name, wildcards with more labels first, any host last; ports by number (A6)."""
    names = ("", "foo.example.com", "*.com", "*.example.com", "bar.example.com")
    listeners = [{"port": 8080, "protocol": "HTTP", "hostname": one} for one in names]
    (first, second) = ports(*listeners, {"port": 80, "protocol": "TCP"})
    assert (first.port, first.protocol) == (80, "TCP")
    assert [one.hostname for one in second.listeners] == [
        "bar.example.com",
        "foo.example.com",
        "*.example.com",
        "*.com",
        "*",
    ]


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        ({}, TAGS),
        ({"vhost": "foo"}, TAGS | {"vhost": "foo"}),
        ({"team": "b"}, TAGS | {"team": "b"}),
    ],
)
def test_tags_are_overlaid(listener: dict[str, str], expected: dict[str, str]) -> None:
    """The listener's over the Dataplane's, as in the table of seed 004 (A5)."""
    ((only,),) = (one.listeners for one in ports({"port": 80, "protocol": "HTTP", "tags": listener}))
    assert dict(only.tags) == expected


def test_the_limit_of_a_port_is_that_of_whoever_has_one() -> None:
    """Zero is none."""
    limited = {"port": 80, "protocol": "HTTP", "hostname": "a.test", "resources": {"connectionLimit": 7}}
    (found,) = ports({"port": 80, "protocol": "HTTP"}, limited)
    assert found.connection_limit == 7


def test_certificates_are_found_or_missed_by_listener() -> None:
    """A Secret that is not there closes the listener that names it and no other."""
    https = {"port": 443, "protocol": "HTTPS"}
    both = [
        https | {"hostname": f"{one}.test", "tls": {"mode": "TERMINATE", "certificates": [{"secret": one}]}}
        for one in ("there", "gone")
    ]
    found = bound(Secret(name="there", sealed=SEALED), gateway("edge", "edge-gateway", *both))
    assert found is not None
    gone, there = found.ports[0].listeners
    assert gone.failure is not None
    assert gone.failure.message == "mesh default has no Secret gone"
    assert gone.failure.field == "conf.listeners[1].tls.certificates[0].secret"
    assert there.failure is None
    (material,) = there.certificates
    assert isinstance(material, TlsMaterial)
    assert (material.name, material.sealed) == ("secret/default/there", SEALED)
    assert ([one.n for one in found.sources], [one.n for one in material.sources]) == ([3], [2])


def test_what_is_no_builtin_gateway_is_bound_to_nothing() -> None:
    """Sidecars, and gateways that are somebody else's."""
    hub, own = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(selecting("edge", {"kuma.io/service": "*"})))
    own.follow(hub)
    view = project(own.state).meshes["default"]
    assert bound_gateway(view, dataplane()) is None
    assert bound_gateway(view, dataplane(inbound=[], gateway={"tags": TAGS})) is None
