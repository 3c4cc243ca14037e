"""Builtin gateways on real Envoys: what listens, what is served under which name, and what one fault leaves alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.gateways import Gateways, gateway
from tests.e2e.living import left_behind

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 29_200


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    """A gateway in east that no MeshGateway selects yet."""
    directory = tmp_path_factory.mktemp("gateway")
    async with Gateways(directory, BASE_PORT) as made:
        await made.begin()
        await made.join("edge-1")
        yield made
    assert left_behind(directory) == []


async def test_a_gateway_listens_as_its_mesh_gateway_says(system: Gateways) -> None:
    """Without one it listens nowhere; with one, by hostname, and 404 where no route leads."""
    assert await system.listeners() == []
    one, other = ({"port": system.port(1), "protocol": "HTTP", "hostname": f"{host}.example.com"} for host in "ab")
    await system.apply(gateway(one, other))
    found = await system.answers(1, "a.example.com", 404)
    assert found.body == "This is a Zonal MeshGateway. No routes match this MeshGateway!\n"
    assert found.headers["server"] == "Zonal Gateway"
    assert await system.listeners() == [f"edge:HTTP:{system.port(1)}"]
    assert (await system.ask(1, "b.example.com")).body == found.body
    other_host = await system.ask(1, "c.example.com")
    assert (other_host.status, other_host.body) == (404, "")
