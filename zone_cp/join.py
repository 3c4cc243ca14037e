"""Join: whether a proxy may connect, as whom, and what the zone's log says about it. Pure.

A proxy's token binds it to a mesh, name, zone and tags; its node metadata brings its own resource. Both must
agree, and the mesh must exist, before a byte of configuration is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shared.events.event import Change, ProxyConnected, ProxyDisconnected, ResourceApplied
from shared.events.state import ZoneState
from shared.keys.tokens import Principal
from shared.model import codec
from shared.model.labels import computed
from shared.model.resource import Dataplane, Resource, ResourceKey, ZoneEgress, key_of, mesh_of
from shared.model.validate import validate
from zone_cp.probes import SERVICE_PROBES, as_probed_before
from zone_cp.view.zone_view import EXCLUSIVE

RESOURCE_METADATA = "dataplane.resource"
SERVICE_TAG = "kuma.io/service"

_ENDS: tuple[tuple[str, Literal["drained", "superseded", "lost"]], ...] = (
    ("superseded", "superseded"),
    ("stopping", "drained"),
    ("lost", "lost"),
)
_FEATURES = frozenset({"redirect", "bind-vips", "proxyless", SERVICE_PROBES, EXCLUSIVE})
_FEATURE_PREFIXES = ("access-log=",)


class Joining(msgspec.Struct, frozen=True):
    """A proxy that may connect: its id, its resource with computed labels, and what the compiler must know of it."""

    proxy: str
    resource: Dataplane | ZoneEgress
    features: tuple[str, ...]
    system_ca_path: str


class NotAdmitted(msgspec.Struct, frozen=True):
    """Why a proxy may not connect: as a gRPC status would say it."""

    status: Literal["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"]
    reason: str


def join(
    node_id: str, metadata: Mapping[str, Any], principal: Principal | None, state: ZoneState
) -> Joining | NotAdmitted:
    """Judge the first request of an ADS stream."""
    if principal is None or principal.kind not in ("dataplane", "egress"):
        return NotAdmitted("UNAUTHENTICATED", "a dataplane or egress token is required: see --dataplane-token-file")
    try:
        resource = codec.decode(str(metadata.get(RESOURCE_METADATA, "")), Resource)
    except msgspec.DecodeError as error:
        return NotAdmitted("INVALID_ARGUMENT", f"node metadata {RESOURCE_METADATA}: {error}")
    if not isinstance(resource, Dataplane | ZoneEgress):
        kind = type(resource).__name__
        return NotAdmitted("INVALID_ARGUMENT", f"node metadata {RESOURCE_METADATA}: {kind} is no proxy's resource")
    # A stream is given what is held ready for its id, so the id must be that of the resource the token vouches for.
    if node_id != proxy_id(resource):
        return NotAdmitted("PERMISSION_DENIED", f"node id {node_id} is not that of its resource: {proxy_id(resource)}")
    if reason := _denied(resource, principal, state):
        return NotAdmitted("PERMISSION_DENIED", reason)
    if faults := validate(resource, ("127.0.0.0/8",)):
        return NotAdmitted("INVALID_ARGUMENT", f"{faults[0].path}: {faults[0].reason}")
    if isinstance(resource, ZoneEgress) and not resource.zone:
        resource = msgspec.structs.replace(resource, zone=state.zone)
    said = metadata.get("features")
    features = tuple(
        one
        for one in (said if isinstance(said, list | tuple) else ())
        if isinstance(one, str) and (one in _FEATURES or one.startswith(_FEATURE_PREFIXES))
    )
    if isinstance(resource, Dataplane) and SERVICE_PROBES in features:
        known = state.own.resources.get(key_of(resource, state.zone))
        stored = known.resource if known is not None else None
        resource = as_probed_before(resource, stored if isinstance(stored, Dataplane) else None)
    labelled = computed(resource, state.zone)
    if not isinstance(labelled, Dataplane | ZoneEgress):
        raise TypeError(f"computing labels turned a proxy into {type(labelled).__name__}")
    return Joining(node_id, labelled, features, str(metadata.get("systemCaPath", "")))


def join_agent(proxy: str, principal: Principal | None, state: ZoneState) -> str | NotAdmitted:
    """Judge an agent's own stream: its token must be that of the proxy it names. Returns the proxy's id."""
    if principal is None or principal.kind not in ("dataplane", "egress"):
        return NotAdmitted("UNAUTHENTICATED", "a dataplane or egress token is required: see --dataplane-token-file")
    if principal.zone and principal.zone != state.zone:
        return NotAdmitted("PERMISSION_DENIED", f"the token is for zone {principal.zone}, this is {state.zone}")
    mesh, _, name = proxy.partition(".")
    if (principal.mesh, principal.kind == "egress") != (mesh, mesh == "") or principal.name not in ("", name):
        return NotAdmitted("PERMISSION_DENIED", f"the token is not for proxy {proxy}")
    stored = state.own.resources.get(ResourceKey("Dataplane", mesh, name, state.zone))
    if stored and isinstance(stored.resource, Dataplane) and (reason := _denied_tags(stored.resource, principal)):
        return NotAdmitted("PERMISSION_DENIED", f"the token is not for proxy {proxy}: {reason}")
    return proxy


def proxy_id(resource: Dataplane | ZoneEgress) -> str:
    """Kuma's node id of a proxy: `<mesh>.<name>`, with an empty mesh for a zone egress."""
    return f"{mesh_of(resource)}.{resource.name}"


