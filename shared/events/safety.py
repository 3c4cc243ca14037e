"""What a zone holds back: pushes that would take away too much, resources that an Envoy refused, and VIPs that another
proxy of the same host has.

A part of the fold, apart for its length.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from shared.events.event import EventRef, PushHeld, PushReleased, QuarantineEnded, ResourceQuarantined, VipsYielded
from shared.events.state import Hold, LogState, Position, Quarantine, Yield


def apply_hold(state: LogState, change: PushHeld | PushReleased, event: EventRef) -> LogState:
    """Holds after a change. What an operator released is remembered until it is held again."""
    holds = state.holds.mutate()
    match change:
        case PushHeld():
            kept = _moment(change.kept_g, change.kept_z)
            for proxy in change.proxies:
                holds[proxy] = Hold(proxy, kept, change.reason, event)
        case PushReleased():
            for proxy in change.proxies:
                held = holds.pop(proxy, None)
                if held is not None and change.by == "operator":
                    holds[proxy] = msgspec.structs.replace(held, event=event, released=True)
        case _:
            assert_never(change)
    return msgspec.structs.replace(state, holds=holds.finish())


def apply_quarantine(state: LogState, change: ResourceQuarantined | QuarantineEnded, event: EventRef) -> LogState:
    """Quarantines after a change."""
    key = (change.type_url, change.name, change.version)
    quarantined = state.quarantined
    match change:
        case ResourceQuarantined():
            kept = _moment(change.kept_g, change.kept_z)
            quarantined = quarantined.set(key, Quarantine(*key, kept, change.proxy, change.reason, event))
        case QuarantineEnded():
            quarantined = quarantined.delete(key) if key in quarantined else quarantined
        case _:
            assert_never(change)
    return msgspec.structs.replace(state, quarantined=quarantined)


def apply_yield(state: LogState, change: VipsYielded, event: EventRef) -> LogState:
    """Who yields its VIPs after a change."""
    if change.to:
        yields = state.yields.set(change.proxy, Yield(change.proxy, change.to, event))
    else:
        yields = state.yields.delete(change.proxy) if change.proxy in state.yields else state.yields
    return msgspec.structs.replace(state, yields=yields)


def _moment(g: int, z: int) -> Position | None:
    return Position(g, z) if g or z else None
