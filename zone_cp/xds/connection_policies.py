"""What policies say about a client's connections: one chain's `Tuning`, per class or per service (decision 26)."""

from __future__ import annotations

from shared.model.duration import parse_duration
from shared.model.resource import ProtocolClass
from zone_cp.view.policies import Effective
from zone_cp.xds.filters import Tuning
from zone_cp.xds.governed import Governed


def chain_tuning(said: Effective, protocol_class: ProtocolClass) -> Tuning:
    """The part of what is said that no route can hold."""
    if protocol_class == "http":
        text = said.timeout.http.request_headers_timeout if said.timeout.http is not None else None
        return Tuning(headers_timeout=parse_duration(text) if text is not None else None)
    idle = said.timeout.idle_timeout
    attempts = said.retry.tcp.max_connect_attempt if said.retry.tcp is not None else None
    return Tuning(idle_timeout=parse_duration(idle) if idle is not None else None, connect_attempts=attempts)


def tuned_apart(said: Governed) -> tuple[tuple[str, ProtocolClass, Tuning], ...]:
    """VIPs of the services whose chain cannot be that of their class, and how it is tuned."""
    found = (
        (service.vip, service.protocol_class, chain_tuning(one, service.protocol_class))
        for service, one in said.particular
    )
    return tuple(one for one in found if one[2] != chain_tuning(said.at_large, one[1]))
