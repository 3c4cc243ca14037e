"""The gRPC skin, spoken to by a bare client: admission, the newest stream wins, DNS updates, draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from immutables import Map

from shared.events.state import Position
from shared.pb.agent_pb2 import AgentMessage, ControlMessage, DnsAck, Hello, Observation
from shared.pb.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
)
from tests.ads.stream_pair import SHORT, carried, snapshot
from zone_cp.ads.calls import DRAINING
from zone_cp.ads.hub import SUPERSEDED
from zone_cp.ads.introduction import MAX_METADATA_BYTES
from zone_cp.ads.names import DnsTable
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, Refused, Status

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ATTACH = "/zonal.agent.v1.Agent/Attach"
SECONDS = 5.0
pytestmark = pytest.mark.anyio


class World:
    """A running server, a channel to it and everything it called back with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.first = ""
        self.server = AdsServer(
            "127.0.0.1",
            0,
            None,
            admit=self.admit,
            on_connected=lambda proxy, connection, node: self.calls.append(("up", proxy, connection, node)),
            on_disconnected=lambda proxy, connection, reason: self.calls.append(("down", proxy, connection, reason)),
            on_ack=lambda proxy, fact: self.calls.append(("ack", proxy, fact.type_url)),
            on_nack=lambda proxy, fact: self.calls.append(("nack", proxy, fact.message)),
            on_observation=lambda proxy, seen: self.calls.append(("seen", proxy, seen.cluster)),
            may_inspect=lambda token: token == "token-of-admin",
        )
        self.channel: aio.Channel

    async def admit(self, node: NodeInfo, token: str | None) -> Admission:
        if token is None:
            return Refused(Status.UNAUTHENTICATED, "no dataplane token: give one with --dataplane-token-file")
        if token != f"token-of-{node.id}":
            return Refused(Status.PERMISSION_DENIED, f"this token is not for {node.id}")
        return Admitted(node.id, first=node.id == self.first)

    def call(self, method: str, proxy: str, token: str | None = "") -> Any:
        token = f"token-of-{proxy}" if token == "" else token
        metadata = None if token is None else (("authorization", f"Bearer {token}"),)
        multi: Any = self.channel.stream_stream(method)
        return multi(metadata=metadata)


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    it = World()
    port = await it.server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as it.channel:
            yield it
    finally:
        await it.server.stop(0)


async def ask(call: Any, short: str = "CDS", proxy: str = "", **fields: Any) -> None:
    node = Node(id=proxy, metadata={"features": ["redirect"]}) if proxy else None
    await call.write(DeltaDiscoveryRequest(node=node, type_url=SHORT[short], **fields).SerializeToString())


async def answer(call: Any) -> DeltaDiscoveryResponse:
    async with asyncio.timeout(SECONDS):
        return DeltaDiscoveryResponse.FromString(await call.read())


async def ending(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(SECONDS):
        return await call.code(), await call.details()


async def test_an_admitted_stream_gets_its_snapshot_and_acks_are_waited_for() -> None:
    """offer before or after connect; acked() returns when the proxy has answered that position."""
    async with world() as it:
        it.server.offer("p", snapshot(1, CDS=["a"]))
        call = it.call(ADS, "p")
        await ask(call, proxy="p")
        first = await answer(call)
        assert [r.name for r in first.resources] == ["a"]
        with pytest.raises(TimeoutError):
            await it.server.acked("p", Position(1, 0), 0.01)
        await ask(call, response_nonce=first.nonce)
        assert await it.server.acked("p", Position(1, 0), SECONDS) == Position(1, 0)
        (clusters,) = it.server.deliveries()[0].types
        assert clusters.sent_digest == clusters.acked_digest
        it.server.offer("p", snapshot(2, CDS=["a", "b"]))
        assert [r.name for r in (await answer(call)).resources] == ["b"]
        assert it.calls[0] == ("up", "p", "1", NodeInfo("p", "", {"features": ["redirect"]}))
        assert it.calls[1] == ("ack", "p", SHORT["CDS"])


@pytest.mark.parametrize(
    "token, status, part",
    [
        (None, grpc.StatusCode.UNAUTHENTICATED, "--dataplane-token-file"),
        ("token-of-q", grpc.StatusCode.PERMISSION_DENIED, "not for p"),
    ],
)
async def test_a_refused_stream_ends_with_a_status_and_a_reason(
    token: str | None, status: grpc.StatusCode, part: str
) -> None:
    """Without a token UNAUTHENTICATED, with another's PERMISSION_DENIED; nothing is served."""
    async with world() as it:
        it.server.offer("p", snapshot(1, CDS=["a"]))
        call = it.call(ADS, "p", token)
        await ask(call, proxy="p")
        code, details = await ending(call)
        assert code == status
        assert part in details
        assert it.calls == []


async def test_a_node_that_says_too_much_is_refused_before_it_is_looked_at() -> None:
    """Nobody knows yet who it is."""
    async with world() as it:
        call = it.call(ADS, "p", None)
        node = Node(id="p", metadata={"a": "b" * MAX_METADATA_BYTES})
        await call.write(DeltaDiscoveryRequest(node=node, type_url=SHORT["CDS"]).SerializeToString())
        code, details = await ending(call)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MAX_METADATA_BYTES) in details


