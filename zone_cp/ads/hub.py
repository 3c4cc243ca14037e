"""Hub: the newest snapshot of every proxy, the streams that serve it, and how far they have come.

A proxy has one aggregated stream, the newest, or any number of streams of single types: a client opens one for every
subscription it makes outside ADS, so none of them stands for another, and nothing is ordered between them.

Newest wins: an offer replaces the one before and rings for the stream's writer, which says what is due when it
gets to it. A change that leaves a proxy's snapshot as it is costs that proxy nothing:
`advance` says once for all proxies up to which moment their snapshots hold, and a stream that has delivered its
snapshot has delivered that moment. One event loop owns a hub; nothing here blocks or polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.ads.delivery import TypeDelivery
from zone_cp.ads.facts import Fact, RemoteProtocolError
from zone_cp.ads.lingering import LINGER_SECONDS
from zone_cp.ads.staging import StagedStream
from zone_cp.xds.snapshot import CLUSTER, Encoded, Snapshot

LOST = "the connection was lost"
CLOSED = "closed by the proxy"
SUPERSEDED = "superseded by a newer stream of the same proxy"
MAX_TYPE_STREAMS = 1_024
"""Streams of single types that one proxy may have open."""


class NodeInfo(msgspec.Struct, frozen=True):
    """Who a stream says it is; metadata is the node's metadata as plain JSON values."""

    id: str
    cluster: str = ""
    metadata: dict[str, Any] = {}


class ProxyDelivery(msgspec.Struct, frozen=True):
    """What one proxy has been offered, sent and has accepted. connection is the id of its (first) stream, "" while
    offline.
    """

    proxy: str
    connection: str
    offered: Position | None
    delivered: Position | None
    types: tuple[TypeDelivery, ...]


