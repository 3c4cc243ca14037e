"""Builtin gateways: which MeshGateway a gateway Dataplane serves, and its listeners, port by port.

Pure. A MeshGateway is bound to a Dataplane by the tags of both, so that what is here follows from the view of the mesh
and one Dataplane (`spec/4-gateway-and-policies.md` A3–A6). The view of a mesh holds all MeshGateways and their routes;
`with_gateways` keeps it up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TypeVar

import msgspec
from immutables import Map

from shared.events.fault import find_secret
from shared.events.gateways import best_gateway, effective_tags, listeners_of, secret_finder, source_fault
from shared.events.state import Stored, ZoneState
from shared.model.gateway import GatewayListener, GatewayProtocol, MeshGateway
from shared.model.inbound import SERVICE_TAG
from shared.model.resource import Dataplane, Labels, ResourceKey, Secret
from shared.model.source import DataSource
from zone_cp.view.hostnames import ANY_HOST, exactness
from zone_cp.view.sources import Sources
from zone_cp.view.touched import GATEWAY_KINDS, Touched
from zone_cp.view.zone_view import DeclaredGateway, Failure, MeshView, TlsMaterial

T = TypeVar("T")

GATEWAY_FIELDS = frozenset({"gateways", "gateway_routes"})
"""Fields of a mesh that concern gateway Dataplanes alone."""


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
    """A MeshGateway as one gateway Dataplane serves it. service is the Dataplane's own `kuma.io/service`; sources are
    without those of certificates.
    """

    key: ResourceKey
    service: str
    ports: tuple[PortView, ...]
    sources: Sources


def bound_gateway(mesh: MeshView, resource: Dataplane) -> GatewayView | None:
    """What a gateway Dataplane serves; None where no MeshGateway selects it."""
    gateway = resource.networking.gateway
    if gateway is None or gateway.type != "BUILTIN":
        return None
    stored = best_gateway((one.stored for one in mesh.gateways.values()), gateway.tags)
    return _gateway_view(mesh.gateways[stored.key], gateway.tags) if stored is not None else None


# --- binding ------------------------------------------------------------------------------------------------------


def _gateway_view(declared: DeclaredGateway, tags: Labels) -> GatewayView:
    resource = declared.stored.resource
    if not isinstance(resource, MeshGateway):
        raise TypeError(f"{declared.stored.key} is no MeshGateway")
    numbered = list(enumerate(listeners_of(resource)))
    ports = []
    for port, group in groupby(sorted(numbered, key=lambda one: one[1].port), key=lambda one: one[1].port):
        members = list(group)
        first = members[0][1]
        if first.protocol == "NONE":
            continue  # no MeshGateway that was accepted has such a listener
        found = [
            _listener_view(index, one, effective_tags(tags, resource, one), declared.certificates[index])
            for index, one in members
        ]
        limits = (one.resources.connection_limit for _, one in members)
        ports.append(
            PortView(
                port,
                first.protocol,
                tuple(sorted(found, key=lambda one: exactness(one.hostname))),
                cross_mesh=first.cross_mesh,
                connection_limit=next((one for one in limits if one), 0),
            )
        )
    return GatewayView(declared.stored.key, tags.get(SERVICE_TAG, ""), tuple(ports), (declared.stored.last,))


def _listener_view(
    index: int, listener: GatewayListener, tags: Labels, certificates: tuple[TlsMaterial | Failure, ...]
) -> ListenerView:
    terminates = listener.tls is not None and listener.tls.mode == "TERMINATE" and listener.protocol in ("HTTPS", "TLS")
    return ListenerView(
        index=index,
        hostname=listener.hostname.lower() or ANY_HOST,
        tags=tags,
        terminates=terminates,
        certificates=tuple(one for one in certificates if isinstance(one, TlsMaterial)),
        failure=next((one for one in certificates if isinstance(one, Failure)), None),
    )


# --- the view of a mesh ---------------------------------------------------------------------------------------------


def all_gateways(state: ZoneState, mesh: str) -> Iterable[ResourceKey]:
    """The MeshGateways and MeshGatewayRoutes of a mesh that a zone knows: global's, and its own."""
    for log in (state.hub, state.own):
        for kind in sorted(GATEWAY_KINDS):
            yield from (key for key in log.kinds.get(kind, Map()) if key.mesh == mesh)


