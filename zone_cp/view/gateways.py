"""Builtin gateways: which MeshGateway a gateway Dataplane serves, and its listeners, port by port.

Pure. A MeshGateway is bound to a Dataplane by the tags of both, so that what is here follows from the view of the mesh
and one Dataplane (`spec/4-gateway-and-policies.md` A3–A6).
"""

from __future__ import annotations

import msgspec

from shared.model.gateway import GatewayProtocol
from shared.model.resource import Labels, ResourceKey
from zone_cp.view.zone_view import Failure, Sources, TlsMaterial

ANY_HOST = "*"


class ListenerView(msgspec.Struct, frozen=True):
    """One logical listener.

    index is its place in `conf.listeners`; hostname is exact, `*.suffix` or ANY_HOST; tags are the effective ones,
    which routes and policies select: the Dataplane's, overlaid by the MeshGateway's, overlaid by the listener's.
    terminates: whether TLS of clients ends here. failure set: this listener alone is not served, and why.
    """

    index: int
    hostname: str
    tags: Labels
    terminates: bool = False
    certificates: tuple[TlsMaterial, ...] = ()
    failure: Failure | None = None


class PortView(msgspec.Struct, frozen=True):
    """All that one port listens for, in order of exactness of hostnames: exact ones by name, wildcards with more labels
    first, any host last. connection_limit: 0 is none.
    """

    port: int
    protocol: GatewayProtocol
    listeners: tuple[ListenerView, ...]
    cross_mesh: bool = False
    connection_limit: int = 0


class GatewayView(msgspec.Struct, frozen=True):
    """A MeshGateway as one gateway Dataplane serves it. service is the Dataplane's own `kuma.io/service`."""

    key: ResourceKey
    service: str
    ports: tuple[PortView, ...]
    sources: Sources
