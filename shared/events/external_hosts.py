"""The hosts and doors of legacy ExternalServices: what has a VIP, and what stands at each of its ports.

A *host* is a name with a VIP: `<service>.mesh` of every `kuma.io/service`, and the real name of every address unless
`disableHostDNSEntry` says otherwise. A *door* is one port of a host. At `<service>.mesh` port 80 and the ports of its
addresses lead to all of the service's endpoints; at a real name each declared port leads to that very address, and
port 80, where nobody declares it, to the first declared one (`2-xds.md` §3.6). Pure; follows from global's log alone.

Keys are those of ExternalServices with a name that none can have: `httpbin.mesh:*` is a host, `httpbin.mesh:80` a door.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import LogState, Stored
from shared.model.addresses import is_dns_name
from shared.model.carried import carried_as, in_common
from shared.model.external_service import ExternalService, host_and_port
from shared.model.remembering import keep
from shared.model.resource import Protocol, ProtocolClass, ResourceKey, protocol_class

DOMAIN = "mesh"
"""Kuma's default of KUMA_DNS_SERVER_DOMAIN."""
SERVICE_PORT = 80
KIND = "ExternalService"
REMEMBERED = 16
"""Logs whose hosts are kept."""


class Member(msgspec.Struct, frozen=True):
    """One ExternalService with its address in parts."""

    stored: Stored
    resource: ExternalService
    host: str
    port: int


class Door(msgspec.Struct, frozen=True):
    """One port of a host: where it leads, and what is spoken there. `members` are by name."""

    key: ResourceKey
    host: ResourceKey
    port: int
    service: str
    protocol: Protocol
    members: tuple[Member, ...]


class Host(msgspec.Struct, frozen=True):
    """What has one VIP. hostnames are those that are to resolve to it; `by` says whose they are, the oldest one.

    With doors of both classes the VIP is of class tcp, as what all of them can be carried as.
    """

    key: ResourceKey
    hostnames: tuple[str, ...]
    doors: tuple[Door, ...]
    by: ResourceKey
    created: EventRef

    @property
    def protocol_class(self) -> ProtocolClass:
        """The class of its VIP."""
        return protocol_class(self.doors[0].protocol)


class Hosts(msgspec.Struct, frozen=True):
    """All hosts of a log in the order of creation, all doors, and by ExternalService the doors that lead to it."""

    hosts: Mapping[ResourceKey, Host]
    doors: Mapping[ResourceKey, Door]
    of: Mapping[ResourceKey, tuple[ResourceKey, ...]]


_NONE = Hosts(Map(), Map(), Map())
_remembered: OrderedDict[int, tuple[object, Hosts]] = OrderedDict()
# By identity: states share the map while no ExternalService changes; the entry keeps it alive.


def external_hosts(hub: LogState) -> Hosts:
    """The hosts of global's log."""
    members = hub.kinds.get(KIND)
    if not members:
        return _NONE
    known = _remembered.get(id(members))
    if known is None:
        known = keep(_remembered, REMEMBERED, id(members), (members, _hosts(members)))
    return known[1]


def service_door(mesh: str, service: str) -> ResourceKey:
    """The door that an outbound by tags goes through: port 80 of `<service>.mesh`."""
    return _key(mesh, f"{service}.{DOMAIN}", SERVICE_PORT)


def with_doors(hub: LogState, keys: Iterable[ResourceKey]) -> set[ResourceKey]:
    """Keys of services with all that stand or fall with them: of a door its ExternalServices, of these all doors."""
    wanted, found = set(keys), external_hosts(hub)
    legacy = {key for key in wanted if key in found.of}
    legacy.update(one.stored.key for key in wanted if key in found.doors for one in found.doors[key].members)
    return wanted.union(legacy, *(found.of[key] for key in legacy))


def _key(mesh: str, host: str, port: int | str) -> ResourceKey:
    return ResourceKey(KIND, mesh, f"{host}:{port}")


def _hosts(stored: Mapping[ResourceKey, Stored]) -> Hosts:
    services: dict[tuple[str, str], list[Member]] = {}
    named: dict[tuple[str, str], list[Member]] = {}
    for _, one in sorted(stored.items()):
        parts = host_and_port(one.resource.networking.address) if isinstance(one.resource, ExternalService) else None
        if parts is None or not isinstance(one.resource, ExternalService):
            continue
        member = Member(one, one.resource, *parts)
        services.setdefault((one.key.mesh, one.resource.service), []).append(member)
        if name := one.resource.real_name:
            named.setdefault((one.key.mesh, name), []).append(member)
    found = {host.key: host for host in (_service(*where, members) for where, members in services.items())}
    for (mesh, name), members in named.items():
        host = _named(mesh, name, members)
        found.setdefault(host.key, host)
    ordered = dict(sorted(found.items(), key=lambda one: (one[1].created.n, one[0])))
    doors = {door.key: door for host in ordered.values() for door in host.doors}
    of: dict[ResourceKey, tuple[ResourceKey, ...]] = {}
    for key, door in doors.items():
        for member in door.members:
            of[member.stored.key] = (*of.get(member.stored.key, ()), key)
    return Hosts(ordered, doors, of)


def _service(mesh: str, name: str, members: list[Member]) -> Host:
    host = f"{name}.{DOMAIN}"
    variants = dict.fromkeys((host.lower(), host.lower().replace("_", ".")))
    protocol = in_common(carried_as(one.resource.protocol_word) for one in members)
    ports = sorted({SERVICE_PORT, *(one.port for one in members)})
    whole = _key(mesh, host, "*")
    doors = [Door(_key(mesh, host, port), whole, port, name, protocol, tuple(members)) for port in ports]
    return _host(whole, tuple(one for one in variants if is_dns_name(one)), doors, members)


def _named(mesh: str, name: str, members: list[Member]) -> Host:
    whole = _key(mesh, name, "*")
    by_port: dict[int, list[Member]] = {}
    for one in members:
        taken = by_port.setdefault(one.port, [])
        # Two services at one host and port: as in Kuma the first by name has it.
        if not taken or taken[0].resource.service == one.resource.service:
            taken.append(one)
    by_port.setdefault(SERVICE_PORT, by_port[members[0].port])
    spoken = {port: in_common(carried_as(one.resource.protocol_word) for one in at) for port, at in by_port.items()}
    mixed = len({protocol_class(one) for one in spoken.values()}) > 1
    doors = [
        Door(_key(mesh, name, port), whole, port, at[0].resource.service, "tcp" if mixed else spoken[port], tuple(at))
        for port, at in sorted(by_port.items())
    ]
    return _host(whole, (name,), doors, members)


def _host(key: ResourceKey, hostnames: tuple[str, ...], doors: list[Door], members: list[Member]) -> Host:
    oldest = min(members, key=lambda one: one.stored.created.n).stored
    return Host(key, hostnames, tuple(doors), oldest.key, oldest.created)
