"""Routes of builtin gateways on real Envoys: what is matched, what is changed, and every kind of place they lead to."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shared.demo.looking import eventually
from tests.e2e.gateways import MESH, Gateways, gateway
from tests.e2e.living import WITHIN_SECONDS
from tests.xds.clients import Answer, http1, http2, tcp
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 30_200
HTTP, WIDE, TCP = 1, 2, 3
"""Listeners: for *.example.com, for any host, and of TCP."""
HOST = "www.example.com"
APPLICATIONS = {"red": "http", "blue": "http", "chat": "grpc", "rows": "tcp"}
EXTERNAL = ("mes", "es", "lines")
LOOPBACK = "labels: {zonal.io/allow-addresses: 127.0.0.0_8}\n"
PLAIN_MESH = "type: Mesh\nname: default\n" + LOOPBACK
MTLS = MESH + LOOPBACK
DIRECT = MTLS.replace("labels: {", "labels: {zonal.io/mes-origination: sidecar, ")
ES_BY_EGRESS = MTLS + "routing: {zoneEgress: true}\n"


class Routed(Gateways):
    """The zone east with a gateway, sidecars of in-mesh services, and a zone egress."""

    def __init__(self, *arguments: Any, servers: Servers) -> None:
        super().__init__(*arguments)
        self.servers = {name: servers.add(name) for name in (*APPLICATIONS, *EXTERNAL)}

    async def begin(self, *, declare: bool = True) -> None:
        """All of it, and the listeners."""
        await super().begin()
        await asyncio.gather(
            self.join("edge-1"),
            self._egress("east"),
            *(self.serve(name, number) for number, name in enumerate(APPLICATIONS)),
        )
        await self.apply(MTLS)
        await self.apply(
            gateway(
                {"port": self.port(HTTP), "protocol": "HTTP", "hostname": "*.example.com", "tags": {"port": "one"}},
                {"port": self.port(WIDE), "protocol": "HTTP", "tags": {"port": "two"}},
                {"port": self.port(TCP), "protocol": "TCP", "tags": {"port": "tcp"}},
            )
            + "".join(self.outside(name) for name in EXTERNAL)
        )

    async def serve(self, name: str, number: int) -> None:
        """A sidecar in front of an application."""
        inbound = {
            "port": self.port(20 + number),
            "servicePort": self.servers[name].port,
            "tags": {"kuma.io/service": name, "kuma.io/protocol": APPLICATIONS[name], "version": "v1"},
        }
        await self.sidecar(name, [inbound], number)

    async def sidecar(self, name: str, inbound: list[dict[str, Any]], number: int) -> None:
        """`zonal proxy sidecar` for a Dataplane; number tells its ports from others'."""
        networking = {"address": "127.0.0.1", "inbound": inbound, "admin": {"port": self.port(40 + number)}}
        resource = {"type": "Dataplane", "mesh": "default", "name": name, "networking": networking}
        path = self.write(f"{name}.yaml", json.dumps(resource), public=True)
        token = self._issuer().dataplane_token("default", name=name, zone="east")
        options = ["--dataplane", str(path), "--dns-port", str(self.port(60 + number))]
        await self._proxy("east", "sidecar", token, options, self.port(40 + number), called=name)

    def outside(self, name: str) -> str:
        """A service beyond the mesh."""
        port = self.servers[name].port
        if name == "es":
            tags = {"kuma.io/service": "es", "kuma.io/protocol": "http"}
            whole = {"type": "ExternalService", "mesh": "default", "name": "es", "tags": tags}
            return json.dumps(whole | {"networking": {"address": f"127.0.0.1:{port}"}}) + "\n---\n"
        match = {"type": "HostnameGenerator", "port": 80, "protocol": "http" if name == "mes" else "tcp"}
        spec = {"match": match, "endpoints": [{"address": "127.0.0.1", "port": port}]}
        whole = {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}
        return json.dumps(whole) + "\n---\n"

    async def request(self, path: str = "/", *, headers: str = "", at: int = HTTP, host: str = HOST) -> Answer:
        """A GET."""
        return await self.ask(at, host, path, headers)

    async def wait(self, wanted: Callable[[Answer], bool], expected: str, path: str = "/", **options: Any) -> Answer:
        """Wait until a GET is answered so."""
        return await eventually(lambda: self.request(path, **options), wanted, expected, WITHIN_SECONDS)

    async def degraded(self, message: str, further: str = "") -> None:
        """Wait until the MeshGateway's condition says this, with the number of an event; "": until it has none."""
        said = re.compile(rf"{re.escape(message)} \(event \d+\){further}" if message else "")

        async def look() -> str:
            _, out, _ = await self.cli("get", "meshgateways", "edge", "-o", "json")
            rows = [one for row in json.loads(out)["status"] if row["zone"] == "east" for one in row["conditions"]]
            return "".join(one["message"] for one in rows if one["type"] == "Degraded")

        await eventually(look, lambda one: said.fullmatch(one) is not None, message or "no word", WITHIN_SECONDS)

    async def reached(self, server: str, path: str = "/", **options: Any) -> Answer:
        """Wait until a server answers."""
        return await self.wait(lambda one: one.seen.get("server") == server, f"{server} for {path}", path, **options)


