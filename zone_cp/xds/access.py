"""Who may use which service at a zone egress: one filter per mesh and class, over ECDS (decision 20).

Deny wins, then allow, and who is in neither is denied. A service that no MeshTrafficPermission guards is open, unless
the mesh forbids it. The chains name these filters and are constant, so neither a permission nor the mesh's default
drains anything; until a filter is there, everybody is denied. For HTTP it is an RBAC matcher, keyed by the requested
server name and inside by the client's SPIFFE id; for TCP see `tcp_access`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, lru_cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state
from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_input
from envoy_data_plane.envoy.extensions.matching.common_inputs.ssl import v3 as ssl_input
from envoy_data_plane.google import protobuf as google
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as tree

from shared.model.kinds import is_legacy
from shared.model.policy import SpiffeMatch
from shared.model.resource import ProtocolClass
from shared.naming import sni, spiffe
from zone_cp.view.policies import Permission
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds import denial
from zone_cp.xds.denial import as_name
from zone_cp.xds.shape import ads, extension, pack, part, type_url
from zone_cp.xds.snapshot import EXTENSION_CONFIG, Encoded
from zone_cp.xds.tcp_access import Guards, destinations
from zone_cp.xds.wire import encode


def access_name(protocol_class: ProtocolClass, mesh: str) -> str:
    """ECDS name of the filter of a mesh's class."""
    return f"access/http/{mesh}" if protocol_class == "http" else f"destination/tcp/{mesh}"


def access_config(protocol_class: ProtocolClass, mesh: MeshView, also: Iterable[ExternalServiceView] = ()) -> Encoded:
    """The filter of one class, as the extension configuration that the class's filter chains name. also: services that
    it guards too, or instead of those of the same cluster.
    """
    name = access_name(protocol_class, mesh.name)
    services = {one.cluster: one for one in (*mesh.services.values(), *also)}
    judged = ((service, permitted(mesh, service)) for service in services.values())
    found = ((service, said) for service, said in judged if said is not None)
    guarded = sorted(
        ((service, said) for service, said in found if service.protocol_class == protocol_class),
        key=lambda one: one[0].sni,
    )
    accepted = (
        (asked, permission)
        for service, permission in guarded
        for asked in sni.accepted_snis(service.vip, service.port, mesh.name)
    )
    guards = tuple(sorted(accepted, key=lambda guard: guard[0]))
    body = _body(name, protocol_class, mesh.name, guards, forbidden=mesh.forbid_external)
    cited = [ref for service, permission in guarded for ref in (*service.sources, *permission.sources)]
    return encode(EXTENSION_CONFIG, name, body, joined(mesh.sources, cited))


def permitted(mesh: MeshView, service: ExternalServiceView) -> Permission | None:
    """Who may use a service, where that is not what the mesh says of all.

    That a mesh forbids MeshExternalServices says nothing of legacy ones: who is in the mesh may use those.
    """
    if service.permission is None and mesh.forbid_external and is_legacy(service.key):
        return _everybody(mesh.name)
    return service.permission


def may_use(mesh: MeshView, service: ExternalServiceView, spiffe_id: str) -> bool:
    """Whether a workload may use a service.

    A mesh without mTLS gives its workloads no identity, so that a permission cannot be enforced and denies
    (decision 26).
    """
    if service.permission is None:
        return is_legacy(service.key) or not mesh.forbid_external
    return mesh.mtls and service.permission.allows(spiffe_id)


@cache
def _everybody(mesh: str) -> Permission:
    return Permission((), (SpiffeMatch(type="Prefix", value=f"{spiffe.trust_domain(mesh)}/"),))


@cache
def http_access_filter(mesh: str) -> hcm.HttpFilter:
    """The HTTP filter that obeys the tree of `mesh`."""
    closed = pack(http_rbac.Rbac(matcher=_tree("", (), forbidden=True)))
    return hcm.HttpFilter(name=access_name("http", mesh), config_discovery=_discovered(closed, http_rbac.Rbac))


