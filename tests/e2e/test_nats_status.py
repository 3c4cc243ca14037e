"""The status stream on one real nats-server, and the board that a restarted zone takes up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.model.resource import ResourceKey
from shared.nats import topology
from shared.nats.connection import connect
from tests.builders import LogBuilder, ZoneBuilder, applied, deleted, generator, mes, mesh
from tests.nats.world import running_single, until
from zone_cp.status import StatusBoard
from zone_cp.view.project import project
from zone_cp.view.zone_view import Failure

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


def _no_failures() -> Mapping[ResourceKey, Failure]:
    return {}


async def test_keys_are_all_that_were_ever_set(tmp_path: Path) -> None:
    """A cleared key is still a key: its reader has to hear that it was cleared."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        await topology.ensure_zone(connection, "east")
        stream = topology.own_status(connection, "east")
        assert await stream.keys() == set()
        await stream.put("mes.default._.a", b"{}")
        await stream.put("mes.default._.b", b"{}")
        await stream.clear("mes.default._.b")
        assert await stream.keys() == {"mes.default._.a", "mes.default._.b"}


async def test_a_restarted_board_clears_the_rows_of_what_is_gone(tmp_path: Path) -> None:
    """A service deleted while the zone was down leaves no row behind."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        await topology.ensure_zone(connection, "east")
        stream = topology.own_status(connection, "east")
        hub, zone = LogBuilder(), ZoneBuilder()
        hub.append(applied(mesh()), applied(generator()), applied(mes("kept")), applied(mes("gone")))
        for present in ({"kept", "gone"}, {"kept"}):
            if present == {"kept"}:
                hub.append(deleted(mes("gone")))
            zone.follow(hub)
            board = StatusBoard("east", stream, lambda: (zone.state, project(zone.state)), _no_failures)
            await board.recall()
            running = asyncio.create_task(board.run())
            board.changed()
            seen: dict[str, bytes] = {}

            async def watch(seen: dict[str, bytes] = seen) -> None:
                async for batch in stream.follow():
                    seen |= {status.key: status.data for status in batch}

            watching = asyncio.create_task(watch())
            wanted = {f"mes.default._.{name}" for name in present}

            def settled(seen: dict[str, bytes] = seen, wanted: set[str] = wanted) -> bool:
                return {key for key, data in seen.items() if data} == wanted

            await until(settled, f"rows of {sorted(present)}")
            for task in (running, watching):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
