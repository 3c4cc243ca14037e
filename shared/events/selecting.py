"""Which proxies, and which listeners of gateways, the top level of a policy selects. Pure."""

from __future__ import annotations

from shared.model.inbound import SERVICE_TAG
from shared.model.part import NO_LABELS, Labels
from shared.model.resource import Dataplane, ResourceKey
from shared.model.target import TargetRef


def selects(top: TargetRef, proxy: Dataplane) -> bool:
    """Whether a sidecar, or a gateway as a whole, is meant."""
    match top.kind:
        case "Mesh":
            kind = "Gateway" if proxy.networking.gateway is not None else "Sidecar"
            return not top.proxy_types or kind in top.proxy_types
        case "Dataplane":
            if top.name:
                return top.name == proxy.name
            return all(proxy.labels.get(label) == value for label, value in top.labels.items())
        case "MeshGateway":
            return False  # it selects listeners
        case _:
            wanted = top.tags.set(SERVICE_TAG, top.name) if top.name else top.tags
            return any(_tagged(tags, proxy.labels, wanted) for tags in _tags(proxy))


def selects_listener(top: TargetRef, zone: str, gateway: ResourceKey, tags: Labels) -> bool:
    """Whether a policy that originates in `zone` means the listener of a MeshGateway that has these effective tags.

    A zone's policy means the zone's own MeshGateway, and global's of that name.
    """
    named = top.kind == "MeshGateway" and top.name == gateway.name and gateway.zone in ("", zone)
    return named and _tagged(tags, NO_LABELS, top.tags)


def _tags(proxy: Dataplane) -> tuple[Labels, ...]:
    gateway = proxy.networking.gateway
    found = tuple(inbound.tags for inbound in proxy.networking.inbound)
    return found + ((gateway.tags,) if gateway is not None else ()) or (NO_LABELS,)


def _tagged(tags: Labels, labels: Labels, wanted: Labels) -> bool:
    # Kuma writes zone and the like into tags by itself; here they are labels.
    found = {tag: tags.get(tag, labels.get(tag)) for tag in wanted}
    return all(found[tag] is not None and value in ("*", found[tag]) for tag, value in wanted.items())
