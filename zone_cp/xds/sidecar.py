"""The sidecar: listeners that take an application's plaintext to the zone egress, or straight outside.

With transparent redirect one original-destination listener serves every external service there is and ever
will be: a service adds no resource (decision 26). Without it there is one small listener per VIP. Explicit
`backendRef` outbounds get a listener in both cases. In direct mode the same listeners choose a cluster of
the sidecar's own instead of an SNI.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.listener.original_dst import v3 as original_dst
from msgspec.structs import replace

from shared.model.resource import Dataplane, Outbound, ProtocolClass, TransparentProxying
from shared.naming import sni, spiffe
from zone_cp.view.zone_view import ExternalServiceView, MeshView, ProxyView, Sources, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.backends import labelled
from zone_cp.xds.chains import by_ranges, chain, class_filters, listener_filter, listening
from zone_cp.xds.connection_policies import (
    NO_VERDICTS,
    Verdicts,
    chain_tuning,
    service_tuning,
    tuned_apart,
    verdicts,
)
from zone_cp.xds.credentials import credentials
from zone_cp.xds.egress import through_egress
from zone_cp.xds.filters import Logged, Share, Tuning, Where, proxy_among, proxy_to
from zone_cp.xds.governed import Governed, dialled_by, governed
from zone_cp.xds.inbound import further_services, inbound_resources, service_of
from zone_cp.xds.log_policies import Parties, logs
from zone_cp.xds.material import serve
from zone_cp.xds.outbound import outbound_resources
from zone_cp.xds.routes import routes
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded
from zone_cp.xds.toward_egress import egress_clusters, share_clusters
from zone_cp.xds.wire import encode

REDIRECT = "redirect"
REDIRECT_LISTENER = "outbound/redirect"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - redirected connections arrive at every local address

_CLASSES: tuple[ProtocolClass, ...] = ("http", "tcp")
_ORIGINAL = "v%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%.p%DOWNSTREAM_LOCAL_PORT%"


class _Outlet(msgspec.Struct, frozen=True):
    # What every listener of one sidecar shares. `lost` are the events that took TCP services from its workload.
    mesh: str
    zone: str
    access_log: str
    direct: bool
    forbidden: bool
    lost: Sources

    def chain(
        self, protocol_class: ProtocolClass, name: str, tuning: Tuning, *, called: str = "", match: bytes = b""
    ) -> bytes:
        """The chain that leads to the service of SNI `name`; TCP's closes its connections when `lost` changes."""
        lost = " ".join(f"{ref.origin}:{ref.n}" for ref in self.lost) if protocol_class == "tcp" else ""
        return chain(self.filters(protocol_class, name, tuning), name=called, match=match, lost=lost)

    def filters(self, protocol_class: ProtocolClass, name: str, tuning: Tuning) -> tuple[bytes, ...]:
        """The filters that lead to the service of SNI `name` (Envoy format text)."""
        if tuning.shares:
            logged = Logged(f"outbound/{protocol_class}", self.access_log, self.zone)
            return (proxy_among(tuple((self._taker(one), one.weight) for one in tuning.shares), logged, tuning),)
        value = sni.cluster_name(protocol_class, self.mesh, name) if self.direct else name
        return class_filters(
            protocol_class,
            Where("outside" if self.direct else "mesh", value),
            self.mesh,
            Logged(f"outbound/{protocol_class}", self.access_log, self.zone),
            tuning,
            forbidden=self.forbidden if tuning.open is None else not tuning.open,
            after_handshake=False,
        )

    def _taker(self, share: Share) -> str:
        # The cluster that takes a share of TCP connections; names of no cluster close them.
        if not share.sni:
            return defaults.NOBODY
        if not self.direct:
            return defaults.egress_share(share.sni)
        allowed = share.open if share.open is not None else not self.forbidden
        return sni.cluster_name("tcp", self.mesh, share.sni) if allowed else defaults.FORBIDDEN


class _Door(msgspec.Struct, frozen=True):
    # What is particular to one explicit listener.
    protocol_class: ProtocolClass
    sni: str
    host: str
    port: int
    tuning: Tuning


def sidecar_resources(
    view: ZoneView, proxy: ProxyView, resource: Dataplane, source: SecretSource, access_log: str
) -> Iterator[Encoded]:
    """Everything a sidecar holds; nothing while its mesh is unknown."""
    mesh = view.meshes.get(resource.mesh)
    if mesh is None:
        return
    direct, said = not through_egress(mesh), governed(mesh, resource)
    identity = spiffe.workload_id(mesh.name, service_of(resource))
    judged = verdicts(mesh, identity) if direct else NO_VERDICTS
    parties = Parties(mesh.name, service_of(resource), resource.networking.address)
    if mesh.mtls:
        yield from credentials(mesh, identity, source, further_services(resource))
    extra = []
    if direct:
        for service in mesh.services.values():
            own = dialled_by(service, said.about(service))
            served = serve(own, mesh.sources, proxy.system_ca_path, source)
            yield served.cluster
            yield from served.secrets
            extra.append(served.extra)
    else:
        yield from egress_clusters(mesh, view.egresses)
        yield from share_clusters(mesh, said)
    yield routes("outside" if direct else "mesh", mesh, extra, at_sidecar=True, governed=said, judged=judged)
    outlet = _Outlet(mesh.name, view.zone, access_log, direct, direct and mesh.forbid_external, mesh.lost_by(identity))
    redirect = resource.networking.transparent_proxying
    if REDIRECT in proxy.features:
        yield from _redirected(
            view, mesh, proxy, outlet, redirect or TransparentProxying(), said=said, judged=judged, parties=parties
        )
    else:
        for service in mesh.services.values():
            tuning = service_tuning(said, service, judged, replace(parties, destination=service.name))
            yield _listener(outlet, service, (service.vip, service.port), tuning, said.sources_about(service))
    for outbound in resource.networking.outbound:
        chosen = referenced(mesh, outbound, view.zone)
        if chosen is not None:
            tuning = service_tuning(said, chosen, judged, replace(parties, destination=chosen.name))
            sources = _union(proxy.sources, said.sources_about(chosen))
            yield _listener(outlet, chosen, (outbound.address, outbound.port), tuning, sources)
    yield from outbound_resources(
        mesh, proxy, resource, said.at_large, parties=parties, logged=Logged("outbound", access_log, view.zone)
    )
    for inbound in resource.networking.inbound:
        yield from inbound_resources(
            mesh, proxy, resource, inbound, Logged(f"inbound/{inbound.port}", access_log, view.zone)
        )


