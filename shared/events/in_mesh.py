"""What the author of a Dataplane should know although nothing is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from immutables import Map

from shared.events.cross_mesh import is_abroad
from shared.events.state import LogState
from shared.model.addresses import is_ip
from shared.model.external_service import ExternalService
from shared.model.inbound import SERVICE_TAG, listener_host
from shared.model.resource import Dataplane, Mesh, Resource, ResourceKey


def nobody_serves(service: str, zone: str) -> str:
    """What is said where a service has no instance in the zone that is asked."""
    return (
        f"no Dataplane of zone {zone} serves {SERVICE_TAG} {service}; instances in other zones are not reached: "
        "in-mesh traffic does not cross zones (there is no ZoneIngress)"
    )


def present(log: LogState, staged: Mapping[ResourceKey, Resource | None], mesh: str, kind: str) -> Iterator[Resource]:
    """The resources of a kind in a mesh, seen through a batch."""
    stored = {key: one.resource for key, one in log.kinds.get(kind, Map()).items()}
    found = {**stored, **{key: one for key, one in staged.items() if key.kind == kind}}
    return (one for key, one in found.items() if key.mesh == mesh and one is not None)


def served(resources: Iterable[Resource]) -> frozenset[str]:
    """The services that Dataplanes declare."""
    members = (one for one in resources if isinstance(one, Dataplane))
    return frozenset(inbound.tags.get(SERVICE_TAG, "") for one in members for inbound in one.networking.inbound)


def outside(resources: Iterable[Resource]) -> frozenset[str]:
    """The services that ExternalServices declare."""
    return frozenset(one.service for one in resources if isinstance(one, ExternalService))


def dataplane_warnings(
    dataplane: Dataplane, mesh: Mesh | None, served: Callable[[], Collection[str]], zone: str
) -> Iterator[str]:
    """Sentences; `mesh` is the Dataplane's, `served` tells the services of that mesh's Dataplanes in its zone."""
    about, networking = f"Dataplane {dataplane.name}", dataplane.networking
    by_tags = [one for one in networking.outbound if SERVICE_TAG in one.tags and not is_abroad(one, dataplane.mesh)]
    known = served() if by_tags else ()
    for outbound in by_tags:
        service = outbound.tags[SERVICE_TAG]
        if service not in known:
            yield f"{about}: outbound {outbound.address}:{outbound.port}: {nobody_serves(service, zone)}"
    has_mtls = mesh is not None and mesh.mtls is not None and bool(mesh.mtls.enabled_backend)
    for inbound in networking.inbound:
        address = inbound.address or networking.advertised_address or networking.address
        if not is_ip(address):
            yield f"{about}: inbound {inbound.port} gets no in-mesh traffic: its address {address} is no IP"
        elif has_mtls and not listener_host(networking.address, inbound):
            yield (
                f"{about}: inbound {inbound.port} gets no in-mesh traffic: the application itself holds "
                f"{address}:{inbound.port}, where its sidecar should do mutual TLS; set servicePort"
            )
