"""In-mesh services: who of the zone's Dataplanes serves a `kuma.io/service`, and whether it may be given traffic.

A service is made of declared Dataplanes of this zone, so that its protocol stays while its proxies come and go; an
instance is ready while its proxy's ADS stream is open and its inbound says it is. Dataplanes of other zones are not
seen here: in-mesh traffic does not cross zones (that needs a ZoneIngress, which is out of scope).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
from immutables import Map

from shared.events.in_mesh import nobody_serves
from shared.events.state import ZoneState
from shared.model.addresses import is_ip
from shared.model.carried import carried_as, in_common
from shared.model.inbound import PROTOCOL_TAG, SERVICE_TAG, Inbound, is_probed, listener_host
from shared.model.resource import ZONE_LABEL, Dataplane, Labels, Outbound, Protocol, ResourceKey
from zone_cp.view.sources import Sources, joined


class Instance(msgspec.Struct, frozen=True):
    """One inbound of a Dataplane: the address at which a service is served.

    idle says why it gets no traffic, "" while it is ready. guarded: a sidecar's listener stands there, not the
    application itself, which could not do mutual TLS. zone is its locality.
    """

    dataplane: str
    address: str
    port: int
    zone: str
    tags: Labels
    protocol: Protocol
    guarded: bool
    idle: str
    sources: Sources


class WorkloadService(msgspec.Struct, frozen=True):
    """A `kuma.io/service`: its instances by Dataplane and number of the inbound, and what they all speak."""

    name: str
    protocol: Protocol
    instances: Map[tuple[str, int], Instance]


class Workloads(msgspec.Struct, frozen=True):
    """The in-mesh services of a mesh by name; members: what a Dataplane serves,
    by service and number of the inbound.
    """

    services: Map[str, WorkloadService] = Map()
    members: Map[str, frozenset[tuple[str, int]]] = Map()


NO_WORKLOADS = Workloads()


class Declared(NamedTuple):
    """A Dataplane, why it gets no traffic as a whole ("" where it may), and the events that say so."""

    resource: Dataplane
    idle: str
    sources: Sources


_Found: TypeAlias = dict[tuple[str, int], Instance]
"""By service and number of the inbound."""


def workloads_next(before: Workloads, state: ZoneState, mesh: str, dataplanes: Iterable[str]) -> Workloads:
    """The services once these Dataplanes, by name, are as `state` has them. Services that stay equal stay the same."""
    services, members = before.services, before.members
    for name in dataplanes:
        found = _instances(state, mesh, name)
        was = members.get(name, frozenset())
        for service in sorted({service for service, _ in was | set(found)}):
            gone = [number for served, number in was if served == service and (service, number) not in found]
            now = {number: one for (served, number), one in found.items() if served == service}
            services = _with(services, service, name, gone, now)
        if was != frozenset(found):
            members = members.set(name, frozenset(found)) if found else members.delete(name)
    if services is before.services and members is before.members:
        return before
    return Workloads(services, members)


def inbound_protocol(inbound: Inbound) -> Protocol:
    """What the application speaks behind an inbound; what is not HTTP is tcp."""
    word = inbound.protocol or inbound.tags.get(PROTOCOL_TAG)
    return carried_as(word)


def selected(service: WorkloadService, tags: Iterable[tuple[str, str]], *, guarded: bool) -> Iterator[Instance]:
    """The ready instances of a service that carry all of `tags`, in a fixed order; with mutual TLS, guarded ones."""
    wanted = tuple(tags)
    for _, instance in sorted(service.instances.items()):
        if not instance.idle and (instance.guarded or not guarded) and _carries(instance, wanted):
            yield instance


def outbound_note(workloads: Workloads, zone: str, outbound: Outbound, *, mtls: bool) -> str | None:
    """Why an outbound by tags leads nowhere now; None where it leads somewhere."""
    name = outbound.tags.get(SERVICE_TAG)
    if name is None:
        return None
    where = f"outbound {outbound.address}:{outbound.port}"
    service = workloads.services.get(name)
    if service is None:
        return f"{where}: {nobody_serves(name, zone)}"
    tags = [(tag, value) for tag, value in sorted(outbound.tags.items()) if tag != SERVICE_TAG]
    if next(selected(service, tags, guarded=mtls), None) is not None:
        return None
    carrying = [one for _, one in sorted(service.instances.items()) if _carries(one, tuple(tags))]
    if not carrying:
        asked = ", ".join(f"{tag}={value}" for tag, value in tags)
        return f"{where}: no instance of {SERVICE_TAG} {name} in zone {zone} carries {asked}"
    first = carrying[0]
    why = first.idle or "the application itself holds its address, so that nobody there speaks mutual TLS"
    return f"{where}: none of the {len(carrying)} instances of {name} is ready; {first.dataplane}: {why}"


# --- one Dataplane ----------------------------------------------------------------------------------------------


def _with(
    services: Map[str, WorkloadService], name: str, dataplane: str, gone: Sequence[int], now: dict[int, Instance]
) -> Map[str, WorkloadService]:
    known = services.get(name)
    before: Map[tuple[str, int], Instance] = known.instances if known is not None else Map()
    after = before
    for number in gone:
        after = after.delete((dataplane, number))
    for number, instance in now.items():
        if before.get((dataplane, number)) != instance:
            after = after.set((dataplane, number), instance)
    if after is before:
        return services
    if not after:
        return services.delete(name)
    if (
        known is None
        or gone
        or any(_spoke(before, (dataplane, at)) not in (None, one.protocol) for at, one in now.items())
    ):
        protocol = in_common(one.protocol for one in after.values())
    else:
        # Who comes, or only comes back, narrows what was common: thousands may come at once.
        protocol = in_common([known.protocol, *(one.protocol for one in now.values())])
    return services.set(name, WorkloadService(name, protocol, after))


def _spoke(instances: Map[tuple[str, int], Instance], key: tuple[str, int]) -> Protocol | None:
    known = instances.get(key)
    return known.protocol if known is not None else None


def declared(state: ZoneState, mesh: str, name: str) -> Declared | None:
    """A Dataplane of the zone; None where there is none."""
    key = ResourceKey("Dataplane", mesh, name, state.zone)
    stored = state.own.resources.get(key)
    if stored is None or not isinstance(stored.resource, Dataplane):
        return None
    status = state.own.proxies.get(f"{mesh}.{name}")
    online = status is not None and status.online and status.key == key
    sources = (stored.last,) if status is None else joined((stored.last,), (status.event,))
    return Declared(stored.resource, "" if online else "its proxy is not connected", sources)


def _instances(state: ZoneState, mesh: str, name: str) -> _Found:
    known = declared(state, mesh, name)
    if known is None:
        return {}
    found: _Found = {}
    for number, inbound in enumerate(known.resource.networking.inbound):
        service = inbound.tags.get(SERVICE_TAG)
        if service and inbound.state != "Ignored":
            found[service, number] = _instance(known, inbound, state.zone)
    return found


def _instance(known: Declared, inbound: Inbound, zone: str) -> Instance:
    resource, idle, sources = known
    networking = resource.networking
    address = inbound.address or networking.advertised_address or networking.address
    if not inbound.ready:
        probed = is_probed(inbound) and inbound.state == "NotReady"
        idle = "its service probe finds nobody who accepts connections" if probed else "its inbound is not ready"
    elif not is_ip(address):
        idle = f"its address {address} is no IP"
    return Instance(
        dataplane=resource.name,
        address=address,
        port=inbound.port,
        zone=zone,
        # Kuma writes the zone into tags by itself; here it is a label.
        tags=inbound.tags.set(ZONE_LABEL, zone),
        protocol=inbound_protocol(inbound),
        guarded=bool(listener_host(networking.address, inbound)),
        idle=idle,
        sources=sources,
    )


def _carries(instance: Instance, wanted: tuple[tuple[str, str], ...]) -> bool:
    # As in Kuma, `*` asks for the tag with whatever value.
    return all(tag in instance.tags and value in ("*", instance.tags[tag]) for tag, value in wanted)
