"""What a cluster refers to, read from the bytes that envoy-data-plane writes."""

from __future__ import annotations

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterTransportSocketMatch,
)
from envoy_data_plane.envoy.config.core.v3 import TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    SdsSecretConfig,
    UpstreamTlsContext,
)
from envoy_data_plane.google.protobuf import Any as AnyMessage

from zone_cp.ads.references import References, references_of


def tls(*certificates: str, trust: str = "", combined: str = "") -> TransportSocket:
    context = CommonTlsContext(tls_certificate_sds_secret_configs=[SdsSecretConfig(name=n) for n in certificates])
    if trust:
        context.validation_context_sds_secret_config = SdsSecretConfig(name=trust)
    if combined:
        context.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(),
            validation_context_sds_secret_config=SdsSecretConfig(name=combined),
        )
    message = UpstreamTlsContext(common_tls_context=context)
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=AnyMessage.pack(message))


def test_an_eds_cluster_refers_to_its_service_name_or_to_its_own() -> None:
    """Without service_name the assignment bears the cluster's name."""
    own = bytes(Cluster(name="a", type=ClusterDiscoveryType.EDS))
    named = bytes(
        Cluster(
            name="a", type=ClusterDiscoveryType.EDS, eds_cluster_config=ClusterEdsClusterConfig(service_name="shared")
        )
    )
    assert references_of("1", own) == References("a")
    assert references_of("2", named) == References("shared")


def test_other_clusters_have_no_assignment_and_every_secret_is_found() -> None:
    """Certificates, plain and combined validation contexts, in the socket and in its matches."""
    cluster = Cluster(
        name="a",
        type=ClusterDiscoveryType.STATIC,
        transport_socket=tls("identity", combined="bundle"),
        transport_socket_matches=[ClusterTransportSocketMatch(name="m", transport_socket=tls("identity", trust="ca"))],
    )
    assert references_of("3", bytes(cluster)) == References("", ("identity", "bundle", "ca"))


def test_bytes_that_are_no_cluster_refer_to_nothing() -> None:
    """Envoy refuses them; the stream goes on."""
    assert references_of("4", b"\xff\xff\xff") == References()