def to(*services: str, **further: int) -> dict[str, Any]:
    """Backends, each with a weight."""
    weights = dict.fromkeys(services, 1) | further
    return {"backends": [{"destination": {"kuma.io/service": one}, "weight": many} for one, many in weights.items()]}


def path(value: str, match: str = "PREFIX", **further: Any) -> dict[str, Any]:
    """A match."""
    return {"path": {"match": match, "value": value}} | further


def rule(match: dict[str, Any], *filters: dict[str, Any], **leads: Any) -> dict[str, Any]:
    """A rule of a MeshGatewayRoute."""
    return {"matches": [match], "filters": list(filters)} | leads


def route(*rules: dict[str, Any], port: str = "one", name: str = "r", hostnames: tuple[str, ...] = ()) -> str:
    """A MeshGatewayRoute for HTTP."""
    selectors = [{"match": {"kuma.io/service": "edge-gateway", "port": port}}]
    conf = {"http": {"hostnames": list(hostnames), "rules": list(rules)}}
    whole = {"type": "MeshGatewayRoute", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}
    return json.dumps(whole) + "\n---\n"


def policy(kind: str, name: str, *, tags: dict[str, str] | None = None, **item: Any) -> str:
    """A policy on the MeshGateway, or on the listeners with these tags."""
    top = {"kind": "MeshGateway", "name": "edge"} | ({"tags": tags} if tags else {})
    spec = {"targetRef": top, "to": [{"targetRef": {"kind": "Mesh"}} | item]}
    return json.dumps({"type": kind, "mesh": "default", "name": name, "spec": spec}) + "\n---\n"


def external(name: str, weight: int = 1) -> dict[str, Any]:
    """A backendRef."""
    return {"kind": "MeshExternalService", "name": name, "weight": weight}


def all_to(*references: dict[str, Any], filters: tuple[dict[str, Any], ...] = ()) -> list[dict[str, Any]]:
    """The rules of a MeshHTTPRoute that sends everything there."""
    match = {"path": {"type": "PathPrefix", "value": "/"}}
    return [{"matches": [match], "default": {"backendRefs": list(references), "filters": list(filters)}}]


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Routed]:
    """Everything runs; no route is declared yet."""
    directory = tmp_path_factory.mktemp("gateway-routes")
    with Servers() as servers:
        async with Routed(directory, BASE_PORT, servers=servers) as made:
            await made.begin()
            await made.wait(lambda one: one.status == 404, "404 while there is no route")
            yield made


async def test_requests_are_told_apart(system: Routed) -> None:
    """By path, method, header and parameter; the more specific match wins, whatever the order it is written in."""
    red, blue = to("red"), to("blue")
    await system.apply(
        route(
            rule(path("/"), **blue),
            rule(path("/shop"), **red),
            rule(path("/shop/closed", "EXACT"), **blue),
            rule(path("/r[0-9]+", "REGEX"), **red),
            rule(path("/", headers=[{"name": "x-team", "value": "red"}]), **red),
            rule(path("/", queryParameters=[{"name": "team", "match": "REGEX", "value": "re."}]), **red),
            rule(path("/", method="POST"), **red),
        )
    )
    await system.reached("red", "/shop/window")
    expected = {"/": "blue", "/shop": "red", "/shop?a=b": "red", "/shopping": "blue", "/shop/closed": "blue"}
    expected |= {"/?team=red": "red", "/?team=blue": "blue", "/r42": "blue"}  # a prefix goes before a pattern
    found = {one: (await system.request(one)).seen.get("server") for one in expected}
    assert found == expected
    assert (await system.request("/", headers="x-team: red\r\n")).seen["server"] == "red"
    assert (await system.request("/", host="elsewhere.test")).status == 404