class Stream:
    """One xDS stream: its protocol state, how to have what is due written, and the reason it has to end.

    ring: it is written as soon as the caller is through; speak: at once. fault: what went wrong
    here, None while nothing did.
    """

    __slots__ = (
        "connection", "draining", "ended", "fault", "node", "order", "proxy", "reached", "ring", "scope", "speak",
        "xds",
    )  # fmt: skip

    def __init__(
        self, node: NodeInfo, proxy: str, connection: str, order: int, *, xds: StagedStream, scope: str
    ) -> None:
        """order: the server's count of streams; the later stream of a proxy wins. scope: its one type, "" for ADS."""
        self.node = node
        self.proxy = proxy
        self.connection = connection
        self.order = order
        self.xds = xds
        self.scope = scope
        self.reached: Position | None = None
        self.draining = 0
        self.ring: Callable[[], None] = _ignored
        self.speak: Callable[[], None] = _ignored
        self.fault: BaseException | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def offer(self, snapshot: Snapshot) -> None:
        """Let the stream carry what it may of a snapshot, and ring for its writer."""
        if self.scope:
            own = {type_url: names for type_url, names in snapshot.resources.items() if type_url == self.scope}
            snapshot = msgspec.structs.replace(snapshot, resources=Map(own))
        self.xds.offer(snapshot)
        self.ring()

    def let_drain(self, seconds: float) -> None:
        """See to it that what lingers now is removed in time."""
        newest = self.xds.lingering.newest
        if newest != self.draining:
            self.draining = newest
            asyncio.get_running_loop().call_later(seconds, self._drained, newest)

    def _drained(self, mark: int) -> None:
        self.xds.drained(mark)
        if not self.ended.done():
            self.ring()

    @property
    def reason(self) -> str:
        """Why it ended; while it goes on, or when nobody said so, the connection's loss."""
        return LOST if not self.ended.done() or self.ended.cancelled() else self.ended.result()

    def end(self, reason: str) -> None:
        """Ask for the stream's end; the first reason stays."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def fail(self, fault: BaseException) -> None:
        """End the stream for what went wrong, unless it ends already."""
        if not self.ended.done():
            self.fault = fault
            self.end(f"{type(fault).__name__}: {fault}")


class Hub:
    """Snapshots in, wake-ups out, by proxy.

    on_reported is called with a proxy and the clusters (with versions) it says it holds, when a new stream of it asks
    for clusters and before it is answered; on_answered with one and what its answer means; on_moved with one that has
    come or gone, or was offered or has answered something; on_advanced when what all were offered is good for a newer
    moment; on_left with one whose stream ends and how far it had come. None of them must block.
    """

    def __init__(self) -> None:
        """Nobody is connected, nothing is offered. linger_seconds: see `lingering`."""
        self.linger_seconds = LINGER_SECONDS
        self._snapshots: dict[str, Snapshot] = {}
        self._streams: dict[str, Stream] = {}
        self._typed: dict[str, dict[str, Stream]] = {}
        self._waiting: dict[str, list[tuple[Position, asyncio.Future[Position]]]] = {}
        self._position: Position | None = None
        self._left: dict[str, Position] = {}
        self._refused: dict[str, dict[tuple[str, str], str]] = {}
        self.on_reported: Callable[[str, Mapping[str, str]], None] = _ignored
        self.on_answered: Callable[[str, Sequence[Fact]], None] = _ignored
        self.on_moved: Callable[[str], None] = _ignored
        self.on_advanced: Callable[[], None] = _ignored
        self.on_left: Callable[[str, Position | None], None] = _ignored

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Let this be what the proxy should hold, now or when it connects."""
        streams = self.streams_of(proxy)
        for stream in streams:
            stream.reached = self._delivered_by(stream)  # the next snapshot takes nothing back
        self._snapshots[proxy] = snapshot
        self._left.pop(proxy, None)
        self.on_moved(proxy)
        for stream in streams:
            stream.offer(snapshot)

    def snapshot(self, proxy: str) -> Snapshot | None:
        """What the proxy was offered last."""
        return self._snapshots.get(proxy)

    def advance(self, position: Position) -> None:
        """What every proxy was offered last holds at `position` too, save of those that were left behind."""
        self._position = position
        self.on_advanced()
        for proxy in list(self._waiting):
            self._settle(proxy)

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """What the proxy was offered is not kept up to date any more, until it is offered something again.

        position: the last moment at which it holds, where that has passed.
        """
        offered = self._offered(proxy) if position is None else position
        if offered is not None:
            self._left.setdefault(proxy, offered)
            self.on_moved(proxy)

    def withhold(self, proxy: str) -> None:
        """Take back what a proxy was offered: its streams say nothing more until it is offered something again."""
        self.forget(proxy)
        for stream in self.streams_of(proxy):
            stream.xds.withhold()

    def forget(self, proxy: str) -> None:
        """Drop the snapshot of a proxy that is not expected back; its stream, if any, keeps what it has."""
        self._snapshots.pop(proxy, None)
        self._left.pop(proxy, None)
        self.on_moved(proxy)

    def refuse(self, type_url: str, name: str, version: str, reason: str) -> None:
        """Send this version to no client, as if each had refused it: it keeps the last one that it accepted."""
        self._refused.setdefault(type_url, {})[name, version] = reason
        for stream in self.streams():
            if (subscription := stream.xds.subscription(type_url)) is not None:
                subscription.rejected[name, version] = reason

    def forgive(self, type_url: str, name: str, version: str) -> None:
        """Let this version be sent again to those that should have it."""
        self._refused.get(type_url, {}).pop((name, version), None)
        for stream in self.streams():
            if (subscription := stream.xds.subscription(type_url)) is not None:
                subscription.forgive(name, version)
                stream.ring()

    def last_good(self, proxy: str, type_url: str, name: str) -> Encoded | None:
        """What a proxy accepted last of a resource, None where that is not known here."""
        for stream in self.streams_of(proxy):
            subscription = stream.xds.subscription(type_url)
            held = None if subscription is None else subscription.held.get(name)
            if isinstance(held, Encoded):
                return held
        return None

    def attach(self, stream: Stream) -> Stream | None:
        """Let a stream serve its proxy; returns the one that has to go: the older, which may be this one.

        Raises RemoteProtocolError when the proxy has too many streams of single types.
        """
        snapshot = self._snapshots.get(stream.proxy)
        stream.xds.refused = self._refused
        if stream.scope:
            typed = self._typed.setdefault(stream.proxy, {})
            if len(typed) >= MAX_TYPE_STREAMS:
                raise RemoteProtocolError(f"more than {MAX_TYPE_STREAMS} streams of single types", limit=True)
            typed[stream.connection] = stream
            if snapshot is not None:
                stream.offer(snapshot)
            self.on_moved(stream.proxy)
            return None
        current = self._streams.get(stream.proxy)
        if current is not None and current.order > stream.order:
            stream.end(SUPERSEDED)
            return stream
        self._streams[stream.proxy] = stream
        if snapshot is not None:
            stream.offer(snapshot)
        if current is not None:
            current.end(SUPERSEDED)
        self.on_moved(stream.proxy)
        return current

    def detach(self, stream: Stream) -> None:
        """Forget a stream that has ended; harmless when a newer one has taken its place."""
        if self._streams.get(stream.proxy) is stream:
            self.on_left(stream.proxy, self.delivered(stream.proxy))
            del self._streams[stream.proxy]
        typed = self._typed.get(stream.proxy, {})
        if typed.pop(stream.connection, None) is not None and not typed:
            del self._typed[stream.proxy]
        self.on_moved(stream.proxy)

    def receive(self, stream: Stream, request: Any) -> Sequence[Fact]:
        """Feed a request to a stream and let it answer. Raises RemoteProtocolError."""
        if request.type_url == CLUSTER and stream.xds.subscription(CLUSTER) is None:
            holds = stream.xds.reported(request)
            if holds is not None:
                self.on_reported(stream.proxy, holds)
        facts = stream.xds.receive(request)
        self.on_answered(stream.proxy, facts)
        stream.speak()
        return facts

    def responses(self, stream: Stream) -> list[bytes]:
        """What the stream's writer must write now. Also settles who waits for its proxy."""
        responses = stream.xds.responses()
        self.on_moved(stream.proxy)
        self._settle(stream.proxy)
        stream.let_drain(self.linger_seconds)
        return responses

    def _settle(self, proxy: str) -> None:
        waiting = self._waiting.get(proxy)
        delivered = self.delivered(proxy) if waiting else None
        if not waiting or delivered is None:
            return
        left = []
        for position, future in waiting:
            if future.done():
                continue
            if delivered.reaches(position):
                future.set_result(delivered)
            else:
                left.append((position, future))
        if left:
            self._waiting[proxy] = left
        else:
            del self._waiting[proxy]

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> Position:
        """Wait until the proxy has answered all that a snapshot of this position (or later) caused; what it reached.

        A NACK is an answer: what is held back shows in the delivery's `rejected`. Raises TimeoutError.
        """
        delivered = self.delivered(proxy)
        if delivered is not None and delivered.reaches(position):
            return delivered
        future: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
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

    @property
    def position(self) -> Position | None:
        """The newest moment that what proxies were offered is good for; None before the first."""
        return self._position

    def streams(self) -> tuple[Stream, ...]:
        """The streams that serve now."""
        return tuple(stream for proxy in self._connected() for stream in self.streams_of(proxy))

    def streams_of(self, proxy: str) -> tuple[Stream, ...]:
        """The streams of one proxy, the aggregated one first."""
        stream = self._streams.get(proxy)
        return (*(() if stream is None else (stream,)), *self._typed.get(proxy, {}).values())

    def _connected(self) -> set[str]:
        return self._streams.keys() | self._typed.keys()

    def _offered(self, proxy: str) -> Position | None:
        """The newest moment at which what the proxy was offered holds."""
        snapshot = self._snapshots.get(proxy)
        if snapshot is None or self._position is None:
            return None if snapshot is None else snapshot.position
        return self._left.get(proxy) or max(snapshot.position, self._position)

    def _delivered_by(self, stream: Stream) -> Position | None:
        reached, snapshot = stream.xds.delivered, self._snapshots.get(stream.proxy)
        if reached is not None and snapshot is not None and reached == snapshot.position:
            reached = self._offered(stream.proxy)
        if reached is None or stream.reached is None:
            return reached if stream.reached is None else stream.reached
        return max(reached, stream.reached)

    def delivered(self, proxy: str) -> Position | None:
        """What all streams of a proxy have delivered; None while it is offline or has not received everything once."""
        reached = [self._delivered_by(stream) for stream in self.streams_of(proxy)]
        known = [one for one in reached if one is not None]
        if not reached or len(known) < len(reached):
            return None
        return Position(min(one.g for one in known), min(one.z for one in known))

    def keeps_up(self, proxy: str) -> bool:
        """Whether a connected proxy has all there is for it, so that `advance` moves it."""
        snapshot = None if proxy in self._left else self._snapshots.get(proxy)
        return snapshot is not None and all(s.xds.delivered == snapshot.position for s in self.streams_of(proxy))

    def delivery(self, proxy: str) -> ProxyDelivery:
        """The delivery of one proxy."""
        streams, offered = self.streams_of(proxy), self._offered(proxy)
        if not streams:
            return ProxyDelivery(proxy, "", offered, None, ())
        types = tuple(one for stream in streams for one in stream.xds.status())
        return ProxyDelivery(proxy, streams[0].connection, offered, self.delivered(proxy), types)

    def deliveries(self) -> tuple[ProxyDelivery, ...]:
        """The delivery of every proxy that is connected or has been offered something, by name."""
        return tuple(self.delivery(proxy) for proxy in sorted(self._snapshots.keys() | self._connected()))


def _ignored(*_: object) -> None:
    """Nobody asked to be told."""
