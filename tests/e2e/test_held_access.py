"""A push to a real sidecar is held; who loses access meanwhile loses it, over a restart of the zone too. Certificates
that are rotated reach it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from shared.demo.looking import eventually
from tests.e2e.handshakes import Issuer
from tests.e2e.living import Living
from tests.e2e.rotating import Rotating
from tests.xds.clients import http1
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 28_200
PORT = BASE_PORT + 90
ADMIN = BASE_PORT + 91
PROXY = "default.client"
ROTATING = "rotating"
HELD = "held: would remove"
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


def secret(name: str, text: str) -> dict[str, Any]:
    """A Secret that holds a text."""
    return {"type": "Secret", "mesh": "default", "name": name, "data": base64.b64encode(text.encode()).decode()}


def client_pair(pair: tuple[str, str]) -> tuple[dict[str, Any], ...]:
    """The two Secrets of a client certificate."""
    return secret("rot-cert", pair[0]), secret("rot-key", pair[1])


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

    async def declare_rotating(self, port: int, authority: str, pair: tuple[str, str]) -> None:
        """A service that is dialled with a CA and a client certificate of Secrets."""
        names = {"caCert": "rot-ca", "clientCert": "rot-cert", "clientKey": "rot-key"}
        verification = {"serverName": ROTATING} | {field: {"secret": name} for field, name in names.items()}
        spec = {
            "match": {"type": "HostnameGenerator", "port": PORT, "protocol": "http"},
            "endpoints": [{"address": "127.0.0.1", "port": port}],
            "tls": {"enabled": True, "verification": verification},
        }
        declared = {"type": "MeshExternalService", "mesh": "default", "name": ROTATING, "spec": spec}
        await self.apply(secret("rot-ca", authority), *client_pair(pair), declared)

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


async def test_a_held_push_holds_no_denial(system: Direct) -> None:
    """Changing the way takes all clusters from the sidecar, so that push waits. Denials do not, nor do they release it;
    what is allowed again waits with it, and all is as it was when the way is changed back.
    """
    first, second, *others = SERVICES
    await system.apply(mesh(egress=True))
    held = await eventually(system.waits, lambda said: said.startswith(HELD), "the push to be held")
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


async def test_a_held_push_holds_no_rotated_secret(system: Direct, tmp_path: Path) -> None:
    """CA and client certificate of a service reach who serves it while its push waits; a Secret that goes closes it."""
    authorities, clients = ([Issuer(f"{side} {number}") for number in range(2)] for side in ("outside", "clients"))
    servers = [one.issue(ROTATING, x509.DNSName(ROTATING)) for one in authorities]
    pairs = [one.issue(f"client-{number}") for number, one in enumerate(clients)]
    with Rotating(tmp_path) as outside:
        outside.rotate(servers[0], clients[0].pem)
        await system.declare_rotating(outside.http, authorities[0].pem, pairs[0])
        await system.until(ROTATING, 200)
        await system.apply(mesh(egress=True))
        held = await eventually(system.waits, lambda said: said.startswith(HELD), "the push to be held")

        outside.rotate(servers[1], clients[0].pem)
        await system.until(ROTATING, 503)
        await system.apply(secret("rot-ca", authorities[1].pem))
        await system.until(ROTATING, 200)
        outside.rotate(servers[1], clients[1].pem)
        await system.until(ROTATING, 503)
        await system.apply(*client_pair(pairs[1]))
        await system.until(ROTATING, 200)
        assert await system.waits() == held
        assert "differs" not in await system.told()

        await system.kill("east-zone")
        outside.rotate(servers[0], clients[1].pem)
        await system.start("east-zone")
        await system.until(ROTATING, 503)
        await system.apply(secret("rot-ca", authorities[0].pem))
        await system.until(ROTATING, 200)
        assert await system.waits() == held

        code, _, err = await system.cli("delete", "secret", "rot-ca")
        assert code == 0, err
        await system.until(ROTATING, 503)
        assert await system.status(SERVICES[0]) == 200
        assert await system.waits() == held
