"""What a gateway is served: chains by server name, certificates, limits; and what cannot be served alone is closed."""

from __future__ import annotations

from typing import Any

import pytest
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from shared.model.pem import server_pair
from shared.model.resource import Resource, Sealed, Secret, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, gateway, mesh, resource
from tests.e2e.server_certificates import certificate
from zone_cp.replay import RedactedSecrets
from zone_cp.view.project import project
from zone_cp.view.zone_view import ProxyView, TlsMaterial
from zone_cp.xds.compile import compile_whole
from zone_cp.xds.gateway import gateway_notes
from zone_cp.xds.inspect import decode
from zone_cp.xds.parts import Compiled
from zone_cp.xds.secrets import MaterialMissing
from zone_cp.xds.snapshot import LISTENER, ROUTE, RUNTIME, SECRET

RSA, ECDSA, SECOND = certificate("a.test", "RSA"), certificate("a.test", key_last=True), certificate("b.test")
PROXY = dataplane("edge-1", inbound=[], gateway={"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}})


class Texts(RedactedSecrets):
    """Secrets by name; any other one has no data key here."""

    def __init__(self, **texts: str) -> None:
        self._texts = {f"secret/default/{name}": text for name, text in texts.items()}

    def text(self, material: TlsMaterial) -> bytes:
        if material.name not in self._texts:
            raise MaterialMissing("its data key is not here")
        return self._texts[material.name].encode()


def compiled(
    *listeners: dict[str, Any],
    secrets: RedactedSecrets | None = None,
    known: tuple[str, ...] = (),
    policies: tuple[Resource, ...] = (),
) -> Compiled:
    hub, own = LogBuilder(), ZoneBuilder()
    sealed = Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest="d")
    written: tuple[Resource, ...] = tuple(Secret(name=one, sealed=sealed) for one in known)
    hub.append(
        applied(mesh()), *(applied(one) for one in written), applied(gateway("edge", "edge-gateway", *listeners))
    )
    hub.append(*(applied(one) for one in policies))
    own.follow(hub)
    view = ProxyView("default.edge-1", PROXY, (), "", ())
    return compile_whole(project(own.state), view, secrets or RedactedSecrets())


def https(hostname: str, *secrets: str, port: int = 443) -> dict[str, Any]:
    tls = {"mode": "TERMINATE", "certificates": [{"secret": one} for one in secrets]}
    return {"port": port, "protocol": "HTTPS", "hostname": hostname, "tls": tls}


def chains(made: Compiled, name: str = "edge:HTTPS:443") -> list[listener.FilterChain]:
    found = decode(made.assembly.snapshot.resources[LISTENER][name])
    assert isinstance(found, listener.Listener)
    return found.filter_chains


def filters(one: listener.FilterChain) -> list[str]:
    return [each.name.rpartition(".")[2] for each in one.filters]


@pytest.mark.parametrize(
    ("protocol", "tls", "expected"),
    [
        ("HTTP", None, ["http_connection_manager"]),
        ("TCP", None, ["tcp_proxy"]),
        ("TLS", {"mode": "PASSTHROUGH"}, ["tcp_proxy"]),
    ],
)
def test_every_protocol_has_its_chain(protocol: str, tls: Any, expected: list[str]) -> None:
    """Where the server speaks first nothing waits for the client's TLS."""
    made = compiled({"port": 80, "protocol": protocol} | ({"tls": tls} if tls else {}))
    (only,) = chains(made, f"edge:{protocol}:80")
    assert filters(only) == expected
    body = decode(made.assembly.snapshot.resources[LISTENER][f"edge:{protocol}:80"])
    assert isinstance(body, listener.Listener)
    assert bool(body.listener_filters) == (protocol == "TLS")
    assert body.per_connection_buffer_limit_bytes == 32768


@pytest.mark.parametrize(
    ("top", "times"),
    [({"proxyTypes": ["Gateway"]}, (90, 30, 2)), ({"proxyTypes": ["Sidecar"]}, (300, 5, 0.5)), ({}, (90, 30, 2))],
)
def test_a_mesh_timeout_for_gateways_sets_what_clients_are_waited_for(
    top: dict[str, Any], times: tuple[float, ...]
) -> None:
    """Idle connections, idle requests, slow headers; Kuma's defaults without one (A9)."""
    http = {"streamIdleTimeout": "30s", "requestHeadersTimeout": "2s"}
    to = [{"targetRef": {"kind": "Mesh"}, "default": {"idleTimeout": "90s", "http": http}}]
    spec = {"targetRef": {"kind": "Mesh", **top}, "to": to}
    policy = resource(type="MeshTimeout", name="edge", mesh="default", spec=spec)
    (only,) = chains(compiled({"port": 80, "protocol": "HTTP"}, policies=(policy,)), "edge:HTTP:80")
    (one,) = only.filters
    assert one.typed_config is not None
    made = one.typed_config.unpack()
    assert isinstance(made, hcm.HttpConnectionManager)
    assert made.common_http_protocol_options is not None
    found = (made.common_http_protocol_options.idle_timeout, made.stream_idle_timeout, made.request_headers_timeout)
    assert tuple(each.total_seconds() for each in found if each is not None) == times


def test_chains_stand_by_exactness_and_show_both_certificates() -> None:
    """Exact, wildcard, any; the SDS names in the order of configuration (A6, A7)."""
    made = compiled(
        https("", "rsa"),
        https("*.test", "rsa"),
        https("a.test", "rsa", "ecdsa"),
        known=("rsa", "ecdsa"),
        secrets=Texts(rsa=RSA.pem, ecdsa=ECDSA.pem),
    )
    found = chains(made)
    assert [one.name for one in found] == ["a.test", "*.test", "*"]
    matches = [one.filter_chain_match for one in found]
    assert [(one.transport_protocol, one.server_names) for one in matches if one is not None] == [
        ("tls", ["a.test"]),
        ("tls", ["*.test"]),
        ("tls", []),
    ]
    assert set(made.assembly.snapshot.resources[SECRET]) >= {"server/secret/default/rsa", "server/secret/default/ecdsa"}
    assert bytes(found[0]).index(b"default/rsa") < bytes(found[0]).index(b"default/ecdsa")
    assert not made.closed


@pytest.mark.parametrize(
    ("secrets", "texts", "why"),
    [
        (("gone",), {}, "mesh default has no Secret gone"),
        (("there",), {}, "secret/default/there: its data key is not here"),
        (("there",), {"there": "nonsense"}, "secret/default/there: missing server certificate"),
        (
            ("there", "other"),
            {"there": ECDSA.pem, "other": SECOND.pem},
            "secret/default/other: a second certificate with an ECDSA key",
        ),
    ],
)
def test_a_listener_that_cannot_show_a_certificate_is_closed_alone(
    secrets: tuple[str, ...], texts: dict[str, str], why: str
) -> None:
    """Its chain is still there, so that its name does not fall to a wildcard's; the others are as they would be."""
    good = https("*.test", "good")
    made = compiled(
        https("a.test", *secrets), good, known=("good", "there", "other"), secrets=Texts(good=RSA.pem, **texts)
    )
    broken, wildcard = chains(made)
    assert (broken.name, filters(broken), broken.transport_socket) == ("a.test", ["tcp_proxy"], None)
    assert filters(wildcard) == ["http_connection_manager"]
    ((place, failure),) = made.closed.items()
    assert place == (key_of(gateway()), 0)
    assert failure.message == why
    assert failure.field.startswith("conf.listeners[0].tls.certificates[")
    alone = compiled(good, known=("good",), secrets=Texts(good=RSA.pem))
    assert bytes(chains(alone)[0]) == bytes(wildcard)


def test_limits_are_a_runtime_layer_that_is_always_there() -> None:
    """By name of the listener; empty without any, since Envoy waits for it."""
    limited = {"port": 80, "protocol": "HTTP", "hostname": "a.test", "resources": {"connectionLimit": 7}}
    made = compiled({"port": 80, "protocol": "HTTP"}, limited, {"port": 81, "protocol": "TCP"})
    layer = decode(made.assembly.snapshot.resources[RUNTIME]["gateway.listeners"]).layer  # type: ignore[attr-defined]
    values = {name: value.number_value for name, value in layer.fields.items()}
    assert values == {"envoy.resource_limits.listener.edge:HTTP:80.connection_limit": 7.0}


@pytest.mark.parametrize(("top", "told"), [({"kind": "Dataplane", "name": "edge-1"}, True), ({"kind": "Mesh"}, False)])
def test_a_passthrough_for_a_gateway_says_nothing_to_it(top: dict[str, Any], told: bool) -> None:
    """With Kuma's sentence, where one means it in particular (A9)."""
    spec = {"targetRef": top, "default": {"passthroughMode": "None"}}
    made = compiled({"port": 80, "protocol": "HTTP"}, policies=(passthrough(spec),))
    notes = list(gateway_notes(made.meshes["default"], PROXY, made.closed))
    assert notes == (["a MeshPassthrough selects it (event 3): policy doesn't support builtin gateway"] if told else [])


def passthrough(spec: dict[str, Any]) -> Resource:
    return resource(type="MeshPassthrough", name="p", mesh="default", spec=spec)


def test_http_has_one_route_configuration_and_https_one_per_name() -> None:
    """So that no connection reaches virtual hosts of another server name; only TLS demands TLS."""
    plain = [{"port": 80, "protocol": "HTTP", "hostname": one} for one in ("a.test", "b.test")]
    made = compiled(*plain, https("a.test", "rsa"), https("b.test", "rsa"), known=("rsa",), secrets=Texts(rsa=RSA.pem))
    found = {name: decode(one) for name, one in made.assembly.snapshot.resources[ROUTE].items()}
    hosts = {
        name: [(host.name, host.require_tls == route.VirtualHostTlsRequirementType.ALL) for host in one.virtual_hosts]
        for name, one in found.items()
        if isinstance(one, route.RouteConfiguration)
    }
    assert hosts == {
        "edge:HTTP:80:*": [("a.test", False), ("b.test", False)],
        "edge:HTTPS:443:a.test": [("a.test", True)],
        "edge:HTTPS:443:b.test": [("b.test", True)],
    }


@pytest.mark.parametrize(
    ("pem", "fault"),
    [
        (RSA.pem, ""),
        (ECDSA.pem, ""),
        (RSA.pem + SECOND.pem.partition("-----BEGIN CERT")[0], "secret contains multiple private keys"),
        (
            "-----BEGIN DH PARAMETERS-----\nAA==\n-----END DH PARAMETERS-----\n" + RSA.pem,
            'unsupported PEM block "DH PARAMETERS"',
        ),
        (RSA.pem.partition("-----BEGIN CERT")[0], "missing server certificate"),
        ("-----BEGIN CERT" + RSA.pem.partition("-----BEGIN CERT")[2], "missing private key"),
        (
            SECOND.pem.partition("-----BEGIN CERT")[0] + "-----BEGIN CERT" + RSA.pem.partition("-----BEGIN CERT")[2],
            "server key does not belong to the server certificate",
        ),
        ("", "missing server certificate"),
    ],
)
def test_a_secret_holds_one_key_and_its_chain_in_any_order(pem: str, fault: str) -> None:
    """Kuma's sentences; a key of another certificate, which Envoy would refuse, is found before."""
    assert server_pair(pem.encode()).fault == fault