async def test_who_may_not_inspect_is_told_before_he_says_anything() -> None:
    """What he sends would be kept for as long as he likes."""
    async with world() as it:
        call = it.call("/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus", "p")
        assert (await ending(call))[0] == grpc.StatusCode.PERMISSION_DENIED


async def test_a_second_stream_of_a_proxy_supersedes_the_first() -> None:
    """The older is told why; its end is reported before the newer's begin."""
    async with world() as it:
        it.server.offer("p", snapshot(1, CDS=["a"]))
        first = it.call(ADS, "p")
        await ask(first, proxy="p")
        await answer(first)
        second = it.call(ADS, "p")
        await ask(second, proxy="p")
        await answer(second)
        assert await ending(first) == (grpc.StatusCode.ABORTED, SUPERSEDED)
        assert [c[:3] for c in it.calls] == [("up", "p", "1"), ("down", "p", "1"), ("up", "p", "2")]
        assert it.server.deliveries()[0].connection == "2"


async def test_a_moment_that_changes_nothing_for_a_proxy_counts_as_delivered() -> None:
    """Said once for all proxies; not of one left behind, and not before a proxy has answered what it was sent."""
    async with world() as it:
        it.server.offer("p", snapshot(1, CDS=["a"]))
        it.server.offer("q", snapshot(1, CDS=["a"]))
        calls = {proxy: it.call(ADS, proxy) for proxy in ("p", "q")}
        for proxy, call in calls.items():
            await ask(call, proxy=proxy)
        nonces = {proxy: (await answer(call)).nonce for proxy, call in calls.items()}
        it.server.advance(Position(2, 0))
        assert [one.delivered for one in it.server.deliveries()] == [None, None]
        for proxy, call in calls.items():
            await ask(call, response_nonce=nonces[proxy])
            assert await it.server.acked(proxy, Position(2, 0), SECONDS) == Position(2, 0)
        it.server.leave("q")
        waiting = asyncio.create_task(it.server.acked("p", Position(3, 1), SECONDS))
        await asyncio.sleep(0)
        it.server.advance(Position(3, 1))
        assert await waiting == Position(3, 1)
        it.server.offer("p", snapshot(4, CDS=["b"]))
        one, other = it.server.deliveries()
        assert (one.offered, one.delivered) == (Position(4, 0), Position(3, 1))
        assert (other.offered, other.delivered) == (Position(2, 0), Position(2, 0))


