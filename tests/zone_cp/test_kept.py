"""What a proxy keeps whose push is held: never more access than it was kept with, and never what was lost since."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from shared.events.event import ProxyConnected, PushHeld
from shared.events.history import History
from shared.events.state import Position
from shared.model.resource import DataSource, ExternalTls, ResourceKey, Routing, Sealed, Secret, Verification, key_of
from tests.builders import (
    LogBuilder,
    ZoneBuilder,
    applied,
    at,
    deleted,
    egress,
    external,
    mes,
    mesh,
    service_key,
    traffic_permission,
)
from tests.zone_cp.judged import lets_in
from zone_cp.kept import kept_view
from zone_cp.replay import RedactedSecrets, known_proxy, snapshot_at, view_at
from zone_cp.view.project import project
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, SECRET, Snapshot

EGRESS = ".egress-1"
WORKLOADS = ("spiffe://default/web", "spiffe://default/job")
SERVICES = ("s0", "s1")
workloads = st.sets(st.sampled_from(WORKLOADS))
steps = st.one_of(
    st.tuples(st.just("permit"), st.integers(0, 1), st.sampled_from((*SERVICES, "")), workloads, workloads),
    st.tuples(st.just("lift"), st.integers(0, 1)),
    st.tuples(st.just("forbid"), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(SERVICES)),
)


def _take(hub: LogBuilder, step: tuple[Any, ...]) -> None:
    match step:
        case ("permit", number, name, allow, deny):
            hub.append(applied(traffic_permission(f"p{number}", name, allow, deny)))
        case ("lift", number):
            stored = hub.state.resources.get(ResourceKey("MeshTrafficPermission", "default", f"p{number}"))
            if stored is not None:
                hub.append(deleted(stored.resource))
        case ("forbid", said):
            hub.append(applied(mesh(forbid=said)))
        case ("delete", name):
            stored = hub.state.resources.get(ResourceKey("MeshExternalService", "default", name))
            if stored is not None:
                hub.append(deleted(stored.resource))
        case _:
            raise AssertionError(step)


def _ways(snapshot: Snapshot) -> set[tuple[str, str]]:
    """By cluster, who is led there."""
    filters = {name.split("/")[1]: one.body for name, one in snapshot.resources[EXTENSION_CONFIG].items()}
    services = [name for name in snapshot.resources[CLUSTER] if name.startswith("mes/")]
    return {(name, who) for name in services for who in WORKLOADS if lets_in(filters[name.split("/")[1]], name, who)}


@settings(max_examples=80, deadline=None)
@given(before=st.lists(steps, max_size=4), after=st.lists(steps, max_size=4))
def test_only_who_may_then_and_now(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    """By the bytes of a zone egress's filters. Where nothing was said since, those are the very same bytes."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()))
    for number, name in enumerate(SERVICES):
        hub.append(applied(mes(name, protocol="http" if number else "tcp")))
    for step in before:
        _take(hub, step)
    zone.follow(hub)
    zone.apply(egress())
    zone.write(ProxyConnected(proxy=EGRESS, key=key_of(egress(), "east"), connection="1"))
    zone.follow(hub)
    kept = Position(hub.state.n, zone.own.state.n)
    for step in after:
        _take(hub, step)
    zone.follow(hub)
    now = Position(hub.state.n, zone.own.state.n)
    history = History.of(hub.events, {"east": zone.own.events})
    known = known_proxy(history.state("east", kept), EGRESS)

    def compiled(view: ZoneView) -> Snapshot:
        return compile_proxy(view, known, RedactedSecrets())

    then, present = view_at(history, "east", kept), view_at(history, "east", now)
    result = compiled(kept_view(then, present, history.state("east", now)))
    was, may = _ways(compiled(then)), _ways(compiled(present))
    there = set(compiled(present).resources[CLUSTER])
    assert set(result.resources[CLUSTER]) == set(compiled(then).resources[CLUSTER]), "nothing is taken away"
    assert _ways(result) <= was
    assert {one for one in _ways(result) if one[0] in there} == {one for one in was if one[0] in there} & may
    if not after:
        assert result.resources == compiled(then).resources


def _sealed(text: str, expires: str = "") -> Sealed:
    return Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest=text, expires=expires)


