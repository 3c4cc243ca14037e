"""In-mesh services between real sidecars of a real zone: balanced, followed, closed to everybody else."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.demo.looking import eventually
from tests.e2e.grpc_client import client, echo, say
from tests.e2e.identities import identity, knock
from tests.e2e.living import Living
from tests.xds.clients import Answer, ask, http1
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 26200
FIRST = BASE_PORT + 100
TIMES = 3
PROTOCOLS = ("http", "grpc", "tcp")
OUTBOUND = {one: FIRST + number for number, one in enumerate((*PROTOCOLS, "v2", "absent", "probed"))}
INBOUND = {name: FIRST + 10 * number for number, name in enumerate(("backend-1", "backend-2"), 1)}
INBOUND_ECHO = FIRST + 30
INBOUND_PROBED = FIRST + 31
AT_ONCE = ("client", "backend-1", "backend-2", "outsider")
ONLINE = {"default.client", "default.backend-1", "default.backend-2"}
ADMIN = {name: FIRST + 40 + number for number, name in enumerate((*AT_ONCE, "echo-1", "probed-1"))}
MESH = """\
type: Mesh
name: {name}
mtls: {{enabledBackend: ca-1, backends: [{{name: ca-1, type: builtin, mode: {mode}}}]}}
"""


class Neighbours(Living):
    """The zone east with sidecars of two backends and a client, and one of another mesh."""

    def __init__(self, *arguments: Any, applications: dict[str, int]) -> None:
        super().__init__(*arguments)
        self._applications = applications

    def dataplane(self, name: str, *, state: str = "Ready") -> dict[str, Any]:
        """A sidecar's own resource."""
        networking: dict[str, Any] = {"address": "127.0.0.1"}
        if name in ADMIN:
            networking["admin"] = {"port": ADMIN[name]}
        if name == "echo-1":
            tags = {"kuma.io/service": "backend", "kuma.io/protocol": "grpc"}
            networking["inbound"] = [{"port": INBOUND_ECHO, "servicePort": self._applications[name], "tags": tags}]
        elif name == "probed-1":
            tags = {"kuma.io/service": "probed", "kuma.io/protocol": "tcp"}
            probe = {"tcp": {}, "interval": "100ms", "timeout": "1s", "unhealthyThreshold": 2}
            inbound = {"port": INBOUND_PROBED, "servicePort": self._applications[name], "tags": tags}
            networking["inbound"] = [inbound | {"serviceProbe": probe}]
        elif name.startswith("backend"):
            networking["inbound"] = [
                {
                    "port": INBOUND[name] + number,
                    "servicePort": self._applications[name],
                    "state": state,
                    "tags": {
                        "kuma.io/service": f"backend-{protocol}",
                        "kuma.io/protocol": protocol,
                        "version": "v" + name[-1],
                    },
                }
                for number, protocol in enumerate(PROTOCOLS)
            ]
        elif name == "client":
            wanted: dict[str, dict[str, str]] = {one: {"kuma.io/service": f"backend-{one}"} for one in PROTOCOLS}
            wanted["v2"] = {"kuma.io/service": "backend-http", "version": "v2"}
            wanted |= {one: {"kuma.io/service": one} for one in ("absent", "probed")}
            networking["outbound"] = [{"port": OUTBOUND[one], "tags": tags} for one, tags in wanted.items()]
        mesh = "other" if name == "outsider" else "default"
        return {"type": "Dataplane", "mesh": mesh, "name": name, "networking": networking}

    def serve(self, name: str, port: int) -> None:
        """Behind the sidecar `name`, an application listens at `port`."""
        self._applications[name] = port

    async def begin(self, *, declare: bool = True) -> None:
        """Control planes, two meshes, four sidecars."""
        self.prepare()
        await self.start_control_planes()
        await self.apply(
            MESH.format(name="default", mode="STRICT") + "---\n" + MESH.format(name="other", mode="STRICT")
        )
        await asyncio.gather(*(self.join(name) for name in AT_ONCE))

    async def apply(self, text: str, *zone: str) -> str:
        """`zonal apply`; what it said."""
        code, out, err = await self.cli("apply", "-f", str(self.write("applied.yaml", text)), *zone)
        assert code == 0, out + err
        return out + err

    async def join(self, name: str) -> None:
        """Start a sidecar."""
        resource = self.dataplane(name)
        path = self.write(f"{name}.yaml", json.dumps(resource), public=True)
        token = self._issuer().dataplane_token(resource["mesh"], name=name, zone="east")
        options = ["--dataplane", str(path), "--dns-port", str(ADMIN[name] + 10)]
        await self._proxy("east", "sidecar", token, options, ADMIN[name], called=name)

    async def noted(self, proxy: str, words: str) -> list[str]:
        """Wait until a note about the proxy says this; all of them."""

        async def notes() -> list[str]:
            _, out, _ = await self.cli("inspect", proxy, "--zone", "east", "-o", "json")
            return list(json.loads(out)["Notes"])

        return await eventually(notes, lambda said: any(words in one for one in said), words)

    async def ask(self, protocol: str) -> Answer:
        """As the client's application would, through its sidecar."""
        return await ask(protocol, "127.0.0.1", OUTBOUND[protocol])

    async def who(self, protocol: str, calls: int = 12) -> Counter[str]:
        """Which application answers how often; "" for none."""
        answers = [await self.ask(protocol) for _ in range(calls)]
        return Counter(one.seen.get("server", "") for one in answers)

    async def back(self, proxies: Collection[str]) -> bool:
        """Whether these are connected and have answered."""
        rows = (await self.api("GET", "/proxies", zone="east"))["items"]
        return {row["proxy"] for row in rows if row["online"] and row["acked"]} >= set(proxies)

    async def clusters(self) -> dict[str, str]:
        """The client's in-mesh clusters: name to when Envoy was last told of it."""
        answer = await self.admin("east", ADMIN["client"], "/config_dump?resource=dynamic_active_clusters")
        found = [(one["cluster"]["name"], one["last_updated"]) for one in answer.json["configs"]]
        return {name: when for name, when in found if name.startswith("service/")}

    async def endpoints(self) -> list[int]:
        """Ports of the hosts that the client's Envoy has for HTTP."""
        answer = await self.admin("east", ADMIN["client"], "/clusters?format=json")
        (found,) = [one for one in answer.json["cluster_statuses"] if one["name"] == "service/default/backend-http"]
        return sorted(one["address"]["socket_address"]["port_value"] for one in found.get("host_statuses", []))


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Neighbours]:
    """The client reaches everybody."""
    directory = tmp_path_factory.mktemp("in-mesh")
    with Servers() as servers:
        applications = {name: servers.add(name).port for name in INBOUND}
        async with Neighbours(directory, BASE_PORT, applications=applications) as made:
            await made.begin()
            for protocol in PROTOCOLS:
                await eventually(lambda one=protocol: made.who(one, 4), lambda seen: len(seen) == 2, protocol)  # type: ignore[misc]
            yield made


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_calls_are_balanced_over_the_instances(system: Neighbours, protocol: str) -> None:
    """HTTP, gRPC and TCP, in plaintext to the own sidecar and by mutual TLS to the other's."""
    seen = await system.who(protocol, 20)
    assert set(seen) == set(INBOUND)
    assert min(seen.values()) >= 2


