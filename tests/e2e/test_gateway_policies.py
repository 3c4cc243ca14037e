"""Policies on the traffic of builtin gateways, on real Envoys: what they do, and to which listeners (A9, B)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.demo.looking import eventually
from tests.e2e.living import WITHIN_SECONDS
from tests.e2e.test_gateway_routes import (
    DIRECT,
    HTTP,
    MTLS,
    TCP,
    WIDE,
    Routed,
    all_to,
    external,
    policy,
)
from tests.xds.clients import tcp
from tests.xds.servers import Servers, while_busy

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 30_600
OUTSIDE = ("mes", "es", "lines")


class Governed(Routed):
    """Requests to `/red` lead to a service of the mesh, `/mes` to one beyond it; `/pair` to one with two instances."""

    async def begin(self, *, declare: bool = True) -> None:
        """The same routes on both listeners of HTTP."""
        await super().begin()
        await self.pair()
        await self.apply(MTLS + "---\n" + self.both())
        rules: list[dict[str, Any]] = []
        for name in ("red", "blue", "pair"):
            rules += led(name, {"kind": "MeshService", "name": name})
        for name in ("mes", "both"):
            rules += led(name, external(name))
        for tag in ("one", "two"):
            await self.apply(policy("MeshHTTPRoute", f"on-{tag}", tags={"port": tag}, rules=rules))
        rows = [{"default": {"backendRefs": [{"kind": "MeshService", "name": "rows"}]}}]
        await self.apply(policy("MeshTCPRoute", "rows", rules=rows))
        for name in ("red", "mes", "pair", "both"):
            for port in (HTTP, WIDE):
                await self.wait(lambda one: one.status == 200, f"{name} at {port}", f"/{name}", at=port)

    async def pair(self) -> None:
        """A Dataplane with two inbounds of one service, in front of `red` and `blue`."""
        inbound = [
            {
                "port": self.port(30 + number),
                "servicePort": self.servers[name].port,
                "tags": {"kuma.io/service": "pair", "kuma.io/protocol": "http"},
            }
            for number, name in enumerate(("red", "blue"))
        ]
        await self.sidecar("pair", inbound, 10)

    def both(self) -> str:
        """A service beyond the mesh with two endpoints."""
        endpoints = [{"address": "127.0.0.1", "port": self.servers[name].port} for name in ("mes", "es")]
        spec = {"match": {"type": "HostnameGenerator", "port": 80, "protocol": "http"}, "endpoints": endpoints}
        return json.dumps({"type": "MeshExternalService", "mesh": "default", "name": "both", "spec": spec}) + "\n---\n"

    async def attempts(self, name: str, at: int = HTTP) -> int:
        """How often its server is asked because of one request."""
        before = self.servers[name].seen
        await self.request(f"/{name}", at=at)
        return self.servers[name].seen - before

    async def tried(self, name: str, count: int, at: int = HTTP) -> None:
        """Wait until that is so many times."""
        wanted = f"{count} attempts at {name} from {at}"
        await eventually(lambda: self.attempts(name, at), lambda found: found == count, wanted, WITHIN_SECONDS)

    async def at_once(self, name: str, at: int = HTTP, count: int = 3) -> list[int]:
        """Statuses of requests that take half a second, made at the same time."""
        asked = (self.request(f"/{name}/slow/0.5", at=at) for _ in range(count))
        return sorted(one.status for one in await asyncio.gather(*asked))

    async def shed(self, name: str, at: int = HTTP) -> None:
        """Wait until some of them are refused."""
        await eventually(lambda: self.at_once(name, at), lambda found: 503 in found, f"{name} sheds", WITHIN_SECONDS)

    async def while_busy(self, name: str) -> set[str]:
        """Which servers answer while one of them is at work."""
        return await while_busy(lambda path: self.request(f"/{name}{path}"), self.servers.values())

    async def restore(self, *policies: tuple[str, str]) -> None:
        """As it was."""
        for kind, name in policies:
            await self.delete(kind, name)
        for server in self.servers.values():
            server.status = 200
        for name in ("red", "mes"):
            for port in (HTTP, WIDE):
                await self.wait(lambda one: one.status == 200, f"{name} at {port}", f"/{name}", at=port)
                await self.tried(name, 1, port)


def led(name: str, reference: dict[str, Any]) -> list[dict[str, Any]]:
    """The rule for what begins with a name, which the server does not see."""
    found = all_to(reference, filters=({"type": "URLRewrite", "urlRewrite": {"path": REPLACED}},))
    return [one | {"matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}]} for one in found]


REPLACED = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Governed]:
    """No policy is declared yet."""
    directory = tmp_path_factory.mktemp("gateway-policies")
    with Servers() as servers:
        async with Governed(directory, BASE_PORT, servers=servers) as made:
            await made.begin()
            yield made


FAST = {"baseInterval": "1ms", "maxInterval": "2ms"}


def retries(count: int) -> dict[str, Any]:
    """A MeshRetry's default, for a status that nobody retries by himself."""
    return {"http": {"numRetries": count, "retryOn": ["418"], "backOff": FAST}}


