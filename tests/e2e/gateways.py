"""A system with builtin gateways: real Envoys in both zones, and what is behind them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from shared.demo.looking import eventually
from tests.e2e.living import WITHIN_SECONDS, Living
from tests.xds.clients import Answer, http1

MESH = """\
type: Mesh
name: default
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
"""
OFFSET = 100
"""Ports of gateways are this far above a system's own."""
TAGS = {"kuma.io/service": "edge-gateway"}


class Gateways(Living):
    """Two zones with nothing but control planes, until gateways join."""

    async def begin(self, *, declare: bool = True) -> None:
        """The control planes and a mesh with mutual TLS."""
        self.prepare()
        await self.start_control_planes()
        await self.apply(MESH)

    def port(self, number: int) -> int:
        """A port for a listener."""
        return self.base_port + OFFSET + number

    async def apply(self, text: str, *where: str) -> str:
        """`zonal apply`; what it said."""
        code, out, err = await self.cli("apply", "-f", str(self.write("applied.yaml", text)), *where)
        assert code == 0, out + err
        return out + err

    async def delete(self, kind: str, name: str) -> None:
        """`zonal delete`."""
        code, out, err = await self.cli("delete", kind, name)
        assert code == 0, out + err

    async def join(
        self,
        name: str,
        zone: str = "east",
        *,
        number: int = 0,
        tags: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        """Run `zonal proxy gateway`; number tells its admin port from others'. tags: beside its service."""
        gateway = {"type": "BUILTIN", "tags": {**TAGS, **(tags or {})}}
        networking = {"address": address, "gateway": gateway}
        resource = {"type": "Dataplane", "mesh": "default", "name": name, "networking": networking}
        path = self.write(f"{name}.yaml", json.dumps(resource), public=True)
        token = self._issuer().dataplane_token("default", name=name, zone=zone)
        options = ["--dataplane", str(path)]
        await self._proxy(zone, "gateway", token, options, self.gateway_admin(number), called=name)

    def gateway_admin(self, number: int = 0) -> int:
        """Admin port of a gateway's Envoy."""
        return self.port(80 + number)

    async def listeners(self, number: int = 0, zone: str = "east") -> list[str]:
        """Names of the listeners that a gateway's Envoy has."""
        answer = await self.admin(zone, self.gateway_admin(number), "/listeners?format=json")
        return sorted(one["name"] for one in answer.json.get("listener_statuses", ()))

    async def stat(self, name: str, number: int = 0) -> int:
        """A counter or gauge of a gateway's Envoy."""
        answer = await self.admin("east", self.gateway_admin(number), f"/stats?format=json&filter={name}")
        return sum(int(one["value"]) for one in answer.json["stats"] if "value" in one)

    async def ask(self, number: int, host: str, path: str = "/", headers: str = "") -> Answer:
        """A GET in plaintext."""
        return await http1("127.0.0.1", self.port(number), path, host_header=host, headers=headers)

    async def answers(self, number: int, host: str, status: int, path: str = "/") -> Answer:
        """Wait until a GET is answered so."""
        expected = f"{status} for {host}{path} at {self.port(number)}"
        return await eventually(
            lambda: self.ask(number, host, path), lambda one: one.status == status, expected, WITHIN_SECONDS
        )


def gateway(
    *listeners: dict[str, Any], name: str = "edge", service: str = "edge-gateway", match: dict[str, str] | None = None
) -> str:
    """A MeshGateway as JSON, which is YAML as well."""
    selectors = [{"match": {"kuma.io/service": service, **(match or {})}}]
    conf = {"listeners": list(listeners)}
    whole = {"type": "MeshGateway", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}
    return json.dumps(whole) + "\n---\n"


def secret(name: str, pem: str) -> str:
    """A Secret with a certificate and its key."""
    data = b64encode(pem.encode()).decode()
    return json.dumps({"type": "Secret", "mesh": "default", "name": name, "data": data}) + "\n---\n"
