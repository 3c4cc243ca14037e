"""What proxies refuse now, and which services that stands behind: a refused secret or listener has no other name.

A service's cluster names its secrets and, at a sidecar without redirect, has a listener of its own; whichever of
them an Envoy refuses, the service answers 503 and its condition must say why (decision 28). Sans-IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from immutables import Map

from zone_cp.ads.delta import Acked, Nacked
from zone_cp.view.zone_view import ExternalServiceView, ZoneView
from zone_cp.xds.snapshot import CLUSTER

Reason: TypeAlias = tuple[str, str, str]
"""Type URL and name of an xDS resource, and what an Envoy said of it."""


class Refusals:
    """The refusals in force, by proxy, type and name."""

    def __init__(self) -> None:
        """Nothing is refused."""
        self._messages: dict[tuple[str, str, str], str] = {}

    def __bool__(self) -> bool:
        """Whether anything is refused."""
        return bool(self._messages)

    def nacked(self, proxy: str, nack: Nacked) -> bool:
        """Take a NACK in; whether anything changed. What is not certain to be at fault is sent again by itself."""
        before = dict(self._messages)
        for name, _ in nack.rejected:
            self._messages[proxy, nack.type_url, name] = nack.message
        return self._messages != before

    def acked(self, proxy: str, ack: Acked) -> bool:
        """Take an ACK in; whether anything changed."""
        taken_back = [key for name in _names(ack) if (key := (proxy, ack.type_url, name)) in self._messages]
        for key in taken_back:
            del self._messages[key]
        return bool(taken_back)

    def disconnected(self, proxy: str) -> bool:
        """A proxy that is gone refuses nothing; whether anything changed."""
        gone = [key for key in self._messages if key[0] == proxy]
        for key in gone:
            del self._messages[key]
        return bool(gone)

    def clusters(self, quarantined: Iterable[Reason] = ()) -> frozenset[str]:
        """The clusters that are refused themselves, now or by whoever had them: nobody could reach anything there."""
        refused = (name for _, type_url, name in self._messages if type_url == CLUSTER)
        return frozenset((*refused, *(name for type_url, name, _ in quarantined if type_url == CLUSTER)))

    def services(self, view: ZoneView, quarantined: Iterable[Reason] = ()) -> Map[str, str]:
        """By cluster: why the service behind it is not served as it should be."""
        reasons = {name: message for _, name, message in quarantined}
        reasons |= {name: message for (_, _, name), message in sorted(self._messages.items(), reverse=True)}
        found: dict[str, str] = {}
        for mesh in view.meshes.values() if reasons else ():
            for service in mesh.services.values():
                said = next((reasons[name] for name in resource_names(service) if name in reasons), "")
                if said:
                    found[service.cluster] = said
        return Map(found)


class Plan(Protocol):
    """What has to know which clusters are refused (`zone_cp.publish.Publisher`)."""

    @property
    def view(self) -> ZoneView | None:
        """What is published; None before the first."""

    def refuse(self, clusters: frozenset[str]) -> None:
        """These clusters are refused now, and no others."""


class RefusedServices:
    """Tells of refusals wherever they lead to: the plan, and through `tell(cluster, message)` each service's condition.

    quarantined: what is refused by whoever had it.
    """

    def __init__(
        self, plan: Plan, tell: Callable[[str, str], None], quarantined: Callable[[], Iterable[Reason]]
    ) -> None:
        self._plan = plan
        self._tell = tell
        self._quarantined = quarantined
        self._refusals = Refusals()
        self._told: frozenset[str] = frozenset()

    def nacked(self, proxy: str, nack: Nacked) -> None:
        """Take a NACK in."""
        if self._refusals.nacked(proxy, nack):
            self._judge()

    def acked(self, proxy: str, ack: Acked) -> None:
        """Take an ACK in."""
        if self._refusals and self._refusals.acked(proxy, ack):
            self._judge()

    def disconnected(self, proxy: str) -> None:
        """A proxy that is gone refuses nothing."""
        if self._refusals.disconnected(proxy):
            self._judge()

    def _judge(self) -> None:
        self._plan.refuse(self._refusals.clusters(self._quarantined()))
        self.tell()

    def tell(self) -> None:
        """Bring the conditions up to date: what is published is another."""
        view, quarantined = self._plan.view, tuple(self._quarantined())
        said = (
            {}
            if view is None or not (self._refusals or quarantined or self._told)
            else self._refusals.services(view, quarantined)
        )
        for cluster in self._told.difference(said):
            self._tell(cluster, "")
        for cluster, message in said.items():
            self._tell(cluster, message)
        self._told = frozenset(said)


def resource_names(service: ExternalServiceView) -> Iterator[str]:
    """Every xDS resource that only services like this one bring about: cluster, secrets, explicit listener."""
    yield service.cluster
    for one in service.dialled:
        if one.ca_cert is not None:
            yield one.ca_cert.name
        if one.client_cert is not None and one.client_key is not None:
            yield f"{one.client_cert.name}+{one.client_key.name}"
    yield f"outbound/{service.vip}:{service.port}"


def _names(ack: Acked) -> Iterator[str]:
    yield from (name for name, _ in ack.versions)
    yield from ack.removed
