"""What if, at the end of a past: judged as the planes would, without their keys and without a running system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.api.plane import considered, sealed_commands
from shared.api.store import Put, Remove
from shared.events.decide import Rejected, decide_write
from shared.events.fault import moment
from shared.events.history import History
from shared.events.state import ZoneState
from shared.history.supposed import forecast
from shared.keys.seal import Sealer

ACTOR = "whatif"


def whatif_of(
    history: History, zone: str, commands: Sequence[Put | Remove]
) -> dict[str, Any] | tuple[dict[str, Any], ...]:
    """The forecast of a batch written on global (zone "") or in a zone, or why it would be refused, one by one.

    A refusal has index, path and reason, as the API's invalid parameters. Raises NoSuchMoment for an unknown zone.
    """
    states = {name: history.state(name, history.position(name)) for name in ([zone] if zone else sorted(history.zones))}
    hub = history.hub.state(len(history.hub))
    log = states[zone].own if zone else hub
    # Nobody reads what is sealed here: it is for nobody.
    sealed, wraps, warnings = sealed_commands(commands, Sealer({}).seal)
    others = {} if zone else {name: state.own for name, state in states.items()}
    now = _now(states, hub.time)
    decision = decide_write(sealed, log, hub if zone else None, zone, zones=others, wraps=wraps, now=now)
    found = considered(log, decision, warnings, tuple(states.values()))
    if isinstance(found, Rejected):
        return tuple({"index": one.index, "path": one.path, "reason": one.reason} for one in found.refusals)
    return forecast(found, time=now, actor=ACTOR)


def _now(states: dict[str, ZoneState], time: str) -> str:
    """The end of the past: nothing ends or expires only because it is read later."""
    return max((time, *map(moment, states.values())))
