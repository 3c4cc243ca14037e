"""Route configurations over RDS (decision 23), so that neither an access rule nor a policy drains anything.

A mesh has one route configuration per hop. Services that policies single out are told apart by the header
that says where the request goes, in a matcher tree, so that thousands of them cost one look-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TypeAlias

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as input_of
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as tree

from shared.events.event import EventRef
from zone_cp.view.policies import NOTHING_SAID
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults, denial
from zone_cp.xds.backends import Judge
from zone_cp.xds.connection_policies import NO_VERDICTS, Verdicts
from zone_cp.xds.extended import ExtraRoutes
from zone_cp.xds.filters import Hop
from zone_cp.xds.governed import Governed
from zone_cp.xds.http_routes import Plan, plan_routes, planned
from zone_cp.xds.route_actions import onward
from zone_cp.xds.route_policies import RouteTuning, route_tuning
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import ROUTE, Encoded
from zone_cp.xds.ways import dialled_through_egress
from zone_cp.xds.wire import encode

FORBIDDEN_STATUS = 403
BODY_MAX_BYTES = 65_536
"""Of an answer that a route itself gives; Envoy's own limit is 4096."""

_Particular: TypeAlias = tuple[tuple[str, RouteTuning | Plan | str], ...]
"""Header value → how its route is tuned, or the routes that it has, or why it is denied."""


def route_name(hop: Hop, mesh: str) -> str:
    """RDS name of a mesh's routes at one hop."""
    return f"{hop}/{mesh}"


def _forbidding(mesh: str) -> route.Route:
    text = f"mesh {mesh} forbids MeshExternalServices (defaultForbidMeshExternalServiceAccess)\n"
    denied = route.DirectResponseAction(status=FORBIDDEN_STATUS, body=core.DataSource(inline_string=text))
    return route.Route(match=route.RouteMatch(prefix="/"), direct_response=denied)


def _denying(why: str) -> route.Route:
    text = f"access to this service is denied: {why}\n"
    denied = route.DirectResponseAction(status=FORBIDDEN_STATUS, body=core.DataSource(inline_string=text))
    return route.Route(match=route.RouteMatch(prefix="/"), direct_response=denied)


def _tuned(hop: Hop, tuning: RouteTuning, *, at_sidecar: bool, grpc: bool = False) -> route.Route:
    match = route.RouteMatch(prefix="/", grpc=route.RouteMatchGrpcRouteMatchOptions() if grpc else None)
    return route.Route(match=match, route=onward(hop, tuning, at_sidecar=at_sidecar))


def _keeping_host(tuning: RouteTuning) -> route.Route:
    # At a zone egress: of a request whose route at the sidecar has chosen the host (URLRewrite).
    chosen = route.HeaderMatcher(name=defaults.KEEP_HOST_HEADER, present_match=True)
    action = onward("outside", tuning, at_sidecar=False, rewrite_host=False)
    return route.Route(match=route.RouteMatch(prefix="/", headers=[chosen]), route=action)


def _routes_of(
    told: RouteTuning | Plan | str, hop: Hop, own: list[route.Route], *, at_sidecar: bool
) -> list[route.Route]:
    match told:
        case str():
            return [_denying(told)]
        case RouteTuning():
            return [_tuned(hop, told, at_sidecar=at_sidecar)]
        case Plan():
            return plan_routes(told, hop, own, at_sidecar=at_sidecar)


def _rest(hop: Hop, http: RouteTuning, grpc: RouteTuning, *, at_sidecar: bool) -> list[route.Route]:
    # What no policy singles out. A route does not know its service's protocol, but it sees what a request is.
    rest = _tuned(hop, http, at_sidecar=at_sidecar)
    return [rest] if http == grpc else [_tuned(hop, grpc, at_sidecar=at_sidecar, grpc=True), rest]


def _on_match(routes: list[route.Route]) -> tree.MatcherOnMatch:
    action = pack(route.RouteList(routes=routes) if len(routes) > 1 else routes[0])
    return tree.MatcherOnMatch(action=xds_core.TypedExtensionConfig(name="route", typed_config=action))


def _by_header(hop: Hop, found: dict[str, list[route.Route]], rest: list[route.Route]) -> tree.Matcher:
    header = defaults.SNI_HEADER if hop == "mesh" else defaults.CLUSTER_HEADER
    source = pack(input_of.HttpRequestHeaderMatchInput(header_name=header))
    return tree.Matcher(
        matcher_tree=tree.MatcherMatcherTree(
            input=xds_core.TypedExtensionConfig(name="to", typed_config=source),
            exact_match_map=tree.MatcherMatcherTreeMatchMap(
                map={value: _on_match(one) for value, one in found.items()}
            ),
        ),
        on_no_match=_on_match(rest),
    )


