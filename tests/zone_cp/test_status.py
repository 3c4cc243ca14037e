"""What a zone records about its services, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.api.store import ServiceStatus
from shared.events.conditions import Observed
from shared.events.event import EventRef, ProxyConnected, ProxyDisconnected
from shared.events.state import ZoneState
from shared.model.resource import ResourceKey, Sealed, Secret, key_of
from tests.builders import (
    LogBuilder,
    ZoneBuilder,
    applied,
    at,
    dataplane,
    deleted,
    egress,
    gateway,
    generator,
    mes,
    mesh,
)
from zone_cp import status
from zone_cp.status import StatusBoard
from zone_cp.view.project import next_step, project
from zone_cp.view.zone_view import Failure, ZoneView
from zone_cp.xds.parts import Impaired

SERVICES = tuple(f"service-{number}" for number in range(5))


class Kept:
    """A status stream that keeps in memory what was put, in order."""

    def __init__(self) -> None:
        self.puts: list[ServiceStatus] = []

    async def put(self, _key: str, data: bytes) -> None:
        """Keep a row; nothing is what is put of one that is gone."""
        if data:
            self.puts.append(msgspec.json.decode(data, type=ServiceStatus))

    async def keys(self) -> Sequence[str]:
        """Nothing was recorded before."""
        return ()


class Zone:
    """A zone with an egress and five services, and its board."""

    def __init__(self) -> None:
        self.hub, self.zone, self.stream = LogBuilder(), ZoneBuilder("east"), Kept()
        self.zone.write(applied(egress(), "east"))
        self.zone.write(ProxyConnected(proxy=".egress-1", key=key_of(egress(), "east"), connection="c"))
        self.hub.append(applied(mesh()), applied(generator()), *(applied(mes(name)) for name in SERVICES))
        self.board = StatusBoard("east", self.stream, self.present, Map)  # type: ignore[arg-type]
        self.state = self.zone.state
        self.view = project(self.state)
        self.seen = (0, len(self.zone.own.events))

    def present(self) -> tuple[ZoneState, ZoneView]:
        """The moment now; the board is told what changed since the one before."""
        self.zone.follow(self.hub)
        events = (*self.hub.events[self.seen[0] :], *self.zone.own.events[self.seen[1] :])
        if events:
            self.seen = (len(self.hub.events), len(self.zone.own.events))
            self.view, difference = next_step(self.view, self.state, self.zone.state, events)
            self.state = self.zone.state
            self.board.changed(difference)
        return self.state, self.view

    async def recorded(self) -> list[ServiceStatus]:
        """Rows that are recorded once the egress has ACKed the moment now."""
        before = len(self.stream.puts)
        self.board.delivered(self.present()[1], (), at(self.hub.seconds + 1))
        running = asyncio.create_task(self.board.run())
        await asyncio.sleep(0.2)
        running.cancel()
        return self.stream.puts[before:]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pause for proxies."""
    monkeypatch.setattr(status, "SETTLE_SECONDS", 0.0)


@pytest.mark.anyio
async def test_an_ack_of_one_service_is_no_news_of_the_others() -> None:
    """A change rewrites the row of its own service alone, whatever else the zone has."""
    zone = Zone()
    assert sorted(row.name for row in await zone.recorded()) == list(SERVICES)
    zone.hub.append(applied(mes("service-3", endpoints=("203.0.113.9:80",))), seconds=60)
    assert [row.name for row in await zone.recorded()] == ["service-3"]


@pytest.mark.anyio
async def test_ready_says_since_when_this_version_is_held() -> None:
    """Each version of a service is Ready since the ACK that covered it first."""
    zone = Zone()
    first = await zone.recorded()
    zone.hub.append(applied(mes("service-3", endpoints=("203.0.113.9:80",))), seconds=60)
    await zone.recorded()
    since = {
        row.name: next(one.time for one in row.conditions if one.type == "Ready") for row in zone.board.rows.values()
    }
    assert len(first) == len(SERVICES)
    assert since == {name: at(61 if name == "service-3" else 1) for name in SERVICES}


