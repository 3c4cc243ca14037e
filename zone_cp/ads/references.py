"""What a cluster refers to by name, read from its bytes: its load assignment and its SDS secrets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
from google.protobuf.message import DecodeError

from shared.pb.discovery_pb2 import Cluster, TransportSocket, UpstreamTlsContext
from zone_cp.ads.subscription import Subscription
from zone_cp.view.lineage import UNKNOWN
from zone_cp.xds.snapshot import CLUSTER, Snapshot

DISCOVERY_TYPE_EDS = 3


class References(msgspec.Struct, frozen=True):
    """What a cluster names: its load assignment ("" when it has none) and its SDS secrets."""

    assignment: str = ""
    secrets: tuple[str, ...] = ()


@lru_cache(maxsize=65_536)
def references_of(version: str, body: bytes) -> References:  # noqa: ARG001 — the version spares a comparison of bodies
    """Read the names a Cluster refers to; nothing when it is not readable (Envoy will say so itself)."""
    try:
        cluster = Cluster.FromString(body)
        sockets = (cluster.transport_socket, *(m.transport_socket for m in cluster.transport_socket_matches))
        secrets = tuple(dict.fromkeys(name for socket in sockets for name in _secrets_of(socket)))
    except DecodeError:
        return References()
    eds = cluster.type == DISCOVERY_TYPE_EDS
    return References((cluster.eds_cluster_config.service_name or cluster.name) if eds else "", secrets)


def read_ahead(snapshot: Snapshot) -> None:
    """Read the clusters that changed last, so that a stream which sends them finds them read."""
    steps = snapshot.lineages.get(CLUSTER, UNKNOWN).steps
    clusters = snapshot.resources.get(CLUSTER)
    if clusters is None or not steps:
        return
    for name in steps[0].names:
        if (changed := clusters.get(name)) is not None:
            references_of(changed.version, changed.body)


def _secrets_of(socket: TransportSocket) -> list[str]:
    if not socket.typed_config.type_url.endswith(".UpstreamTlsContext"):
        return []
    common = UpstreamTlsContext.FromString(socket.typed_config.value).common_tls_context
    combined = common.combined_validation_context.validation_context_sds_secret_config
    configs = (*common.tls_certificate_sds_secret_configs, common.validation_context_sds_secret_config, combined)
    return [config.name for config in configs if config.name]


def owe_references(lower: Sequence[Subscription], before: int) -> None:
    """Clusters sent again make Envoy wait for names it is already subscribed to (rule 17, xds.md §3.3).

    lower: secrets, clusters and endpoints, of which responses after the serial `before` were just sent.
    """
    secrets, clusters, endpoints = lower
    if not secrets.known and not endpoints.known:
        return
    for sent in clusters.in_flight.values():
        for encoded in sent.upserts if sent.serial > before else ():
            references = references_of(encoded.version, encoded.body)
            if references.assignment in endpoints.known:
                endpoints.owe(references.assignment)
            for name in references.secrets:
                if name in secrets.known:
                    secrets.owe(name)
