"""Outside: a conformance harness as others write them. It knows `adapter.proto`, xDS and the port, nothing of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from grpc import aio

from shared.pb.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
)
from tests.ads.stream_pair import SHORT, carried
from tests.conformance.contract import SERVICE, messages

SECONDS = 20.0
ADS = ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources")
SERVICES = {
    "CDS": ("cluster.v3.ClusterDiscoveryService", "Clusters"),
    "EDS": ("endpoint.v3.EndpointDiscoveryService", "Endpoints"),
    "LDS": ("listener.v3.ListenerDiscoveryService", "Listeners"),
    "RDS": ("route.v3.RouteDiscoveryService", "Routes"),
    "SDS": ("secret.v3.SecretDiscoveryService", "Secrets"),
    "RTDS": ("runtime.v3.RuntimeDiscoveryService", "Runtime"),
}
TYPES = SHORT | {"RTDS": "type.googleapis.com/envoy.service.runtime.v3.Runtime"}
VARIANTS = ("sotw aggregated", "sotw separate", "delta aggregated", "delta separate")


async def tell(channel: aio.Channel, node: str, method: str, message: str, **fields: Any) -> str:
    """One call of the adapter; the position it answers with. Raises AioRpcError."""
    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    raw = await call(messages()[message](node=node, **fields).SerializeToString(), timeout=SECONDS)
    return str(messages()["Done"].FromString(raw).position)


def state(short: str, version: str, *names: str) -> Any:
    """What a node is to hold of a type, by name alone."""
    resources = [messages()["Resource"](name=name) for name in names]
    return messages()["TypeState"](type_url=TYPES[short], version=version, resources=resources)


class Got:
    """One response, in the words of a scenario."""

    def __init__(self, response: Any) -> None:
        self.short = next(short for short, url in TYPES.items() if url == response.type_url)
        self.version = getattr(response, "version_info", "") or getattr(response, "system_version_info", "")
        self.names = sorted(name for name, _ in carried(response))
        self.versions = dict(carried(response))
        self.removed = sorted(getattr(response, "removed_resources", ()))
        self.nonce = str(response.nonce)

    def __repr__(self) -> str:
        return " ".join((self.short, self.version, *(f"+{n}" for n in self.names), *(f"-{n}" for n in self.removed)))


class Client:
    """One stream of a node. Every response is ACKed as it is looked at, as harnesses do; see `refuse`."""

    def __init__(self, channel: aio.Channel, node: str, variant: str, short: str) -> None:
        """short: the type of the service, for variants that have a stream for each."""
        protocol, streams = variant.split()
        self.delta, self.node, self.channel = protocol == "delta", node, channel
        self.scope = "" if streams == "aggregated" else short
        service, name = SERVICES[self.scope] if self.scope else ADS
        method = f"/envoy.service.{service}/{'Delta' if self.delta else 'Stream'}{name}"
        self._request: Any = DeltaDiscoveryRequest if self.delta else DiscoveryRequest
        self._response: Any = DeltaDiscoveryResponse if self.delta else DiscoveryResponse
        self.call: Any = channel.stream_stream(method)()
        self.names: dict[str, list[str]] = {}
        self.last: dict[str, tuple[str, str]] = {}
        self.nonces: list[str] = []
        self._introduced = False
        self._heard: asyncio.Queue[Got] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with suppress(aio.AioRpcError):
            async for raw in self.call:
                self._heard.put_nowait(Got(self._response.FromString(raw)))

    async def say(self, short: str, **fields: Any) -> None:
        """One request as it is; the node goes with the first of a stream."""
        node = {} if self._introduced else {"node": Node(id=self.node)}
        self._introduced = True
        await self.call.write(self._request(type_url=TYPES[short], **node, **fields).SerializeToString())

    async def subscribe(self, short: str, *names: str, drop: Sequence[str] = (), **initial: str) -> None:
        """Name more resources, and these no more; nothing at all the first time is a wildcard."""
        before = self.names.get(short, [])
        self.names[short] = [name for name in dict.fromkeys((*before, *names)) if name not in drop]
        if self.delta:
            unsubscribed = {"resource_names_unsubscribe": drop, "initial_resource_versions": initial}
            await self.say(short, resource_names_subscribe=names, **unsubscribed)
            return
        await self._sotw(short)

    async def _sotw(self, short: str, **more: Any) -> None:
        version, nonce = self.last.get(short, ("", ""))
        await self.say(short, resource_names=self.names[short], version_info=version, response_nonce=nonce, **more)

    async def hear(self) -> Got:
        """The next response, not answered."""
        async with asyncio.timeout(SECONDS):
            got = await self._heard.get()
        assert got.nonce, "a response without a nonce cannot be answered"
        assert got.nonce not in self.nonces, "a nonce is used once"
        self.nonces.append(got.nonce)
        return got

    async def expect(self, short: str, version: str, *names: str, removed: Sequence[str] = ()) -> Got:
        """The next response is just this one; it is ACKed."""
        got = await self.hear()
        assert (got.short, got.version, got.names, got.removed) == (short, version, sorted(names), sorted(removed))
        await self.accept(got)
        return got

    async def gather(self, many: int) -> tuple[list[str], list[str]]:
        """What responses carry and remove, however many they are, until it is so much; they are ACKed."""
        names: list[str] = []
        removed: list[str] = []
        while len(names) + len(removed) < many:
            got = await self.hear()
            names += got.names
            removed += got.removed
            await self.accept(got)
        return names, removed

    async def accept(self, got: Got) -> None:
        """ACK."""
        self.last[got.short] = (got.version, got.nonce)
        if self.delta:
            await self.say(got.short, response_nonce=got.nonce)
        else:
            await self._sotw(got.short)

    async def refuse(self, got: Got, reason: str = "no") -> None:
        """NACK: the version stays that of what was accepted before."""
        detail = {"error_detail": {"code": 13, "message": reason}}
        if self.delta:
            await self.say(got.short, response_nonce=got.nonce, **detail)
            return
        self.last[got.short] = (self.last.get(got.short, ("", ""))[0], got.nonce)
        await self._sotw(got.short, **detail)

    async def silent(self) -> None:
        """The server has said all that it has to say: what was sent before on this connection is done with."""
        for _ in range(3):
            with suppress(aio.AioRpcError):
                await tell(self.channel, self.node, "RemoveResource", "ResourceChange", type_url="none", name="none")
        assert self._heard.empty(), f"nothing caused {self._heard.get_nowait()}"

    async def close(self) -> None:
        """Half close, and wait for the server's status."""
        await self.call.done_writing()
        async with asyncio.timeout(SECONDS):
            assert await self.call.code() == grpc.StatusCode.OK
            await self._listening

    def drop(self) -> None:
        """Go without a word."""
        self.call.cancel()
        self._listening.cancel()


