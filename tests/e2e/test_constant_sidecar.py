"""A sidecar behind a redirect stays what it is while a thousand external services come: a whole system, real Envoys."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.demo import application
from shared.demo.looking import eventually
from shared.demo.placement import ZONES, Loopback
from tests.conftest import take_port
from tests.e2e.living import WITHIN_SECONDS, Living

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
BASE_PORT = 27_400
ZONE = "east"
MANY = 1000
LOAD_ABOVE = 500
"""The zone's egress holds every cluster at first, and loads them when they are used by the end."""
APPLY_SECONDS = 60.0
RATIO = 1.15
"""Of a sidecar's memory with and without the services: ten thousand of them would double it many times over."""


class Wide(Loopback):
    """Room for more VIPs than the demo needs."""

    def vip_range(self, zone: str) -> IPv4Network:
        return IPv4Network(f"127.{200 + ZONES.index(zone)}.0.0/17")


class Redirected(Living):
    """The demo, with one more sidecar in a zone: connections to VIPs arrive at its original-destination listener."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, BASE_PORT)
        self.placement = Wide(BASE_PORT)
        self.port, self.pinned, self.admin_port, self.dns = take_port(), take_port(), take_port(), take_port()

    def prepare(self) -> None:
        super().prepare()
        place = self.deployment.zone_settings(ZONE)
        said = f"egress_on_demand_above: {LOAD_ABOVE}"
        text, found = re.subn(r"egress_on_demand_above: \d+", said, place.read_text())
        assert found == 1
        place.write_text(text)

    async def join(self) -> None:
        """Start the sidecar."""
        networking = {
            "address": "127.0.0.1",
            "inbound": [{"port": take_port(), "servicePort": 1, "tags": {"kuma.io/service": "batch"}}],
            "outbound": [{"port": self.pinned, "backendRef": {"kind": "MeshExternalService", "name": "pinned"}}],
            "transparentProxying": {"redirectPortOutbound": self.port},
        }
        dataplane = {"type": "Dataplane", "name": "batch", "mesh": "default", "networking": networking}
        path = self.write("batch.yaml", yaml.safe_dump(dataplane), public=True)
        options = ["--dataplane", str(path), "--dns-enabled", "--dns-port", str(self.dns), "--concurrency", "1"]
        token = self._issuer().dataplane_token("default", name="batch", zone=ZONE)
        await self._proxy(ZONE, "sidecar", token, options, self.admin_port, called="batch")
        await eventually(
            lambda: self.stats("state"), lambda said: said["server.state"] == 0, "it is ready", WITHIN_SECONDS
        )

    async def stats(self, pattern: str) -> dict[str, int]:
        """Counters and gauges of the sidecar's Envoy."""
        answer = await self.admin(ZONE, self.admin_port, f"/stats?filter={pattern}")
        return {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", answer.text, re.MULTILINE)}

    async def messages(self) -> int:
        """How many xDS responses it has received."""
        return sum((await self.stats("update_attempt$")).values())

    async def resident(self) -> int:
        """Bytes of memory of the sidecar's Envoy."""
        agent = self.pid(f"{ZONE}-batch")
        (envoy,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{envoy}/status").read_text())[0]) << 10

    async def apply(self, *resources: dict[str, Any]) -> None:
        """One `zonal apply` on global."""
        path = self.write("applied.yaml", yaml.safe_dump_all(resources))
        async with asyncio.timeout(APPLY_SECONDS):
            code, out, err = await self.cli("apply", "-f", str(path))
        assert code == 0, (out, err)

    def service(self, name: str, protocol: str = "http") -> dict[str, Any]:
        """A service at the demo's plain HTTP server, of either class, on the port that the sidecar listens on."""
        match = {"type": "HostnameGenerator", "port": self.port, "protocol": protocol}
        spec = {"match": match, "endpoints": [{"address": self.services.host, "port": self.services.http}]}
        labels = {"kuma.io/mesh": "default"}
        return {"type": "MeshExternalService", "mesh": "default", "name": name, "labels": labels, "spec": spec}

    async def status_of(self, name: str) -> int:
        """Status of a request to its hostname, as the workload beside the sidecar makes it."""
        vip = await application.resolve(f"{name}.ext.mesh", self.dns)
        return (await application.get(vip, self.port, name)).status

    async def reached(self, name: str) -> None:
        """Wait until a service is answered by its name."""
        await eventually(lambda: self.status_of(name), lambda status: status == 200, f"200 of {name}", WITHIN_SECONDS)

    async def intended(self, proxy: str) -> bool:
        """Whether a proxy's Envoy has what its zone says it was sent."""
        at = (
            "--api",
            f"http://127.0.0.1:{self.zone_ports[ZONE].api}",
            "--token-file",
            str(self.deployment.admin_token),
        )
        code, told, _ = await self.cli("inspect", "xds", proxy, "--actual", *at)
        return (code, "Envoy has what is intended." in told) == (0, True)

    async def ready(self) -> set[str]:
        """Services that the zone says are ready."""
        listed = await self.api("GET", f"/status/meshexternalservices?size={10 * MANY}", zone=ZONE)
        return {
            row["name"]
            for row in listed["items"]
            if any(one["type"] == "Ready" and one["status"] == "True" for one in row["conditions"])
        }


async def test_a_thousand_services_are_no_message_to_a_sidecar(tmp_path: Path) -> None:
    """One apply adds them: the redirected sidecar hears nothing, grows nothing, and reaches every one of them.

    Started again beside them it is told no more than it was told without them. What is special about a service (an
    explicit outbound, a client's policy) gets a listener or chain of its own, beside the one that serves the rest.
    """
    names = [f"many-{number}" for number in range(MANY)]
    async with Redirected(tmp_path) as system:
        await system.begin()
        for zone in ZONES:  # they would listen at VIPs of the same host, at the port of the one that is looked at
            await system.kill(f"{zone}-sidecar")
        await system.apply(system.service("pinned"))
        await system.settled(ZONE, lambda rows: "pinned" in rows, "the pinned service")
        await system.join()
        await system.reached("pinned")
        explicit = partial(application.get, "127.0.0.1", system.pinned, "pinned")
        await eventually(explicit, lambda answer: answer.status == 200, "the explicit outbound", WITHIN_SECONDS)
        messages, resident = await system.messages(), await system.resident()

        await system.apply(*(system.service(name, "tcp" if name.endswith("7") else "http") for name in names))
        await eventually(system.ready, lambda ready: ready >= {*names}, f"{MANY} services are ready", APPLY_SECONDS)
        assert await system.messages() == messages
        assert await system.resident() < RATIO * resident
        for name in ("many-0", "many-7", "many-500", "many-997", "pinned"):
            await system.reached(name)
        assert await system.messages() == messages
        egress = await system.admin(ZONE, system.egress_admin(ZONE), "/clusters")
        assert len(re.findall(r"^mes/.+::observability_name::", egress.text, re.MULTILINE)) < MANY

        await eventually(lambda: system.intended(".egress"), bool, "the egress has what is intended", WITHIN_SECONDS)

        await system.terminate(f"{ZONE}-batch")
        await system.start(f"{ZONE}-batch")
        await system.reached("many-1")
        told = await system.messages()
        assert told <= messages
        assert await system.resident() < RATIO * resident

        await system.apply(timeout("http", "many-2"), timeout("tcp", "many-17"))
        await eventually(system.messages, lambda count: count > told, "the chains of a policy", WITHIN_SECONDS)
        for name in ("many-2", "many-17", "many-3", "many-27", "pinned"):
            await system.reached(name)
        assert (await explicit()).status == 200


def timeout(name: str, service: str) -> dict[str, Any]:
    """A client-side policy on one service."""
    rule = {
        "targetRef": {"kind": "MeshExternalService", "name": service},
        "default": {"idleTimeout": "20s", "http": {"requestTimeout": "7s"}},
    }
    spec = {"targetRef": {"kind": "Mesh"}, "to": [rule]}
    return {"type": "MeshTimeout", "mesh": "default", "name": name, "spec": spec}
