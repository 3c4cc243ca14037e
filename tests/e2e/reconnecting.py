"""A load process that stands for many sidecars: `python -m tests.e2e.reconnecting`, one JSON object in, then rounds.

Each sidecar has a connection and a delta stream of its own, asks as Envoy does (clusters, endpoints, listeners), ACKs
what it gets and remembers what it holds. `connect` on standard input begins a round: all connect at once, saying what
they hold from the round before. A round ends when each of them has had its answers and nothing came for
QUIET_SECONDS; then a line with the round's figures is written. Streams stay open until the other side ends them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import msgspec
from google.protobuf.struct_pb2 import Struct as Metadata
from grpc import aio

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from zone_cp.ads.server import ADS_SERVICE
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER

QUIET_SECONDS = 0.5
ROUND_SECONDS = 60.0
ASKED = ((CLUSTER, ()), (LISTENER, ()), (ENDPOINT, ("zone-egress",)))
CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


class Load(msgspec.Struct, frozen=True):
    """Who connects where: the port, the CA's certificate (PEM), the token and the Dataplanes (JSON) by proxy id."""

    port: int
    ca: str
    token: str
    proxies: dict[str, str]


class Round(msgspec.Struct):
    """What one round saw: sidecars that have all they asked for, responses, those with resources in them, and how
    streams ended (by gRPC status) before that.
    """

    settled: int = 0
    responses: int = 0
    resources: int = 0
    removed: int = 0
    ended: dict[str, int] = msgspec.field(default_factory=dict)


class Sidecar:
    """One sidecar: what it holds, over all its streams."""

    def __init__(self, proxy: str, dataplane: str) -> None:
        metadata = Metadata()
        metadata.update({"dataplane.resource": dataplane, "features": ["redirect"]})
        self._node = Node(id=proxy, metadata=metadata)
        self._held: dict[str, dict[str, str]] = {type_url: {} for type_url, _ in ASKED}

    async def run(self, load: Load, seen: Round, answered: asyncio.Event) -> None:
        """One stream, until it ends; `answered` is set at every response."""
        credentials = grpc.ssl_channel_credentials(load.ca.encode())
        async with aio.secure_channel(f"127.0.0.1:{load.port}", credentials, options=CHANNEL) as channel:
            method: Any = channel.stream_stream(f"/{ADS_SERVICE}/DeltaAggregatedResources")
            stream = method(metadata=(("authorization", f"Bearer {load.token}"),), wait_for_ready=True)
            waiting = {CLUSTER, LISTENER}  # wildcards are always answered; of endpoints that are held nothing is said
            try:
                await self._ask(stream)
                while (raw := await stream.read()) is not aio.EOF:
                    response = DeltaDiscoveryResponse.FromString(raw)
                    self._take(response, seen)
                    ack = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                    await stream.write(ack.SerializeToString())
                    seen.settled += waiting == {response.type_url}
                    waiting.discard(response.type_url)
                    answered.set()
            except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
                pass
            code = (await stream.code()).name
            seen.ended[code] = seen.ended.get(code, 0) + 1
            answered.set()

    async def _ask(self, stream: Any) -> None:
        for number, (type_url, names) in enumerate(ASKED):
            request = DeltaDiscoveryRequest(
                node=None if number else self._node,
                type_url=type_url,
                resource_names_subscribe=names or ("*",),
                initial_resource_versions=self._held[type_url],
            )
            await stream.write(request.SerializeToString())

    def _take(self, response: DeltaDiscoveryResponse, seen: Round) -> None:
        held = self._held[response.type_url]
        held.update({one.name: one.version for one in response.resources})
        for name in response.removed_resources:
            held.pop(name, None)
        seen.responses += 1
        seen.resources += len(response.resources)
        seen.removed += len(response.removed_resources)


async def _settled(seen: Round, answered: asyncio.Event, wanted: int) -> None:
    async with asyncio.timeout(ROUND_SECONDS):
        while seen.settled + sum(seen.ended.values()) < wanted:
            answered.clear()
            await answered.wait()
        while True:
            answered.clear()
            try:
                await asyncio.wait_for(answered.wait(), QUIET_SECONDS)
            except TimeoutError:
                return


async def main() -> None:
    """Serve rounds until standard input ends."""
    loop = asyncio.get_running_loop()
    load = msgspec.json.decode(sys.stdin.readline(), type=Load)
    sidecars = [Sidecar(proxy, dataplane) for proxy, dataplane in load.proxies.items()]
    tasks: list[asyncio.Task[None]] = []
    while await loop.run_in_executor(None, sys.stdin.readline):
        await asyncio.wait(tasks) if tasks else None
        seen, answered = Round(), asyncio.Event()
        tasks = [asyncio.create_task(sidecar.run(load, seen, answered)) for sidecar in sidecars]
        try:
            await _settled(seen, answered, len(sidecars))
        finally:
            sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