async def test_what_a_route_changes(system: Routed) -> None:
    """Paths, headers and hosts of requests, headers of answers; redirects."""
    header = {"set": [{"name": "x-set", "value": "100%"}, {"name": "Host", "value": "other.test"}], "remove": ["x-not"]}
    redirect = {"scheme": "https", "hostname": "b.test", "port": 8443, "statusCode": 301}
    await system.apply(
        route(
            rule(path("/api"), {"rewrite": {"replacePrefixMatch": "/v1"}}, **to("red")),
            rule(path("/drop"), {"rewrite": {"replacePrefixMatch": "/"}}, **to("red")),
            rule(path("/full"), {"rewrite": {"replaceFull": "/only"}}, **to("red")),
            rule(
                path("/headers"),
                {"requestHeader": header},
                {"responseHeader": {"add": [{"name": "x-answer", "value": "yes"}]}},
                **to("red"),
            ),
            rule(path("/to-https"), {"redirect": redirect}),
            rule(path("/old"), {"redirect": {"statusCode": 302, "path": {"replacePrefixMatch": "/new"}}}),
        )
    )
    await system.reached("red", "/api/x")
    wanted = {
        "/api": "/v1",
        "/api/x": "/v1/x",
        "/api/x?a=b": "/v1/x?a=b",
        "/drop": "/",
        "/drop/y": "/y",
        "/full/z": "/only",
    }
    assert {one: (await system.request(one)).seen["headers"][":path"] for one in wanted} == wanted
    answer = await system.request("/headers", headers="x-not: 1\r\nx-zonal-sni: forged\r\n")
    seen = answer.seen["headers"]
    assert (seen["x-set"], seen["host"], answer.headers["x-answer"]) == ("100%", "other.test", "yes")
    assert not {"x-not", "x-zonal-sni", "x-zonal-keep-host"} & set(seen)
    moved, old = await system.request("/to-https/a?b=c"), await system.request("/old/a?b=c")
    assert (moved.status, moved.headers["location"]) == (301, "https://b.test:8443/to-https/a")
    assert (old.status, old.headers["location"]) == (302, f"http://{HOST}:{system.port(HTTP)}/new/a")


async def test_requests_are_shared_out_and_mirrored(system: Routed) -> None:
    """By weight, and a copy to somebody else, whose answer nobody sees."""
    mirror = {"mirror": {"backend": to("blue")["backends"][0], "percentage": 100.0}}
    await system.apply(
        route(
            rule(path("/split"), **to(red=4, blue=1)),
            rule(path("/copied"), mirror, **to("red")),
            rule(path("/"), **to("red")),
        )
    )
    await system.reached("blue", "/split")
    drawn = Counter([(await system.request("/split")).seen["server"] for _ in range(200)])
    assert 10 <= drawn["blue"] <= 90
    assert drawn["red"] + drawn["blue"] == 200
    before = system.servers["blue"].seen
    for _ in range(5):
        assert (await system.request("/copied")).seen["server"] == "red"

    async def copies() -> int:
        return system.servers["blue"].seen - before

    await eventually(copies, lambda count: count == 5, "five copies arrive", WITHIN_SECONDS)


async def test_grpc_goes_through(system: Routed) -> None:
    """A client of gRPC in plaintext, by HTTP/2 to the service, with its trailers."""
    await system.apply(route(rule(path("/"), **to("chat")), port="two"))
    await system.reached("chat", at=WIDE)
    answer = await http2("127.0.0.1", system.port(WIDE), grpc=True)
    assert (answer.seen["server"], answer.seen["language"], answer.trailers["grpc-status"]) == ("chat", "http2", "0")


async def test_connections_are_shared_out(system: Routed) -> None:
    """A listener of TCP, to a service of the mesh and to one beyond it, which is behind the zone egress."""
    references = [{"kind": "MeshService", "name": "rows"}, external("lines")]
    await system.apply(policy("MeshTCPRoute", "t", rules=[{"default": {"backendRefs": references}}]))

    async def drawn() -> Counter[str]:
        answers = [await tcp("127.0.0.1", system.port(TCP)) for _ in range(20)]
        return Counter(one.seen.get("server", "") for one in answers)

    found = await eventually(drawn, lambda seen: set(seen) == {"rows", "lines"}, "both take a share", WITHIN_SECONDS)
    assert sum(found.values()) == 20