def _verified(ca: str, client: str = "") -> ExternalTls:
    given = (DataSource(secret=client), DataSource(secret=f"{client}-key")) if client else (None, None)
    return ExternalTls(
        enabled=True,
        verification=Verification(ca_cert=DataSource(secret=ca), client_cert=given[0], client_key=given[1]),
    )


class _Held:
    """An egress that is held since it had three services with Secrets."""

    def __init__(self) -> None:
        self.hub, self.zone = LogBuilder(), ZoneBuilder()
        legacy = {"enabled": True, "caCert": {"secret": "old-ca"}}
        self.hub.append(applied(msgspec.structs.replace(mesh(), routing=Routing(zone_egress=True))))
        self.secret("ca", "ca-key", "client", "client-key", "old-ca")
        self.hub.append(
            applied(mes("s0", tls=_verified("ca", "client"))),
            applied(mes("s1", tls=_verified("ca"))),
            applied(external("s2", tls=legacy)),
        )
        self.zone.follow(self.hub)
        self.zone.apply(egress())
        self.zone.write(ProxyConnected(proxy=EGRESS, key=key_of(egress(), "east"), connection="1"))
        self.zone.follow(self.hub)
        self.kept = Position(self.hub.state.n, self.zone.own.state.n)
        self.zone.write(PushHeld(proxies=(EGRESS,), kept_g=self.kept.g, kept_z=self.kept.z, reason="many"))
        self.before = self.now()
        services = project(self.zone.state).meshes["default"].services
        self.clusters = {name: services[service_key(name)].cluster for name in ("s0", "s1")}

    def secret(self, *names: str, text: str = "first", expires: str = "") -> None:
        self.hub.append(*(applied(Secret(name=one, sealed=_sealed(text, expires))) for one in names))

    def now(self) -> Snapshot:
        """What the egress is told by now, as replay has it."""
        self.zone.follow(self.hub)
        history = History.of(self.hub.events, {"east": self.zone.own.events})
        return snapshot_at(history, "east", Position(self.hub.state.n, self.zone.own.state.n), EGRESS)

    def moved(self) -> set[str]:
        """The names of what is others than it was when the hold began."""
        after = self.now()
        assert {url: set(names) for url, names in after.resources.items() if url != SECRET} == {
            url: set(names) for url, names in self.before.resources.items() if url != SECRET
        }, "nothing is taken away"
        return {
            name
            for url, names in after.resources.items()
            for name, one in names.items()
            if name not in self.before.resources[url] or self.before.resources[url][name].version != one.version
        }


def test_a_held_push_holds_no_secret_that_was_rotated() -> None:
    """CAs and client certificates, of services that are gone by now as well, and of legacy ones; nothing else moves."""
    held = _Held()
    assert held.moved() == set()
    held.secret("ca", text="second")
    assert held.moved() == {"secret/default/ca"}
    held.secret("client", "client-key", text="second")
    pair = "secret/default/client+secret/default/client-key"
    assert held.moved() == {"secret/default/ca", pair}
    held.hub.append(*(deleted(one) for one in (mes("s0"), mes("s1"))))
    held.secret("client", "client-key", text="third")
    held.secret("old-ca", text="second")
    assert held.moved() == {"secret/default/ca", pair, "secret/default/old-ca"}
    assert "third" in str(held.now().resources[SECRET][pair].body)


@pytest.mark.parametrize("gone", [True, False])
def test_a_secret_that_goes_closes_only_what_is_still_declared(gone: bool) -> None:
    """Who takes services away with their Secrets has not said that anybody is to be trusted less."""
    held = _Held()
    if gone:
        held.hub.append(deleted(mes("s1")))
    held.hub.append(deleted(Secret(name="ca")))
    closed = {cluster for name, cluster in held.clusters.items() if name == "s0" or not gone}
    assert held.moved() & set(held.before.resources[CLUSTER]) == closed


def test_what_a_held_proxy_keeps_closes_with_its_ca() -> None:
    """An expiry is no change that a hold keeps; it comes with the next event."""
    held = _Held()
    held.secret("ca", text="second", expires=at(50))
    assert held.moved() == {"secret/default/ca"}
    held.hub.append(applied(mes("other")), seconds=60)
    assert held.moved() >= set(held.clusters.values())
    clusters = held.now().resources[CLUSTER]
    assert all(b"CA certificates expired" in clusters[name].body for name in held.clusters.values())
