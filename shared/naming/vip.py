"""VIP ranges and candidates (decision 15): which address a resource asks for, and which it may ask for.

A CIDR is cut into four equal quarters, class first, then origin:

    | http, global | http, zone | tcp, global | tcp, zone |

so each class lies in one CIDR (one filter chain matches it), and resources of global origin have addresses that
no zone-origin resource can ever take: their leases depend on the global log alone. A candidate is the hash of
the resource's identity; probing goes on from there. IPv4 only; network and broadcast address are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

import msgspec
from immutables import Map

from shared.model.resource import ProtocolClass, ResourceKey

DEFAULT_CIDR = "242.0.0.0/8"
PREFIX_MAX = 29
"""Longest prefix that leaves every quarter an address."""


class CidrFault(msgspec.Struct, frozen=True):
    """Why a text is not a range that VIPs can be leased from."""

    message: str


class Quarter(msgspec.Struct, frozen=True):
    """Addresses first..last (as integers) for one class and one kind of origin."""

    protocol_class: ProtocolClass
    of_zone: bool
    first: int
    last: int

    @property
    def size(self) -> int:
        """Number of addresses."""
        return self.last - self.first + 1

    def holds(self, ip: str) -> bool:
        """Whether `ip` lies in this quarter."""
        return self.first <= int(IPv4Address(ip)) <= self.last


class VipRange(msgspec.Struct, frozen=True):
    """A checked CIDR and its quarters."""

    cidr: str
    quarters: tuple[Quarter, ...]

    def quarter(self, key: ResourceKey, protocol_class: ProtocolClass) -> Quarter:
        """Where `key` may have its VIP."""
        return self.quarters[(2 if protocol_class == "tcp" else 0) + (1 if key.zone else 0)]


@lru_cache(maxsize=64)
def parse_cidr(cidr: str) -> VipRange | CidrFault:
    """Check a CIDR and cut it. Host bits are masked, as in Kuma; IPv6 is refused (decision 15)."""
    if ":" in cidr:
        return CidrFault(f"{cidr} is an IPv6 range: VIPs are IPv4 only")
    try:
        network = IPv4Network(cidr, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return CidrFault(f"{cidr} is not an IPv4 CIDR such as {DEFAULT_CIDR}")
    if network.prefixlen > PREFIX_MAX:
        return CidrFault(f"{cidr} is too small: /{PREFIX_MAX} is the longest prefix that VIPs can be leased from")
    start, step = int(network.network_address), network.num_addresses // 4
    classes: tuple[ProtocolClass, ...] = ("http", "http", "tcp", "tcp")
    quarters = tuple(
        Quarter(
            protocol_class,
            number % 2 == 1,
            start + number * step + (1 if number == 0 else 0),
            start + (number + 1) * step - (2 if number == len(classes) - 1 else 1),
        )
        for number, protocol_class in enumerate(classes)
    )
    return VipRange(str(network), quarters)


def outside(cidr: str, others: Iterable[str]) -> str:
    """The largest part of `cidr` that none of `others` touches, the lowest of equal ones; "" where there is none."""
    parts = [IPv4Network(cidr, strict=False)]
    for other in (IPv4Network(one, strict=False) for one in others):
        parts = [
            part
            for one in parts
            for part in (() if one.subnet_of(other) else one.address_exclude(other) if other.subnet_of(one) else (one,))
        ]
    parts = [one for one in parts if one.prefixlen <= PREFIX_MAX]
    return str(min(parts, key=lambda one: (one.prefixlen, one))) if parts else ""


def ranges(cidr: str) -> Map[ProtocolClass, tuple[str, ...]]:
    """Per class, the CIDRs its VIPs lie in; raises ValueError when `cidr` is not usable (settings check it)."""
    parsed = parse_cidr(cidr)
    if isinstance(parsed, CidrFault):
        raise ValueError(parsed.message)
    http, tcp = IPv4Network(parsed.cidr).subnets(prefixlen_diff=1)
    by_class: dict[ProtocolClass, tuple[str, ...]] = {"http": (str(http),), "tcp": (str(tcp),)}
    return Map(by_class)


def candidate(key: ResourceKey, quarter: Quarter) -> int:
    """Index into the quarter where probing for `key` starts: a hash of its identity, the same everywhere."""
    identity = f"{key.kind}\0{key.mesh}\0{key.name}\0{key.zone}".encode()
    return int.from_bytes(blake2b(identity, digest_size=8).digest()) % quarter.size


def probe(key: ResourceKey, quarter: Quarter, taken: Callable[[str], bool]) -> str | None:
    """The first address from the candidate on that is not taken; None when the quarter is exhausted."""
    start, size = candidate(key, quarter), quarter.size
    for step in range(size):
        ip = str(IPv4Address(quarter.first + (start + step) % size))
        if not taken(ip):
            return ip
    return None
