"""What a TrafficPermission must satisfy: Kuma's sentences, and nothing that could not be kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.model.gateway import TagSelector
from shared.model.inbound import SERVICE_TAG
from shared.model.target_rules import only_service_tag
from shared.model.traffic_permission import TrafficPermission
from shared.model.value_rules import Found


def traffic_permission_violations(one: TrafficPermission) -> Found:
    """(path, reason) of every broken rule."""
    yield from _selectors("sources", one.sources)
    yield from _selectors("destinations", one.destinations)


def traffic_permission_warnings(one: TrafficPermission, external: frozenset[str]) -> Iterator[str]:
    """Sentences; external: the services of the mesh that are ExternalServices."""
    about = f"TrafficPermission {one.name}"
    yield from (
        f"{about}: no ExternalService is {SERVICE_TAG} {service}; what Dataplanes serve is open to the whole mesh"
        for service in sorted(one.services - external)
    )
    yield f"{about}: an ExternalService of mesh {one.mesh} that no TrafficPermission is about is closed now"


def _selectors(path: str, selectors: Sequence[TagSelector]) -> Found:
    if not selectors:
        yield path, "must have at least one element"
    for index, selector in enumerate(selectors):
        where = f"{path}[{index}].match"
        if not selector.match:
            yield where, "must have at least one tag"
        elif SERVICE_TAG not in selector.match:
            yield where, f'mandatory tag "{SERVICE_TAG}" is missing'
        yield from only_service_tag(selector.match, where)
