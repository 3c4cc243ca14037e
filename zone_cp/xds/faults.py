"""What online proxies do not serve of what they are to serve, and why. For conditions; not in the path of a change."""

from __future__ import annotations

from collections.abc import Iterator

from immutables import Map

from shared.model.resource import ResourceKey
from zone_cp.view.zone_view import Failure
from zone_cp.xds.fleet import Fleet
from zone_cp.xds.parts import Compiled, Impaired


def failures(fleet: Fleet) -> Map[ResourceKey, Failure]:
    """The services that any of them answers 503 for."""
    found: Map[ResourceKey, Failure] = Map()
    for group in fleet.groups.values():
        if group.compiled is not None and group.compiled.failures:
            found = found.update(group.compiled.failures)
    return found


def closed(fleet: Fleet) -> Map[tuple[ResourceKey, int], Failure]:
    """The listeners of MeshGateways, by their number, that any gateway does not serve."""
    return Map({place: why for one in _gateways(fleet) for place, why in one.closed.items()})


def impaired(fleet: Fleet) -> Map[ResourceKey, tuple[Impaired, ...]]:
    """What leads nowhere of the routes of MeshGateways, by MeshGateway, in order."""
    found: dict[ResourceKey, set[Impaired]] = {}
    for one in _gateways(fleet):
        for key, what in one.impaired.items():
            found.setdefault(key, set()).update(what)
    return Map({key: tuple(sorted(what)) for key, what in found.items()})


def _gateways(fleet: Fleet) -> Iterator[Compiled]:
    for members in fleet.gateways.values():
        for one in members:
            made = fleet.groups[one].compiled
            if made is not None:
                yield made
