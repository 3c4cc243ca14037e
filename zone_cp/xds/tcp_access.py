"""Where a TCP connection at a zone egress goes, by who it is: nothing is dialled for who has no access (decision 20).

Envoy's network RBAC decides on the client's first bytes, when the outside is dialled and may have spoken. Here a
`set_filter_state` filter, delivered over ECDS, writes the cluster's name, twice, since the TCP proxy reads it before
the handshake: at first, by the server name alone, that of the service, or of the listener within where guarded
services are dialled (`guarded_tcp`); and once the client's certificate is verified, what that listener goes by: the
service's, or that of a cluster without endpoints, which closes the connection and whose name says why. Of several
values that are written, the last holds: not allowed, allowed, denied.

What is passed on to the listener within is hashable, or it would not count: Envoy pools connections that differ in
nothing it hashes, and a pool passes on what its first connection came with, for as long as any of them is open.

Conditions are CEL: is it this SPIFFE id, and is the server name in this text of names? Many are asked at once, and only
for the range of ids or names that they are about. Envoy reads a text as one word, so that names cost it little; ids
are written once each. Without an allowance nothing is reached, and a condition that cannot be evaluated is written as
`-`, which is no cluster: both close the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, TypeVar

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state import v3 as filter_state
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state

from shared.model.policy import SpiffeMatch
from shared.naming import sni
from zone_cp.view.policies import Permission
from zone_cp.view.sources import Sources
from zone_cp.xds.clusters import closed_body
from zone_cp.xds.shape import part, scalar
from zone_cp.xds.snapshot import CLUSTER, Encoded
from zone_cp.xds.wire import encode

T = TypeVar("T")

Guards: TypeAlias = tuple[tuple[str, Permission], ...]
"""Server names of guarded services and who may use them, by name."""

CLUSTER_STATE = "envoy.tcp_proxy.cluster"

GUARDED = "guarded-tcp"
"""The cluster, and the listener within, of connections to guarded services."""
UNDECIDED = "denied/not_decided_yet"
FORBIDS = "denied/mesh_forbids_MeshExternalServices"
NOT_ALLOWED = "denied/no_MeshTrafficPermission_allows_this_workload"
NOT_ALLOWED_BY: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        by: f"denied/no_{'_or_'.join(by)}_allows_this_workload"
        for by in (("TrafficPermission",), ("TrafficPermission", "MeshTrafficPermission"))
    }
)
"""The same of services that other kinds of permission guard, by those kinds."""
DENIES = "denied/denied_by_MeshTrafficPermission"

ALLOWED_STATE = "zonal.allowed"
DESTINATION_STATE = "zonal.destination"
"""What the listener within goes by: the name of a cluster."""
_FACTORIES = {ALLOWED_STATE: "envoy.string", DESTINATION_STATE: "envoy.hashable_string"}
_YES, _NO = "yes", "no"

TEXT_CHARACTERS = 30_000
"""What one text or expression may hold before the next begins. CEL's parser takes 100,000 code points; an id has at
most 2,048, which escapes may make ten times as long."""

_NAME, _ID = "connection.requested_server_name", "connection.uri_san_peer_certificate"
_ONCE = int(filter_state.FilterStateValueSharedWithUpstream.ONCE)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:/._-")


class _Test(NamedTuple):
    """A condition that only holds where what is asked for is between two values."""

    first: str
    last: str
    text: str


def closed_clusters(sources: Sources) -> Iterator[Encoded]:
    """The clusters without endpoints where connections go that nobody may make."""
    reasons = {
        UNDECIDED: "the zone control plane has not said yet who may use what",
        FORBIDS: "the mesh forbids MeshExternalServices (defaultForbidMeshExternalServiceAccess)",
        NOT_ALLOWED: "no MeshTrafficPermission allows this workload",
        DENIES: "denied by MeshTrafficPermission",
        **{name: f"no {' or '.join(by)} allows this workload" for by, name in NOT_ALLOWED_BY.items()},
    }
    for name, why in reasons.items():
        yield encode(CLUSTER, name, closed_body(name, name, why), sources)


def destinations(mesh: str, guards: Guards, *, forbidden: bool) -> bytes:
    """The filter of the TCP chains of a mesh. forbidden: what nothing guards is closed."""
    reached = f"{sni.cluster_prefix('tcp', mesh)}%REQUESTED_SERVER_NAME%"
    guarded = _said(_named([name for name, _ in guards]), _NAME, GUARDED)
    at_first = [_state(CLUSTER_STATE, one) for one in (FORBIDS if forbidden else reached, *guarded)]
    verified = [_state(ALLOWED_STATE, _NO)]
    verified += (_state(ALLOWED_STATE, one) for one in _matches(guards, lambda one: one.allow, _YES))
    unless = f"%CEL(filter_state['{ALLOWED_STATE}']==b'{_YES}'?'':{_quoted(NOT_ALLOWED)})%"
    denied = _matches(guards, lambda one: one.deny, DENIES)
    verified += (_state(DESTINATION_STATE, one) for one in (reached, unless, *_others(guards), *denied))
    return b"".join(
        (
            *(part(set_filter_state.Config, "on_new_connection", one) for one in at_first),
            *(part(set_filter_state.Config, "on_downstream_tls_handshake", one) for one in verified),
        )
    )


def _others(guards: Guards) -> Iterator[str]:
    # What is said of who is not allowed, where it is not a MeshTrafficPermission that does not.
    for by, then in NOT_ALLOWED_BY.items():
        names = [name for name, permission in guards if permission.by == by]
        tests = (
            test._replace(text=f"filter_state['{ALLOWED_STATE}']!=b'{_YES}'&&{test.text}") for test in _named(names)
        )
        yield from _said(tests, _NAME, then)


def as_passed_on() -> bytes:
    """The filter of the listener within: it goes where what was passed on says, and nowhere (`-`) without."""
    value = _state(CLUSTER_STATE, f"%FILTER_STATE({DESTINATION_STATE}:PLAIN)%")
    return part(set_filter_state.Config, "on_new_connection", value)


def _matches(guards: Guards, who: Callable[[Permission], tuple[SpiffeMatch, ...]], then: str) -> Iterator[str]:
    # `then` where a workload is one of those `who` names of the service.
    exact: dict[str, list[str]] = {}
    prefixes: dict[str, list[str]] = {}
    for name, permission in guards:
        for one in who(permission):
            (prefixes if one.type == "Prefix" else exact).setdefault(one.value, []).append(name)
    same = (
        _Test(value, value, f"{_ID}=={_quoted(value)}&&{test.text}")
        for value, names in sorted(exact.items())
        for test in _named(names)
    )
    begun = (
        test._replace(text=f"{_ID}.startsWith({_quoted(value)})&&{test.text}")
        for value, names in prefixes.items()
        for test in _named(names)
    )
    yield from _said(same, _ID, then)
    yield from _said(sorted(begun), _NAME, then)


def _named(names: Sequence[str]) -> Iterator[_Test]:
    # Whether the server name is one of these, which are sorted. A part of a name that is in here too names no service.
    for held in _batches(names, len):
        yield _Test(held[0], held[-1], f"{_quoted(' '.join(held))}.contains({_NAME})")


def _said(tests: Iterable[_Test], asked: str, then: str) -> Iterator[str]:
    # `then` if one of the tests holds, by the first value of what is `asked`.
    for held in _batches(tests, lambda test: len(test.text)):
        first, last = held[0].first, max(test.last for test in held)
        within = f"{asked}>={_quoted(first)}&&{asked}<={_quoted(last)}"
        yield f"%CEL({within}&&({'||'.join(test.text for test in held)})?{_quoted(then)}:'')%"


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    held: list[T] = []
    size = 0
    for item in items:
        if held and size + size_of(item) > TEXT_CHARACTERS:
            yield held
            held, size = [], 0
        held.append(item)
        size += size_of(item)
    if held:
        yield held


@lru_cache(maxsize=65536)
def _quoted(text: str) -> str:
    # Neither the end of a CEL literal nor that of Envoy's %CEL(…)% can stand in it.
    return "'" + "".join(one if one in _PLAIN else f"\\U{ord(one):08x}" for one in text) + "'"


def _state(key: str, value: str) -> bytes:
    # A FilterStateValue.
    source = part(core.DataSource, "inline_string", value)
    body = part(filter_state.FilterStateValue, "object_key", key)
    body += part(filter_state.FilterStateValue, "factory_key", _FACTORIES[key]) if key in _FACTORIES else b""
    form = part(core.SubstitutionFormatString, "text_format_source", source)
    body += part(filter_state.FilterStateValue, "format_string", form)
    passed_on = key == DESTINATION_STATE
    body += scalar(filter_state.FilterStateValue, "shared_with_upstream", _ONCE) if passed_on else b""
    return body + scalar(filter_state.FilterStateValue, "skip_if_empty", 1)
