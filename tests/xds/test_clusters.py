"""External services as clusters: what is spliced is what the dataclasses would have made, and means what was asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google import protobuf as google
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model.resource import Endpoint, ExternalTls, SubjectAltName, TlsVersions, Verification
from tests.xds.views import Authority, Secrets, egress, mesh_view, secured, service, services_of, zone_view
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds import clusters, defaults
from zone_cp.xds.clusters import external_host, service_cluster
from zone_cp.xds.compile import compile_proxy, compile_whole
from zone_cp.xds.inspect import decode, plain_resource
from zone_cp.xds.shape import ads
from zone_cp.xds.snapshot import CLUSTER, SECRET, Encoded
from zone_cp.xds.upstream_tls import References

CA = References(ca_secret="secret/default/ca")


def made(view: ExternalServiceView, references: References = CA) -> dict[str, Any]:
    return plain_resource(service_cluster(view, (references,), None, ()))


def context(found: dict[str, Any]) -> dict[str, Any]:
    unfolded: dict[str, Any] = found["transport_socket"]["typed_config"]
    return unfolded


def matchers(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    combined = context(found)["common_tls_context"]["combined_validation_context"]
    listed = combined["default_validation_context"].get("match_typed_subject_alt_names", [])
    return [(one["san_type"], *next(iter(one["matcher"].items()))) for one in listed]


def whole(view: ExternalServiceView) -> cluster.Cluster:
    # The same cluster, built as one message: the shape of test_a_spliced_cluster_equals_one_built_whole.
    names = [
        tls.SubjectAltNameMatcher(
            san_type=tls.SubjectAltNameMatcherSanType.DNS, matcher=matcher.StringMatcher(exact="api.test")
        )
    ]
    wanted = tls.CommonTlsContextCombinedCertificateValidationContext(
        default_validation_context=tls.CertificateValidationContext(match_typed_subject_alt_names=names),
        validation_context_sds_secret_config=tls.SdsSecretConfig(name=CA.ca_secret, sds_config=ads()),
    )
    client = tls.UpstreamTlsContext(
        sni="api.test",
        allow_renegotiation=True,
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(
                tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2,
                tls_maximum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_3,
            ),
            combined_validation_context=wanted,
        ),
    )
    where = core.Address(socket_address=core.SocketAddress(address="api.test", port_value=8443))
    only = endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=where, hostname="api.test"))
    framed = upstream.HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=core.Http2ProtocolOptions())
    about = {"service": str(view.key), "reason": f"{view.key}: none of its endpoints can be used right now"}
    struct = google.Struct(fields={key: google.Value(string_value=value) for key, value in about.items()})
    return cluster.Cluster(
        name=view.cluster,
        type=cluster.ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=defaults.CONNECT_TIMEOUT,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        wait_for_warm_on_init=False,
        circuit_breakers=clusters.breakers(1024, 1024),
        typed_extension_protocol_options=clusters.http_options(
            upstream.HttpProtocolOptions(explicit_http_config=framed)
        ),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=view.cluster, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[only])]
        ),
        transport_socket=core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=google.Any.pack(client)),
        metadata=core.Metadata(filter_metadata={"zonal": struct}),
    )


def test_a_spliced_cluster_equals_one_built_whole() -> None:
    """Splicing is an optimisation: field by field the message is the one that the dataclasses make."""
    options = ExternalTls(enabled=True, allow_renegotiation=True)
    view = service(protocol="grpc", endpoints=(Endpoint(address="api.test", port=8443),), tls=options)
    spliced = service_cluster(view, (CA,), None, ())
    built = Encoded(spliced.name, CLUSTER, "", bytes(whole(view)), b"")
    assert plain_resource(spliced) == plain_resource(built)


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.from_regex(r"[a-z]{1,12}\.test", fullmatch=True),
    st.from_regex(r"unix:///run/[a-z]{1,8}\.sock", fullmatch=True),
)
endpoints = st.lists(
    st.builds(Endpoint, address=hosts, port=st.integers(1, 65535), priority=st.none() | st.integers(0, 128)),
    min_size=1,
    max_size=5,
).map(tuple)


@settings(max_examples=60, deadline=None)
@given(endpoints=endpoints, encrypted=st.booleans())
def test_every_endpoint_is_there_once_at_its_rank(endpoints: tuple[Endpoint, ...], encrypted: bool) -> None:
    """Priorities are compacted to 0..n-1 in order, and no endpoint is lost or invented (decision 8)."""
    view = service(endpoints=endpoints, tls=secured() if encrypted else None)
    found: Any = decode(service_cluster(view, (CA,), None, ()))
    ranks = sorted({one.priority or 0 for one in endpoints})
    assert [group.priority for group in found.load_assignment.endpoints] == list(range(len(ranks)))
    for group, rank in zip(found.load_assignment.endpoints, ranks, strict=True):
        dialled = [one.endpoint.address for one in group.lb_endpoints]
        wanted = [one.address for one in endpoints if (one.priority or 0) == rank]
        assert [
            one.socket_address.address if one.socket_address is not None else f"unix://{one.pipe.path}"
            for one in dialled
        ] == wanted
    assert (found.outlier_detection is not None) == (len(ranks) > 1)
    assert (found.type == cluster.ClusterDiscoveryType.STRICT_DNS) == any(
        one.address.endswith(".test") for one in endpoints
    )


def test_each_host_has_its_own_name_and_check() -> None:
    """SNI and default SAN follow the endpoint, not the first of the list (decision 8)."""
    several = (Endpoint(address="a.test", port=1), Endpoint(address="192.0.2.1", port=2))
    found = made(service(endpoints=several, tls=secured()))
    assert [
        (one["match"]["host"], one["transport_socket"]["typed_config"].get("sni", ""))
        for one in found["transport_socket_matches"]
    ] == [("a.test", "a.test"), ("192.0.2.1", "")]
    chosen = [
        one["metadata"]["filter_metadata"]["envoy.transport_socket_match"]["host"]
        for group in found["load_assignment"]["endpoints"]
        for one in group["lb_endpoints"]
    ]
    assert chosen == ["a.test", "192.0.2.1"]


def test_a_server_name_makes_one_socket_for_all_hosts() -> None:
    """With serverName every endpoint is asked for the same name, so one socket is enough."""
    several = (Endpoint(address="a.test", port=1), Endpoint(address="192.0.2.1", port=2))
    found = made(service(endpoints=several, tls=secured("api.test")))
    assert (context(found)["sni"], matchers(found)) == ("api.test", [("DNS", "exact", "api.test")])
    assert "transport_socket_matches" not in found


def test_listed_names_replace_the_default() -> None:
    """subjectAltNames replace the host match; each is tried as DNS, IP and, if it is one, URI (decision 4)."""
    names = (SubjectAltName(value="api.test"), SubjectAltName(value="spiffe://x/", type="Prefix"))
    found = made(service(tls=secured("other.test", subject_alt_names=names)))
    assert matchers(found) == [
        ("DNS", "exact", "api.test"),
        ("IP_ADDRESS", "exact", "api.test"),
        ("DNS", "prefix", "spiffe://x/"),
        ("IP_ADDRESS", "prefix", "spiffe://x/"),
        ("URI", "prefix", "spiffe://x/"),
    ]


@pytest.mark.parametrize(
    ("host", "server", "sni", "expected", "asked"),
    [
        ("api.test.", "", "api.test", ("DNS", "exact", "api.test"), "api.test"),
        ("192.0.2.1", "api.test.", "api.test", ("DNS", "exact", "api.test"), "api.test"),
        ("2001:DB8:0::1", "", "", ("IP_ADDRESS", "exact", "2001:db8::1"), ""),
    ],
)
def test_names_are_as_certificates_hold_them(
    host: str, server: str, sni: str, expected: tuple[str, str, str], asked: str
) -> None:
    """A closing dot is for resolvers alone (RFC 6066 section 3), and addresses have one shortest form."""
    one = service(endpoints=(Endpoint(address=host, port=443),), tls=secured(server or None))
    found = made(one)
    assert context(found).get("sni", "") == sni
    assert matchers(found) == [expected]
    assert external_host(one) == asked


@pytest.mark.parametrize(
    ("address", "dialled"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("a.test.", "a.test."),
        ("::FFFF:C000:207", "192.0.2.7"),
    ],
)
def test_ipv4_is_dialled_as_such(address: str, dialled: str) -> None:
    """A socket of IPv6 does not reach it; a closing dot keeps resolvers from searching."""
    found = made(service(endpoints=(Endpoint(address=address, port=443),)))
    assert f"'address': '{dialled}'" in str(found["load_assignment"])


@pytest.mark.parametrize(
    ("mode", "ca", "names"), [("Secured", True, 1), ("SkipSAN", True, 0), ("SkipCA", False, 0), ("SkipAll", False, 0)]
)
def test_each_mode_verifies_what_it_says(mode: Any, ca: bool, names: int) -> None:
    """SNI, TLS versions and the client certificate hold in every mode (decisions 3, 5, 6)."""
    references = msgspec.structs.replace(CA, client_secret="pair")
    found = made(service(tls=secured("api.test", mode=mode)), references)
    common = context(found)["common_tls_context"]
    assert ("combined_validation_context" in common, "validation_context" in common) == (ca, False)
    assert not ca or len(matchers(found)) == names
    assert context(found)["sni"] == "api.test"
    assert common["tls_params"]["tls_maximum_protocol_version"] == "TLSv1_3"
    assert [one["name"] for one in common["tls_certificate_sds_secret_configs"]] == ["pair"]


@pytest.mark.parametrize(
    ("least", "most", "expected", "older"),
    [
        ("TLSAuto", "TLSAuto", ("TLSv1_2", "TLSv1_3"), False),
        ("TLS13", "TLSAuto", ("TLSv1_3", "TLSv1_3"), False),
        ("TLSAuto", "TLS12", ("TLSv1_2", "TLSv1_2"), False),
        ("TLS10", "TLSAuto", ("TLSv1_0", "TLSv1_3"), True),
        ("TLSAuto", "TLS11", ("TLSv1_1", "TLSv1_1"), True),
    ],
)
def test_tls_versions_are_always_both_set(least: Any, most: Any, expected: tuple[str, str], older: bool) -> None:
    """Envoy's own client maximum is 1.2; older versions bring the suites that they need (decision 6)."""
    options = ExternalTls(enabled=True, version=TlsVersions(min=least, max=most))
    found = context(made(service(tls=options)))["common_tls_context"]["tls_params"]
    assert (found["tls_minimum_protocol_version"], found["tls_maximum_protocol_version"]) == expected
    assert ("ECDHE-RSA-AES128-SHA" in found.get("cipher_suites", [])) is older