@cache
def network_access_filter(mesh: str) -> bytes:
    """The network Filter that says where connections of `mesh` go; nowhere, until it is there."""
    discovered = bytes(_discovered(pack(set_filter_state.Config()), set_filter_state.Config))
    whole = part(listener.Filter, "name", access_name("tcp", mesh))
    return whole + part(listener.Filter, "config_discovery", discovered)


def _discovered(
    default: google.Any, message: type[http_rbac.Rbac | set_filter_state.Config]
) -> core.ExtensionConfigSource:
    return core.ExtensionConfigSource(config_source=ads(), default_config=default, type_urls=[type_url(message)])


@lru_cache(maxsize=1024)
def _body(name: str, protocol_class: ProtocolClass, mesh: str, guards: Guards, *, forbidden: bool) -> bytes:
    if protocol_class == "tcp":
        made = destinations(mesh, guards, forbidden=forbidden)
        return extension(core.TypedExtensionConfig, name, set_filter_state.Config, made)
    tree_of_all = pack(http_rbac.Rbac(matcher=_tree(mesh, guards, forbidden=forbidden)))
    return bytes(core.TypedExtensionConfig(name=name, typed_config=tree_of_all))


def _tree(mesh: str, guards: Guards, *, forbidden: bool) -> tree.Matcher:
    # The names end up in the 403's body: Envoy writes no spaces there.
    default = _decide(f"mesh_{mesh}_forbids_MeshExternalServices(defaultForbidMeshExternalServiceAccess)", deny=True)
    rest = default if forbidden else _decide("open", deny=False)
    if not guards:
        return tree.Matcher(on_no_match=rest)
    names = {name: tree.MatcherOnMatch(matcher=_identities(permission)) for name, permission in guards}
    return tree.Matcher(
        matcher_tree=tree.MatcherMatcherTree(
            input=_input("server_name", network_input.ServerNameInput()),
            exact_match_map=tree.MatcherMatcherTreeMatchMap(map=names),
        ),
        on_no_match=rest,
    )


def _identities(permission: Permission) -> tree.Matcher:
    denied = [_identity(one, as_name(denial.denied(permission)), deny=True) for one in permission.deny]
    allowed = [_identity(one, "allowed", deny=False) for one in permission.allow]
    matchers = [*denied, *allowed]
    return tree.Matcher(
        # Envoy refuses an empty list, and with it the whole filter: of a service that nobody may use.
        matcher_list=tree.MatcherMatcherList(matchers=matchers) if matchers else None,
        on_no_match=_decide(as_name(denial.not_allowed(permission)), deny=True),
    )


def _identity(one: SpiffeMatch, name: str, *, deny: bool) -> tree.MatcherMatcherListFieldMatcher:
    text = tree.StringMatcher(prefix=one.value) if one.type == "Prefix" else tree.StringMatcher(exact=one.value)
    single = tree.MatcherMatcherListPredicateSinglePredicate(
        input=_input("uri_san", ssl_input.UriSanInput()), value_match=text
    )
    return tree.MatcherMatcherListFieldMatcher(
        predicate=tree.MatcherMatcherListPredicate(single_predicate=single), on_match=_decide(name, deny=deny)
    )


def _input(name: str, message: network_input.ServerNameInput | ssl_input.UriSanInput) -> xds_core.TypedExtensionConfig:
    return xds_core.TypedExtensionConfig(name=name, typed_config=pack(message))


def _decide(name: str, *, deny: bool) -> tree.MatcherOnMatch:
    action = rbac.Action(name=name, action=rbac.RbacAction.DENY if deny else rbac.RbacAction.ALLOW)
    return tree.MatcherOnMatch(action=xds_core.TypedExtensionConfig(name=name, typed_config=pack(action)))


def access_configs(mesh: MeshView) -> Iterator[Encoded]:
    """The trees of both classes."""
    yield access_config("http", mesh)
    yield access_config("tcp", mesh)
