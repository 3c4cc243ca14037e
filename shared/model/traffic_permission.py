"""TrafficPermission, Kuma's older word for who may use what; here it guards legacy ExternalServices."""

from __future__ import annotations

from shared.model.gateway import TagSelector
from shared.model.inbound import SERVICE_TAG
from shared.model.part import NO_LABELS, Labels, Part

ANY = "*"
TRAFFIC_PERMISSION = "TrafficPermission"


class TrafficPermission(Part, frozen=True, kw_only=True, tag_field="type", tag="TrafficPermission"):
    """Those who are selected by `sources` may use what `destinations` select. Always of global origin."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    sources: tuple[TagSelector, ...] = ()
    destinations: tuple[TagSelector, ...] = ()

    def rank(self, service: str) -> int:
        """How closely it is about a `kuma.io/service`: 2 by name, 1 with all others, 0 not."""
        named = {one.match.get(SERVICE_TAG, "") for one in self.destinations}
        return 2 if service in named else int(ANY in named)

    @property
    def services(self) -> frozenset[str]:
        """The services that it names."""
        return frozenset(one.match.get(SERVICE_TAG, "") for one in self.destinations) - {ANY}