@pytest.mark.parametrize("mesh", [ES_BY_EGRESS, MTLS, PLAIN_MESH], ids=["egress", "mtls", "plain"])
async def test_external_services_are_reached(system: Routed, mesh: str) -> None:
    """By the zone egress, or dialled by the gateway, as the mesh says; the client's host stays unless a route says."""
    backend = {"type": "URLRewrite", "urlRewrite": {"hostToBackendHostname": True}}
    await system.apply(mesh)
    await system.apply(
        route(rule(path("/"), **to("es")))
        + policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to(external("mes")), hostnames=["a.test"])
        + policy(
            "MeshHTTPRoute",
            "n",
            tags={"port": "two"},
            rules=all_to({"kind": "MeshService", "name": "es"}, filters=(backend,)),
            hostnames=["b.test"],
        )
    )
    by_route = await system.reached("es")
    mes = await system.reached("mes", at=WIDE, host="a.test")
    es = await system.reached("es", at=WIDE, host="b.test")
    assert [one.seen["headers"]["host"] for one in (by_route, mes, es)] == [HOST, "a.test", "b.test"]
    inner = {
        name for one in (by_route, mes, es) for name in one.seen["headers"] if name.startswith(("x-zonal", "x-envoy"))
    }
    assert inner == set()

    async def own() -> set[str]:
        dialled = await system.admin("east", system.gateway_admin(), "/clusters?format=json")
        return {one["name"] for one in dialled.json["cluster_statuses"] if one["name"].startswith("mes/http/")}

    count = {ES_BY_EGRESS: 0, MTLS: 1, PLAIN_MESH: 2}[mesh]
    await eventually(own, lambda found: len(found) == count, f"{count} clusters of its own", WITHIN_SECONDS)
    await system.apply(MTLS)
    await system.delete("MeshHTTPRoute", "m")
    await system.delete("MeshHTTPRoute", "n")


async def test_what_cannot_be_reached_says_why(system: Routed) -> None:
    """A service that nobody declares or serves, and a share that leads nowhere; to clients, and as a condition."""
    await system.apply(
        policy("MeshHTTPRoute", "gone", tags={"port": "two"}, rules=all_to(external("nowhere")))
        + route(rule(path("/"), **to("absent")))
    )
    unresolved = (500, "MeshHTTPRoute gone: no MeshExternalService nowhere is here\n")
    await system.wait(lambda one: (one.status, one.body) == unresolved, "500 for what is not there", at=WIDE)
    absent = (503, "no instance of absent is ready in zone east; in-mesh traffic does not cross zones\n")
    await system.wait(lambda one: (one.status, one.body) == absent, "503 while nobody serves it")
    await system.degraded("MeshGatewayRoute r: no instance of absent is ready", "; and 1 more")
    await system.apply(route(rule(path("/"), **to("red"))))
    await system.degraded("MeshHTTPRoute gone: no MeshExternalService nowhere is here")
    await system.delete("MeshHTTPRoute", "gone")
    await system.degraded("")


async def test_a_mesh_http_route_goes_before_mesh_gateway_routes_of_its_listener(system: Routed) -> None:
    """Of that listener alone; and a policy may mean one listener by its tags."""
    await system.apply(
        route(rule(path("/"), **to("red")))
        + route(rule(path("/"), **to("red")), port="two", name="wide")
        + policy("MeshHTTPRoute", "over", tags={"port": "two"}, rules=all_to({"kind": "MeshService", "name": "blue"}))
    )
    await system.reached("blue", at=WIDE)
    await system.reached("red")
    slow = {"http": {"requestTimeout": "200ms"}}
    await system.apply(policy("MeshTimeout", "short", tags={"port": "two"}, default=slow))
    await system.wait(lambda one: one.status == 504, "504 for what takes too long", "/slow/1", at=WIDE)
    assert (await http1("127.0.0.1", system.port(HTTP), "/slow/1", host_header=HOST)).status == 200


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_permissions_hold_for_a_gateway(system: Routed, mesh: str) -> None:
    """Its identity is the service of its Dataplane, whoever its clients are; and a closed service says why it is."""

    def allowing(spiffe_id: str) -> str:
        rules = [{"default": {"allow": [{"spiffeID": {"type": "Exact", "value": spiffe_id}}]}}]
        spec = {"targetRef": {"kind": "MeshExternalService", "name": "mes"}, "rules": rules}
        return json.dumps({"type": "MeshTrafficPermission", "mesh": "default", "name": "who", "spec": spec}) + "\n---\n"

    await system.apply(mesh)
    route_to_mes = policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to(external("mes")))
    await system.apply(route_to_mes + allowing("spiffe://default/another"))
    denied = await system.wait(lambda one: one.status == 403, "403 while another is allowed", at=WIDE)
    assert "denied" in denied.body
    await system.apply(allowing("spiffe://default/edge-gateway"))
    await system.reached("mes", at=WIDE)
    await system.delete("MeshTrafficPermission", "who")
    await system.apply(MTLS)
    await system.delete("MeshHTTPRoute", "m")