def gateways_touched(meshes: Mapping[str, MeshView], touched: Touched) -> dict[str, set[ResourceKey]]:
    """MeshGateways and MeshGatewayRoutes that are to be looked at again, by mesh, of the meshes there are."""
    found: dict[str, set[ResourceKey]] = {}
    for key in touched.gateways:
        if key.mesh in meshes:
            found.setdefault(key.mesh, set()).add(key)
    for name, secret in touched.secrets:
        for key, one in meshes[name].gateways.items() if name in meshes else ():
            if secret in _secrets_named(one):
                found.setdefault(name, set()).add(key)
    for name, mesh in meshes.items() if touched.data_keys else ():
        for key, one in mesh.gateways.items():
            if touched.data_keys & _data_keys(one):
                found.setdefault(name, set()).add(key)
    return found


def with_gateways(state: ZoneState, mesh: MeshView, keys: Iterable[ResourceKey]) -> MeshView:
    """The mesh with these MeshGateways and MeshGatewayRoutes as they are now."""
    gateways, routes = mesh.gateways, mesh.gateway_routes
    for key in keys:
        stored = state.resource(key)
        if key.kind == "MeshGatewayRoute":
            routes = _put(routes, key, stored)
        else:
            gateways = _put(gateways, key, _declared(state, stored) if stored is not None else None)
    if gateways is mesh.gateways and routes is mesh.gateway_routes:
        return mesh
    return msgspec.structs.replace(mesh, gateways=gateways, gateway_routes=routes)


def renewed_gateway(state: ZoneState, declared: DeclaredGateway) -> DeclaredGateway:
    """A MeshGateway of an earlier view with the certificates that its Secrets hold now. If it is gone itself, a Secret
    that is gone too stays as it was.
    """
    after = _declared(state, declared.stored)
    if state.resource(declared.stored.key) is None:
        pairs = zip(declared.certificates, after.certificates, strict=True)
        found = tuple(tuple(map(_if_it_is_there, old, new)) for old, new in pairs)
        after = DeclaredGateway(declared.stored, found)
    return declared if after == declared else after


def _if_it_is_there(old: TlsMaterial | Failure, new: TlsMaterial | Failure) -> TlsMaterial | Failure:
    return old if isinstance(new, Failure) else new


def _put(members: Map[ResourceKey, T], key: ResourceKey, one: T | None) -> Map[ResourceKey, T]:
    if one is None:
        return members.delete(key) if key in members else members
    return members if members.get(key) == one else members.set(key, one)


def _listeners(stored: Stored) -> tuple[GatewayListener, ...]:
    return listeners_of(stored.resource) if isinstance(stored.resource, MeshGateway) else ()


def _sources_of(listener: GatewayListener) -> tuple[DataSource, ...]:
    return listener.tls.certificates if listener.tls is not None and listener.tls.mode == "TERMINATE" else ()


def _secrets_named(declared: DeclaredGateway) -> set[str]:
    named = (source.secret for one in _listeners(declared.stored) for source in _sources_of(one))
    return {name for name in named if name is not None}


def _data_keys(declared: DeclaredGateway) -> set[str]:
    materials = (one for each in declared.certificates for one in each if isinstance(one, TlsMaterial))
    return {one.sealed.kid for one in materials if one.sealed is not None}


def _declared(state: ZoneState, stored: Stored) -> DeclaredGateway:
    found = [
        tuple(
            _certificate(state, stored.key, source, f"conf.listeners[{index}].tls.certificates[{number}]")
            for number, source in enumerate(_sources_of(listener))
        )
        for index, listener in enumerate(_listeners(stored))
    ]
    return DeclaredGateway(stored, tuple(found))


def _certificate(state: ZoneState, key: ResourceKey, source: DataSource, path: str) -> TlsMaterial | Failure:
    fault = source_fault(key.mesh, source, path, secret_finder(state, key))
    if fault is not None:
        return Failure(fault.reason, fault.message, fault.field)
    if source.secret is None:
        return TlsMaterial(f"gateway/{key.mesh}/{key.zone or '_'}/{key.name}/{path}", sealed=source.sealed)
    stored = find_secret(state, key, source.secret)
    if stored is None or not isinstance(stored.resource, Secret):
        raise LookupError(source.secret)
    name = f"secret/{key.mesh}/{source.secret}" + (f"@{stored.key.zone}" if stored.key.zone else "")
    return TlsMaterial(name, sealed=stored.resource.sealed, sources=(stored.last,))
