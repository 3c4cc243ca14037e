"""Who is online: what a zone records as streams of proxies begin and end, and as it is started again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from immutables import Map

from shared.events.event import ProxyConnected, ProxyDisconnected, ResourceApplied
from shared.events.state import ZoneState
from shared.keys.tokens import Kind, Principal
from shared.model import codec
from shared.model.resource import ZONE_LABEL, Dataplane, ZoneEgress, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, mes, mesh
from zone_cp.join import Joining, NotAdmitted, connected, disconnected, end_of, join, stale

WEB = "default.web-1"


def zone() -> ZoneBuilder:
    hub = LogBuilder()
    hub.append(applied(mesh()))
    made = ZoneBuilder()
    made.follow(hub)
    return made


def principal(kind: Kind = "dataplane", **bound: Any) -> Principal:
    return Principal(kind=kind, subject="proxy", **({"mesh": "default"} if kind == "dataplane" else {}) | bound)


def metadata(resource: object, **more: Any) -> dict[str, Any]:
    return {"dataplane.resource": codec.encode(resource).decode(), **more}


def joined(state: ZoneState, resource: Dataplane | None = None) -> Joining:
    judged = join(WEB, metadata(resource or dataplane()), principal(), state)
    assert isinstance(judged, Joining)
    return judged


@pytest.mark.parametrize(
    "who, resource, status, reason",
    [
        (None, dataplane(), "UNAUTHENTICATED", "token"),
        (principal("user"), dataplane(), "UNAUTHENTICATED", "token"),
        (principal(), mes(), "INVALID_ARGUMENT", "MeshExternalService is no proxy"),
        (principal(zone="west"), dataplane(), "PERMISSION_DENIED", "for zone west"),
        (principal(name="other"), dataplane(), "PERMISSION_DENIED", "for other"),
        (principal(mesh="other"), dataplane(), "PERMISSION_DENIED", "for mesh other"),
        (principal(tags=Map({"kuma.io/service": ("api",)})), dataplane(), "PERMISSION_DENIED", "does not allow tag"),
        (principal(), egress(), "PERMISSION_DENIED", "the proxy is a zone egress"),
        (principal("egress"), dataplane(), "PERMISSION_DENIED", "the proxy is a sidecar"),
        (principal("egress"), egress(zone="west"), "PERMISSION_DENIED", "of zone west"),
        (principal(), dataplane(address="not an address"), "INVALID_ARGUMENT", "networking.address"),
    ],
)
def test_who_may_not_join(who: Principal | None, resource: Any, status: str, reason: str) -> None:
    """Refused with a status and a reason that helps, before a byte of configuration is sent."""
    node = ".egress-1" if isinstance(resource, ZoneEgress) else WEB
    judged = join(node, metadata(resource), who, zone().state)
    assert isinstance(judged, NotAdmitted)
    assert judged.status == status
    assert reason in judged.reason


def test_a_mesh_that_is_not_there_yet_is_named() -> None:
    """The proxy tries again, and its operator knows what it waits for."""
    judged = join(WEB, metadata(dataplane()), principal(), ZoneBuilder().state)
    assert isinstance(judged, NotAdmitted)
    assert "mesh default does not exist in zone east" in judged.reason


@pytest.mark.parametrize("text", ["", "{", '{"type":"Dataplane"}', '{"type":"Nonsense"}'])
def test_metadata_that_is_no_resource(text: str) -> None:
    """The reason says which field of the metadata it is."""
    judged = join(WEB, {"dataplane.resource": text}, principal(), zone().state)
    assert isinstance(judged, NotAdmitted)
    assert (judged.status, "dataplane.resource" in judged.reason) == ("INVALID_ARGUMENT", True)


def test_labels_are_computed_and_only_known_features_pass() -> None:
    """What the proxy claims about its origin is replaced; features nobody knows are dropped."""
    claimed = msgspec.structs.replace(dataplane(), labels=Map({ZONE_LABEL: "west"}))
    more = {"features": ["redirect", "nonsense", "access-log=/tmp/a"], "systemCaPath": "/etc/ca.pem"}
    judged = join(WEB, metadata(claimed, **more), principal(), zone().state)
    assert isinstance(judged, Joining)
    assert judged.resource.labels[ZONE_LABEL] == "east"
    assert judged.features == ("redirect", "access-log=/tmp/a")
    assert judged.system_ca_path == "/etc/ca.pem"


def test_a_resource_is_recorded_when_it_is_new_or_other() -> None:
    """A proxy that comes back as it was is recorded online, and nothing more."""
    made = zone()
    first = connected(joined(made.state), made.state, "a/1")
    assert [type(one) for one in first] == [ResourceApplied, ProxyConnected]
    made.write(*first)
    assert [type(one) for one in connected(joined(made.state), made.state, "a/2")] == [ProxyConnected]
    other = joined(made.state, dataplane(service="api"))
    assert [type(one) for one in connected(other, made.state, "a/3")] == [ResourceApplied, ProxyConnected]


@pytest.mark.parametrize(
    "reason, word",
    [
        ("superseded by a newer stream of the same proxy", "superseded"),
        ("the control plane is stopping: reconnect", "drained"),
        ("the connection was lost", "lost"),
        ("closed by the proxy", "closed"),
    ],
)
def test_the_words_for_an_end(reason: str, word: str) -> None:
    """As the ADS server says it, and as the log does."""
    assert end_of(reason) == word


def test_an_end_is_recorded_only_if_the_proxy_is_gone_by_it() -> None:
    """Not for an older stream, not twice, not because a newer stream came, not because the control plane stops."""
    made = zone()
    assert disconnected(WEB, "a/1", "closed", made.state) == ()
    made.write(*connected(joined(made.state), made.state, "a/2"))
    assert disconnected(WEB, "a/1", "closed", made.state) == ()
    assert disconnected(WEB, "a/2", "superseded", made.state) == ()
    assert disconnected(WEB, "a/2", "drained", made.state) == ()
    (ended,) = disconnected(WEB, "a/2", "lost", made.state)
    made.write(ended)
    assert not made.own.state.proxies[WEB].online
    assert disconnected(WEB, "a/2", "lost", made.state) == ()


def test_a_restart_leaves_proxies_online_until_they_had_time_to_return() -> None:
    """Those that came back are of this life; the others are then said to be lost, once."""
    made = zone()
    made.write(*connected(joined(made.state), made.state, "a/1"))
    resource = egress()
    made.apply(resource)
    made.write(ProxyConnected(proxy=".egress-1", key=key_of(resource, "east"), connection="a/2"))
    made.write(*connected(joined(made.state), made.state, "b/1"))
    lost = stale(made.state, "b/")
    assert lost == (ProxyDisconnected(proxy=".egress-1", connection="a/2", reason="lost"),)
    made.write(*lost)
    assert stale(made.state, "b/") == ()