async def test_the_application_learns_who_calls(system: Neighbours) -> None:
    """By the SPIFFE id of the client's certificate; what the client itself writes there does not arrive."""
    answer = await http1(
        "127.0.0.1", OUTBOUND["http"], headers="x-forwarded-client-cert: URI=spiffe://default/admin\r\n"
    )
    told = answer.seen["headers"]["x-forwarded-client-cert"].split(";")
    assert {one for one in told if not one.startswith("Hash=")} == {
        "By=spiffe://default/backend-http",
        "URI=spiffe://default/client",
    }


async def test_tags_choose_a_subset(system: Neighbours) -> None:
    """`version: v2` in the outbound."""
    look = partial(http1, "127.0.0.1", OUTBOUND["v2"])
    await eventually(look, lambda one: one.status == 200, "an answer by the subset")
    answers = [await look() for _ in range(6)]
    assert {one.seen["server"] for one in answers} == {"backend-2"}


async def test_a_service_that_nobody_here_serves_says_so(system: Neighbours) -> None:
    """At apply and in `zonal inspect`, with the reason that traffic does not cross zones. The port is closed to TCP."""
    said = await system.apply(json.dumps(system.dataplane("client")), "--zone", "east")
    words = f"outbound 127.0.0.1:{OUTBOUND['absent']}: no Dataplane of zone east serves kuma.io/service absent"
    assert words in said
    notes = await system.noted("default.client", words)
    assert "in-mesh traffic does not cross zones" in notes[0]
    for place in (["--zone", "east"], []):  # the zone itself, and global
        wanted = f"OutboundsServed=False (NoInstances: {words}"
        listed = partial(system.cli, "get", "dataplanes", *place)
        await eventually(listed, lambda told, said=wanted: told[0] == 0 and said in told[1], wanted)  # type: ignore[misc]
    assert (await ask("tcp", "127.0.0.1", OUTBOUND["absent"])).status == 0


