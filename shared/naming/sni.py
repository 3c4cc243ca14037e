"""The SNI between sidecar and zone egress, and the egress cluster it picks (decision 25).

One versioned function for both sides. The SNI is made of the leased VIP, the port and the mesh, so a sidecar
can build it from the address an application dialled, without any resource per service; the version is the
suffix. It is never an IP literal (Envoy's auto_sni skips those), and always a host name: the octets and
`v<octet>`, `p<port>` are labels of at most six characters, a mesh is one RFC 1035 label, and the whole is
at most 4 + 4*3 + 7 + 64 + 5 characters long.
"""

from __future__ import annotations

import re

import msgspec

from shared.model.resource import ProtocolClass

CURRENT = "mes"
"""Version that sidecars send."""

PREVIOUS: str | None = None
"""Version that an egress accepts as well, while sidecars of the release before are still around."""

CLUSTER_PREFIX = "mes"

_sni = re.compile(r"v(\d{1,3}(?:\.\d{1,3}){3})\.p(\d{1,5})\.([a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)\.([a-z0-9]+)")


class ServiceAddress(msgspec.Struct, frozen=True):
    """What an SNI says: the VIP and port that the application dialled, in which mesh."""

    vip: str
    port: int
    mesh: str


def service_sni(vip: str, port: int, mesh: str, version: str = CURRENT) -> str:
    """`v242.0.0.5.p80.default.mes`: what a sidecar sends for connections to `vip:port` of `mesh`."""
    return f"v{vip}.p{port}.{mesh}.{version}"


def accepted_snis(vip: str, port: int, mesh: str) -> tuple[str, ...]:
    """What an egress accepts for a service, the current version first."""
    versions = (CURRENT,) if PREVIOUS is None else (CURRENT, PREVIOUS)
    return tuple(service_sni(vip, port, mesh, version) for version in versions)


def parse_sni(sni: str) -> ServiceAddress | None:
    """Read an SNI of an accepted version back; None for any other name."""
    found = _sni.fullmatch(sni)
    if found is None or found[4] not in (CURRENT, PREVIOUS):
        return None
    return ServiceAddress(found[1], int(found[2]), found[3])


def cluster_prefix(protocol_class: ProtocolClass, mesh: str) -> str:
    """Literal prefix of a filter chain's cluster names: mesh and class come from the chain, never the client."""
    return f"{CLUSTER_PREFIX}/{protocol_class}/{mesh}/"


def cluster_name(protocol_class: ProtocolClass, mesh: str, sni: str) -> str:
    """`mes/http/default/v242.0.0.5.p80.default.mes`: the egress cluster that a chain and an SNI pick."""
    return cluster_prefix(protocol_class, mesh) + sni
