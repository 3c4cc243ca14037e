"""What a zone egress makes of the filters that say who may use what: the real bytes, read and evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.rbac import v3 as rbac
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state import v3 as filter_state
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state

from zone_cp.xds.tcp_access import CLUSTER_STATE, DESTINATION_STATE, GUARDED

_contains = re.compile(r"('[^']*')\.contains\(NAME\)")


def lets_in(body: bytes, cluster: str, who: str) -> bool:
    """Whether the filter of a cluster's class, as `body` has it, leads the workload `who` to the cluster."""
    _, protocol_class, _, name = cluster.split("/")
    config: Any = core.TypedExtensionConfig.parse(body).typed_config
    if protocol_class == "http":
        return _http(http_rbac.Rbac.parse(config.value), name, who)
    return _tcp(set_filter_state.Config.parse(config.value), name, who) == cluster


def _http(filter_: Any, name: str, who: str) -> bool:
    found = filter_.matcher
    if found is None:
        return True
    if found.matcher_tree is not None:
        inner = found.matcher_tree.exact_match_map.map.get(name)
        if inner is None:
            return _decided(found.on_no_match)
        listed = inner.matcher.matcher_list
        for one in listed.matchers if listed is not None else ():
            meant = one.predicate.single_predicate.value_match
            if who == meant.exact or (meant.prefix and who.startswith(meant.prefix)):
                return _decided(one.on_match)
        return _decided(inner.matcher.on_no_match)
    return _decided(found.on_no_match)


def _decided(match: Any) -> bool:
    return bool(rbac.Action.parse(match.action.typed_config.value).action == rbac.RbacAction.ALLOW)


def _tcp(config: set_filter_state.Config, name: str, who: str) -> str:
    """The cluster that is dialled in the end."""
    first = _written(config.on_new_connection, name, who)[CLUSTER_STATE]
    if first != GUARDED:
        return first
    return _written(config.on_downstream_tls_handshake, name, who)[DESTINATION_STATE]


def _written(values: Sequence[filter_state.FilterStateValue], name: str, who: str) -> dict[str, str]:
    state: dict[str, str] = {}
    for one in values:
        text: Any = one.format_string and one.format_string.text_format_source
        value = _formatted(text.inline_string, name, who, state)
        if value:
            state[str(one.object_key)] = value
    return state


def _formatted(text: str, name: str, who: str, state: dict[str, str]) -> str:
    if not text.startswith("%CEL("):
        return text.replace("%REQUESTED_SERVER_NAME%", name)
    words = text.removeprefix("%CEL(").removesuffix(")%")
    words = words.replace("connection.requested_server_name", "NAME")
    words = words.replace("connection.uri_san_peer_certificate", "WHO").replace(".startsWith(", ".startswith(")
    words = re.sub(r"filter_state\['([^']+)'\]==b", r"STATE['\1']==", words)
    condition, _, then = _contains.sub(r"(NAME in \1)", words).rpartition("?")
    python = condition.replace("&&", " and ").replace("||", " or ")
    yes, _, no = then.rpartition(":")
    known = {"NAME": name, "WHO": who, "STATE": state, "__builtins__": {}}
    # Our own compiler wrote it; nothing in it but these names, literals and operators.
    return str(eval(yes if eval(python, known) else no, known))
