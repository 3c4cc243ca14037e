"""Any two MeshGateways merge in one way or report a conflict, in whatever order their events come."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import ResourceDeleted
from shared.events.gateways import bindings
from shared.model.resource import Dataplane, Secret
from shared.model.validate import validate
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, mesh, resource
from zone_cp.view.gateways import GatewayView, bound_gateway
from zone_cp.view.hostnames import exactness
from zone_cp.view.project import project
from zone_cp.xds.gateway_hosts import listener_name

Json: TypeAlias = dict[str, Any]

TAGS = {"kuma.io/service": "edge", "team": "a"}
PROXY = dataplane("edge-1", inbound=[], gateway={"type": "BUILTIN", "tags": TAGS})
CONFLICTS = (
    "protocol conflicts with other listeners on this port",
    "multiple listeners for hostname on this port",
    "conflicting values for this port",
)
HOSTS = st.sampled_from(["", "*", "a.test", "A.test", "b.test", "*.test", "*.a.test"])
MATCHES = st.sampled_from(
    [
        {"kuma.io/service": "edge"},
        {"kuma.io/service": "*"},
        {"kuma.io/service": "edge", "team": "a"},
        {"kuma.io/service": "edge", "team": "*"},
        {"kuma.io/service": "other"},
    ]
)


@st.composite
def listeners(draw: st.DrawFn) -> Json:
    protocol = draw(st.sampled_from(["HTTP", "HTTP", "HTTPS", "TCP", "TLS"]))
    one: Json = {"port": draw(st.sampled_from([80, 443])), "protocol": protocol, "hostname": draw(HOSTS)}
    if protocol in ("HTTPS", "TLS"):
        one["tls"] = {"mode": "TERMINATE", "certificates": [{"secret": draw(st.sampled_from(["one", "none"]))}]}
    one["resources"] = {"connectionLimit": draw(st.sampled_from([0, 0, 5, 6]))}
    return one | {"tags": draw(st.sampled_from([{}, {"team": "b"}, {"vhost": "x"}, {"kuma.io/service": "shown"}]))}


@st.composite
def gateways(draw: st.DrawFn, name: str) -> Json:
    selectors = [{"match": one} for one in draw(st.lists(MATCHES, min_size=1, max_size=2))]
    conf = {"listeners": draw(st.lists(listeners(), min_size=1, max_size=4))}
    return {"type": "MeshGateway", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}


@st.composite
def accepted(draw: st.DrawFn, name: str) -> Json:
    """A gateway without conflicts: a protocol and a limit per port, every hostname once on it."""
    declared: list[Json] = []
    for port in draw(st.sets(st.sampled_from([80, 443]), min_size=1)):
        first = draw(listeners())
        for host in draw(st.lists(HOSTS, min_size=1, max_size=3, unique_by=lambda host: host.lower() or "*")):
            tags = draw(listeners())["tags"]
            declared.append(first | {"port": port, "hostname": host, "tags": tags})
    selectors = [{"match": one} for one in draw(st.lists(MATCHES, min_size=1, max_size=2))]
    order = draw(st.permutations(declared))
    whole = {"type": "MeshGateway", "mesh": "default", "name": name, "selectors": selectors}
    return whole | {"conf": {"listeners": order}}


def faults(one: Json) -> list[tuple[str, str]]:
    return [(found.path, found.reason) for found in validate(resource(**one))]


def served(*orders: tuple[Any, int]) -> tuple[GatewayView | None, list[str]]:
    """What the gateway serves once all of it is written, each at its second; and the MeshGateway it is said to have."""
    hub, own = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), seconds=0)
    for change, second in orders:
        hub.append(change if isinstance(change, ResourceDeleted) else applied(change), seconds=second)
    own.follow(hub)
    own.apply(PROXY)
    said = [key.name for key, members in bindings(own.state).items() for _ in members]
    assert isinstance(PROXY, Dataplane)
    return bound_gateway(project(own.state).meshes["default"], PROXY), said


def shown(found: GatewayView | None) -> Any:
    """All that is served, but for the events that it follows from."""
    if found is None:
        return None
    ports = [
        msgspec.structs.replace(
            port,
            listeners=tuple(
                msgspec.structs.replace(
                    one, certificates=tuple(msgspec.structs.replace(each, sources=()) for each in one.certificates)
                )
                for one in port.listeners
            ),
        )
        for port in found.ports
    ]
    return found.key, found.service, ports


SECRET = Secret(name="one", mesh="default", sealed=None, data=None)


@settings(deadline=None)
@given(accepted("one"), accepted("two"), st.permutations(range(3)))
def test_two_gateways_of_one_moment_are_served_alike_in_any_order(one: Json, two: Json, order: list[int]) -> None:
    """Both are created at once; a Secret that they name comes before, between or after them."""
    assert faults(one) == faults(two) == []
    writes = [resource(**one), resource(**two), SECRET]
    first = served(*((each, 1) for each in writes))
    again = served(*((writes[number], 1) for number in order))
    assert shown(first[0]) == shown(again[0])
    assert first[1] == again[1] == ([first[0].key.name] if first[0] is not None else [])


@settings(deadline=None)
@given(accepted("one"), accepted("two"), accepted("one"), accepted("two"), st.booleans())
def test_later_changes_do_not_count_for_age(one: Json, two: Json, one_now: Json, two_now: Json, swapped: bool) -> None:
    """Who was created later wins where both select equally well, in whichever order they are changed after that."""
    changes = [(resource(**one_now), 3), (resource(**two_now), 3)]
    made = [(resource(**one), 1), (resource(**two), 2)]
    assert shown(served(*made, *changes)[0]) == shown(served(*made, *(changes[::-1] if swapped else changes))[0])


@settings(deadline=None)
@given(st.one_of(gateways("one"), accepted("one")))
def test_listeners_merge_in_one_way_or_conflict_by_name(one: Json) -> None:
    """Per port: one protocol, every hostname once, the exact ones first; or every listener that conflicts is named."""
    wrong = faults(one)
    declared = one["conf"]["listeners"]
    assert {reason for _, reason in wrong} <= set(CONFLICTS)
    assert wrong == [] or len(wrong) > 1, "who conflicts does so with somebody"
    for (left, a), (right, b) in itertools.combinations(enumerate(declared), 2):
        if a["port"] == b["port"] and a["protocol"] != b["protocol"]:
            assert {(f"conf.listeners[{number}]", CONFLICTS[0]) for number in (left, right)} <= set(wrong)
    if wrong:
        return
    found, _ = served((resource(**one), 1))
    if found is None:
        return
    assert sorted(each.index for port in found.ports for each in port.listeners) == list(range(len(declared)))
    assert len({listener_name(found, port) for port in found.ports}) == len(found.ports)
    for port in found.ports:
        names = [each.hostname for each in port.listeners]
        assert len(set(names)) == len(names)
        assert names == sorted(names, key=exactness)
        assert {declared[each.index]["protocol"] for each in port.listeners} == {port.protocol}
        limits = {declared[each.index]["resources"]["connectionLimit"] for each in port.listeners} - {0}
        assert limits == ({port.connection_limit} if port.connection_limit else set())
        for each in port.listeners:
            assert dict(each.tags) == TAGS | declared[each.index]["tags"]


@settings(deadline=None)
@given(st.one_of(gateways("one"), accepted("one")), st.randoms(use_true_random=False))
def test_the_order_of_listeners_is_nothing(one: Json, random: Any) -> None:
    """What is served differs in their numbers alone, and who conflicts is the same."""
    order = list(range(len(one["conf"]["listeners"])))
    random.shuffle(order)
    moved = one | {"conf": {"listeners": [one["conf"]["listeners"][number] for number in order]}}
    named = {f"conf.listeners[{number}]": f"conf.listeners[{place}]" for place, number in enumerate(order)}

    def renamed(path: str) -> str:
        head, mark, tail = path.partition("]")
        return named[head + mark] + tail

    assert sorted((renamed(path), reason) for path, reason in faults(one)) == sorted(faults(moved))
    if not faults(one):
        assert _numberless(served((resource(**one), 1))[0]) == _numberless(served((resource(**moved), 1))[0])


def _numberless(found: GatewayView | None) -> Any:
    if found is None:
        return None
    return [
        msgspec.structs.replace(
            port,
            listeners=tuple(
                msgspec.structs.replace(one, index=0, certificates=(), failure=None) for one in port.listeners
            ),
        )
        for port in found.ports
    ]
