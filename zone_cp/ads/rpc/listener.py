"""Listener: the asyncio skin around connections. Listens, reads, writes, watches; knows nothing of what is served."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from zone_cp.ads.rpc import frames
from zone_cp.ads.rpc.calls import Aborted, Call, Method, seconds_of
from zone_cp.ads.rpc.connection import Connection
from zone_cp.ads.rpc.exchange import Exchange, Status
from zone_cp.ads.rpc.frames import ConnectionBroken, Fault
from zone_cp.ads.rpc.secure import READ_BYTES, NotAgreed, Secure

BACKLOG, ACCEPTS = 4_096, 32
"""Connections that the system holds until they are taken (all of a zone may come at once); how many are in one turn."""
MAX_CONNECTIONS = 65_536
RESERVED_DESCRIPTORS = 256
"""What connections leave to the rest of the process of the descriptors it may have; an eighth where it may have few."""
TURN_SECONDS = 0.005
"""How long handshakes, and what clients said too much of for one turn, may take of a turn of the loop."""
WATCH_SECONDS = 10.0
"""How often connections are looked at."""
LOOKS = 256
"""How many of them are in one turn of the loop."""
QUIET_LOOKS, LOST_LOOKS = 2, 3
"""Looks at which a connection has said nothing until it is asked whether it lives, and until it counts as lost."""
HELLO_LOOKS = 12
"""Looks until which a client has to have begun with HTTP/2, however slowly it speaks: handshakes of a storm wait."""
IDLE_LOOKS = 30
"""Looks at which a connection had no call until it is let go."""
WRITE_BUFFER_BYTES = 256 * 1024
"""What the socket has not taken yet when writers have to wait."""
UNREAD_BYTES = 1024 * 1024
"""What may be written beyond that (statuses, answers to pings) to a client which asks on and does not read."""
CLOSE_SECONDS = 1.0
"""How long clients have, when the server stops, to take what was written."""

log = structlog.get_logger(__name__)


class Listener:
    """Serves gRPC methods, by path, on one address. Belongs to one event loop."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """methods: `/package.Service/Method` to what serves it."""
        self._methods = dict(methods)
        self._server: asyncio.Server | None = None
        self._most = MAX_CONNECTIONS
        self._sockets: set[_Socket] = set()
        self._strangers: dict[_Socket, None] = {}
        self._turns: deque[_Socket] = deque()
        self._next_turn: asyncio.Handle | None = None
        self._gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.TimerHandle | None = None
        self._stopping = False
        self.tls: ssl.SSLContext | None = None
        self.buffer = memoryview(bytearray(READ_BYTES))

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; returns the port (0 takes a free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self.tls = tls
        self._most = _most_connections()
        where: dict[str, Any] = {"host": host.strip("[]"), "port": port}
        if (everywhere := _bound_everywhere(host, port)) is not None:
            where = {"sock": everywhere}
        # what asyncio calls the backlog is also how many connections it takes without looking at anything else
        self._server = await loop.create_server(lambda: _Socket(self), **where, backlog=ACCEPTS)
        for one in self._server.sockets:
            with socket.socket(fileno=os.dup(one.fileno())) as same:
                same.listen(BACKLOG)
        self._watching = loop.call_later(WATCH_SECONDS, self._watch)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, seconds: float) -> None:
        """Take no more calls, wait for those there are for so long at most, and end what is left."""
        if self._server is None:
            return
        self._stopping = True
        self._server.close()
        self._server = None
        if self._watching is not None:
            self._watching.cancel()
        for one in tuple(self._sockets):
            one.go_away()
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for one in tuple(self._sockets):
            one.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._sockets:
                    self._gone.clear()
                    await self._gone.wait()
        for one in tuple(self._sockets):
            one.abort()

    def joined(self, one: _Socket) -> None:
        """A client has connected. Where there are too many, the oldest that has not begun a call has to go."""
        self._sockets.add(one)
        self._strangers[one] = None
        if self._stopping:
            one.abort()
        while len(self._sockets) > self._most and self._strangers:
            stranger = next(iter(self._strangers))
            del self._strangers[stranger]
            if not stranger.has_calls:
                stranger.abort()
                return

    def left(self, one: _Socket) -> None:
        """Its connection is closed."""
        self._sockets.discard(one)
        self._strangers.pop(one, None)
        self._gone.set()

    def queue(self, one: _Socket) -> None:
        """It has something to do that may take long: let it have a turn when the others had theirs."""
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._take_turns)
        self._turns.append(one)

    def _take_turns(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + TURN_SECONDS
        while self._turns:
            self._turns.popleft().turn()
            if loop.time() > end:
                break
        self._next_turn = loop.call_soon(self._take_turns) if self._turns else None

    def _watch(self) -> None:
        """Ask the silent whether they live; close what does not answer."""
        self._watching = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)
        frames.forget()
        self._look(deque(self._sockets))

    def _look(self, left: deque[_Socket]) -> None:
        for _ in range(min(LOOKS, len(left))):
            left.popleft().look()
        if left:
            asyncio.get_running_loop().call_soon(self._look, left)

    # --- calls ---------------------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange) -> None:
        """Serve a call."""
        method = self._methods.get(exchange.path)
        if method is None:
            exchange.finish(Status.UNIMPLEMENTED, f"there is no method {exchange.path}")
            return
        task = asyncio.get_running_loop().create_task(self._serve(method, exchange))
        exchange.on_lost = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, method: Method, exchange: Exchange) -> None:
        deadline = asyncio.timeout(seconds_of(exchange.fields))
        try:
            async with deadline:
                await method(Call(exchange))
        except Aborted as aborted:
            exchange.finish(aborted.status, str(aborted))
        except asyncio.CancelledError:
            if not self._stopping or exchange.is_over:
                return  # the client is gone
            exchange.finish(Status.UNAVAILABLE, "the server is stopping")
        except Exception as error:
            if deadline.expired():
                exchange.finish(Status.DEADLINE_EXCEEDED, "the time that the client gave the call is over")
                return
            log.exception("a call failed", path=exchange.path)
            exchange.finish(Status.UNKNOWN, f"{type(error).__name__}: {error}")
        else:
            exchange.finish(Status.OK)


class _Socket(asyncio.BufferedProtocol):
    """One client's socket. All read into one buffer, since what is read is taken in the same turn."""

    __slots__ = ("_connection", "_idle", "_listener", "_quiet", "_secure", "_transport", "_unread")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._quiet = self._idle = self._unread = 0
        self._secure: Secure | None = None

    @property
    def has_calls(self) -> bool:
        """Whether the client has calls under way."""
        return bool(self._connection.exchanges)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a socket's transport was expected")
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        write = transport.write if self._listener.tls is None else self._write_sealed
        self._connection = Connection(write, self._listener.begin)
        self._listener.joined(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._quiet = 0
        data, tls = self._listener.buffer[:nbytes], self._listener.tls
        if tls is None:
            self._take(bytes(data))
            return
        if self._secure is None:  # not before: it costs far more than a connection without a word
            self._secure = Secure(tls)
        self._secure.feed(data)
        if self._secure.is_agreed:
            self._take_sealed(self._secure)
        else:
            self._wait()

    def _wait(self) -> None:
        self._transport.pause_reading()
        self._listener.queue(self)

    def turn(self) -> None:
        """Go on with what was queued."""
        if self._transport.is_closing():
            return
        self._transport.resume_reading()
        if self._secure is None or self._secure.is_agreed:
            self._take(b"")
        else:
            self._take_sealed(self._secure)

    def _take(self, data: bytes) -> None:
        try:
            if self._connection.paused and self._transport.get_write_buffer_size() > self._unread:
                raise ConnectionBroken(Fault.ENHANCE_YOUR_CALM, "the client asks and does not read")  # noqa: TRY301
            if self._connection.receive(data):
                self._wait()
        except ConnectionBroken as broken:
            if self._connection.paused:
                self.abort()  # it would not read why
                return
            if self._connection.is_open:
                self._connection.go_away(broken.fault, str(broken))
            self.close()

    def _take_sealed(self, secure: Secure) -> None:
        try:
            data = secure.opened()
        except (NotAgreed, ssl.SSLError):
            data = None
        if pending := secure.pending():  # an alert says what was wrong with a handshake
            self._transport.write(pending)
        if data:
            self._take(data)
        elif data is None:
            self.close()

    def _write_sealed(self, data: bytes) -> None:
        if self._secure is not None and not self._transport.is_closing():  # nothing is said after the end of TLS
            self._transport.write(self._secure.sealed(data))

    def eof_received(self) -> None:
        """The client has closed; so has the transport then."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.left(self)
        self._connection.lose()

    def pause_writing(self) -> None:
        self._unread = self._transport.get_write_buffer_size() + UNREAD_BYTES
        self._connection.pause()

    def resume_writing(self) -> None:
        self._connection.resume()

    def look(self) -> None:
        """Some time has passed."""
        if self._transport.is_reading() or self._transport.is_closing():  # else it waits for us
            self._quiet += 1
        self._idle = 0 if self.has_calls else self._idle + 1
        self._connection.look()
        is_open = self._connection.is_open
        if self._quiet >= LOST_LOOKS or (not is_open and (self._quiet >= QUIET_LOOKS or self._idle >= HELLO_LOOKS)):
            self.abort()
        elif self._idle > IDLE_LOOKS:
            self.close()
        elif self._idle == IDLE_LOOKS:
            self.go_away()
        elif self._quiet >= QUIET_LOOKS:
            self._connection.ping()

    def go_away(self) -> None:
        """Let the client begin no more calls here."""
        if self._connection.is_open:
            self._connection.go_away()

    def close(self) -> None:
        """Close, after what was written."""
        if self._secure is not None and not self._transport.is_closing():
            self._transport.write(self._secure.end())
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


def _bound_everywhere(host: str, port: int) -> socket.socket | None:
    """A socket for IPv6 and IPv4 where the host means all addresses of either, which gRPC takes for both."""
    if host.strip("[]") not in {"0.0.0.0", "::"} or not socket.has_dualstack_ipv6():  # noqa: S104 - what was asked for
        return None
    with suppress(OSError):  # it is tried again without IPv6, and then said
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return None


def _most_connections() -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, allowed - min(RESERVED_DESCRIPTORS, allowed // 8))
