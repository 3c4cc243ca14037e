"""What proxies hold, step by step, is what would be made from nothing; and a step visits only what it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import DataKeyWrapped, Event, ProxyConnected, ProxyDisconnected
from shared.model.resource import (
    Dataplane,
    DataSource,
    ExternalTls,
    Resource,
    ResourceKey,
    Sealed,
    Secret,
    Verification,
    ZoneEgress,
    key_of,
)
from tests.builders import (
    LogBuilder,
    ZoneBuilder,
    applied,
    at,
    dataplane,
    deleted,
    egress,
    external,
    gateway,
    gateway_route,
    generator,
    mes,
    mesh,
    resource,
)
from zone_cp.join import proxy_id
from zone_cp.replay import REDACTED, RedactedSecrets
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds import compile as compiling
from zone_cp.xds.compare import Diverged, divergences
from zone_cp.xds.fleet import Fleet, Turn, first_turn, next_turn
from zone_cp.xds.parts import Workload
from zone_cp.xds.secrets import MaterialMissing, Svid
from zone_cp.xds.snapshot import CLUSTER, LISTENER, SECRET

BACK = {"address": "127.0.0.1", "port": 9999, "backendRef": {"kind": "MeshExternalService", "name": "s1"}}
CALL = {"address": "127.0.0.1", "port": 9998, "tags": {"kuma.io/service": "web"}}
OUT = {"address": "127.0.0.1", "port": 9997, "tags": {"kuma.io/service": "e0"}}
REDIRECT: dict[str, Any] = {"transparentProxying": {"redirectPortOutbound": 15001}}
GATEWAY = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}}
PROXIES: tuple[tuple[Dataplane | ZoneEgress, tuple[str, ...]], ...] = (
    (egress(), ()),
    (egress("egress-2", port=10003), ()),
    (dataplane(**REDIRECT), ("redirect",)),
    (dataplane("web-2", **REDIRECT), ("redirect",)),
    (dataplane("explicit", "explicit", outbound=[OUT]), ()),
    (dataplane("back", "back", outbound=[BACK]), ("redirect",)),
    (dataplane("caller", "caller", outbound=[CALL, OUT]), ("redirect",)),
    (msgspec.structs.replace(dataplane("other", "other"), mesh="other"), ()),
    (dataplane("client", "client"), ("proxyless",)),
    (dataplane("edge-1", inbound=[], gateway=GATEWAY), ()),
    (msgspec.structs.replace(dataplane("edge-2", inbound=[], gateway=GATEWAY), mesh="other"), ()),
)


class Secrets(RedactedSecrets):
    """Material that can be read once its data key is wrapped; certificates with a generation."""

    def __init__(self) -> None:
        self.readable: set[str] = set()
        self.generations: dict[Workload, int] = {}
        self.authorities: set[str] = set()

    def text(self, material: TlsMaterial) -> bytes:
        if material.sealed is not None and material.sealed.kid not in self.readable:
            raise MaterialMissing("its data key is not here")
        return super().text(material)

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        if mesh not in self.authorities:
            raise MaterialMissing("no authority")
        never = datetime.fromtimestamp(0, UTC)
        text = f"{REDACTED} {spiffe_id} {self.generations.get((mesh, spiffe_id), 0)}"
        return Svid(spiffe_id, text, REDACTED, "", "", never, never)


class Played:
    """A zone under construction, its fleet, and the events since its last turn."""

    def __init__(self) -> None:
        self.hub, self.zone, self.secrets = LogBuilder(), ZoneBuilder(), Secrets()
        self.hub.append(applied(mesh()), applied(mesh("other", mtls=False)), applied(generator()))
        self.zone.follow(self.hub)
        self.turn = first_turn(self.zone.state, self.secrets)
        self.seen = (len(self.hub.events), len(self.zone.own.events))
        self.identities: set[Workload] = set()
        self.authorities: set[str] = set()

    @property
    def fleet(self) -> Fleet:
        return self.turn.fleet

    def events(self) -> tuple[Event, ...]:
        self.zone.follow(self.hub)
        return (*self.hub.events[self.seen[0] :], *self.zone.own.events[self.seen[1] :])

    def next(self, events: Sequence[Event] | None) -> Turn:
        return next_turn(
            self.fleet,
            self.zone.state,
            self.secrets,
            events=events,
            identities=self.identities,
            authorities=lambda _view: self.authorities,
        )

    def step(self, *, told: bool = True) -> Turn:
        """One turn; told: the events are handed over, else the states are compared."""
        events = self.events()
        self.turn = self.next(events if told else None)
        self.seen = (len(self.hub.events), len(self.zone.own.events))
        self.identities, self.authorities = set(), set()
        assert divergences(self.fleet, self.secrets) == []
        return self.turn

    def connect(self, one: Dataplane | ZoneEgress, features: tuple[str, ...]) -> None:
        key = key_of(one, "east")
        proxy = proxy_id(one)
        status = self.zone.state.own.proxies.get(proxy)
        if key not in self.zone.state.own.resources:
            self.zone.apply(one)
        if status is not None and status.online:
            self.zone.write(ProxyDisconnected(proxy=proxy, connection=status.connection))
        else:
            connection = f"{self.zone.own.state.n}"
            self.zone.write(ProxyConnected(proxy=proxy, key=key, connection=connection, features=features))


def secured(number: int) -> ExternalTls:
    """One service in two reads a Secret that others read as well."""
    return ExternalTls(enabled=True, verification=Verification(ca_cert=DataSource(secret=f"ca{number % 2}")))


def act(played: Played, verb: str, number: int, flag: bool) -> None:
    hub, zone, secrets = played.hub, played.zone, played.secrets
    hub.seconds += 2
    name, in_mesh = f"s{number % 4}", "other" if number > 5 else "default"
    match verb:
        case "service":
            tls, port = secured(number) if flag else None, 80 + number % 2
            made = mes(name, mesh=in_mesh, tls=tls, port=port, protocol="tcp" if number % 3 == 0 else "http")
            hub.append(applied(made))
        case "answering":
            spec = {
                "match": {"type": "HostnameGenerator", "port": 80, "protocol": "http"},
                "extension": {"type": "static-response", "config": {"status": 200 + number}},
            }
            hub.append(applied(resource(type="MeshExternalService", name=name, mesh=in_mesh, spec=spec)))
        case "external":
            secret = {"caCert": {"secret": f"ca{number % 2}"}} if flag else None
            address = ("a.test:443", "a.test:80", "b.test:443", "203.0.113.9:443")[number % 4]
            protocol = "tcp" if number % 3 == 0 else "http"
            made_so = external(name, address, mesh=in_mesh, service=f"e{number % 2}", protocol=protocol, tls=secret)
            hub.append(applied(made_so))
        case "external gone" if ResourceKey("ExternalService", in_mesh, name) in hub.state.resources:
            hub.append(deleted(external(name, mesh=in_mesh)))
        case "local":
            zone.apply(mes(name, mesh=in_mesh, tls=secured(number) if flag else None))
        case "gone" if ResourceKey("MeshExternalService", in_mesh, name) in hub.state.resources:
            hub.append(deleted(mes(name, mesh=in_mesh)))
        case "secret":
            expires = at(hub.seconds + 3 * number) if flag else ""
            sealed = Sealed(kid=f"k{number % 3}", nonce="bg==", ciphertext="Yw==", digest=f"{number}", expires=expires)
            hub.append(applied(Secret(name=f"ca{number % 2}", mesh=in_mesh, sealed=sealed)))
        case "key":
            secrets.readable ^= {f"k{number % 3}"}
            hub.append(DataKeyWrapped(kid=f"k{number % 3}", recipient="east", wrapped=f"{len(hub.events)}"))
        case "rotated":
            for workload in sorted(played.fleet.workloads())[: number + 1]:
                secrets.generations[workload] = secrets.generations.get(workload, 0) + 1
                played.identities.add(workload)
        case "authority":
            secrets.authorities ^= {in_mesh}
            played.authorities.add(in_mesh)
        case "mesh":
            labels = {"zonal.io/mes-origination": "sidecar"} if number % 3 == 0 else {}
            made_mesh = mesh(in_mesh, mtls=flag, forbid=number % 2 == 0, labels=labels)
            routing = msgspec.structs.replace(made_mesh.routing, zone_egress=flag and number % 5 == 0)
            hub.append(applied(msgspec.structs.replace(made_mesh, routing=routing)))
        case "no mesh" if ResourceKey("Mesh", "", in_mesh) in hub.state.resources:
            hub.append(deleted(mesh(in_mesh)))
        case "policy":
            route = {"kind": "MeshHTTPRoute", "name": f"r{number // 3 % 2}"}
            named = route if number % 3 == 0 else {"kind": "MeshExternalService", "name": name}
            to = named if flag else {"kind": "Mesh"}
            top: dict[str, Any] = {"targetRef": {"kind": "Dataplane", "name": "web-1"}} if number % 2 else {}
            default = {"idleTimeout": f"{number + 1}s", "http": {"requestTimeout": f"{number + 1}s"}}
            spec = top | {"to": [{"targetRef": to, "default": default}]}
            hub.append(applied(resource(type="MeshTimeout", name=f"t{number % 2}", mesh=in_mesh, spec=spec)))
        case "route":
            kind = "MeshTCPRoute" if number % 3 == 0 else "MeshHTTPRoute"
            other = f"s{(number + 1) % 4}"
            meant = {"labels": {"kuma.io/display-name": other}} if flag else {"name": other, "port": 80}
            backend = {"kind": "MeshExternalService", "weight": 1} | meant
            rule: dict[str, Any] = {"default": {"backendRefs": [backend]}}
            if kind == "MeshHTTPRoute":
                rule["matches"] = [{"path": {"type": "PathPrefix", "value": "/"}}]
            spec = {"to": [{"targetRef": {"kind": "MeshExternalService", "name": name}, "rules": [rule]}]}
            hub.append(applied(resource(type=kind, name=f"r{number % 2}", mesh=in_mesh, spec=spec)))
        case "passing":
            top = {"kind": "Dataplane", "name": "web-1"} if flag else {"kind": "Mesh"}
            entry = {"type": "Domain", "value": f"d{number}.example.com", "port": 443, "protocol": "tls"}
            spec = {"targetRef": top, "default": {"appendMatch": [entry][: number % 2]}}
            let = resource(type="MeshPassthrough", name=f"l{number % 2}", mesh=in_mesh, spec=spec)
            hub.append(applied(let) if number % 3 or key_of(let) not in hub.state.resources else deleted(let))
        case "guard":
            spec = {"targetRef": {"kind": "MeshExternalService", "name": name}, "rules": []}
            guard = resource(type="MeshTrafficPermission", name=f"g{number % 2}", mesh=in_mesh, spec=spec)
            hub.append(applied(guard) if flag or key_of(guard) not in hub.state.resources else deleted(guard))
        case "gateway":
            host = {"hostname": f"{name}.test"} if number % 3 else {}
            listener: dict[str, Any] = {"port": 80 + number % 2, "protocol": "TCP" if number == 4 else "HTTP", **host}
            listener |= {"resources": {"connectionLimit": number}, "crossMesh": number in {1, 2, 7}}
            shown = f"ca{number % 2}" if flag else ""
            edge = gateway(f"g{number % 2}", "edge-gateway", listener, secret=shown, mesh=in_mesh)
            if number == 9:
                zone.apply(edge)
            else:
                hub.append(applied(edge) if number % 4 or key_of(edge) not in hub.state.resources else deleted(edge))
        case "gateway route":
            way = gateway_route(f"w{number % 2}", backend="web" if flag else f"e{number % 2}", mesh=in_mesh)
            hub.append(applied(way) if number % 3 or key_of(way) not in hub.state.resources else deleted(way))
        case "newer gateway route":
            to = {"kind": "MeshExternalService", "name": name} if flag else {"kind": "MeshService", "name": "e0"}
            conf: dict[str, Any] = {"default": {"backendRefs": [to, {"kind": "MeshService", "name": "web"}]}}
            kind = "MeshTCPRoute" if number % 4 == 0 else "MeshHTTPRoute"
            conf |= {"matches": [{"method": "GET"}]} if kind == "MeshHTTPRoute" else {}
            top = {"kind": "MeshGateway", "name": f"g{number % 2}"}
            spec = {"targetRef": top, "to": [{"targetRef": {"kind": "Mesh"}, "rules": [conf]}]}
            newer = resource(type=kind, name=f"n{number % 2}", mesh=in_mesh, spec=spec)
            hub.append(applied(newer) if number % 3 or key_of(newer) not in hub.state.resources else deleted(newer))
        case "settings":
            asked = msgspec.structs.replace(zone.settings, egress_on_demand_above=number)
            zone.write(asked)
        case "proxy":
            played.connect(*PROXIES[number % len(PROXIES)])
        case "moved":
            one, _ = PROXIES[number % len(PROXIES)]
            address = f"127.0.0.{number + 2}"
            moved: Resource = msgspec.structs.replace(
                one,
                networking=msgspec.structs.replace(one.networking, address=address),
            )
            if key_of(one, "east") in zone.state.own.resources:
                zone.apply(moved)
        case _:
            pass


VERBS = (
    *("external", "external", "external gone", "gateway", "gateway", "gateway route", "newer gateway route"),
    *("service", "service", "answering", "local", "gone", "secret", "key", "rotated", "authority"),
    *("settings", "mesh", "no mesh", "policy", "route", "passing", "guard", "proxy", "proxy", "proxy", "moved"),
)
acts = st.tuples(st.sampled_from(VERBS), st.integers(0, 9), st.booleans())
turns = st.lists(st.tuples(st.lists(acts, min_size=1, max_size=4), st.booleans(), st.booleans()), max_size=12)


@settings(max_examples=120, deadline=None)
@given(turns)
def test_step_by_step_is_what_is_made_from_nothing(
    history: list[tuple[list[tuple[str, int, bool]], bool, bool]],
) -> None:
    """Views, situations, every resource of every proxy, names and versions; and a turn that is thrown away leaves
    nothing behind.
    """
    played = Played()
    for declared in PROXIES[::2]:
        played.connect(*declared)
    for batch, told, thrown_away in history:
        for one in batch:
            act(played, *one)
        if thrown_away:
            played.next(played.events())
        before = {proxy: played.fleet.snapshot(proxy) for proxy in played.fleet.situations}
        turn = played.step(told=told)
        offered = dict(turn.offers)
        for proxy in turn.fleet.situations:
            after = turn.fleet.snapshot(proxy)
            assert offered.get(proxy, before.get(proxy)) is after, f"{proxy} holds what it was not offered"


def _connected(*which: int) -> Played:
    played = Played()
    for number in which:
        played.connect(*PROXIES[number])
    played.secrets.authorities |= {"default", "other"}
    played.authorities |= {"default", "other"}
    played.hub.append(*(applied(mes(f"s{number}", port=81)) for number in range(4)))
    played.step()
    return played


def test_a_sidecar_with_one_listener_for_all_is_not_visited_when_a_service_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the zone egress is compiled, and only its one cluster differs; the sidecars hold the moment too."""
    played = _connected(0, 2, 3)
    compiled: list[str] = []
    whole = compiling.compile_next

    def counted(before: Any, view: Any, proxy: Any, *rest: Any) -> Any:
        compiled.append(type(proxy.resource).__name__)
        return whole(before, view, proxy, *rest)

    monkeypatch.setattr("zone_cp.xds.fleet.compile_next", counted)
    before = played.fleet.snapshot(".egress-1")
    played.hub.append(applied(mes("s1", port=81, endpoints=("203.0.113.9:1",))))
    events = played.events()
    turn = played.next(events)
    assert compiled == ["ZoneEgress"]
    assert [proxy for proxy, _ in turn.offers] == [".egress-1"]
    (_, after), *_ = turn.offers
    assert before is not None
    assert [kind for kind, held in after.resources.items() if held is not before.resources[kind]] == [CLUSTER]
    (name,) = after.lineages[CLUSTER].since(before.resources[CLUSTER]) or ()
    assert after.resources[CLUSTER][name] is not before.resources[CLUSTER][name]


