"""The port plan: every port of a local deployment follows from one base port (5681, Kuma's API port).

base +0   global: HTTP API                 zone i (from 0, in order of creation) begins at
base +2   hub: NATS clients                base + 20 + 20 * i, and has
base +3   hub: NATS leaf nodes               +0   HTTP API
the rest up to +19 is kept free              +1   ADS (gRPC)
                                             +2   NATS clients of the zone's leaf node
                                             +3   the leaf link's relay (demo: where the link is cut)
                                             +4   sidecar: DNS, UDP and TCP
                                             +5   sidecar: Envoy admin
                                             +6   sidecar: agent status
                                             +7   zone egress: mTLS listener
                                             +8   zone egress: Envoy admin
                                             +9   zone egress: agent status
                                             +10  sidecar: inbound listener
                                             +11  the application
                                             +12  builtin gateway: Envoy admin
the rest up to +19 is kept free
"""

from __future__ import annotations

import msgspec

DEFAULT_BASE = 5681
BLOCK = 20
HIGHEST = 65535


class GlobalPorts(msgspec.Struct, frozen=True):
    """Ports of global and the hub."""

    api: int
    nats: int
    nats_leaf: int


class ZonePorts(msgspec.Struct, frozen=True):
    """Ports of one zone: its control plane, its NATS leaf node, one sidecar and one zone egress."""

    api: int
    ads: int
    nats: int
    link: int
    dns: int
    sidecar_admin: int
    sidecar_status: int
    egress: int
    egress_admin: int
    egress_status: int
    inbound: int
    application: int
    gateway_admin: int


def _checked(port: int) -> int:
    if not 0 < port <= HIGHEST:
        raise ValueError(f"port {port} is out of range: choose a lower base port or fewer zones")
    return port


def global_ports(base: int = DEFAULT_BASE) -> GlobalPorts:
    """Ports of global and the hub. Raises ValueError when they do not exist."""
    _checked(base + BLOCK - 1)
    return GlobalPorts(api=_checked(base), nats=base + 2, nats_leaf=base + 3)


def zone_ports(base: int, index: int) -> ZonePorts:
    """Ports of the zone created as number `index`, from 0. Raises ValueError when they do not exist."""
    first = _checked(base) + BLOCK * (index + 1)
    _checked(first + BLOCK - 1)
    return ZonePorts(
        api=first,
        ads=first + 1,
        nats=first + 2,
        link=first + 3,
        dns=first + 4,
        sidecar_admin=first + 5,
        sidecar_status=first + 6,
        egress=first + 7,
        egress_admin=first + 8,
        egress_status=first + 9,
        inbound=first + 10,
        application=first + 11,
        gateway_admin=first + 12,
    )
