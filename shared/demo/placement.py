"""Where the demo's processes run: all on loopback, or each zone in a network namespace (`namespaces.py`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, Protocol, TypeAlias

from shared.demo.link import Link
from shared.keys.deployment import LOOPBACK
from shared.keys.ports import BLOCK, GlobalPorts, ZonePorts, global_ports, zone_ports

ZONES = ("east", "west")
SYSTEM_PORTS = BLOCK * (1 + len(ZONES))
"""Ports of one system, from its base port on."""
FIRST_RANGE = IPv4Address("127.16.0.0")
RANGE_PREFIX = 21
"""Of a zone's VIPs on loopback: there is room for every system of another base port, and for its legacy VIPs."""
OUTSIDE = "outside"
"""The place of the external services; the other places are "global" and the zones."""

User: TypeAlias = Literal["sidecar", "egress", "gateway"]


class Cuttable(Protocol):
    """The link between the hub and one zone. `cut_by`: how it is cut, for people to read."""

    cut_by: str

    async def cut(self) -> None:
        """Nothing gets through from now on."""

    async def heal(self) -> None:
        """Everything gets through (again)."""


class Placement(Protocol):
    """What differs between one host and several. `hosts`: addresses of "global" and the zones.

    transparent: applications need no settings; DNS and connections are redirected to the sidecar.
    """

    hosts: Mapping[str, str]
    outside_host: str
    transparent: bool

    def open(self) -> None:
        """Make the places. On failure nothing is left behind."""

    def close(self) -> None:
        """Take them away; whatever still runs there is ended."""

    def vip_range(self, zone: str) -> IPv4Network:
        """The range that the zone leases VIPs from."""

    def legacy_range(self, zone: str) -> IPv4Network:
        """The same for legacy ExternalServices."""

    def argv(self, place: str, argv: Sequence[str], *, user: User | None = None) -> list[str]:
        """The command line that runs `argv` in a place, as the user of a proxy where one is named."""

    def uid(self, user: User) -> str:
        """Id of a proxy's user."""

    def own(self, path: str, user: User) -> None:
        """Give a file or directory to a proxy's user."""

    def socket(self, place: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A socket of that place, whoever uses it."""

    def link(self, zone: str) -> Cuttable:
        """The zone's link to the hub, cut until it is healed for the first time."""


class Loopback:
    """All processes on 127.0.0.1, told apart by ports; needs no rights."""

    transparent = False
    outside_host = LOOPBACK

    def __init__(self, base_port: int) -> None:
        self.hosts: Mapping[str, str] = {}
        self._base_port = base_port
        self._ports: GlobalPorts = global_ports(base_port)
        self._zone_ports: dict[str, ZonePorts] = {zone: zone_ports(base_port, i) for i, zone in enumerate(ZONES)}

    def open(self) -> None:
        """Nothing to make."""

    def close(self) -> None:
        """Nothing to take away."""

    def vip_range(self, zone: str) -> IPv4Network:
        """Within 127/8, where any process may listen without root. Systems that can run side by side (no two of their
        ports are the same) have other ranges: two Envoys cannot listen at one VIP's port.
        """
        number = self._base_port // SYSTEM_PORTS * len(ZONES) + ZONES.index(zone)
        return IPv4Network((int(FIRST_RANGE) + number * 2 * 2 ** (32 - RANGE_PREFIX), RANGE_PREFIX))

    def legacy_range(self, zone: str) -> IPv4Network:
        """The other half."""
        half = self.vip_range(zone)
        return IPv4Network((int(half.network_address) + half.num_addresses, half.prefixlen))

    def argv(self, place: str, argv: Sequence[str], *, user: User | None = None) -> list[str]:
        """As it is."""
        return list(argv)

    def uid(self, user: User) -> str:
        """The caller's own."""
        return str(os.geteuid())

    def own(self, path: str, user: User) -> None:
        """All is the caller's."""

    def socket(self, place: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A plain socket."""
        return socket.socket(socket.AF_INET, kind)

    def link(self, zone: str) -> Cuttable:
        """A relay in this process."""
        return Link(self._zone_ports[zone].link, self._ports.nats_leaf)
