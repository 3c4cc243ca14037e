"""Hub: the newest snapshot of every proxy, the one stream that serves it, and how far that has come.

Newest wins: an offer replaces the one before and wakes the stream's writer, which takes what is there when it
gets to it. One event loop owns a hub; nothing here blocks or polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from immutables import Map

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from zone_cp.ads.delta import DeltaStream, Fact, TypeDelivery
from zone_cp.xds.snapshot import Snapshot

SUPERSEDED = "superseded by a newer stream of the same proxy"


class ProxyDelivery(msgspec.Struct, frozen=True):
    """What one proxy has been offered, sent and has accepted. connection is the id of its stream, "" while offline."""

    proxy: str
    connection: str
    offered: Position | None
    delivered: Position | None
    types: tuple[TypeDelivery, ...]


class Stream:
    """One ADS stream: its protocol state, the bell its writer waits for, and the reason it has to end."""

    def __init__(self, proxy: str, connection: str, order: int) -> None:
        """order: the server's count of streams; the later stream of a proxy wins."""
        self.proxy = proxy
        self.connection = connection
        self.order = order
        self.delta = DeltaStream()
        self.bell = asyncio.Event()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, reason: str) -> None:
        """Ask for the stream's end; the first reason stays."""
        if not self.ended.done():
            self.ended.set_result(reason)


class Hub:
    """Snapshots in, wake-ups out, by proxy."""

    def __init__(self) -> None:
        """Nobody is connected, nothing is offered."""
        self._snapshots: dict[str, Snapshot] = {}
        self._streams: dict[str, Stream] = {}
        self._waiting: dict[str, list[tuple[Position, asyncio.Future[ProxyDelivery]]]] = {}

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Let this be what the proxy should hold, now or when it connects."""
        self._snapshots[proxy] = snapshot
        stream = self._streams.get(proxy)
        if stream is not None:
            stream.delta.offer(snapshot)
            stream.bell.set()

    def forget(self, proxy: str) -> None:
        """Drop the snapshot of a proxy that is not expected back; its stream, if any, keeps what it has."""
        self._snapshots.pop(proxy, None)

    def attach(self, stream: Stream) -> Stream | None:
        """Let a stream serve its proxy; returns the one that has to go: the older, which may be this one."""
        current = self._streams.get(stream.proxy)
        if current is not None and current.order > stream.order:
            stream.end(SUPERSEDED)
            return stream
        self._streams[stream.proxy] = stream
        snapshot = self._snapshots.get(stream.proxy)
        if snapshot is not None:
            stream.delta.offer(snapshot)
        if current is not None:
            current.end(SUPERSEDED)
        return current

    def detach(self, stream: Stream) -> None:
        """Forget a stream that has ended; harmless when a newer one has taken its place."""
        if self._streams.get(stream.proxy) is stream:
            del self._streams[stream.proxy]

    def receive(self, stream: Stream, request: DeltaDiscoveryRequest) -> Sequence[Fact]:
        """Feed a request to a stream and wake its writer."""
        facts = stream.delta.receive(request)
        stream.bell.set()
        return facts

    def responses(self, stream: Stream) -> list[bytes]:
        """What the stream's writer must write now. Also settles who waits for its proxy."""
        stream.bell.clear()
        responses = stream.delta.responses()
        if self._streams.get(stream.proxy) is stream:
            self._settle(stream)
        return responses

    def _settle(self, stream: Stream) -> None:
        waiting = self._waiting.get(stream.proxy)
        delivered = stream.delta.delivered
        if not waiting or delivered is None:
            return
        left = []
        for position, future in waiting:
            if future.done():
                continue
            if _reached(delivered, position):
                future.set_result(self.delivery(stream.proxy))
            else:
                left.append((position, future))
        if left:
            self._waiting[stream.proxy] = left
        else:
            del self._waiting[stream.proxy]

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> ProxyDelivery:
        """Wait until the proxy has answered all that a snapshot of this position (or later) caused.

        A NACK is an answer: what is held back shows in the delivery's `rejected`. Raises TimeoutError.
        """
        stream = self._streams.get(proxy)
        if stream is not None and stream.delta.delivered is not None and _reached(stream.delta.delivered, position):
            return self.delivery(proxy)
        future: asyncio.Future[ProxyDelivery] = asyncio.get_running_loop().create_future()
        entry = (position, future)
        self._waiting.setdefault(proxy, []).append(entry)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await future
        finally:
            with suppress(KeyError, ValueError):
                self._waiting[proxy].remove(entry)
                if not self._waiting[proxy]:
                    del self._waiting[proxy]

    def streams(self) -> tuple[Stream, ...]:
        """The streams that serve now."""
        return tuple(self._streams.values())

    def delivery(self, proxy: str) -> ProxyDelivery:
        """The delivery of one proxy."""
        snapshot, stream = self._snapshots.get(proxy), self._streams.get(proxy)
        offered = None if snapshot is None else snapshot.position
        if stream is None:
            return ProxyDelivery(proxy, "", offered, None, ())
        return ProxyDelivery(proxy, stream.connection, offered, stream.delta.delivered, stream.delta.status())

    def deliveries(self) -> tuple[ProxyDelivery, ...]:
        """The delivery of every proxy that is connected or has been offered something, by name."""
        return tuple(self.delivery(proxy) for proxy in sorted(self._snapshots.keys() | self._streams.keys()))


class DnsTable(msgspec.Struct, frozen=True):
    """All names one agent answers. version: equal means equal content; names are lower case without trailing dot."""

    version: str
    names: Map[str, str]
    ttl_seconds: int = 5


class DnsChange(msgspec.Struct, frozen=True):
    """How to get from one table to the next; `full` replaces whatever there was."""

    version: str
    full: bool
    upsert: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]
    ttl_seconds: int


def dns_change(before: DnsTable | None, after: DnsTable) -> DnsChange | None:
    """Compare two tables; None when the agent has the newer one already."""
    if before is None:
        return DnsChange(after.version, True, tuple(sorted(after.names.items())), (), after.ttl_seconds)
    if before.version == after.version:
        return None
    upsert = tuple(sorted((name, ip) for name, ip in after.names.items() if before.names.get(name) != ip))
    remove = tuple(sorted(name for name in before.names if name not in after.names))
    return DnsChange(after.version, False, upsert, remove, after.ttl_seconds)


def _reached(delivered: Position, position: Position) -> bool:
    return delivered.g >= position.g and delivered.z >= position.z
