"""What an author of a route should know: destinations and backends that are not there, or speak something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from shared.model.resource import MeshExternalService, protocol_class
from shared.model.route_policy import BackendRef, MeshHTTPRoute, MeshTCPRoute
from shared.model.target_rules import SERVICE_KINDS

Services: TypeAlias = Callable[[str], MeshExternalService | None]
"""The service of a name that the route would mean, or None."""


def route_warnings(route: MeshHTTPRoute | MeshTCPRoute, services: Services) -> Iterator[str]:
    """Sentences about what is named; what labels select changes too often to speak of."""
    about = f"{type(route).__name__} {route.name}"
    for item in route.spec.to:
        target = services(item.target_ref.name) if item.target_ref.name else None
        wanted = protocol_class(target.spec.match.protocol) if target is not None else None
        if wanted == "tcp" and isinstance(route, MeshHTTPRoute):
            yield f"{about} has no effect on MeshExternalService {item.target_ref.name}: its protocol is tcp"
            continue
        for one in dict.fromkeys(_references(route)):
            if not one.name or one.kind not in SERVICE_KINDS:
                continue
            found = services(one.name)
            if found is None or one.port not in (None, found.spec.match.port):
                port = f" with port {one.port}" if one.port is not None else ""
                yield (
                    f"{about}: there is no MeshExternalService {one.name}{port}: until there is, requests for it are "
                    "answered with 500 and TCP connections are closed"
                )
            elif wanted is not None and protocol_class(found.spec.match.protocol) != wanted:
                yield (
                    f"{about}: MeshExternalService {one.name} has protocol {found.spec.match.protocol} and cannot "
                    f"stand in for {item.target_ref.name}: its share is answered with 500, and closed for TCP"
                )


def _references(route: MeshHTTPRoute | MeshTCPRoute) -> Iterator[BackendRef]:
    for item in route.spec.to:
        for rule in item.rules:
            yield from rule.default.backend_refs or ()
    if isinstance(route, MeshHTTPRoute):
        filters = (one for item in route.spec.to for rule in item.rules for one in rule.default.filters or ())
        yield from (one.request_mirror.backend_ref for one in filters if one.request_mirror is not None)