async def test_what_a_retry_names_is_tried_again_that_often(system: Governed) -> None:
    """MeshRetry: by the gateway alone, in the mesh and beyond; of its listeners by those with the tags."""
    for name in ("red", "mes"):
        system.servers[name].status = 418
        assert await system.attempts(name) == 1
    await system.apply(policy("MeshRetry", "again", default=retries(3), tags={"port": "one"}))
    for name in ("red", "mes"):
        await system.tried(name, 4)
        assert await system.attempts(name, WIDE) == 1
    await system.restore(("MeshRetry", "again"))


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_what_is_said_of_an_external_service_holds_where_a_route_leads_to_it(system: Governed, mesh: str) -> None:
    """MeshRetry and MeshTimeout `to: MeshExternalService`: of others what the mesh says."""
    await system.apply(mesh)
    for name in ("red", "mes"):
        system.servers[name].status = 418
    mes = {"targetRef": {"kind": "MeshExternalService", "name": "mes"}}
    await system.apply(
        policy("MeshRetry", "all", default=retries(1)) + policy("MeshRetry", "mes", default=retries(3), **mes)
    )
    await system.tried("mes", 4)
    await system.tried("red", 2)
    await system.delete("MeshRetry", "all")
    await system.delete("MeshRetry", "mes")
    short = {"http": {"requestTimeout": "200ms"}}
    await system.apply(policy("MeshTimeout", "mes", default=short, **mes))
    await system.wait(lambda one: one.status == 504, "504 for what takes too long", "/mes/slow/1")
    assert (await system.request("/red/slow/0.6")).status == 200
    await system.apply(MTLS)
    await system.restore(("MeshTimeout", "mes"))


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_a_limit_sheds_what_is_too_much(system: Governed, mesh: str) -> None:
    """MeshCircuitBreaker connectionLimits: for each destination that the gateway dials, and from the listeners that it
    means. What is behind the zone egress is limited there, for all clients alike (B2).
    """
    await system.apply(mesh)
    limits = {"connectionLimits": {"maxConnections": 1, "maxPendingRequests": 1, "maxRequests": 1}}
    await system.apply(policy("MeshCircuitBreaker", "few", default=limits, tags={"port": "one"}))
    await system.shed("red")
    assert await system.at_once("red", WIDE) == [200, 200, 200]
    if mesh == DIRECT:
        await system.shed("mes")
    else:
        assert await system.at_once("mes") == [200, 200, 200]
    assert await system.at_once("mes", WIDE) == [200, 200, 200]
    await system.apply(MTLS)
    await system.restore(("MeshCircuitBreaker", "few"))


async def test_a_limit_for_all_clients_is_kept_at_the_egress(system: Governed) -> None:
    """MeshCircuitBreaker on the whole mesh: a gateway's requests count there as a sidecar's do."""
    limits = {"maxConnections": 1, "maxPendingRequests": 1, "maxRequests": 1}
    to_mes = {"targetRef": {"kind": "MeshExternalService", "name": "mes"}, "default": {"connectionLimits": limits}}
    await system.apply(on_all("MeshCircuitBreaker", "few", to_mes))
    await system.shed("mes")
    assert await system.at_once("red") == [200, 200, 200]
    await system.restore(("MeshCircuitBreaker", "few"))


