"""The view of a zone, whole and step by step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.events.event import ProxyConnected, ProxyDisconnected, ResourceApplied
from shared.events.fold import fold
from shared.events.state import ZoneState
from shared.model.resource import (
    DataSource,
    ExternalTls,
    MeshExternalService,
    ResourceKey,
    Sealed,
    Secret,
    Verification,
    key_of,
)
from tests.builders import (
    LogBuilder,
    ZoneBuilder,
    applied,
    dataplane,
    deleted,
    egress,
    gateway,
    gateway_route,
    generator,
    mes,
    mesh,
    resource,
    service_key,
)
from zone_cp.view.project import dns_table, duration_seconds, project, project_next, proxy_view
from zone_cp.view.zone_view import ExternalServiceView, ZoneView

KEY = service_key()
SEALED = Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest="ZA==")


def _zone(*resources: Any, zone: str = "east") -> ZoneBuilder:
    hub, builder = LogBuilder(), ZoneBuilder(zone)
    hub.append(applied(mesh()), applied(generator()), *(applied(resource) for resource in resources))
    builder.follow(hub)
    return builder


def _service(*resources: Any, zone: str = "east") -> ExternalServiceView:
    return project(_zone(*resources, zone=zone).state).meshes["default"].services[KEY]


def _tls(**verification: Any) -> ExternalTls:
    return ExternalTls(enabled=True, verification=Verification(**verification))


def test_a_service_has_vip_names_sni_and_cluster() -> None:
    """What the compiler needs, in the mesh's words."""
    zone = _zone(mes(port=8443))
    service = project(zone.state).meshes["default"].services[KEY]
    vip = zone.vip(KEY)
    assert (service.vip, service.hostnames, service.failure) == (vip, ("payments.ext.local",), None)
    assert service.sni == f"v{vip}.p8443.default.mes"
    assert service.cluster == f"mes/http/default/v{vip}.p8443.default.mes"
    assert [str(source) for source in service.sources] == ["3", "east:2", "east:3"]
    assert service.labels["kuma.io/origin"] == "global"


def test_names_resolve_to_vips_per_mesh() -> None:
    """The DNS table of a mesh holds every hostname, also of closed services."""
    zone = _zone(mes(), mes("closed", labels={"kuma.io/zone": "west"}))
    table = dns_table(project(zone.state), "default")
    assert table == Map({"payments.ext.local": zone.vip(KEY), "closed.ext.local": zone.vip(service_key("closed"))})
    assert not dns_table(project(zone.state), "other")


@pytest.mark.parametrize(
    ("service", "reason", "field"),
    [
        (mes(tls=_tls(ca_cert=DataSource(secret="ca"))), "SecretMissing", "spec.tls.verification.caCert.secret"),
        (mes(tls=_tls(ca_cert=DataSource(inline="%"))), "InvalidDataSource", "spec.tls.verification.caCert.inline"),
        (mes(tls=_tls(ca_cert=DataSource())), "InvalidDataSource", "spec.tls.verification.caCert"),
        (
            mes(tls=_tls(client_cert=DataSource(inline_string="pem"))),
            "ClientCertificateIncomplete",
            "spec.tls.verification.clientKey",
        ),
        (
            mes(tls=_tls(client_cert=DataSource(inline_string="p"), client_key=DataSource(inline_string="p"))),
            "PrivateKeyInClear",
            "spec.tls.verification.clientKey",
        ),
        (mes(labels={"kuma.io/zone": "west"}), "ZonePinned", 'labels["kuma.io/zone"]'),
        (mes(endpoints=()), "NoEndpoints", "spec.endpoints"),
    ],
)
def test_what_cannot_be_served_is_closed_and_says_why(service: MeshExternalService, reason: str, field: str) -> None:
    """A broken service keeps its name and VIP, has no material, and names the field to mend."""
    view = _service(service)
    assert view.failure is not None
    assert (view.failure.reason, view.failure.field) == (reason, field)
    assert view.hostnames == ("payments.ext.local",)
    assert view.ca_cert is view.client_cert is view.client_key is None


def test_a_pin_to_this_zone_is_no_failure() -> None:
    """A global service pinned to west is open in west."""
    view = _service(mes(labels={"kuma.io/zone": "west"}), zone="west")
    assert (view.zone_pin, view.failure) == ("west", None)