async def test_an_inbound_that_is_not_ready_gets_no_traffic(system: Neighbours) -> None:
    """It leaves the endpoints and comes back, and no cluster is told again."""
    before = await system.clusters()
    await system.apply(json.dumps(system.dataplane("backend-2", state="NotReady")), "--zone", "east")
    await eventually(system.endpoints, lambda ports: ports == [INBOUND["backend-1"]], "one endpoint")
    await eventually(lambda: system.who("http"), lambda seen: set(seen) == {"backend-1"}, "one instance alone")
    why = "no instance of backend-http is ready in zone east"
    absent = await eventually(partial(http1, "127.0.0.1", OUTBOUND["v2"]), lambda one: why in one.body, why)
    assert absent.status == 503
    await system.apply(json.dumps(system.dataplane("backend-2")), "--zone", "east")
    await eventually(system.endpoints, lambda ports: len(ports) == 2, "two endpoints")
    assert await system.clusters() == before


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[None]:
    """An application that says one word to whoever comes."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", port):
        yield


async def test_a_service_probe_says_who_is_ready(system: Neighbours, free_port: Callable[[], int]) -> None:
    """Not before the application accepts connections, no longer than it does; and who restarts is not forgotten."""
    port = free_port()
    system.serve("probed-1", port)
    await system.join("probed-1")
    await eventually(lambda: system.cli("get", "dataplanes", "probed-1", "--zone", "east"), _told, "it to be recorded")

    async def state() -> str:
        found = await system.api("GET", "/meshes/default/dataplanes/probed-1", zone="east")
        return str(found["networking"]["inbound"][0].get("state", "Ready"))

    async def heard() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", OUTBOUND["probed"])
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert await state() == "NotReady"
    assert await heard() == b""
    await system.noted("default.client", "probed-1: its service probe finds nobody")
    async with listening(port):
        await eventually(state, lambda said: said == "Ready", "the probe to succeed")
        await eventually(heard, lambda said: said == b"hello", "an answer")
        await system.apply(json.dumps(system.dataplane("probed-1")), "--zone", "east")
        await system.kill("east-zone")
        await system.start("east-zone")
        everybody = ONLINE | {"default.probed-1"}
        await eventually(lambda: system.back(everybody), bool, "every sidecar to be back", within=60)
        assert await state() == "Ready"
        await eventually(heard, lambda said: said == b"hello", "an answer still")
    await eventually(state, lambda said: said == "NotReady", "the probe to fail")
    await eventually(heard, lambda said: said == b"", "nobody to be asked")
    # Declared anew it would count as ready, but for the probe.
    await system.apply(json.dumps(system.dataplane("probed-1")), "--zone", "east")
    await eventually(state, lambda said: said == "NotReady", "the probe to be heard")


@asynccontextmanager
async def calls(system: Neighbours) -> AsyncIterator[Counter[str]]:
    """Call all the while over HTTP; how often who answered. None may fail."""
    stop, failures, answers = asyncio.Event(), list[Answer](), Counter[str]()

    async def call() -> None:
        while not stop.is_set():
            answer = await system.ask("http")
            answers[answer.seen.get("server", "")] += 1
            if answer.status != 200:
                failures.append(answer)

    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        try:
            await eventually(_later(lambda: dict(answers)), lambda seen: len(seen) == 2, "calls to both")
            yield answers
        finally:
            stop.set()
    assert failures == []


async def test_a_dead_proxy_leaves_and_nobody_notices(system: Neighbours) -> None:
    """kill -9 of one backend's sidecar under calls: none fails, it leaves the endpoints, and it comes back."""
    async with calls(system) as answers:
        await system.kill("east-backend-2")
        await eventually(system.endpoints, lambda ports: ports == [INBOUND["backend-1"]], "one endpoint")
        after = answers["backend-1"]
        await eventually(_later(lambda: answers["backend-1"]), lambda count: count > after + 20, "more calls")
        await system.join("backend-2")
        await eventually(system.endpoints, lambda ports: len(ports) == 2, "two endpoints")


