"""Certificates of ten seconds under traffic that never stops: rotation is noticed by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.demo import application, manifests
from shared.demo.looking import eventually
from tests.e2e.living import Living, traffic

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 25900
EXPIRATION = "10s"
GENERATIONS = 2
ANSWERS = 200


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones with everything ready, and certificates that live for ten seconds."""
    directory = tmp_path_factory.mktemp("identity")
    async with Living(directory, BASE_PORT) as living:
        await living.begin()
        short = manifests.mesh(forbid=False).replace("expiration: 1h", f"expiration: {EXPIRATION}")
        code, out, err = await living.cli("apply", "-f", str(living.write("short.yaml", short)))
        assert code == 0, out + err
        yield living


async def chain(admin: int) -> dict[str, Any]:
    """The workload certificate that an Envoy holds now."""
    answer = await application.get("127.0.0.1", admin, "admin", "/certs")
    chains = [one for found in answer.json["certificates"] for one in found.get("cert_chain", [])]
    mesh = [one for one in chains if any("spiffe://" in str(name) for name in one["subject_alt_names"])]
    return dict(mesh[0])


class KeptAlive:
    """One HTTP/1.1 connection that is used again and again."""

    def __init__(self, ip: str, port: int, hostname: str) -> None:
        self._ip, self._port = ip, port
        self._request = f"GET / HTTP/1.1\r\nhost: {hostname}:{port}\r\n\r\n".encode()
        self.answers = 0
        self.stopped = False

    async def call(self) -> None:
        """Until stopped. Raises whatever goes wrong."""
        reader, writer = await asyncio.open_connection(self._ip, self._port)
        try:
            while not self.stopped:
                writer.write(self._request)
                async with asyncio.timeout(application.TIMEOUT_SECONDS):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    assert head.startswith("HTTP/1.1 200"), head
                    length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
                    await reader.readexactly(int(length.split(":")[1]))
                self.answers += 1
                await asyncio.sleep(0.01)
        finally:
            writer.close()


async def test_rotation_is_noticed_by_nobody(system: Living) -> None:
    """Each Envoy gets certificate after certificate; new and kept-alive connections are answered all the while."""
    admins = {"sidecar": system.sidecar_admin("east"), "egress": system.egress_admin("east")}
    serials: dict[str, set[str]] = {name: set() for name in admins}
    kept = KeptAlive(await application.resolve("web.east.mesh", system.dns_port("east")), 8080, "web.east.mesh")

    async def look() -> bool:
        for name, admin in admins.items():
            serials[name].add((await chain(admin))["serial_number"])
        return all(len(found) > GENERATIONS for found in serials.values()) and min(seen.answers, kept.answers) > ANSWERS

    async with traffic(system, "east", "web.east.mesh", 8080) as seen, asyncio.TaskGroup() as group:
        group.create_task(kept.call())
        await eventually(look, bool, f"more than {GENERATIONS} certificates each, and {ANSWERS} answers", within=90)
        kept.stopped = True
    assert seen.failures == []
