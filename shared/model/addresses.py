"""What may stand as the address of an endpoint: Kuma's notion of IP and DNS name, and decision 13."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_DNS_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62}(\.[a-zA-Z0-9_][a-zA-Z0-9_-]{0,62})*[._]?")
"""The library Kuma uses: upper case, `_`, one closing dot and single labels pass, wildcards do not."""
_LOOKS_LIKE_IP = re.compile(r"(.*\.)?([0-9]+|0[xX][0-9a-fA-F]*)\.?")
"""What ends in a number is read as an address by some resolvers (https://url.spec.whatwg.org/#ends-in-a-number-checker):
"127.1", "0x7f000001", "0x7f.1"."""
DNS_NAME_MAX = 253
"""Without the closing dot (RFC 1035 §2.3.4). Envoy refuses an SNI beyond 255."""

KUMA_VIP_RANGES = ("241.0.0.0/8", "242.0.0.0/8", "243.0.0.0/8")
_DANGEROUS = tuple(
    (ip_network(cidr), what)
    for cidr, what in (
        ("127.0.0.0/8", "loopback"),
        ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("fe80::/10", "link-local"),
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("224.0.0.0/4", "multicast"),
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "a VIP range"),  # of every kind, whatever a zone is set to
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_HOW = "allow its range with the label zonal.io/allow-addresses of the Mesh or in the zone's settings"


def is_ip(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, without zone id, port or prefix length."""
    return _parse(text) is not None


def is_dns_name(text: str) -> bool:
    """Whether Kuma takes it for a DNS name."""
    if is_ip(text) or len(text.removesuffix(".")) > DNS_NAME_MAX or _LOOKS_LIKE_IP.fullmatch(text):
        return False
    return _DNS_NAME.fullmatch(text) is not None


@lru_cache(maxsize=65536)
def dialled(address: str) -> str:
    """The address to connect to: sockets of IPv6 do not reach IPv4 through ::ffff:0:0/96."""
    ip = _parse(address)
    return str(ip) if isinstance(ip, IPv4Address) else address


def spelled(name: str) -> str:
    """A name or address as certificates hold it: addresses in their shortest form, names without the closing dot."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.removesuffix(".")


def cidr_fault(text: str) -> str | None:
    """Why `text` is not a CIDR, or None when it is one."""
    return None if _network(text) is not None else f'"{text}" is not a CIDR'


def address_fault(address: str, allowed: tuple[str, ...] = (), reserved: tuple[str, ...] = ()) -> str | None:
    """Why an endpoint must not use this address (decision 13), or None. Allowed ranges win over all."""
    ip = _parse(address)
    if ip is None:
        name = address.lower().rstrip(".")
        if (name == "localhost" or name.endswith(".localhost")) and not _within(IPv4Address("127.0.0.1"), allowed):
            return f"loopback is refused: {_HOW}"
        return None
    meant = _embedded(ip)
    if _within(ip, allowed) or _within(meant, allowed):
        return None
    for network, what in _DANGEROUS:
        if meant.version == network.version and meant in network:
            return f"{what} is refused: {_HOW}"
    if _within(meant, reserved):
        return f"a VIP range is refused: {_HOW}"
    return None


def _within(ip: IPv4Address | IPv6Address, cidrs: tuple[str, ...]) -> bool:
    networks = (_network(cidr) for cidr in cidrs)
    return any(network is not None and ip.version == network.version and ip in network for network in networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    if "%" in text:
        return None
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def _embedded(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Where a translator of the network leads (NAT64, RFC 6052; 6to4, RFC 3056); else the address itself."""
    if not isinstance(ip, IPv6Address):
        return ip
    return IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.sixtofour or ip


@lru_cache(maxsize=256)
def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
