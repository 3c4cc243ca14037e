"""One real Envoy of a scratch plane: started when it is first needed, then told of one moment after the other."""

from __future__ import annotations

import asyncio
import json
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec

from shared.events.state import Position
from zone_cp.ads.facts import Nacked
from zone_cp.ads.server import AdsServer
from zone_cp.agent import bootstrap as boot
from zone_cp.agent.admin import AdminUnreachable
from zone_cp.agent.dns_table import store
from zone_cp.agent.envoy import Envoy, EnvoyFailed
from zone_cp.scratch.moved import Moved
from zone_cp.xds.snapshot import Snapshot

ANSWER_SECONDS = 30.0
"""How long an Envoy may take to answer all of a moment."""
WARM_SECONDS = 15.0
"""How long what it accepted may take to be in use (names that are looked up, secrets)."""
LOOK_SECONDS = 0.02
_WARMING = "/stats?filter=%5E(cluster_manager.warming_clusters%7Clistener_manager.total_listeners_warming)%24"


class Shown(msgspec.Struct, frozen=True):
    """What became of a moment at one Envoy. refused: what it would not have, with its words; failed: why it ended."""

    refused: tuple[str, ...] = ()
    failed: str = ""
    slow: bool = False

    @property
    def fault(self) -> str:
        """Why the moment is bad whatever a check says; "" when it is in use."""
        return self.failed or ("Envoy refuses it: " + "; ".join(self.refused) if self.refused else "")


class ScratchProxy:
    """`name` is what it is called at the ADS server, which admits it by `token`. Use it from one task."""

    def __init__(self, name: str, binary: Path, directory: Path, plane: boot.ControlPlane, ads: AdsServer) -> None:
        self.name = name
        self.token = secrets.token_urlsafe(32)
        self._binary = binary
        self._directory = directory / name
        self._plane = plane
        self._ads = ads
        self._envoy: Envoy | None = None
        self._running: asyncio.Task[None] | None = None
        self._refused: list[str] = []
        self._count = 0

    def nacked(self, nack: Nacked) -> None:
        """Tell what Envoy refused; counted once it is certain which resource it was."""
        self._refused += [f"{name}: {nack.message}" for name, _ in nack.rejected]

    async def show(self, moment: Moved, *, anew: bool) -> Shown:
        """Have Envoy use this. It is started anew when that is asked for, or when it refused what came before.

        What an Envoy refuses that has served other moments before is shown to one that has not.
        """
        if anew or self._refused:
            await self.stop()
        reused = self._envoy is not None
        shown = await self._show(moment)
        if shown.fault and reused:
            await self.stop()
            shown = await self._show(moment)
        return shown

    async def _show(self, moment: Moved) -> Shown:
        self._refused.clear()
        self._count += 1
        position = Position(self._count, 0)
        # Moments are visited to and fro, and are new to this plane each time.
        self._ads.offer(self.name, Snapshot(position, moment.snapshot.resources, on_demand=moment.snapshot.on_demand))
        if self._envoy is None:
            self._start(moment)
        answered = asyncio.create_task(self._used(position))
        assert self._running is not None  # noqa: S101 - started above
        try:
            await asyncio.wait((answered, self._running), return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return Shown(refused=tuple(self._refused), slow=not answered.result())
            return Shown(failed=_end(self._running))
        except TimeoutError:
            if self._refused:
                return Shown(refused=tuple(self._refused))
            return Shown(failed=f"Envoy did not take it within {ANSWER_SECONDS:g} s")
        finally:
            answered.cancel()

    async def _used(self, position: Position) -> bool:
        """Wait until what Envoy was given is in use; whether it is, as far as a bounded wait can tell."""
        assert self._envoy is not None  # noqa: S101 - started before
        await self._ads.acked(self.name, position, ANSWER_SECONDS)
        if self._refused:
            return True
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._envoy.ready()
        with suppress(TimeoutError):
            async with asyncio.timeout(WARM_SECONDS):
                while await self._warming():  # noqa: ASYNC110 - Envoy announces no end of warming; bounded
                    await asyncio.sleep(LOOK_SECONDS)
                return True
        return False

    async def _warming(self) -> bool:
        _, body = await self._admin_get(_WARMING)
        return any(line.rpartition(":")[2].strip() not in ("", "0") for line in body.splitlines())

    async def _admin_get(self, path: str) -> tuple[int, str]:
        assert self._envoy is not None  # noqa: S101 - asked of a running Envoy only
        return await self._envoy.admin.get(path)

    @property
    def admin(self) -> str:
        """Address of its admin interface, "" before there is one."""
        try:
            return self._envoy.admin.address if self._envoy is not None else ""
        except AdminUnreachable:
            return ""

    async def listeners(self) -> dict[str, int]:
        """The port of every listener, by name. Raises AdminUnreachable."""
        _, body = await self._admin_get("/listeners?format=json")
        found = json.loads(body).get("listener_statuses", ())
        places = {one["name"]: one.get("local_address", {}).get("socket_address") for one in found}
        return {name: place["port_value"] for name, place in places.items() if place is not None}  # within Envoy: none

    def _start(self, moment: Moved) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        paths = {name: self._directory / name for name in ("bootstrap.json", "token.json", "admin.address")}
        proxy = boot.Proxy(
            resource=moment.proxy.resource,
            features=moment.proxy.features,
            system_ca_path=moment.proxy.system_ca_path,
            admin=f"{self._plane.host}:0",
            workdir=str(self._directory),
        )
        store(paths["token.json"], boot.token_secret(self.token))
        store(paths["bootstrap.json"], boot.bootstrap(proxy, self._plane, str(paths["token.json"])))
        arguments = boot.envoy_arguments(
            str(paths["bootstrap.json"]),
            admin_address_path=str(paths["admin.address"]),
            concurrency=1,
            log_level="error",
        )
        self._envoy = Envoy(self._binary, arguments, paths["admin.address"])
        self._running = asyncio.create_task(self._envoy.run())

    async def stop(self) -> None:
        """End Envoy, at once."""
        envoy, running = self._envoy, self._running
        self._envoy = self._running = None
        self._refused.clear()
        if envoy is not None and running is not None:
            try:
                await envoy.stop(0)
            finally:
                running.cancel()
                await asyncio.wait((running,))


def _end(running: asyncio.Task[None]) -> str:
    fault = None if running.cancelled() else running.exception()
    return str(fault) if isinstance(fault, EnvoyFailed) else f"Envoy ended: {fault}"