def test_without_a_ca_the_system_one_is_a_file_or_the_service_is_closed() -> None:
    """No caCert: the dialling proxy's own CA file; none known: no endpoints and the reason (decision 7)."""
    view = zone_view(mesh_view(service(tls=secured("api.test"))))
    secrets = Secrets()
    [found] = services_of(compile_proxy(view, egress(system_ca_path="/etc/ssl/ca.crt"), secrets)).values()
    trusted = context(plain_resource(found))["common_tls_context"]["validation_context"]["trusted_ca"]
    assert trusted == {"filename": "/etc/ssl/ca.crt"}
    [closed] = services_of(compile_proxy(view, egress(), secrets)).values()
    assert _closed(closed).startswith("MeshExternalService/default/payments: NoCertificateAuthority: ")
    assert [one.reason for one in compile_whole(view, egress(), secrets).failures.values()] == [
        "NoCertificateAuthority"
    ]


def _closed(encoded: Encoded) -> str:
    found = plain_resource(encoded)
    assert "endpoints" not in found["load_assignment"]
    assert "transport_socket" not in found
    return str(found["metadata"]["filter_metadata"]["zonal"]["reason"])


def _fault(**settings: Any) -> str:
    secrets = settings.pop("secrets", Secrets())
    view = zone_view(mesh_view(service(**settings)))
    snapshot = compile_proxy(view, egress(), secrets)
    [found] = services_of(snapshot).values()
    assert all(name.startswith(("identity/", "trust/")) for name in snapshot.resources[SECRET])
    return _closed(found)