async def test_endpoints_outlive_their_control_plane(system: Neighbours) -> None:
    """kill -9 of the zone under calls, and its return: who has not reconnected yet is not taken for dead."""
    before = await system.clusters()
    async with calls(system) as answers:
        await system.kill("east-zone")
        await system.start("east-zone")
        told = set[tuple[int, ...]]()

        async def back() -> bool:
            told.add(tuple(await system.endpoints()))
            return await system.back(ONLINE)

        await eventually(back, bool, "every sidecar to be back", within=60)
        after = answers["backend-2"]
        await eventually(_later(lambda: answers["backend-2"]), lambda count: count > after + 5, "more calls")
    assert told == {(INBOUND["backend-1"], INBOUND["backend-2"])}
    assert await system.clusters() == before


async def test_an_outbound_leads_elsewhere_without_a_failure(system: Neighbours) -> None:
    """Its tags change under calls: listener, routes and cluster are others, made before the old ones are broken. A
    connection that was idle meanwhile still goes where it led, and is told to go.
    """
    changed = system.dataplane("client")
    changed["networking"]["outbound"][0]["tags"]["version"] = "v1"
    for _ in range(TIMES):
        async with calls(system):
            for resource, seen in ((changed, {"backend-1"}), (system.dataplane("client"), set(INBOUND))):
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{OUTBOUND['http']}") as idle:
                    assert (await idle.get("/")).status_code == HTTPStatus.OK
                    await system.apply(json.dumps(resource), "--zone", "east")
                    await eventually(lambda: system.who("http"), lambda found, seen=seen: set(found) == seen, f"{seen}")  # type: ignore[misc]
                    answer = await idle.get("/")
                    assert (answer.status_code, answer.headers.get("connection")) == (HTTPStatus.OK, "close")


def _told(answer: tuple[int, str, str]) -> bool:
    return answer[0] == 0


def _later(look: Any) -> Any:
    async def looked() -> Any:
        return look()

    return looked


async def test_an_inbound_lets_in_its_own_mesh_alone(system: Neighbours) -> None:
    """Real certificates of the zone: the client's opens it, another mesh's does not. PERMISSIVE: plaintext as well."""
    port = INBOUND["backend-1"]
    ours, others = system.dataplane("client"), system.dataplane("outsider")
    async with identity(system, ours) as own, identity(system, others) as foreign:
        assert await knock(port, own) == 200
        assert await knock(port, foreign) == 0
        assert await knock(port, None) == 0
        await system.apply(MESH.format(name="default", mode="PERMISSIVE"))
        await eventually(lambda: knock(port, None), lambda status: status == 200, "plaintext to be let in")
        assert await knock(port, own) == 200
        assert await knock(port, foreign) == 0
        await eventually(lambda: system.who("http"), lambda seen: set(seen) == set(INBOUND), "both instances")


async def test_a_proxyless_grpc_client_calls_an_in_mesh_service(system: Neighbours, tmp_path: Path) -> None:
    """`xds:///backend` against the real zone: the sidecar in front of the service lets plaintext in (PERMISSIVE)."""
    async with echo("echo") as port:
        system.serve("echo-1", port)
        await system.join("echo-1")
        resource = system.dataplane("caller")
        token = tmp_path / "token"
        token.touch(mode=0o600)
        token.write_text(system._issuer().dataplane_token("default", name="caller", zone="east"))
        ca = {"ca_certificate_file": str(system.deployment.ca_file)}
        bearer = {"type": "jwt_token_file", "config": {"jwt_token_file": str(token)}}
        creds = {"channel_creds": [{"type": "tls", "config": ca}], "call_creds": [bearer]}
        metadata = {"dataplane.resource": json.dumps(resource), "features": ["proxyless"]}
        node = {"id": "default.caller", "metadata": metadata}
        async with client(tmp_path, system.zone_ports["east"].ads, creds, node) as process:
            assert await say(process, "hello") == "echo hello"
            code, out, _ = await system.cli("inspect", "default.caller", "--zone", "east", "-o", "json")
            assert code == 0
            assert "backend" in json.loads(out)["Listener"]