class Outside:
    """A harness with one node and what it tells the adapter of it."""

    def __init__(self, channel: aio.Channel, node: str) -> None:
        self.channel, self.node = channel, node
        self._clients: list[Client] = []

    def client(self, variant: str, short: str) -> Client:
        """A new stream of the node."""
        self._clients.append(Client(self.channel, self.node, variant, short))
        return self._clients[-1]

    async def setup(self, *types: Any) -> None:
        """Replace all that the node is to hold."""
        await tell(self.channel, self.node, "SetState", "State", types=types)

    async def set(self, short: str, name: str, version: str, **more: Any) -> None:
        """Add or update one resource."""
        change = {"type_url": TYPES[short], "name": name, "version": version}
        await tell(self.channel, self.node, "SetResource", "ResourceChange", **change, **more)

    async def remove(self, short: str, name: str, version: str) -> None:
        """Remove one resource."""
        change = {"type_url": TYPES[short], "name": name, "version": version}
        await tell(self.channel, self.node, "RemoveResource", "ResourceChange", **change)

    async def clear(self) -> None:
        """The node is to hold nothing."""
        await tell(self.channel, self.node, "ClearState", "Node")

    def close(self) -> None:
        """All streams go."""
        for one in self._clients:
            one.drop()


@asynccontextmanager
async def outside(address: str, node: str) -> AsyncGenerator[Outside]:
    """A harness on a connection of its own."""
    async with aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        harness = Outside(channel, node)
        try:
            yield harness
        finally:
            harness.close()
