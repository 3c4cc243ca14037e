"""A gateway's virtual hosts: what is behind the hostnames of one connection manager, over RDS (decision 23, A8)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache

import msgspec
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.naming import spiffe
from zone_cp.view.gateways import GatewayView, PortView
from zone_cp.view.sources import Sources
from zone_cp.xds import defaults
from zone_cp.xds.shape import pack, part
from zone_cp.xds.snapshot import ROUTE, Encoded
from zone_cp.xds.wire import encode


class Host(msgspec.Struct, frozen=True):
    """One hostname (ANY_HOST, exact or `*.suffix`) and its Routes, encoded, in the order in which they are tried.

    Without routes it answers 404.
    """

    domain: str
    routes: tuple[bytes, ...] = ()


def listener_name(gateway: GatewayView, port: PortView) -> str:
    """Name of a port's listener, and of what belongs to it (A4)."""
    return f"{gateway.key.name}:{port.protocol}:{port.port}"


def routes_name(gateway: GatewayView, port: PortView, hostname: str) -> str:
    """Name of the RouteConfiguration of a logical listener: one per port, for HTTPS one per hostname, so that no
    connection reaches the virtual hosts of another server name (A6).
    """
    return f"{listener_name(gateway, port)}:{hostname if port.protocol == 'HTTPS' else '*'}"


def host_routes(
    name: str, hosts: Iterable[Host], sources: Sources, *, secured: bool, meshes: tuple[str, ...] = ()
) -> Encoded:
    """A RouteConfiguration. secured: clients come by TLS, and are told to come so again. meshes: those of whose
    workloads it takes requests, where the connection manager asks.
    """
    return encode(ROUTE, name, _configuration(name, tuple(hosts), meshes, secured=secured), sources)


@lru_cache(maxsize=4096)
def _configuration(name: str, hosts: tuple[Host, ...], meshes: tuple[str, ...], *, secured: bool) -> bytes:
    body = part(route.RouteConfiguration, "name", name)
    for host in hosts:
        one = part(route.VirtualHost, "name", host.domain) + part(route.VirtualHost, "domains", host.domain)
        one += b"".join(part(route.VirtualHost, "routes", each) for each in host.routes or (_no_route(),))
        body += part(route.RouteConfiguration, "virtual_hosts", one + (_strict() if secured else b""))
    return body + _rest() + (_from_meshes(meshes) if meshes else b"")


@lru_cache(maxsize=1024)
def _from_meshes(meshes: tuple[str, ...]) -> bytes:
    # The handshake has asked before, and never again: this is asked for each request.
    names = [matcher.StringMatcher(prefix=f"{spiffe.trust_domain(one)}/") for one in meshes]
    who = [rbac.Principal(authenticated=rbac.PrincipalAuthenticated(principal_name=one)) for one in names]
    policy = rbac.Policy(permissions=[rbac.Permission(any=True)], principals=who)
    rules = rbac.Rbac(action=rbac.RbacAction.ALLOW, policies={"meshes": policy})
    asked = pack(http_rbac.RbacPerRoute(rbac=http_rbac.Rbac(rules=rules)))
    return bytes(route.RouteConfiguration(typed_per_filter_config={defaults.MESHES_FILTER: asked}))


@cache
def _no_route() -> bytes:
    said = core.DataSource(inline_string=defaults.NO_GATEWAY_ROUTE)
    answer = route.DirectResponseAction(status=404, body=said)
    return bytes(route.Route(match=route.RouteMatch(prefix="/"), direct_response=answer))


@cache
def _strict() -> bytes:
    header = core.HeaderValue(key="strict-transport-security", value="max-age=31536000; includeSubDomains")
    overwrite = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    option = core.HeaderValueOption(header=header, append_action=overwrite)
    everything = route.VirtualHostTlsRequirementType.ALL
    return bytes(route.VirtualHost(require_tls=everything, response_headers_to_add=[option]))


@cache
def _rest() -> bytes:
    return bytes(
        route.RouteConfiguration(
            ignore_port_in_host_matching=True,
            validate_clusters=False,
            request_headers_to_remove=["x-kuma-tags"],
        )
    )
