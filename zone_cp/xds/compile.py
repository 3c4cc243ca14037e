"""Compile: ZoneView → Snapshot, for one proxy. Pure; equal parts are encoded once for all proxies and moments."""

from __future__ import annotations

from collections.abc import Iterable

from immutables import Map

from shared.model.resource import Dataplane, ResourceKey, ZoneEgress
from shared.naming.sni import CLUSTER_PREFIX
from zone_cp.view.zone_view import Failure, ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.egress import egress_resources, on_demand, through_egress
from zone_cp.xds.material import serve
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.sidecar import sidecar_resources
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, Encoded, Snapshot

SERVED_TYPES = (SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE, EXTENSION_CONFIG)
"""Types that every snapshot has, be it without resources."""


def compile_proxy(view: ZoneView, proxy: ProxyView, secrets: SecretSource) -> Snapshot:
    """Everything `proxy` should hold at the view's moment."""
    prefix = ""
    match proxy.resource:
        case ZoneEgress() as resource:
            prefix = f"{CLUSTER_PREFIX}/" if on_demand(view) else ""
            made = egress_resources(view, proxy, resource, secrets, access_log_path(proxy))
        case Dataplane() as resource:
            made = sidecar_resources(view, proxy, resource, secrets, access_log_path(proxy))
    return Snapshot(view.position, _by_type(made), on_demand=prefix)


def access_log_path(proxy: ProxyView) -> str:
    """Where the proxy's agent reads the access log: its feature `access-log=<path>`, else standard output."""
    prefix = defaults.ACCESS_LOG_FEATURE
    paths = [feature.removeprefix(prefix) for feature in proxy.features if feature.startswith(prefix)]
    return paths[0] if paths and paths[0] else defaults.ACCESS_LOG_DEFAULT


def failures(view: ZoneView, proxy: ProxyView, secrets: SecretSource) -> Map[ResourceKey, Failure]:
    """The services that `proxy` would carry but answers 503 for, and why: what conditions are derived from."""
    egress = isinstance(proxy.resource, ZoneEgress)
    closed: dict[ResourceKey, Failure] = {}
    for mesh in view.meshes.values():
        if through_egress(mesh) is not egress or (not egress and mesh.name != _mesh(proxy)):
            continue
        for key, service in mesh.services.items():
            failure = serve(service, mesh.sources, proxy.system_ca_path, secrets).failure
            if failure is not None:
                closed[key] = failure
    return Map(closed)


def _mesh(proxy: ProxyView) -> str:
    return proxy.resource.mesh if isinstance(proxy.resource, Dataplane) else ""


def _by_type(made: Iterable[Encoded]) -> Map[str, Map[str, Encoded]]:
    # The first of a name wins: services that share a Secret bring the same bytes.
    found: dict[str, dict[str, Encoded]] = {type_url: {} for type_url in SERVED_TYPES}
    for encoded in made:
        known = found[encoded.type_url].setdefault(encoded.name, encoded)
        if known is not encoded and encoded.type_url == SECRET and known.sources != encoded.sources:
            found[SECRET][encoded.name] = _cited_by_both(known, encoded)
    return Map({type_url: Map(resources) for type_url, resources in found.items()})


def _cited_by_both(one: Encoded, other: Encoded) -> Encoded:
    sources = tuple(dict.fromkeys((*one.sources, *other.sources)))
    return Encoded(one.name, one.type_url, one.version, one.body, one.field, sources)
