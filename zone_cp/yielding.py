"""What a sidecar is served that yields its VIPs to another one of its host: everything but listeners there. Pure.

Who yields is in the zone's log (`VipsYielded`), so that a replay leaves out what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.snapshot import LISTENER, Snapshot, following

PREFIX = "outbound/"


def at_vips(view: ZoneView, listeners: Iterable[str]) -> list[str]:
    """Those of these listeners that stand at VIPs."""
    ranges = (*view.vip_ranges.values(), *view.legacy_ranges.values())
    networks = [ip_network(cidr) for some in ranges for cidr in some]
    # `outbound/redirect` has no address of its own.
    hosts = {name: name.removeprefix(PREFIX).rpartition(":")[0] for name in listeners if name.startswith(PREFIX)}
    addresses = {name: ip_address(host) for name, host in hosts.items() if host}
    return [name for name, address in addresses.items() if any(address in one for one in networks)]


def without_vips(view: ZoneView, snapshot: Snapshot) -> Snapshot:
    """What is left of a snapshot for who yields. view: of the same moment."""
    vips = at_vips(view, snapshot.resources.get(LISTENER, {}))
    return following(snapshot, snapshot.position, {LISTENER: dict.fromkeys(vips)})