def test_secrets_come_sealed_and_inline_ca_in_clear() -> None:
    """SDS names are stable; a private key is never in clear."""
    tls = _tls(
        ca_cert=DataSource(inline="cGVt"),
        client_cert=DataSource(secret="client"),
        client_key=DataSource(sealed=SEALED),
    )
    view = _service(Secret(name="client", sealed=SEALED), mes(tls=tls))
    assert view.failure is None
    assert view.ca_cert is not None
    assert view.client_cert is not None
    assert view.client_key is not None
    assert (view.ca_cert.name, view.ca_cert.text) == ("mes/default/_/payments/caCert", "pem")
    assert (view.client_cert.name, view.client_cert.sealed) == ("secret/default/client", SEALED)
    assert (view.client_key.name, view.client_key.text) == ("mes/default/_/payments/clientKey", None)


def test_a_ca_that_is_not_read_cannot_close_a_service() -> None:
    """SkipAll keeps the client certificate and reads no CA."""
    assert _service(mes(tls=_tls(mode="SkipAll", ca_cert=DataSource(secret="gone")))).failure is None


@pytest.mark.parametrize(
    ("declared", "origination"),
    [
        (mesh(), "egress"),
        (mesh(mtls=False), "sidecar"),
        (mesh(labels={"zonal.io/mes-origination": "sidecar"}), "sidecar"),
    ],
)
def test_origination_follows_declared_configuration(declared: Any, origination: str) -> None:
    """mTLS leads through the egress; direct mode only without it or by the label (decision 2)."""
    view = project(_zone(declared).state).meshes["default"]
    assert view.origination == origination
    assert view.certificate_seconds == 86400


def test_online_egresses_and_proxies_are_known() -> None:
    """A ZoneEgress counts while its stream is open; a proxy's metadata is what it said when it connected."""
    zone = _zone()
    zone.apply(egress(), dataplane())
    key, web = key_of(egress(), "east"), key_of(dataplane(), "east")
    assert project(zone.state).egresses == ()
    zone.write(
        ProxyConnected(proxy="egress-1", key=key, connection="1"),
        ProxyConnected(proxy="default.web-1", key=web, connection="2", features=("redirect",), system_ca_path="/ca"),
    )
    (view,) = project(zone.state).egresses
    assert (view.name, view.port) == ("egress-1", 10002)
    known = proxy_view(zone.state, "default.web-1")
    assert known is not None
    assert (known.features, known.system_ca_path) == (("redirect",), "/ca")
    assert proxy_view(zone.state, "unknown") is None
    zone.write(ProxyDisconnected(proxy="egress-1", connection="1"))
    assert project(zone.state).egresses == ()


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("1d", 86400), ("1h30m", 5400), ("", None), ("x", None)])
def test_durations_are_kumas(text: str, seconds: int | None) -> None:
    """Certificate lifetimes as written in a Mesh."""
    assert duration_seconds(text) == seconds