acts = st.lists(
    st.tuples(
        st.sampled_from(
            ("service", "gone", "generator", "mesh", "no mesh", "egress", "ack", "nack", "observe", "settings")
        ),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=20,
)


@pytest.mark.parametrize("begun", [0, 1, 3])
@settings(max_examples=40, deadline=None)
@given(acts)
def test_rows_that_were_not_computed_anew_say_what_they_would_say(
    begun: int, history: list[tuple[str, int, bool]]
) -> None:
    """A board that was told every change has the rows of one that computes everything, also where changes came after
    it had computed some pieces.
    """
    zone = Zone()
    zone.hub.append(applied(mesh("other")))
    nacks: set[str] = set()
    seen: dict[str, Observed] = {}
    acked: ZoneView | None = None
    for verb, number, flag in history:
        under_way = zone.board._pieces()
        for _ in range(begun):
            next(under_way, None)
        _act(zone, verb, number, flag)
        _, view = zone.present()
        clusters = sorted(one.cluster for each in view.meshes.values() for one in each.services.values())
        if verb == "ack":
            acked = view
            zone.board.delivered(view, (), at(1))
        elif clusters and verb == "nack":
            cluster = clusters[number % len(clusters)]
            nacks ^= {cluster}
            zone.board.nacked(cluster, "refused" if cluster in nacks else "")
        elif clusters and verb == "observe":
            seen[clusters[number % len(clusters)]] = observed = Observed(flag, "reset", "p", at(number))
            zone.board.observed("p", clusters[number % len(clusters)], observed)
        for _ in under_way if begun else ():
            pass
        zone.board.compute()
        fresh = StatusBoard("east", zone.stream, zone.present, Map)  # type: ignore[arg-type]
        fresh.delivered(acked, (), at(1))
        for cluster in nacks:
            fresh.nacked(cluster, "refused")
        for cluster, observed in seen.items():
            fresh.observed("p", cluster, observed)
        fresh.compute()
        assert _said(zone.board) == _said(fresh)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board of few services has several pieces as well."""
    monkeypatch.setattr("zone_cp.status.PIECE", 1)


def _act(zone: Zone, verb: str, number: int, flag: bool) -> None:
    name, in_mesh = f"service-{number}", "other" if flag else "default"
    key = key_of(mes(name, mesh=in_mesh))
    match verb:
        case "service":
            zone.hub.append(applied(mes(name, mesh=in_mesh, port=80 + number, labels={"host": f"h{number % 2}"})))
        case "gone" if key in zone.hub.state.resources:
            zone.hub.append(deleted(mes(name, mesh=in_mesh)))
        case "generator":
            template = '{{ label "host" }}.ext' if flag else "{{ .DisplayName }}.ext.local"
            zone.hub.append(applied(generator(f"g{number % 2}", template)))
        case "mesh":
            zone.hub.append(applied(mesh(in_mesh, mtls=number % 2 == 0)))
        case "no mesh" if key_of(mesh(in_mesh)) in zone.hub.state.resources:
            zone.hub.append(deleted(mesh(in_mesh)))
        case "settings":
            zone.zone.write(msgspec.structs.replace(zone.zone.settings, cidr="10.9.0.0/29" if flag else "242.0.0.0/8"))
        case "egress" if zone.zone.state.own.proxies[".egress-1"].online:
            zone.zone.write(ProxyDisconnected(proxy=".egress-1", connection="c"))
        case "egress":
            zone.zone.write(ProxyConnected(proxy=".egress-1", key=key_of(egress(), "east"), connection="c"))
        case _:
            pass


def _said(board: StatusBoard) -> dict[str, object]:
    return {
        token: msgspec.structs.replace(
            row,
            position="",
            conditions=tuple((one.type, one.status, one.reason, one.message) for one in row.conditions),
        )
        for token, row in board.statuses().items()
    }


@pytest.mark.anyio
async def test_a_mesh_gateway_says_who_is_bound_and_which_listener_is_closed() -> None:
    """Rows of gateways come and go with MeshGateways and gateway Dataplanes, and with what is closed."""
    zone, closed = Zone(), dict[tuple[ResourceKey, int], Failure]()
    degraded = dict[ResourceKey, tuple[Impaired, ...]]()
    zone.board = StatusBoard(
        "east",
        zone.stream,  # type: ignore[arg-type]
        zone.present,
        Map,
        lambda: Map(closed),
        impaired=lambda: Map(degraded),
    )

    async def said() -> dict[str, list[tuple[str, str, str]]]:
        rows = [row for row in await zone.recorded() if row.kind == "MeshGateway"]
        return {row.name: [(one.type, one.status, one.reason) for one in row.conditions] for row in rows}

    await zone.recorded()
    zone.hub.append(applied(gateway(secret="gone")))
    assert await said() == {"edge": [("Bound", "False", "NoDataplane"), ("Ready", "False", "NotBound")]}
    proxy = dataplane("edge-1", inbound=[], gateway={"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}})
    zone.zone.write(applied(proxy, "east"))
    assert await said() == {"edge": [("Bound", "True", "Bound"), ("Ready", "False", "SecretMissing")]}
    zone.zone.write(applied(dataplane(), "east"))
    assert await said() == {}
    zone.hub.append(applied(Secret(name="gone", sealed=Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest="d"))))
    assert await said() == {"edge": [("Bound", "True", "Bound"), ("Ready", "True", "Served")]}
    closed[key_of(gateway()), 1] = Failure("InvalidMaterial", "missing private key", "conf.listeners[1]")
    zone.zone.write(applied(dataplane("web-2"), "east"))
    assert await said() == {"edge": [("Bound", "True", "Bound"), ("Ready", "False", "InvalidMaterial")]}
    closed.clear()
    events = [EventRef("global", n, time=f"2026-01-01T00:00:0{n}Z") for n in (7, 8)]
    degraded[key_of(gateway())] = tuple(Impaired(one, f"Reason{one.n}", f"sentence {one.n}") for one in events)
    zone.zone.write(applied(dataplane("web-3"), "east"))
    assert await said() == {
        "edge": [("Bound", "True", "Bound"), ("Ready", "True", "Served"), ("Degraded", "True", "Reason8")]
    }
    last = zone.board.rows["mgw.default._.edge"].conditions[-1]
    assert (last.message, last.time) == ("sentence 8 (event 8); and 1 more", "2026-01-01T00:00:08Z")
    degraded.clear()
    zone.zone.write(deleted(proxy, "east"))
    assert await said() == {"edge": [("Bound", "False", "NoDataplane"), ("Ready", "False", "NotBound")]}
    crossing = {"port": 8080, "protocol": "HTTP", "crossMesh": True}
    zone.hub.append(applied(mesh("other")), applied(gateway("edge", "edge-gateway", crossing)))
    unseen = [("Bound", "False", "NoDataplane"), ("Ready", "False", "NotBound")]
    leased = [("VipLeased", "True", "Leased"), ("HostnamesGenerated", "True", "Generated")]
    assert await said() == {"edge": [unseen[0], *leased, unseen[1]]}
    row = zone.board.rows["mgw.default._.edge"]
    assert row.conditions[0].message.endswith(", and cross-mesh traffic does not cross zones")
    zone.hub.append(deleted(gateway()))
    await zone.recorded()
    assert zone.board.rows.keys() == {f"mes.default._.{name}" for name in SERVICES}
