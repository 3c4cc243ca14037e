"""What policies say to one sidecar: about every service of its mesh, and about those that they single out."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property, lru_cache

import msgspec

from shared.model.remembering import keep
from shared.model.resource import Dataplane
from zone_cp.view.policies import Effective, Rule, at_large, effective, for_proxy, particular
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds.backends import ANYONE, Shares, shared_out
from zone_cp.xds.cluster_policies import cluster_part

REMEMBERED = 1024
"""Sets of rules whose outcome is kept between compilations: most sidecars of a mesh are selected by the same."""


class Governed(msgspec.Struct, frozen=True, dict=True):
    """`at_large` holds for services that do not stand in `particular`.

    shared: by SNI, where connections to a TCP service go by a MeshTCPRoute.
    """

    at_large: Effective
    particular: tuple[tuple[ExternalServiceView, Effective], ...] = ()
    shared: tuple[tuple[str, Shares], ...] = ()

    @cached_property
    def sources(self) -> Sources:
        """The events of everything that is said, and of the services that it is said of one by one."""
        found: tuple[Effective | Shares, ...] = (self.at_large, *(said for _, said in self.particular))
        found += tuple(shares for _, shares in self.shared)
        about = (service.sources for service, _ in self.particular)
        return joined((), *(said.sources for said in found), *about)

    def about(self, service: ExternalServiceView) -> Effective:
        """What is said about one service."""
        return self._by_sni.get(service.sni, self.at_large)

    def shares(self, service: ExternalServiceView) -> Shares | None:
        """How connections to a TCP service are shared out; None: they go there."""
        return self._shared_by_sni.get(service.sni)

    def sources_about(self, service: ExternalServiceView) -> Sources:
        """The events of what is said about one service, and of where its connections go."""
        shares = self.shares(service)
        return (*self.about(service).sources, *(shares.sources if shares is not None else ()))

    @cached_property
    def _shared_by_sni(self) -> dict[str, Shares]:
        return dict(self.shared)

    @cached_property
    def _by_sni(self) -> dict[str, Effective]:
        return {service.sni: said for service, said in self.particular}


_remembered: OrderedDict[tuple[int, tuple[Rule, ...]], tuple[object, Governed]] = OrderedDict()
# By the identity of a mesh's services, which a view shares with the one before while none of them changed;
# the entry keeps them alive, so that its id cannot be another's.


def governed(mesh: MeshView, proxy: Dataplane) -> Governed:
    """What the mesh's policies say to a sidecar."""
    rules = for_proxy(mesh.policies, proxy)
    if not particular(rules):
        return Governed(at_large(rules))
    key = (id(mesh.services), rules)
    known = _remembered.get(key)
    if known is None:
        known = keep(_remembered, REMEMBERED, key, (mesh.services, _governed(mesh, rules)))
    return known[1]


def _governed(mesh: MeshView, rules: tuple[Rule, ...]) -> Governed:
    base = at_large(rules)
    found = ((service, effective(rules, service.key, service.labels)) for service in mesh.services.values())
    apart = sorted(((service, said) for service, said in found if said != base), key=lambda one: one[0].sni)
    shared = (
        (service.sni, shared_out(mesh, said.tcp.backends, said.tcp.origin, "tcp", ANYONE))
        for service, said in apart
        if said.tcp is not None and service.protocol_class == "tcp"
    )
    return Governed(base, tuple(apart), tuple(shared))


def dialled_by(service: ExternalServiceView, said: Effective) -> ExternalServiceView:
    """The service as a sidecar dials it that is told `said`, which may be more than what holds for all."""
    return service if cluster_part(said) == cluster_part(service.outside) else _replaced(service, said)


@lru_cache(maxsize=4096)
def _replaced(service: ExternalServiceView, said: Effective) -> ExternalServiceView:
    return msgspec.structs.replace(service, outside=said)