def test_a_service_that_cannot_be_served_as_asked_is_closed() -> None:
    """Failure of the view, missing or broken material, impossible endpoints: closed, with the reason, alone."""
    authority, other = Authority(), Authority("other")
    withheld = Secrets()
    withheld.withheld.add("secret/default/payments-ca")
    options = {"tls": secured("api.test"), "ca": authority.pem}
    mixed = (Endpoint(address="unix:///run/a.sock"), Endpoint(address="a.test", port=1))
    mismatched = (authority.issue("one")[0], other.issue("two")[1])
    assert "Held: a person closed it" in _fault(failure=Failure("Held", "a person closed it"))
    assert "MaterialMissing: secret/default/payments-ca" in _fault(**options, secrets=withheld)
    assert "InvalidMaterial: secret/default/payments-ca" in _fault(tls=secured(), ca="no certificate")
    assert "does not belong" in _fault(**options, client=mismatched)
    assert "MixedEndpoints" in _fault(endpoints=mixed)
    assert "NoEndpoints" in _fault(endpoints=())


def test_material_travels_as_secrets_under_its_own_name() -> None:
    """caCert and the client pair are SDS secrets, so that rotating one leaves the cluster as it is (decision 24)."""
    authority = Authority()

    def snapshot(pair: tuple[str, str]) -> Any:
        view = service(tls=secured("api.test"), ca=authority.pem, client=pair)
        return compile_proxy(zone_view(mesh_view(view)), egress(), Secrets())

    before, after = (snapshot(authority.issue("client")) for _ in range(2))
    pair = "secret/default/payments-cert+secret/default/payments-key"
    assert {one.version for one in services_of(before).values()} == {one.version for one in services_of(after).values()}
    old, new = before.resources[SECRET], after.resources[SECRET]
    assert old[pair].version != new[pair].version
    assert old["secret/default/payments-ca"].body == new["secret/default/payments-ca"].body


def test_san_is_not_checked_without_a_ca() -> None:
    """Envoy refuses SAN matchers without a CA, so SkipCA has none, not an insecure pretence (decision 3)."""
    options = ExternalTls(
        enabled=True, verification=Verification(mode="SkipCA", subject_alt_names=(SubjectAltName(value="x"),))
    )
    assert "match_typed_subject_alt_names" not in str(made(service(tls=options), References()))
