"""MeshGateways: which one a gateway Dataplane is bound to, and what keeps a listener closed (spec A3, A5, A7).

Pure: the binding follows from tags, the state of a certificate from what is public of it in the log. The view of a
zone, conditions and the judgement of writes all ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from immutables import Map

from shared.events.fault import ServiceFault, find_secret
from shared.events.state import LogState, Stored, ZoneState
from shared.model.builtin import is_builtin
from shared.model.gateway import GatewayListener, MeshGateway, TagSelector
from shared.model.part import Labels
from shared.model.resource import Dataplane, Resource, ResourceKey, Secret
from shared.model.source import DataSource, Sealed

FindSecret: TypeAlias = Callable[[str], Resource | None]
"""The Secret that a MeshGateway means by a name."""


def best_gateway(found: Iterable[Stored], tags: Labels) -> Stored | None:
    """The one of these MeshGateways that a Dataplane with these tags is bound to; None where none selects it.

    More tags of the best selector, then more exact ones, then who was created later, then the first name.
    """
    ranked = [(rank, one) for one in found if (rank := _rank(one, tags)) is not None]
    ranked.sort(key=lambda pair: (pair[1].key.name, pair[1].key.zone))
    best = max(ranked, key=lambda pair: (pair[0], pair[1].created.time), default=None)
    return best[1] if best is not None else None


def carries(tags: Labels, wanted: TagSelector) -> bool:
    """Whether tags are among what a selector selects."""
    return all(tag in tags and value in ("*", tags[tag]) for tag, value in wanted.match.items())


def effective_tags(tags: Labels, gateway: MeshGateway, listener: GatewayListener) -> Labels:
    """What routes and policies select a listener by: the Dataplane's tags, overlaid by the two others in turn."""
    return tags.update(gateway.tags).update(listener.tags)


def bound_to(state: ZoneState, resource: Dataplane) -> Stored | None:
    """The MeshGateway that a gateway Dataplane is bound to; None for a sidecar as well."""
    gateway = resource.networking.gateway
    if gateway is None or gateway.type != "BUILTIN":
        return None
    return best_gateway(
        (one for log in (state.hub, state.own) for one in gateways_of(log, resource.mesh)), gateway.tags
    )


def bindings(state: ZoneState) -> dict[ResourceKey, list[ResourceKey]]:
    """The gateway Dataplanes of a zone by the MeshGateway that they are bound to, by name."""
    found: dict[ResourceKey, list[ResourceKey]] = {}
    for key, stored in sorted(state.own.kinds.get("Dataplane", Map()).items()):
        if isinstance(stored.resource, Dataplane) and is_builtin(stored.resource):
            bound = bound_to(state, stored.resource)
            if bound is not None:
                found.setdefault(bound.key, []).append(key)
    return found


def gateways_of(log: LogState, mesh: str) -> Iterator[Stored]:
    """The MeshGateways of a mesh in one log."""
    for key, stored in log.kinds.get("MeshGateway", Map()).items():
        if key.mesh == mesh:
            yield stored


def _rank(stored: Stored, tags: Labels) -> tuple[int, int] | None:
    """Number of tags, then of exact ones, of the best selector that selects these tags."""
    if not isinstance(stored.resource, MeshGateway):
        return None
    ranks = [
        (len(one.match), sum(value != "*" for value in one.match.values()))
        for one in stored.resource.selectors
        if carries(tags, one)
    ]
    return max(ranks, default=None)


# --- certificates ---------------------------------------------------------------------------------------------------


def listeners_of(gateway: MeshGateway) -> tuple[GatewayListener, ...]:
    """What a MeshGateway listens for, in its order."""
    return gateway.conf.listeners if gateway.conf is not None else ()


def certificates_shown(gateway: MeshGateway) -> Iterator[tuple[int, str, DataSource]]:
    """The certificates that are shown to clients: number of the listener, path of the source, the source."""
    for index, listener in enumerate(listeners_of(gateway)):
        if listener.tls is not None and listener.tls.mode == "TERMINATE":
            for number, source in enumerate(listener.tls.certificates):
                yield index, f"conf.listeners[{index}].tls.certificates[{number}]", source


def secret_finder(state: ZoneState, key: ResourceKey) -> FindSecret:
    """What the MeshGateway `key` means by the names of Secrets."""

    def find(name: str) -> Resource | None:
        stored = find_secret(state, key, name)
        return stored.resource if stored is not None else None

    return find


def source_fault(mesh: str, source: DataSource, path: str, find: FindSecret) -> ServiceFault | None:
    """Why there are no bytes of a certificate to be had; None where there are."""
    if source.secret is None:
        if source.sealed is None:
            return ServiceFault("PrivateKeyInClear", "a private key must not stand in the log in clear", path)
        return None
    found = find(source.secret)
    if found is None:
        return ServiceFault("SecretMissing", f"mesh {mesh} has no Secret {source.secret}", f"{path}.secret")
    if not isinstance(found, Secret) or found.sealed is None:
        return ServiceFault("InvalidSecret", f"Secret {source.secret} holds nothing", f"{path}.secret")
    return None


def sealed_of(source: DataSource, find: FindSecret) -> Sealed | None:
    """The sealed bytes of a certificate; None where there are none."""
    if source.secret is None:
        return source.sealed
    found = find(source.secret)
    return found.sealed if isinstance(found, Secret) else None


def listener_faults(mesh: str, gateway: MeshGateway, find: FindSecret) -> dict[int, ServiceFault]:
    """What keeps listeners closed, by their number: the first certificate of each that cannot be used."""
    found: dict[int, ServiceFault] = {}
    types: dict[tuple[int, str], str] = {}
    for index, path, source in certificates_shown(gateway):
        if index not in found and (fault := _certificate_fault(mesh, index, path, source, find, types)) is not None:
            found[index] = fault
    return found


def _certificate_fault(  # noqa: PLR0917 - what is known of one certificate, and of those before it
    mesh: str, index: int, path: str, source: DataSource, find: FindSecret, types: dict[tuple[int, str], str]
) -> ServiceFault | None:
    fault = source_fault(mesh, source, path, find)
    sealed = sealed_of(source, find)
    if fault is not None or sealed is None or sealed.server is None:
        return fault
    server, name = sealed.server, f"Secret {source.secret}" if source.secret is not None else "the inline certificate"
    where = path if source.secret is None else f"{path}.secret"
    if server.mismatched:
        return ServiceFault("CertificateMismatch", f"{name}: {server.fault}", where)
    if server.fault:
        return ServiceFault("InvalidMaterial", f"{name}: {server.fault}", where)
    if before := types.get((index, server.key_type)):
        message = f"{name}: duplicate TLS certificate: {before} has an {server.key_type} key as well"
        return ServiceFault("DuplicateCertificate", message, where)
    types[index, server.key_type] = path
    return None
