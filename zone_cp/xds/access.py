"""Who may use which service at a zone egress: one RBAC matcher per mesh and class, over ECDS (decision 20).

The tree is keyed by the requested server name, and inside by the client's SPIFFE id: deny, then allow, and who is in
neither is denied. A service that no MeshTrafficPermission guards is open, unless the mesh forbids it. The filters
that name the tree are constant, so neither a permission nor the mesh's default drains anything; until the tree is
there, everybody is denied.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TypeAlias

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.filters.network.rbac import v3 as network_rbac
from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_input
from envoy_data_plane.envoy.extensions.matching.common_inputs.ssl import v3 as ssl_input
from envoy_data_plane.google import protobuf as google
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as tree

from shared.model.policy import SpiffeMatch
from shared.model.resource import ProtocolClass
from shared.naming import sni
from zone_cp.view.policies import Permission
from zone_cp.view.zone_view import MeshView
from zone_cp.xds.shape import ads, pack, part, type_url
from zone_cp.xds.snapshot import EXTENSION_CONFIG, Encoded
from zone_cp.xds.wire import encode

_Guards: TypeAlias = tuple[tuple[str, Permission], ...]


def access_name(protocol_class: ProtocolClass, mesh: str) -> str:
    """ECDS name of the tree of a mesh's class."""
    return f"access/{protocol_class}/{mesh}"


def access_config(protocol_class: ProtocolClass, mesh: MeshView) -> Encoded:
    """The tree of one class, as the extension configuration that the class's filter chain names."""
    name = access_name(protocol_class, mesh.name)
    guarded = sorted(
        (service for service in mesh.services.values() if service.permission is not None),
        key=lambda service: service.sni,
    )
    guards = tuple(
        (accepted, service.permission)
        for service in guarded
        if service.protocol_class == protocol_class and service.permission is not None
        for accepted in sni.accepted_snis(service.vip, service.port, mesh.name)
    )
    body = _body(name, protocol_class, mesh.name, guards, forbidden=mesh.forbid_external)
    named = [service for service in guarded if service.protocol_class == protocol_class]
    cited = (ref for one in named if one.permission for ref in (*one.sources, *one.permission.sources))
    return encode(EXTENSION_CONFIG, name, body, tuple(dict.fromkeys((*mesh.sources, *cited))))


@cache
def http_access_filter(mesh: str) -> hcm.HttpFilter:
    """The HTTP filter that obeys the tree of `mesh`."""
    return hcm.HttpFilter(name=access_name("http", mesh), config_discovery=_discovered("http"))


@cache
def network_access_filter(mesh: str) -> bytes:
    """The network Filter that obeys the tree of `mesh`."""
    name = access_name("tcp", mesh)
    return part(listener.Filter, "name", name) + part(listener.Filter, "config_discovery", bytes(_discovered("tcp")))


@cache
def _discovered(protocol_class: ProtocolClass) -> core.ExtensionConfigSource:
    closed = _rbac(protocol_class, "", (), forbidden=True)
    return core.ExtensionConfigSource(
        config_source=ads(), default_config=closed, type_urls=[type_url(_MESSAGES[protocol_class])]
    )


@lru_cache(maxsize=1024)
def _body(name: str, protocol_class: ProtocolClass, mesh: str, guards: _Guards, *, forbidden: bool) -> bytes:
    made = _rbac(protocol_class, mesh, guards, forbidden=forbidden)
    return bytes(core.TypedExtensionConfig(name=name, typed_config=made))


_MESSAGES: dict[ProtocolClass, type[http_rbac.Rbac | network_rbac.Rbac]] = {
    "http": http_rbac.Rbac,
    "tcp": network_rbac.Rbac,
}


def _rbac(protocol_class: ProtocolClass, mesh: str, guards: _Guards, *, forbidden: bool) -> google.Any:
    whole = _tree(mesh, guards, forbidden=forbidden)
    if protocol_class == "http":
        return pack(http_rbac.Rbac(matcher=whole))
    return pack(network_rbac.Rbac(matcher=whole, stat_prefix=f"{access_name('tcp', mesh)}."))


def _tree(mesh: str, guards: _Guards, *, forbidden: bool) -> tree.Matcher:
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
    denied = [_identity(one, "denied_by_MeshTrafficPermission", deny=True) for one in permission.deny]
    allowed = [_identity(one, "allowed", deny=False) for one in permission.allow]
    return tree.Matcher(
        matcher_list=tree.MatcherMatcherList(matchers=[*denied, *allowed]),
        on_no_match=_decide("no_MeshTrafficPermission_allows_this_workload", deny=True),
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
