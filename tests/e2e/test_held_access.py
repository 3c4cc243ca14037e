"""A push to a real sidecar is held; who loses access meanwhile loses it, over a restart of the zone too."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.demo.looking import eventually
from tests.e2e.living import Living, left_behind
from tests.xds.clients import http1
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 28_000
PORT = BASE_PORT + 90
ADMIN = BASE_PORT + 91
PROXY = "default.client"
SERVICES = [f"api-{number}" for number in range(14)]
CLIENT = {"type": "Dataplane", "mesh": "default", "name": "client", "networking": {"address": "127.0.0.1"}}


def mesh(*, egress: bool) -> dict[str, Any]:
    """Services are reached from the sidecar itself, or through the zone egress."""
    return {
        "type": "Mesh",
        "name": "default",
        "labels": {"zonal.io/allow-addresses": "127.0.0.1"}
        | ({} if egress else {"zonal.io/mes-origination": "sidecar"}),
        "mtls": {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]},
    }


def denied(name: str) -> dict[str, Any]:
    """A permission by which the client may not use a service."""
    spiffe = {"type": "Exact", "value": "spiffe://default/client"}
    rules = [
        {"default": {"deny": [{"spiffeID": spiffe}], "allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://"}}]}}
    ]
    spec = {"targetRef": {"kind": "MeshExternalService", "name": name}, "rules": rules}
    return {"type": "MeshTrafficPermission", "mesh": "default", "name": f"not-{name}", "spec": spec}


class Direct(Living):
    """The zone east, and one sidecar that dials external services itself."""

    async def begin(self, *, declare: bool = True) -> None:
        self.prepare()
        await self.start_control_planes()
        generator = {"selector": {"meshExternalService": {}}, "template": "{{ .DisplayName }}.test"}
        await self.apply(mesh(egress=False), {"type": "HostnameGenerator", "name": "all", "spec": generator})

    async def declare(self, port: int) -> None:
        """All services; each is the server at `port`."""
        spec = {
            "match": {"type": "HostnameGenerator", "port": PORT, "protocol": "http"},
            "endpoints": [{"address": "127.0.0.1", "port": port}],
        }
        kind = {"type": "MeshExternalService", "mesh": "default", "spec": spec}
        await self.apply(*(kind | {"name": name} for name in SERVICES))

    async def apply(self, *resources: dict[str, Any]) -> None:
        """`zonal apply` of these."""
        text = "\n---\n".join(json.dumps(one) for one in resources)
        code, out, err = await self.cli("apply", "-f", str(self.write("applied.yaml", text)))
        assert code == 0, out + err

    async def join(self) -> None:
        """Start the sidecar."""
        path = self.write("client.yaml", json.dumps(CLIENT), public=True)
        token = self._issuer().dataplane_token("default", name="client", zone="east")
        options = ["--dataplane", str(path), "--dns-port", str(ADMIN + 1)]
        await self._proxy("east", "sidecar", token, options, ADMIN, called="client")

    async def status(self, name: str) -> int:
        """What the application is answered by a service."""
        vip, _ = (await self.addresses("east"))[name]
        try:
            return (await http1(vip, PORT)).status
        except OSError:
            return 0

    async def waits(self) -> str:
        """Why the sidecar is not given what there is for it."""
        rows = (await self.api("GET", "/proxies", zone="east"))["items"]
        return next((row["waits"] for row in rows if row["proxy"] == PROXY and row["online"]), "offline")

    async def until(self, name: str, status: int) -> None:
        """Wait until a service answers so."""
        await eventually(lambda: self.status(name), lambda found: found == status, f"{name} answers {status}")

    async def told(self) -> str:
        """What a replay of now says of itself."""
        code, out, err = await self.cli("replay", "--zone", "east", "--proxy", PROXY, "--kind", "Cluster", "-o", "json")
        assert code == 0, err
        return str(json.loads(out)["served"]["told"])


@pytest.fixture
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Direct]:
    """All services answer."""
    directory = tmp_path_factory.mktemp("held")
    with Servers() as servers:
        async with Direct(directory, BASE_PORT) as made:
            await made.begin()
            await made.declare(servers.add("outside").port)
            await made.join()
            for name in SERVICES:
                await made.until(name, 200)
            yield made
    assert left_behind(directory) == []


async def test_a_held_push_holds_no_denial(system: Direct) -> None:
    """Changing the way takes all clusters from the sidecar, so that push waits. Denials do not, nor do they release it;
    what is allowed again waits with it, and all is as it was when the way is changed back.
    """
    first, second, *others = SERVICES
    await system.apply(mesh(egress=True))
    held = await eventually(system.waits, lambda said: said.startswith("held: would remove"), "the push to be held")
    assert await system.status(first) == 200

    await system.apply(denied(first))
    await system.until(first, 403)
    assert [await system.status(one) for one in (second, *others)] == [200] * (len(others) + 1)
    assert await system.waits() == held

    await system.kill("east-zone")
    await system.start("east-zone")
    await eventually(system.waits, lambda said: said == held, "the push to be held as before")
    assert await system.status(first) == 403
    await system.apply(denied(second))
    await system.until(second, 403)
    assert [await system.status(one) for one in others] == [200] * len(others)
    assert await system.waits() == held
    assert "differs" not in await system.told()

    code, _, err = await system.cli("delete", "meshtrafficpermission", f"not-{first}")
    assert code == 0, err
    await system.apply(mesh(egress=False))
    await eventually(system.waits, lambda said: not said, "the push to be held no more")
    await system.until(first, 200)
    assert [await system.status(one) for one in (second, *others)] == [403] + [200] * len(others)
