"""The clusters of a gateway: what its routes need, and the way to the zone egress."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from msgspec.structs import replace

from shared.events.event import EventRef
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ProxyView, ZoneView
from zone_cp.xds.gateway_backends import Destinations, Dialled, InMesh, Shared
from zone_cp.xds.in_mesh import in_mesh_resources
from zone_cp.xds.material import Served, serve
from zone_cp.xds.parts import Impaired
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Encoded
from zone_cp.xds.toward_egress import egress_clusters, share_cluster
from zone_cp.xds.ways import at_egress


def gateway_clusters(
    found: Destinations, view: ZoneView, proxy: ProxyView, sources: Sources, source: SecretSource
) -> Iterator[Encoded]:
    """Clusters with their endpoints and secrets. sources are the gateway's own.

    Each cluster says why it has no endpoint: the connection manager in front prints that into the 503.
    """
    mesh = found.mesh
    offline = f"no zone egress of zone {view.zone} is online: external services fail closed"
    if found.through_egress is not None and not view.egresses:
        found.impaired.add(Impaired(found.through_egress, "NoZoneEgress", offline))
    if at_egress(mesh):
        yield from _cited(egress_clusters(mesh, view.egresses, offline), sources)
    for name, (what, cited) in sorted(found.needed.items()):
        match what:
            case InMesh(where, said):
                nobody = (
                    f"no instance of {where.service} is ready in zone {view.zone}; in-mesh traffic does not cross zones"
                )
                made = in_mesh_resources(mesh, where, said, name=name, reason=nobody)
                yield from _cited(made, (*sources, *cited))
            case Shared(service):
                yield from _cited((share_cluster(mesh, service.sni, (), offline),), (*sources, *cited))
            case Dialled(service):
                served: Served = serve(service, mesh.sources, proxy.system_ca_path, source)
                if served.failure is not None:
                    found.failures[service.key] = served.failure
                    found.close(service, served.failure)
                yield from _cited((served.cluster, *served.secrets), (*sources, *cited))


def _cited(made: Iterable[Encoded], sources: Collection[EventRef]) -> Iterator[Encoded]:
    # Without the gateway and the route there would be none of it.
    for one in made:
        yield replace(one, sources=joined(one.sources, sources))
