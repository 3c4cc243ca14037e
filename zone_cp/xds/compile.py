"""Compile: ZoneView → Snapshot, for one proxy. Pure; equal parts are encoded once for all proxies and moments.

`compile_proxy` makes everything, `compile_next` only what a change touches. Both are the same code: a proxy for which
nothing was compiled before differs in everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shared.model.builtin import is_builtin
from shared.model.resource import Dataplane, ResourceKey, ZoneEgress
from zone_cp.view.zone_view import ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.egress import compile_egress
from zone_cp.xds.gateway import compile_gateway
from zone_cp.xds.parts import (
    READS_ANY,
    READS_NOTHING,
    READS_SERVICES,
    READS_WORKLOADS,
    Changed,
    Compiled,
    Reads,
    all_of,
)
from zone_cp.xds.proxyless import PROXYLESS, compile_proxyless
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.sidecar import compile_sidecar, sidecar_reads
from zone_cp.xds.snapshot import Snapshot


def compile_proxy(view: ZoneView, proxy: ProxyView, secrets: SecretSource) -> Snapshot:
    """Everything `proxy` should hold at the view's moment."""
    return compile_whole(view, proxy, secrets).assembly.snapshot


def compile_whole(
    view: ZoneView,
    proxy: ProxyView,
    secrets: SecretSource,
    only: Mapping[str, Collection[ResourceKey]] | None = None,
) -> Compiled:
    """The same, as the start for what comes after. only: see Changed."""
    return compile_next(None, view, proxy, secrets, all_of(view, only))


def compile_next(
    before: Compiled | None, view: ZoneView, proxy: ProxyView, secrets: SecretSource, changed: Changed
) -> Compiled:
    """What `proxy` should hold now, given what was compiled for it before `changed`."""
    match proxy.resource:
        case ZoneEgress() as resource:
            return compile_egress(before, view, proxy, resource, secrets, access_log_path(proxy), changed)
        case Dataplane() as resource if PROXYLESS in proxy.features:
            return compile_proxyless(before, view, proxy, resource, changed)
        case Dataplane() as resource if is_builtin(resource):
            return compile_gateway(before, view, proxy, resource, secrets, access_log_path(proxy), changed)
        case Dataplane() as resource:
            return compile_sidecar(before, view, proxy, resource, secrets, access_log_path(proxy), changed)


def reads(view: ZoneView, proxy: ProxyView) -> Reads:
    """What a proxy will follow from, or more, before anything is compiled for it."""
    match proxy.resource:
        case ZoneEgress():
            return READS_SERVICES
        case Dataplane(mesh=mesh) as resource if (known := view.meshes.get(mesh)) is not None:
            if PROXYLESS in proxy.features:
                return READS_WORKLOADS
            return READS_ANY if is_builtin(resource) else sidecar_reads(known, proxy, resource)
        case Dataplane():
            return READS_NOTHING


def access_log_path(proxy: ProxyView) -> str:
    """Where the proxy's agent reads the access log: its feature `access-log=<path>`, else standard output."""
    prefix = defaults.ACCESS_LOG_FEATURE
    paths = [feature.removeprefix(prefix) for feature in proxy.features if feature.startswith(prefix)]
    return paths[0] if paths and paths[0] else defaults.ACCESS_LOG_DEFAULT