def test_a_gateway_alone_is_visited_when_a_mesh_gateway_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it where another mesh's does."""
    played = _connected(0, 2, 3, 9, 10)
    compiled: list[str] = []
    whole = compiling.compile_next

    def counted(before: Any, view: Any, proxy: Any, *rest: Any) -> Any:
        compiled.append(proxy.resource.mesh)
        return whole(before, view, proxy, *rest)

    played.hub.append(applied(gateway()))
    played.step()
    monkeypatch.setattr("zone_cp.xds.fleet.compile_next", counted)
    played.hub.append(applied(gateway("edge", "edge-gateway", {"port": 81, "protocol": "HTTP"})))
    turn = played.next(played.events())
    assert compiled == ["default"]
    ((proxy, after),) = turn.offers
    assert proxy == "default.edge-1"
    assert list(after.resources[LISTENER]) == ["edge:HTTP:81"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("MeshTimeout", {"to": [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "5s"}}]}),
        ("MeshPassthrough", {"default": {"passthroughMode": "None"}}),
    ],
)
def test_proxies_in_equal_situation_hold_one_snapshot(kind: str, says: dict[str, Any]) -> None:
    """Until a policy tells them apart by name."""
    played = _connected(2, 3)
    assert played.fleet.snapshot("default.web-1") is played.fleet.snapshot("default.web-2")
    spec = {"targetRef": {"kind": "Dataplane", "name": "web-1"}} | says
    played.hub.append(applied(resource(type=kind, name="t", mesh="default", spec=spec)))
    played.step()
    one, other = played.fleet.snapshot("default.web-1"), played.fleet.snapshot("default.web-2")
    assert one is not None
    assert other is not None
    assert one.resources[LISTENER] != other.resources[LISTENER]


def test_a_replaced_certificate_reaches_those_who_hold_it() -> None:
    """And no other proxy; nothing but the secret differs."""
    played = _connected(0, 2, 4)
    workload = ("default", "spiffe://default/explicit")
    assert workload in played.fleet.workloads()
    played.secrets.generations[workload] = 1
    played.identities = {workload}
    before = played.fleet.snapshot("default.explicit")
    ((proxy, after),) = played.step().offers
    assert proxy == "default.explicit"
    assert before is not None
    assert [kind for kind, held in after.resources.items() if held is not before.resources[kind]] == [SECRET]


def test_a_comparison_tells_what_differs() -> None:
    """A fleet that missed an event is found out, by name."""
    played = _connected(0)
    played.hub.append(applied(mes("s1", port=81, endpoints=("203.0.113.9:1",))))
    played.zone.follow(played.hub)
    fleet = msgspec.structs.replace(played.fleet, state=played.zone.state)
    found = divergences(fleet, played.secrets)
    assert any("view: MeshExternalService/default/s1 differs" in one for one in found)
    assert "position differs" in str(Diverged(found))