def on_all(kind: str, name: str, *items: dict[str, Any]) -> str:
    """A policy on every proxy of the mesh."""
    spec = {"targetRef": {"kind": "Mesh"}, "to": list(items)}
    return json.dumps({"type": kind, "mesh": "default", "name": name, "spec": spec}) + "\n---\n"


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_an_instance_that_fails_is_ejected(system: Governed, mesh: str) -> None:
    """MeshCircuitBreaker outlierDetection: of two, the one that fails is left alone for a while."""
    await system.apply(mesh)
    detection = {
        "interval": "100ms",
        "baseEjectionTime": "60s",
        "maxEjectionPercent": 100,
        "detectors": {"totalFailures": {"consecutive": 2}},
    }
    system.servers["blue"].status = system.servers["es"].status = 500
    await system.apply(policy("MeshCircuitBreaker", "eject", default={"outlierDetection": detection}))
    for name in ("pair", "both") if mesh == DIRECT else ("pair",):

        async def statuses(name: str = name) -> set[int]:
            return {(await system.request(f"/{name}")).status for _ in range(6)}

        await eventually(statuses, lambda found: found == {200}, f"{name} answers well", WITHIN_SECONDS)
    await system.apply(MTLS)
    await system.restore(("MeshCircuitBreaker", "eject"))


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_who_is_not_well_gets_no_traffic(system: Governed, mesh: str) -> None:
    """MeshHealthCheck: instances in the mesh by mutual TLS, and what the gateway dials beyond it."""
    await system.apply(mesh)
    check = {
        "interval": "100ms",
        "noTrafficInterval": "100ms",
        "timeout": "1s",
        "unhealthyThreshold": 1,
        "healthyPanicThreshold": 0,
        "http": {"path": "/"},
    }
    await system.apply(policy("MeshHealthCheck", "well", default=check))
    names = ("red", "mes") if mesh == DIRECT else ("red",)
    for name in names:
        seen = system.servers[name].seen
        server = system.servers[name]

        async def checks(server: Any = server, seen: int = seen) -> int:
            return int(server.seen) - seen

        await eventually(checks, lambda count: count > 3, f"{name} is checked", WITHIN_SECONDS)
        assert (await system.request(f"/{name}")).status == 200
        server.status = 500
        await system.wait(lambda one: one.status == 503, f"{name} is left alone", f"/{name}")
        server.status = 200
        await system.wait(lambda one: one.status == 200, f"{name} is well again", f"/{name}")
    await system.delete("MeshHealthCheck", "well")
    await system.apply(MTLS)


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_the_instance_with_the_fewest_requests_is_chosen(system: Governed, mesh: str) -> None:
    """MeshLoadBalancingStrategy LeastRequest: who is busy gets nothing while another is free."""
    await system.apply(mesh)
    strategy = {"loadBalancer": {"type": "LeastRequest", "leastRequest": {"choiceCount": 10}}}
    names = ("pair", "both") if mesh == DIRECT else ("pair",)
    for name in names:
        await eventually(
            partial(system.while_busy, name), lambda found: len(found) == 2, f"{name} by turns", WITHIN_SECONDS
        )
    await system.apply(policy("MeshLoadBalancingStrategy", "least", default=strategy))
    for name in names:
        await eventually(
            partial(system.while_busy, name), lambda found: len(found) == 1, f"{name} that is free", WITHIN_SECONDS
        )
    await system.apply(MTLS)
    await system.restore(("MeshLoadBalancingStrategy", "least"))


def holds(line: str, lines: Counter[str]) -> bool:
    """Whether it is one of them."""
    return line in lines


async def test_a_gateway_writes_who_was_called(system: Governed, tmp_path: Path) -> None:
    """MeshAccessLog: requests and connections from its own service; a policy may mean one listener."""
    all_of_them, one_port, fields = (tmp_path / name for name in ("all.log", "one.log", "fields.log"))
    text = "%KUMA_MESH% %KUMA_SOURCE_SERVICE% %REQ(:PATH)% %RESPONSE_CODE%"
    json_format = [{"key": "from", "value": "%KUMA_SOURCE_SERVICE%"}, {"key": "code", "value": "%RESPONSE_CODE%"}]
    formatted = {"type": "Plain", "plain": text}
    backends = [
        {"type": "File", "file": {"path": str(one_port), "format": formatted}},
        {"type": "File", "file": {"path": str(fields), "format": {"type": "Json", "json": json_format}}},
    ]
    everything = {"backends": [{"type": "File", "file": {"path": str(all_of_them), "format": formatted}}]}
    await system.apply(
        policy("MeshAccessLog", "all", default=everything)
        + policy("MeshAccessLog", "one", default={"backends": backends}, tags={"port": "one"})
    )

    async def lines(file: Path, at: int, text: str = "/red/called") -> Counter[str]:
        await (tcp("127.0.0.1", system.port(TCP)) if at == TCP else system.request(text, at=at))
        return Counter(file.read_text().splitlines() if file.exists() else ())

    for file, at, wanted in (
        (one_port, HTTP, "default edge-gateway /called 200"),
        (all_of_them, WIDE, "default edge-gateway /called 200"),
        (all_of_them, TCP, "default edge-gateway - 0"),
    ):
        await eventually(partial(lines, file, at), partial(holds, wanted), wanted, WITHIN_SECONDS)
    counted = await eventually(partial(lines, fields, HTTP), bool, "a line of fields", WITHIN_SECONDS)
    assert [json.loads(line) for line in counted] == [{"from": "edge-gateway", "code": 200}]
    await system.request("/red/elsewhere", at=WIDE)
    later = partial(lines, one_port, HTTP, "/red/after")
    seen = await eventually(later, partial(holds, "default edge-gateway /after 200"), "a later line", WITHIN_SECONDS)
    assert not any("elsewhere" in line for line in seen)
    await system.restore(("MeshAccessLog", "all"), ("MeshAccessLog", "one"))