@lru_cache(maxsize=4096)
def _body(
    hop: Hop,
    mesh: str,
    extra: tuple[bytes, ...],
    tunings: tuple[RouteTuning, RouteTuning],
    particular: _Particular,
    *,
    at_sidecar: bool,
    forbidden: bool,
) -> bytes:
    host = route.VirtualHost(name=mesh, domains=["*"])
    own = [route.Route.parse(one) for one in extra]
    rest = [_forbidding(mesh)] if forbidden else [*own, *_rest(hop, *tunings, at_sidecar=at_sidecar)]
    if hop == "outside" and not at_sidecar:
        rest.insert(len(own), _keeping_host(tunings[0]))
    if particular:
        found = {value: _routes_of(told, hop, own, at_sidecar=at_sidecar) for value, told in particular}
        host.matcher = _by_header(hop, found, rest)
    else:
        host.routes = rest
    return bytes(
        route.RouteConfiguration(
            name=route_name(hop, mesh),
            virtual_hosts=[host],
            request_headers_to_remove=list(defaults.INTERNAL_HEADERS) if hop == "outside" else [],
            validate_clusters=False,
            max_direct_response_body_size_bytes=BODY_MAX_BYTES if extra else None,
        )
    )


@cache
def _nothing() -> Governed:
    return Governed(NOTHING_SAID)


def _particular(
    hop: Hop, mesh: MeshView, said: Governed, judged: Verdicts, tunings: tuple[RouteTuning, RouteTuning]
) -> _Particular:
    """The routes of services that differ from those of all, by the header that names them."""
    forbidden = mesh.forbid_external and hop == "outside"
    candidates = {service.sni: service for service, _ in said.particular}
    candidates |= {service.sni: service for service in mesh.services.values() if service.sni in judged}
    found: list[tuple[str, RouteTuning | Plan | str]] = []
    for _, service in sorted(candidates.items()):
        if service.protocol_class != "http" or dialled_through_egress(mesh, service.key) != (hop == "mesh"):
            continue
        header = service.sni if hop == "mesh" else service.cluster
        tuning = route_tuning(said.about(service), service.protocol)
        verdict = judged.get(service.sni)
        plan = planned(mesh, service, said.about(service), Judge(judged, not forbidden, mesh.mtls))
        if plan is not None:
            found.append((header, plan))
            continue
        # Of gRPC, the rest sees only what a request calls itself. Who answers by itself has routes already.
        differs = verdict if forbidden else (tuning != tunings[0] or tuning != tunings[1])
        if verdict is False:
            found.append((header, denial.verdict(service.permission, has_identity=mesh.mtls)))
        elif differs and (hop == "mesh" or service.extension is None):
            found.append((header, tuning))
    return tuple(found)


def _permissions(mesh: MeshView, judged: Verdicts) -> Iterable[EventRef]:
    if not judged:
        return ()
    found = (service for service in mesh.services.values() if service.sni in judged)
    guarded = sorted(found, key=lambda service: service.sni)
    return (ref for service in guarded for ref in service.judged_sources)


def routes(
    hop: Hop,
    mesh: MeshView,
    extra: Iterable[ExtraRoutes] = (),
    *,
    at_sidecar: bool,
    governed: Governed | None = None,
    judged: Verdicts = NO_VERDICTS,
) -> Encoded:
    """The routes of a mesh at one hop; `extra` are those of services that answer by routes of their own, `governed`
    is what policies say to this sidecar, `judged` what permissions say in direct mode.

    Access is decided where the outside is dialled (decision 20), and before anything else: at a zone egress by the
    trees of `access.py`, in direct mode here.
    """
    forbidden = mesh.forbid_external and hop == "outside" and at_sidecar
    own = [one for one in extra if one.routes]
    said = governed or _nothing()
    tunings = (route_tuning(said.at_large, "http"), route_tuning(said.at_large, "grpc"))
    particular = _particular(hop, mesh, said, judged, tunings)
    body = _body(
        hop,
        mesh.name,
        tuple(each for one in own for each in one.routes),
        tunings,
        particular,
        at_sidecar=at_sidecar,
        forbidden=forbidden,
    )
    sources = joined(
        mesh.sources,
        mesh.legacy if at_sidecar else (),
        *(one.sources for one in own),
        said.sources,
        *(told.sources for _, told in particular if isinstance(told, Plan)),
        tuple(_permissions(mesh, judged)),
    )
    return encode(ROUTE, route_name(hop, mesh.name), body, sources)
