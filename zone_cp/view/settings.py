"""What a zone's settings in effect say about its view."""

from __future__ import annotations

import sys

import msgspec
from immutables import Map

from shared.events.state import ZoneState
from shared.model.resource import ProtocolClass
from shared.naming.vip import CidrFault, parse_cidr, ranges


def vip_ranges(state: ZoneState) -> Map[ProtocolClass, tuple[str, ...]]:
    """Per class, the CIDRs that VIPs lie in."""
    settings = state.own.settings
    if settings is None or isinstance(parse_cidr(settings.cidr), CidrFault):
        return Map()
    return ranges(settings.cidr)


def legacy_ranges(state: ZoneState) -> Map[ProtocolClass, tuple[str, ...]]:
    """The same of legacy ExternalServices."""
    said = msgspec.UNSET if state.own.settings is None else state.own.settings.legacy_cidr
    return Map() if said is msgspec.UNSET or isinstance(parse_cidr(said), CidrFault) else ranges(said)


def on_demand_above(state: ZoneState) -> int:
    """The number of services above which zone egresses load each when it is first used."""
    said = msgspec.UNSET if state.own.settings is None else state.own.settings.egress_on_demand_above
    return sys.maxsize if said is msgspec.UNSET else said