def replaces(joining: Joining, state: ZoneState) -> bool:
    """Whether the proxy comes as another than the one recorded: nothing made for that one may reach it."""
    stored = state.own.resources.get(key_of(joining.resource, state.zone))
    return stored is None or stored.resource != joining.resource


def end_of(reason: str) -> Literal["closed", "drained", "superseded", "lost"]:
    """The log's word for why a stream ended."""
    for sign, word in _ENDS:
        if sign in reason:
            return word
    return "closed"


def _denied(resource: Dataplane | ZoneEgress, principal: Principal, state: ZoneState) -> str | None:
    if principal.zone and principal.zone != state.zone:
        return f"the token is for zone {principal.zone}, this is {state.zone}"
    if principal.name and principal.name != resource.name:
        return f"the token is for {principal.name}, the proxy is {resource.name}"
    match resource:
        case ZoneEgress():
            if principal.kind != "egress":
                return "the token is a dataplane's, the proxy is a zone egress"
            if resource.zone not in ("", state.zone):
                return f"the egress is of zone {resource.zone}, this is {state.zone}"
        case Dataplane():
            if principal.kind != "dataplane":
                return "the token is a zone egress's, the proxy is a sidecar"
            if principal.mesh != resource.mesh:
                return f"the token is for mesh {principal.mesh}, the proxy is of {resource.mesh}"
            if ResourceKey("Mesh", "", resource.mesh) not in state.hub.resources:
                return f"mesh {resource.mesh} does not exist in zone {state.zone} (yet)"
            return _denied_tags(resource, principal) or _denied_takeover(resource, principal, state)
    return None


def _denied_tags(resource: Dataplane, principal: Principal) -> str | None:
    networking = resource.networking
    served = [one.tags for one in networking.inbound]
    if networking.gateway is not None:
        served.append(networking.gateway.tags)
    if principal.tags and not served:
        # Its identity would be its own name, which such a token says nothing of.
        return f"the token is for tags ({', '.join(sorted(principal.tags))}), the Dataplane has none"
    for tags in served:
        for tag, allowed in principal.tags.items():
            if tags.get(tag) not in allowed:
                return f"the token does not allow tag {tag}={tags.get(tag)}"
    return None


def _denied_takeover(resource: Dataplane, principal: Principal, state: ZoneState) -> str | None:
    """A token without a name is good for many; it must not take the place of one that it could not be."""
    status = state.own.proxies.get(proxy_id(resource))
    stored = state.own.resources.get(key_of(resource, state.zone))
    if status is None or not status.online or stored is None or not isinstance(stored.resource, Dataplane):
        return None
    reason = _denied_tags(stored.resource, principal)
    return f"another proxy of this name is online: {reason}" if reason else None


def connected(joining: Joining, state: ZoneState, connection: str) -> tuple[Change, ...]:
    """What to record when the proxy's stream begins: its resource if it is new or other, and that it is online."""
    key = key_of(joining.resource, state.zone)
    stored = state.own.resources.get(key)
    applied: tuple[Change, ...] = ()
    if stored is None or stored.resource != joining.resource:
        applied = (ResourceApplied(resource=joining.resource),)
    return (
        *applied,
        ProxyConnected(
            proxy=joining.proxy,
            key=key,
            connection=connection,
            features=joining.features,
            system_ca_path=joining.system_ca_path,
        ),
    )


def disconnected(
    proxy: str, connection: str, reason: Literal["closed", "drained", "superseded", "lost"], state: ZoneState
) -> tuple[Change, ...]:
    """What to record when a stream ends: nothing, if a later stream of the proxy is the one that counts.

    A newer stream is recorded by itself; offline for a moment in between, a zone egress would take its zone's
    external services with it. And a control plane that stops says nothing of its proxies: they go on serving.
    """
    status = state.own.proxies.get(proxy)
    if status is None or not status.online or status.connection != connection or reason in ("superseded", "drained"):
        return ()
    return (ProxyDisconnected(proxy=proxy, connection=connection, reason=reason),)


def stale(state: ZoneState, life: str) -> tuple[Change, ...]:
    """Proxies that the log says are online, by connections that do not begin with `life`: of an earlier process."""
    return tuple(
        ProxyDisconnected(proxy=status.proxy, connection=status.connection, reason="lost")
        for status in state.own.proxies.values()
        if status.online and not status.connection.startswith(life)
    )
