"""Who may open a stream, and as which proxy."""

from __future__ import annotations

import pytest
from immutables import Map
from msgspec import structs

from shared.events.event import ProxyConnected
from shared.events.state import ZoneState
from shared.keys.tokens import Principal
from shared.model import codec
from shared.model.resource import Dataplane, GatewayNetworking, ZoneEgress, key_of
from tests import builders
from zone_cp.join import Joining, NotAdmitted, join, join_agent, replaces

EGRESS = builders.egress()
DATAPLANE = builders.dataplane()
OF_WEB = Principal("dataplane", "web", mesh="default", tags=Map({"kuma.io/service": ("web",)}))
OF_SHOP = Principal("dataplane", "shop", mesh="default", tags=Map({"kuma.io/service": ("shop",)}))


def _zone(*online: Dataplane | ZoneEgress) -> ZoneState:
    """A zone with mesh default in which these proxies are online."""
    hub = builders.LogBuilder("global")
    hub.append(builders.applied(builders.mesh()))
    own = builders.LogBuilder("east")
    for resource in online:
        own.append(builders.applied(resource, "east"))
        mesh = resource.mesh if isinstance(resource, Dataplane) else ""
        key = key_of(resource, "east")
        own.append(
            ProxyConnected(proxy=f"{mesh}.{resource.name}", key=key, connection="c/1", features=(), system_ca_path="")
        )
    return ZoneState("east", hub.state, own.state)


def _metadata(resource: Dataplane | ZoneEgress) -> dict[str, str]:
    return {"dataplane.resource": codec.encode(resource).decode()}


@pytest.mark.parametrize("claimed", [".egress-1", "default.shop-1", "other.web-1", "", "default.web-1.x"])
def test_a_proxy_is_served_under_the_id_of_its_own_resource_only(claimed: str) -> None:
    """What is held ready for an id goes to whoever connects as it: the id must be what the token vouches for."""
    judged = join(claimed, _metadata(DATAPLANE), OF_WEB, _zone(EGRESS))
    assert isinstance(judged, NotAdmitted)
    assert judged.status == "PERMISSION_DENIED"
    assert isinstance(join("default.web-1", _metadata(DATAPLANE), OF_WEB, _zone(EGRESS)), Joining)


@pytest.mark.parametrize("features", [5.0, "redirect", [{"a": 1}, "unknown"], None])
def test_features_that_are_none_are_passed_over(features: object) -> None:
    """A proxy that says nonsense of itself has no features; it does not break its stream's handler."""
    judged = join("default.web-1", {**_metadata(DATAPLANE), "features": features}, OF_WEB, _zone())
    assert isinstance(judged, Joining)
    assert judged.features == ()


def _identified(name: str, *, gateway: str = "") -> Dataplane:
    """A Dataplane without inbounds: who it is follows from its gateway's tags, or from its name."""
    tags = GatewayNetworking(type="BUILTIN", tags=Map({"kuma.io/service": gateway})) if gateway else None
    made = builders.dataplane(name)
    return structs.replace(made, networking=structs.replace(made.networking, inbound=(), gateway=tags))


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (_identified("payments"), "the token is for tags (kuma.io/service), the Dataplane has none"),
        (_identified("edge", gateway="payments"), "the token does not allow tag kuma.io/service=payments"),
        (_identified("edge", gateway="web"), ""),
    ],
)
def test_a_token_for_tags_is_no_other_identity(resource: Dataplane, reason: str) -> None:
    """Neither by a gateway's tags nor by a name of a Dataplane that has no tags at all."""
    web = Principal("dataplane", "", mesh="default", tags=Map({"kuma.io/service": ("web",)}))
    judged = join(f"default.{resource.name}", _metadata(resource), web, _zone())
    assert (judged.reason if isinstance(judged, NotAdmitted) else "") == reason


def test_a_token_for_a_service_does_not_take_the_place_of_another_service() -> None:
    """A token that names no proxy cannot supersede an online proxy that it could not be."""
    taken = builders.dataplane("shared-name", "web")
    judged = join("default.shared-name", _metadata(builders.dataplane("shared-name", "shop")), OF_SHOP, _zone(taken))
    assert isinstance(judged, NotAdmitted)
    assert "online" in judged.reason


def test_a_token_for_a_service_opens_no_agent_of_another_service() -> None:
    """The agent's stream gives names and takes observations: it is bound by the token's tags as well."""
    state = _zone(DATAPLANE)
    assert join_agent("default.web-1", OF_WEB, state) == "default.web-1"
    assert isinstance(join_agent("default.web-1", OF_SHOP, state), NotAdmitted)


def test_what_was_made_for_an_earlier_resource_is_not_for_a_later_one() -> None:
    """A proxy that comes back with another resource is another proxy."""
    joining = join("default.web-1", _metadata(DATAPLANE), OF_WEB, _zone())
    assert isinstance(joining, Joining)
    assert replaces(joining, _zone(builders.dataplane("web-1", "web", address="127.0.0.9")))
    assert not replaces(joining, _zone(joining.resource))
