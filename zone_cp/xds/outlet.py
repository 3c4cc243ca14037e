"""What a sidecar's listeners have in common: where their chains lead, and who may go there."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from shared.model.resource import ProtocolClass
from shared.naming import sni
from zone_cp.view.sources import Sources
from zone_cp.xds import defaults
from zone_cp.xds.chains import chain, class_filters
from zone_cp.xds.filters import Hop, Logged, Share, Tuning, Where, proxy_among


class Outlet(msgspec.Struct, frozen=True):
    """What the listeners of one sidecar share. `lost` are the events that took TCP services from its workload."""

    mesh: str
    zone: str
    access_log: str
    direct: bool
    forbidden: bool
    lost: Sources

    @property
    def hop(self) -> Hop:
        """Where the chains lead next."""
        return "outside" if self.direct else "mesh"

    def chain(
        self, protocol_class: ProtocolClass, name: str, tuning: Tuning, *, called: str = "", match: bytes = b""
    ) -> bytes:
        """The chain that leads to the service of SNI `name`. TCP's closes its connections when `lost` changes, HTTP's
        when everything that it leads to is denied.
        """
        lost = " ".join(f"{ref.origin}:{ref.n}" for ref in self.lost) if protocol_class == "tcp" else ""
        lost = "denied" if tuning.denied else lost
        return chain(self.filters(protocol_class, name, tuning), name=called, match=match, lost=lost)

    def filters(self, protocol_class: ProtocolClass, name: str, tuning: Tuning) -> tuple[bytes, ...]:
        """The filters that lead to the service of SNI `name` (Envoy format text)."""
        if not self.direct and tuning.connect_attempts is None:
            tuning = replace(tuning, connect_attempts=defaults.EGRESS_CONNECT_ATTEMPTS)
        if tuning.shares:
            logged = Logged(f"outbound/{protocol_class}", self.access_log, self.zone)
            return (proxy_among(tuple((self._taker(one), one.weight) for one in tuning.shares), logged, tuning),)
        value = sni.cluster_name(protocol_class, self.mesh, name) if self.direct else name
        return class_filters(
            protocol_class,
            Where(self.hop, value),
            self.mesh,
            Logged(f"outbound/{protocol_class}", self.access_log, self.zone),
            tuning,
            forbidden=self.forbidden if tuning.open is None else not tuning.open,
            after_handshake=False,
        )

    def _taker(self, share: Share) -> str:
        # The cluster that takes a share of TCP connections; names of no cluster close them.
        if not share.sni:
            return defaults.NOBODY
        if not self.direct:
            return defaults.egress_share(share.sni)
        allowed = share.open if share.open is not None else not self.forbidden
        return sni.cluster_name("tcp", self.mesh, share.sni) if allowed else defaults.FORBIDDEN