@pytest.mark.parametrize("mesh", [ES_BY_EGRESS, MTLS], ids=["egress", "direct"])
async def test_traffic_permissions_hold_for_a_gateway(system: Routed, mesh: str) -> None:
    """On an ExternalService, by the service of its Dataplane (A12)."""

    def allowing(service: str) -> str:
        tag = "kuma.io/service"
        who = {"sources": [{"match": {tag: service}}], "destinations": [{"match": {tag: "es"}}]}
        return json.dumps({"type": "TrafficPermission", "mesh": "default", "name": "who"} | who) + "\n---\n"

    await system.apply(mesh)
    await system.apply(
        policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to({"kind": "MeshService", "name": "es"}))
    )
    await system.reached("es", at=WIDE)
    await system.apply(allowing("another"))
    await system.wait(lambda one: one.status == 403, "403 while another is allowed", at=WIDE)
    await system.apply(allowing("edge-gateway"))
    await system.reached("es", at=WIDE)
    await system.delete("TrafficPermission", "who")
    await system.delete("MeshHTTPRoute", "m")
    await system.apply(MTLS)


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_a_closed_service_says_why(system: Routed, mesh: str) -> None:
    """What it would be verified by is missing: 503 and the reason, from whoever would dial it."""
    tls = {"enabled": True, "verification": {"caCert": {"secret": "absent"}}}
    match = {"type": "HostnameGenerator", "port": 443, "protocol": "http"}
    spec = {"match": match, "endpoints": [{"address": "127.0.0.1", "port": 9}], "tls": tls}
    shut = {"type": "MeshExternalService", "mesh": "default", "name": "shut", "spec": spec}
    await system.apply(mesh)
    await system.apply(
        json.dumps(shut)
        + "\n---\n"
        + policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to(external("shut")))
    )
    why = "mesh default has no Secret absent"
    closed = await system.wait(lambda one: why in one.body, "why it is closed", at=WIDE)
    assert closed.status == 503
    await system.apply(MTLS)
    await system.delete("MeshHTTPRoute", "m")
    await system.delete("MeshExternalService", "shut")


@pytest.mark.parametrize("mesh", [MTLS, DIRECT], ids=["egress", "direct"])
async def test_a_service_declared_as_tcp_takes_requests_too(system: Routed, mesh: str) -> None:
    """As HTTP/1.1, through the zone egress as well: it is the default of ExternalServices."""
    await system.apply(mesh)
    await system.apply(policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to(external("lines"))))
    found = await system.reached("lines", at=WIDE, host="a.test")
    assert (found.seen["language"], found.seen["headers"]["host"]) == ("http1", "a.test")
    await system.apply(MTLS)
    await system.delete("MeshHTTPRoute", "m")


async def test_without_a_zone_egress_it_fails_closed(system: Routed) -> None:
    """The gateway dials nothing by itself that is meant to go through the egress, and says what is missing."""
    await system.apply(policy("MeshHTTPRoute", "m", tags={"port": "two"}, rules=all_to(external("mes"))))
    await system.reached("mes", at=WIDE)
    await system.terminate("east-egress")
    offline = "no zone egress of zone east is online: external services fail closed\n"
    await system.wait(lambda one: (one.status, one.body) == (503, offline), "503 without an egress", at=WIDE)
    await system.start("east-egress")
    await system.reached("mes", at=WIDE)
    await system.delete("MeshHTTPRoute", "m")
