"""Service probes: whether the applications behind a proxy's inbounds accept connections.

The agent stands on the application's host, so it tries itself and tells the control plane what changed. What it says is
always all of it: the newest message is the whole truth, whatever was lost before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import structlog

from shared.model.duration import parse_duration
from shared.model.inbound import PROBE_INTERVAL, PROBE_TIMEOUT, Inbound, ServiceProbe, application, is_probed
from shared.model.resource import Dataplane, ZoneEgress
from shared.pb import agent_pb2 as pb

log = structlog.get_logger()


class Prober:
    """The probes of one proxy. `report` is called whenever what `outcomes` says is another."""

    def __init__(self, resource: Dataplane | ZoneEgress, report: Callable[[], None]) -> None:
        """Until its first outcomes an application is not ready."""
        inbounds = resource.networking.inbound if isinstance(resource, Dataplane) else ()
        self._ready = {index: False for index, inbound in enumerate(inbounds) if is_probed(inbound)}
        self._inbounds = inbounds
        self._report = report

    def __bool__(self) -> bool:
        """Whether there is anything to probe."""
        return bool(self._ready)

    def outcomes(self) -> pb.ProbedInbounds:
        """What is known now, of every probed inbound."""
        said = pb.ProbedInbounds()
        for index, ready in self._ready.items():
            inbound = self._inbounds[index]
            said.inbounds.add(port=inbound.port, address=inbound.address or "", ready=ready)
        return said

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            for index in self._ready:
                group.create_task(self._follow(index))

    async def _follow(self, index: int) -> None:
        inbound = self._inbounds[index]
        probe = inbound.service_probe or ServiceProbe()
        pause = _seconds(probe.interval, PROBE_INTERVAL)
        timeout = _seconds(probe.timeout, PROBE_TIMEOUT)
        in_a_row = 0
        while True:
            accepts = await _accepts(inbound, timeout)
            in_a_row = 0 if accepts == self._ready[index] else in_a_row + 1
            if in_a_row >= ((probe.healthy_threshold if accepts else probe.unhealthy_threshold) or 1):
                self._ready[index], in_a_row = accepts, 0
                log.info("service probe", port=inbound.port, ready=accepts)
                self._report()
            await asyncio.sleep(pause)


async def _accepts(inbound: Inbound, timeout_seconds: float) -> bool:
    host, port = application(inbound)
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _seconds(text: str | None, default: timedelta) -> float:
    value = parse_duration(text) if text is not None else None
    return (value or default).total_seconds()
