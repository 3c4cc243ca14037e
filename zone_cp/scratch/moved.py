"""What a scratch proxy is served: a moment's snapshot, moved out of the way of the running system. Pure.

Everything is compiled as it was, by the production compiler, but for this:

- every listener with an address stands on 127.0.0.1 at a port that the kernel gives (Envoy says which);
- a sidecar with transparent redirect has a listener per VIP and port instead, as one without redirect: redirecting
  takes the rights of an administrator. What leaves such a sidecar undeclared cannot be tried;
- a sidecar's zone egress is the run's own;
- access logs go nowhere, also those that a MeshAccessLog writes to a file;
- external endpoints are those of an endpoint map where it names them: SNI, host and verification stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.listener import v3 as listener
from immutables import Map

from shared.events.history import History, NoSuchMoment
from shared.events.state import Position, ZoneState
from shared.model.log_policy import LogConf
from shared.model.resource import Dataplane
from zone_cp.replay import known_proxy, snapshot_at
from zone_cp.scratch.secrets import ScratchSecrets
from zone_cp.view.project import project
from zone_cp.view.zone_view import EgressView, MeshView, ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.proxyless import PROXYLESS
from zone_cp.xds.shape import address, part
from zone_cp.xds.sidecar import REDIRECT
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded, Snapshot
from zone_cp.xds.tcp_access import GUARDED
from zone_cp.xds.wire import encode

HOST = "127.0.0.1"
NOWHERE = "/dev/null"

Endpoint: TypeAlias = tuple[str, int]
EndpointMap: TypeAlias = Mapping[Endpoint, Endpoint]
Where: TypeAlias = Callable[[str], str]
"""The system CA file to use for the one that a proxy named."""


class Reached(msgspec.Struct, frozen=True):
    """One external service as a client of the proxy calls it."""

    name: str
    vip: str
    port: int
    hostnames: tuple[str, ...]


class Moved(msgspec.Struct, frozen=True):
    """What one proxy is served at a moment of the past, moved; services and names are those of its mesh."""

    proxy: ProxyView
    snapshot: Snapshot
    services: tuple[Reached, ...] = ()
    names: Map[str, str] = Map()


def egress_at(history: History, zone: str, position: Position) -> str | None:
    """The proxy id of the zone egress that was online then, the first by name; None when there was none."""
    own = history.state(zone, position).own
    online = [one for one in own.proxies.values() if one.online and one.key.kind == "ZoneEgress"]
    return min((one.proxy for one in online if one.key in own.resources), default=None)


def moved(
    history: History,
    zone: str,
    position: Position,
    proxy: str,
    *,
    secrets: ScratchSecrets,
    egress: Endpoint | None = None,
    endpoints: EndpointMap,
    system_ca: Where,
) -> Moved:
    """The moved snapshot of a moment. egress: where the run's zone egress listens. Raises NoSuchMoment."""

    def compiled(state: ZoneState, view: ZoneView, name: str) -> Snapshot:
        secrets.state = state
        known = _seen(known_proxy(state, name), system_ca)
        return compile_proxy(_view(view, egress), known, secrets)

    state = history.state(zone, position)
    known = known_proxy(state, proxy)
    if PROXYLESS in known.features:
        raise NoSuchMoment(f"{proxy} is a proxyless gRPC client: there is no Envoy to try it with")
    snapshot = _elsewhere(snapshot_at(history, zone, position, proxy, compiled), endpoints)
    mesh = project(state).meshes.get(known.resource.mesh) if isinstance(known.resource, Dataplane) else None
    return Moved(_seen(known, system_ca), snapshot, *_callable(mesh))


def uses_egress(snapshot: Snapshot) -> bool:
    """Whether a proxy's traffic leaves by the zone egress."""
    return any(defaults.EGRESS_ENDPOINTS in names for names in snapshot.resources.values())


def _seen(proxy: ProxyView, system_ca: Where) -> ProxyView:
    log = defaults.ACCESS_LOG_FEATURE
    features = [one for one in proxy.features if one != REDIRECT and not one.startswith(log)]
    return msgspec.structs.replace(
        proxy, features=(*features, log + NOWHERE), system_ca_path=system_ca(proxy.system_ca_path)
    )


def _view(view: ZoneView, egress: Endpoint | None) -> ZoneView:
    meshes = Map({name: _unlogged(mesh) for name, mesh in view.meshes.items()})
    egresses = () if egress is None else tuple(EgressView(one.name, *egress, one.sources) for one in view.egresses[:1])
    return msgspec.structs.replace(view, meshes=meshes, egresses=egresses)


def _unlogged(mesh: MeshView) -> MeshView:
    rules = tuple(rule for rule in mesh.policies.rules if not isinstance(rule.conf, LogConf))
    return msgspec.structs.replace(mesh, policies=msgspec.structs.replace(mesh.policies, rules=rules))


def _elsewhere(snapshot: Snapshot, endpoints: EndpointMap) -> Snapshot:
    resources = snapshot.resources
    if LISTENER in resources:
        found = {name: one if name == GUARDED else _on_any_port(one) for name, one in resources[LISTENER].items()}
        resources = resources.set(LISTENER, Map(found))
    if CLUSTER in resources and endpoints:
        mapped = tuple(endpoints.items())
        found = {name: _dialling(one, mapped) for name, one in resources[CLUSTER].items()}
        resources = resources.set(CLUSTER, Map(found))
    return msgspec.structs.replace(snapshot, resources=resources)


@lru_cache(maxsize=65536)
def _on_any_port(one: Encoded) -> Encoded:
    # Of a field that comes twice the later one counts (protobuf, "last one wins"; embedded messages are merged).
    body = one.body + part(listener.Listener, "address", address(HOST, 0))
    return encode(one.type_url, one.name, body, one.sources)


@lru_cache(maxsize=65536)
def _dialling(one: Encoded, endpoints: tuple[tuple[Endpoint, Endpoint], ...]) -> Encoded:
    wanted = {old: new for old, new in endpoints if old[0].encode() in one.body}
    if not wanted:
        return one
    message = cluster.Cluster.parse(one.body)
    changed = False
    for locality in message.load_assignment.endpoints if message.load_assignment is not None else ():
        for each in locality.lb_endpoints:
            where = each.endpoint.address if each.endpoint is not None else None
            socket = where.socket_address if where is not None else None
            if socket is not None and (new := wanted.get((socket.address, socket.port_value or 0))) is not None:
                socket.address, socket.port_value = new
                changed = True
    return encode(one.type_url, one.name, bytes(message), one.sources) if changed else one


def _callable(mesh: MeshView | None) -> tuple[tuple[Reached, ...], Map[str, str]]:
    if mesh is None:
        return (), Map()
    services = [one for _, one in sorted(mesh.services.items())]
    names = {name.lower(): one.vip for one in services for name in one.hostnames}
    return tuple(Reached(one.name, one.vip, one.port, one.hostnames) for one in services), Map(names)
