"""Services that are swapped for each other while clients call, and clients that notice every failure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from shared.demo.system import System
from tests.xds.clients import body_of

SECONDS = 30.0
PAUSE_SECONDS = 0.005


class Calls:
    """What clients saw: how many answers, by place who answered last, and every failure in words."""

    def __init__(self) -> None:
        self.answers = 0
        self.reopened = 0
        self.failures: list[str] = []
        self.last: dict[str, str] = {}
        self._news = asyncio.Condition()

    async def saw(self, place: str, server: str) -> None:
        """One good answer."""
        async with self._news:
            self.answers += 1
            self.last[place] = server
            self._news.notify_all()

    async def until(self, place: str, server: str) -> None:
        """Wait until that server answers there."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: self.last.get(place) == server or bool(self.failures))


@asynccontextmanager
async def calls(places: dict[str, tuple[str, int]]) -> AsyncIterator[Calls]:
    """At every place two clients that keep their connection until they are told to close it, and one that does not."""
    seen, stop = Calls(), asyncio.Event()
    tasks = [
        asyncio.create_task(_call(seen, stop, place, *where, keep=keep))
        for place, where in places.items()
        for keep in (True, True, False)
    ]
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _call(seen: Calls, stop: asyncio.Event, place: str, host: str, port: int, *, keep: bool) -> None:
    while not stop.is_set():
        writer = None
        try:
            reader, writer = await asyncio.open_connection(host, port)
            seen.reopened += 1
            going = True
            while going and not stop.is_set():
                going = await _ask(seen, place, reader, writer) and keep
                await asyncio.sleep(PAUSE_SECONDS)
        except (OSError, EOFError, TimeoutError) as error:
            seen.failures.append(f"{place}: {error!r}")
            await asyncio.sleep(PAUSE_SECONDS)
        if writer is not None:
            writer.close()


async def _ask(seen: Calls, place: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One request; whether the connection may be used again."""
    async with asyncio.timeout(10):
        writer.write(b"GET / HTTP/1.1\r\nhost: swapped\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = await body_of(reader, headers)
    if head.startswith("http/1.1 200"):
        await seen.saw(place, json.loads(body)["server"])
    else:
        seen.failures.append(f"{place}: {head.partition(chr(13))[0]}: {body.decode(errors='replace').strip()}")
    return headers.get("connection") != "close"


class Planes:
    """The HTTP APIs of global and of one zone, without a process for each call."""

    def __init__(self, system: System, zone: str) -> None:
        headers = {"authorization": f"Bearer {system.deployment.admin_token.read_text().strip()}"}
        ports = {"": system.ports.api, zone: system.zone_ports[zone].api}
        self._clients = {
            name: httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=10)
            for name, port in ports.items()
        }
        self.zone = zone

    async def apply(self, *resources: dict[str, Any], zone: str = "") -> None:
        """Write resources at once. Fails where they are refused."""
        answer = await self._clients[zone].post("/apply", json={"resources": list(resources)})
        assert answer.status_code == 200, answer.text

    async def delete(self, name: str) -> None:
        """Delete a service of global."""
        answer = await self._clients[""].delete(f"/meshes/default/meshexternalservices/{name}")
        assert answer.status_code == 200, answer.text

    async def known(self, name: str) -> None:
        """Wait until the zone knows a service."""
        async with asyncio.timeout(SECONDS):
            while True:
                found = await self._clients[self.zone].get(f"/meshes/default/meshexternalservices/{name}")
                if found.status_code == 200:
                    return
                await asyncio.sleep(PAUSE_SECONDS)

    async def lead(self, port: int, name: str) -> None:
        """Let the sidecar's explicit outbound on `port` lead to a service."""
        found = (await self._clients[self.zone].get("/meshes/default/dataplanes/app")).json()
        refers = {"kind": "MeshExternalService", "name": name}
        found["networking"]["outbound"] = [{"address": "127.0.0.1", "port": port, "backendRef": refers}]
        kept = {key: found[key] for key in ("type", "mesh", "name", "networking")}
        await self.apply(kept, zone=self.zone)

    async def close(self) -> None:
        """End the connections."""
        for client in self._clients.values():
            await client.aclose()