steps = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *("mes", "delete", "secret", "mesh", "no-mesh", "generator", "local", "proxy", "gone"),
                *("policy", "guard", "workload", "no-workload", "live", "dead", "gateway", "route"),
            )
        ),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_step_by_step_gives_what_the_whole_gives(history: list[tuple[str, int, bool]]) -> None:
    """With events or by comparison, project_next equals project, and untouched services are the same objects."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()))
    zone.follow(hub)
    by_events = by_comparison = project(zone.state)
    zone.apply(egress())
    done = len(zone.own.events) - 1
    before, g = ZoneState("east", hub.state, zone.own.state), hub.state.n
    by_events = by_comparison = project(before)
    done = len(zone.own.events)
    for second, step in enumerate(history):
        _act(hub, zone, step, second * 400)
        zone.follow(hub)
        events = (*hub.events[g:], *zone.own.events[done:])
        g, done = hub.state.n, len(zone.own.events)
        stepped = project_next(by_events, before, zone.state, events)
        _check_identity(by_events, stepped, events)
        by_events, by_comparison = stepped, project_next(by_comparison, before, zone.state)
        before = zone.state
        whole = project(zone.state)
        assert by_events == whole
        assert by_comparison == whole
    assert fold(zone.own.state, zone.own.events[-1]) is zone.own.state


def _act(hub: LogBuilder, zone: ZoneBuilder, step: tuple[str, int, bool], seconds: float) -> None:
    verb, number, flag = step
    name = f"s{number}"
    secured = _tls(ca_cert=DataSource(secret=f"ca{number}")) if flag else None
    match verb:
        case "mes":
            service = mes(name, protocol="http" if number % 2 else "tcp", tls=secured, labels={"h": "x"})
            hub.append(applied(service), seconds=seconds)
        case "delete" if service_key(name) in hub.state.resources:
            hub.append(deleted(mes(name)), seconds=seconds)
        case "secret":
            hub.append(applied(Secret(name=f"ca{number}", sealed=SEALED)), seconds=seconds)
        case "mesh":
            hub.append(applied(mesh(mtls=flag)), seconds=seconds)
        case "no-mesh" if ResourceKey("Mesh", "", "default") in hub.state.resources:
            hub.append(deleted(mesh()), seconds=seconds)
        case "generator":
            template = "{{ .Name }}.ext" if flag else '{{ label "h" }}.ext'
            hub.append(applied(generator(f"g{number}", template)), seconds=seconds)
        case "local":
            zone.apply(mes(name, tls=secured), seconds=seconds)
        case "proxy":
            key = key_of(egress(), "east")
            zone.write(ProxyConnected(proxy="e", key=key, connection=str(number)), seconds=seconds)
        case "policy":
            to = {"kind": "MeshExternalService", "name": name} if flag else {"kind": "Mesh"}
            items = [{"targetRef": to, "default": {"connectionTimeout": f"{seconds + 1}s"}}]
            made = resource(type="MeshTimeout", name="t", mesh="default", spec={"to": items})
            if number % 2:
                zone.apply(made, seconds=seconds)
            else:
                hub.append(applied(made), seconds=seconds)
        case "guard":
            spec = {"targetRef": {"kind": "MeshExternalService", "name": name}, "rules": []}
            hub.append(applied(resource(type="MeshTrafficPermission", name="g", spec=spec)), seconds=seconds)
        case "gateway":
            made = gateway(f"g{number}", secret=f"ca{number}" if flag else "")
            if key_of(made) in hub.state.resources and number % 2:
                hub.append(deleted(made), seconds=seconds)
            elif number == 0:
                zone.apply(made, seconds=seconds)
            else:
                hub.append(applied(made), seconds=seconds)
        case "route":
            made = gateway_route(f"r{number}", backend=f"b{number}")
            gone = flag and key_of(made) in hub.state.resources
            hub.append(deleted(made) if gone else applied(made), seconds=seconds)
        case "workload":
            inbound = [{"port": 80 + at, "tags": {"kuma.io/service": f"w{at}"}} for at in range(number + 1)]
            common = {"kuma.io/service": "w", "kuma.io/protocol": ("http", "http2", "grpc", "tcp")[number]}
            inbound += [{"port": 90, "tags": common, "state": "Ready" if flag else "NotReady"}]
            zone.apply(dataplane(f"d{number % 2}", inbound=inbound[number % 3 :]), seconds=seconds)
        case "no-workload" if key_of(dataplane(f"d{number % 2}"), "east") in zone.own.state.resources:
            zone.write(deleted(dataplane(f"d{number % 2}"), "east"), seconds=seconds)
        case "live":
            key = key_of(dataplane(f"d{number % 2}"), "east")
            zone.write(ProxyConnected(proxy=f"default.{key.name}", key=key, connection=str(number)), seconds=seconds)
        case "dead":
            proxy = f"default.d{number % 2}"
            zone.write(ProxyDisconnected(proxy=proxy, connection=str(number)), seconds=seconds)
        case "gone":
            zone.write(ProxyDisconnected(proxy="e", connection=str(number)), seconds=seconds)
        case _:
            pass


def _check_identity(before: ZoneView, after: ZoneView, events: tuple[Any, ...]) -> None:
    touched = {getattr(event.change, "key", None) for event in events}
    wide = any(isinstance(e.change, ResourceApplied) and not _is_service(e.change) for e in events)
    for name, view in before.meshes.items():
        for key, service in view.services.items():
            now = after.meshes[name].services.get(key) if name in after.meshes else None
            if now is not None and not wide and key not in touched and now == service:
                assert now is service
        for service_name, workload in view.workloads.services.items():
            there = after.meshes[name].workloads.services.get(service_name) if name in after.meshes else None
            assert there is workload or there != workload


def _is_service(change: ResourceApplied) -> bool:
    return isinstance(change.resource, MeshExternalService)