def referenced(mesh: MeshView, outbound: Outbound, zone: str) -> ExternalServiceView | None:
    """The service that an outbound's `backendRef` means: the zone's own first, then global ones, then by name."""
    wanted = outbound.backend_ref
    if wanted is None or wanted.kind != "MeshExternalService":
        return None
    found = [
        service
        for service in mesh.services.values()
        if (service.key.name == wanted.name if wanted.name else labelled(service, wanted.labels))
        and (wanted.port is None or wanted.port == service.port)
    ]
    found.sort(key=lambda service: (service.key.zone != zone, service.key))
    return found[0] if found else None


def _redirected(
    view: ZoneView,
    mesh: MeshView,
    proxy: ProxyView,
    outlet: _Outlet,
    redirect: TransparentProxying,
    *,
    said: Governed,
    judged: Verdicts,
    parties: Parties,
) -> Iterator[Encoded]:
    rest = defaults.PASSTHROUGH if mesh.passthrough else defaults.BLACKHOLE
    ways = [
        _Way(one, view.vip_ranges[one], chain_tuning(said.at_large, one, parties))
        for one in _CLASSES
        if view.vip_ranges.get(one)
    ]
    # The longest prefix wins: a service that needs a chain of its own has one for its VIP alone.
    ways += [_Way(one, (vip,), tuning) for vip, one, tuning in tuned_apart(said, mesh, judged, parties)]
    sources = _union(proxy.sources, mesh.sources, outlet.lost)
    external = Tuning(logs=logs(said.at_large.log, replace(parties, destination="external")))
    body = _redirect_listener(outlet, tuple(ways), redirect.redirect_port_outbound, rest, external)
    yield encode(LISTENER, REDIRECT_LISTENER, body, _union(sources, said.sources))
    yield encode(CLUSTER, rest, _rest_cluster(rest), sources)


class _Way(msgspec.Struct, frozen=True):
    # One chain of the redirect listener.
    protocol_class: ProtocolClass
    networks: tuple[str, ...]
    tuning: Tuning


@lru_cache(maxsize=256)
def _redirect_listener(outlet: _Outlet, ways: tuple[_Way, ...], port: int, rest: str, external: Tuning) -> bytes:
    name = f"{_ORIGINAL}.{outlet.mesh}.{sni.CURRENT}"
    first = {way.protocol_class: way for way in reversed(ways)}
    chains = [
        outlet.chain(
            way.protocol_class,
            name,
            way.tuning,
            called=f"outbound/{way.protocol_class}"
            + ("" if way is first[way.protocol_class] else f"/{way.networks[0]}"),
            match=by_ranges(way.networks),
        )
        for way in ways
    ]
    logged = Logged(f"outbound/{rest}", outlet.access_log, outlet.zone)
    return listening(
        REDIRECT_LISTENER,
        ANY_ADDRESS,
        port,
        chains,
        direction=core.TrafficDirection.OUTBOUND,
        inspector=listener_filter("envoy.filters.listener.original_dst", pack(original_dst.OriginalDst())),
        rest=chain((proxy_to(rest, logged, external),), name=rest),
    )


@lru_cache(maxsize=8)
def _rest_cluster(name: str) -> bytes:
    # Where traffic goes that is meant for no VIP: on to where it was going, or nowhere.
    if name == defaults.PASSTHROUGH:
        made = cluster.Cluster(
            name=name,
            type=cluster.ClusterDiscoveryType.ORIGINAL_DST,
            lb_policy=cluster.ClusterLbPolicy.CLUSTER_PROVIDED,
            connect_timeout=defaults.CONNECT_TIMEOUT,
        )
    else:
        made = cluster.Cluster(
            name=name, type=cluster.ClusterDiscoveryType.STATIC, connect_timeout=defaults.CONNECT_TIMEOUT
        )
    return bytes(made)


def _listener(
    outlet: _Outlet, service: ExternalServiceView, bind: tuple[str, int], tuning: Tuning, sources: Sources
) -> Encoded:
    permission = service.permission.sources if service.permission is not None and tuning.open is not None else ()
    door = _Door(service.protocol_class, service.sni, *bind, tuning)
    lost = outlet.lost if service.protocol_class == "tcp" else ()
    return _explicit(outlet, door, _union(service.sources, sources, permission, lost))


@lru_cache(maxsize=65536)
def _explicit(outlet: _Outlet, door: _Door, sources: Sources) -> Encoded:
    name = f"outbound/{door.host}:{door.port}"
    only = outlet.chain(door.protocol_class, door.sni, door.tuning)
    body = listening(name, door.host, door.port, (only,), direction=core.TrafficDirection.OUTBOUND)
    return encode(LISTENER, name, body, sources)


def _union(*sources: Sources) -> Sources:
    return tuple(dict.fromkeys(one for group in sources for one in group))
