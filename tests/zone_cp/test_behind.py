"""What stands behind a stop: little of it in memory, all of it taken in the end."""

from __future__ import annotations

from functools import partial

import pytest

from shared.events.event import decode_event, encode_event
from shared.events.stop import tombstone
from shared.process.behind import Behind
from tests.builders import applied, mes
from tests.zone_cp.test_follow import Zone, hub
from zone_cp import follow

pytestmark = pytest.mark.anyio


async def test_a_zone_keeps_little_of_what_is_behind_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the rest from its copy once a tombstone, far behind, lets it go on; a restart changes nothing."""
    monkeypatch.setattr(follow, "Behind", partial(Behind, limit=3))
    builder = hub("a")
    lines = [encode_event(event) for event in builder.append(applied(mes("poison")))]
    poison = decode_event(lines[0].replace(b'"ResourceApplied"', b'"OfALaterProgram"'))
    builder.events[-1] = poison
    for number in range(20):
        builder.append(applied(mes(f"s{number}", port=8000 + number)))
    zone = await Zone().recover()
    await zone.take(builder)
    for one in (zone, await zone.restarted()):
        assert one.owner.stop is not None
        assert one.owner.stop.n == poison.n
        assert len(one.owner._held) == 3
        assert one.owner.state.hub.n == poison.n - 1
    builder.append(tombstone("global", poison.n, "nobody needs it"))
    await zone.take(builder)
    assert zone.owner.stop is None
    assert zone.owner.state.hub.n == builder.state.n
    assert {lease.key.name for lease in zone.owner.state.own.leases.values()} == {"a", *(f"s{n}" for n in range(20))}
    zone.whole()