async def test_a_broken_request_ends_the_stream_with_invalid_argument() -> None:
    """A missing type is the client's fault and says so."""
    async with world() as it:
        call = it.call(ADS, "p")
        await call.write(DeltaDiscoveryRequest(node=Node(id="p")).SerializeToString())
        code, details = await ending(call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "type_url" in details


async def test_a_closed_stream_is_reported_once() -> None:
    """When the proxy goes, its connection does."""
    async with world() as it:
        call = it.call(ADS, "p")
        await ask(call, proxy="p")
        it.server.offer("p", snapshot(1))
        await answer(call)
        await call.done_writing()
        code, _ = await ending(call)
        assert code == grpc.StatusCode.OK
        assert [c[0] for c in it.calls] == ["up", "down"]
        assert it.server.deliveries()[0].connection == ""


SERVICES = {
    "CDS": ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters"),
    "EDS": ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints"),
    "LDS": ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners"),
    "RDS": ("envoy.service.route.v3.RouteDiscoveryService", "Routes"),
    "SDS": ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets"),
}


@pytest.mark.parametrize("short", SERVICES)
@pytest.mark.parametrize("variant", ["Delta", "Stream"])
async def test_every_type_has_a_service_of_its_own(short: str, variant: str) -> None:
    """The type is implied; additions, changes, ACKs and what is delivered are as on an aggregated stream."""
    service, name = SERVICES[short]
    request = DeltaDiscoveryRequest if variant == "Delta" else DiscoveryRequest
    response = DeltaDiscoveryResponse if variant == "Delta" else DiscoveryResponse
    names = "resource_names_subscribe" if variant == "Delta" else "resource_names"
    everything = {one: ["a"] for one in SERVICES}
    async with world() as it:
        it.server.offer("p", snapshot(1, **everything))
        call = it.call(f"/{service}/{variant}{name}", "p")
        nonce = ""
        for position in (1, 2):
            node = Node(id="p") if position == 1 else None
            asked: Any = {names: ["a"]} if variant == "Stream" or position == 1 else {}
            await call.write(request(node=node, response_nonce=nonce, **asked).SerializeToString())
            if position == 2:
                await it.server.acked("p", Position(1, 0), SECONDS)
                it.server.offer("p", snapshot(2, **(everything | {short: {"a": "2"}})))
            async with asyncio.timeout(SECONDS):
                got = response.FromString(await call.read())
            nonce = got.nonce
            assert got.type_url == SHORT[short]
            assert [one for one, _ in carried(got)] == ["a"]


async def test_a_service_of_one_type_refuses_another() -> None:
    """And says which one it serves."""
    async with world() as it:
        call = it.call("/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters", "p")
        await call.write(DiscoveryRequest(node=Node(id="p"), type_url=SHORT["LDS"]).SerializeToString())
        code, details = await ending(call)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert SHORT["CDS"] in details


async def test_streams_of_single_types_stand_beside_each_other_and_their_proxy_is_connected_once() -> None:
    """No stream supersedes another; the proxy counts as gone when the last has ended."""
    async with world() as it:
        it.server.offer("p", snapshot(1, EDS=["a", "b"]))
        calls = []
        for name in ("a", "b"):
            call = it.call("/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints", "p")
            await call.write(DiscoveryRequest(node=Node(id="p"), resource_names=[name]).SerializeToString())
            async with asyncio.timeout(SECONDS):
                got = DiscoveryResponse.FromString(await call.read())
            assert [one for one, _ in carried(got)] == [name]
            calls.append(call)
        for call in calls:
            await call.done_writing()
            await ending(call)
        told = [c[:3] for c in it.calls]
        assert told == [("up", "p", "1"), ("down", "p", "1"), ("up", "p", "2"), ("down", "p", "2")]


async def attach(it: World, proxy: str, dns_version: str = "") -> Any:
    call = it.call(ATTACH, proxy)
    await call.write(AgentMessage(hello=Hello(proxy=proxy, dns_version=dns_version)).SerializeToString())
    return call


async def control(call: Any) -> ControlMessage:
    async with asyncio.timeout(SECONDS):
        return ControlMessage.FromString(await call.read())


async def test_an_agent_gets_the_whole_table_first_and_differences_then() -> None:
    """DnsUpdate is incremental; an ACK of a version can be waited for."""
    async with world() as it:
        it.server.offer_dns("p", DnsTable("v1", Map({"a.mesh": "242.0.0.1", "b.mesh": "242.0.0.2"})))
        call = await attach(it, "p")
        first = (await control(call)).dns
        assert (first.version, first.full, len(first.upsert)) == ("v1", True, 2)
        it.server.offer_dns("p", DnsTable("v2", Map({"a.mesh": "242.0.0.3"})))
        update = (await control(call)).dns
        assert not update.full
        assert [(n.name, n.ip) for n in update.upsert] == [("a.mesh", "242.0.0.3")]
        assert list(update.remove) == ["b.mesh"]
        await call.write(AgentMessage(dns_ack=DnsAck(version="v2")).SerializeToString())
        await it.server.agents.dns_acked("p", "v2", SECONDS)


async def test_an_agent_that_has_the_table_on_disk_is_sent_nothing_until_it_changes() -> None:
    """Hello names the version; the first difference is relative to it."""
    async with world() as it:
        it.server.offer_dns("p", DnsTable("v1", Map({"a.mesh": "242.0.0.1"})))
        call = await attach(it, "p", "v1")
        await it.server.agents.dns_acked("p", "v1", SECONDS)
        await call.write(AgentMessage(observation=Observation(cluster="mes/x")).SerializeToString())
        it.server.offer_dns("p", DnsTable("v2", Map({"a.mesh": "242.0.0.1", "c.mesh": "242.0.0.4"})))
        update = (await control(call)).dns
        assert not update.full
        assert [n.name for n in update.upsert] == ["c.mesh"]
        await call.write(AgentMessage(dns_ack=DnsAck(version="v2")).SerializeToString())
        await it.server.agents.dns_acked("p", "v2", SECONDS)
        assert ("seen", "p", "mes/x") in it.calls


async def test_a_graceful_stop_drains_agents_and_ends_streams() -> None:
    """Agents hear Drain, ADS streams end UNAVAILABLE, within the given time."""
    async with world() as it:
        it.server.offer("p", snapshot(1))
        agent = await attach(it, "p")
        call = it.call(ADS, "p")
        await ask(call, proxy="p")
        await answer(call)
        it.server.offer_dns("p", DnsTable("v1", Map()))
        await control(agent)
        await it.server.stop(SECONDS)
        assert (await control(agent)).WhichOneof("message") == "drain"
        assert await ending(call) == (grpc.StatusCode.UNAVAILABLE, DRAINING)
