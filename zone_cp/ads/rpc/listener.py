"""Listener: the asyncio skin around connections. Listens, reads, writes, watches; knows nothing of what is served."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from zone_cp.ads.rpc.calls import Aborted, Call, Method
from zone_cp.ads.rpc.connection import Connection
from zone_cp.ads.rpc.exchange import Exchange, Status
from zone_cp.ads.rpc.frames import ConnectionBroken
from zone_cp.ads.rpc.secure import READ_BYTES, Secure

BACKLOG = 4_096
"""Connections that the system holds until they are taken: all of a zone may come at once."""
WATCH_SECONDS = 10.0
"""How often connections are looked at."""
QUIET_LOOKS, LOST_LOOKS = 2, 3
"""Looks at which a connection has said nothing until it is asked whether it lives, and until it counts as lost."""
WRITE_BUFFER_BYTES = 256 * 1024
"""What the socket has not taken yet when writers have to wait."""

log = structlog.get_logger(__name__)


class Listener:
    """Serves gRPC methods, by path, on one address. Belongs to one event loop."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        """methods: `/package.Service/Method` to what serves it."""
        self._methods = dict(methods)
        self._server: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._sockets: set[_Socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.TimerHandle | None = None
        self._stopping = False
        self.buffer = memoryview(bytearray(READ_BYTES))

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; returns the port (0 takes a free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._tls = tls
        self._server = await loop.create_server(lambda: _Socket(self), host, port, backlog=BACKLOG, reuse_port=False)
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

    def secure(self) -> Secure | None:
        """TLS for a new connection, None where none is spoken."""
        return None if self._tls is None else Secure(self._tls)

    def joined(self, one: _Socket) -> None:
        """A client has connected."""
        self._sockets.add(one)

    def left(self, one: _Socket) -> None:
        """Its connection is closed."""
        self._sockets.discard(one)

    def _watch(self) -> None:
        """Ask the silent whether they live; close what does not answer."""
        for one in tuple(self._sockets):
            one.look()
        self._watching = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)

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
        try:
            await method(Call(exchange))
        except Aborted as aborted:
            exchange.finish(aborted.status, str(aborted))
        except asyncio.CancelledError:
            if not self._stopping or exchange.is_over:
                return  # the client is gone
            exchange.finish(Status.UNAVAILABLE, "the server is stopping")
        except Exception as error:
            log.exception("a call failed", path=exchange.path)
            exchange.finish(Status.UNKNOWN, f"{type(error).__name__}: {error}")
        else:
            exchange.finish(Status.OK)


class _Socket(asyncio.BufferedProtocol):
    """One client's socket. All read into one buffer, since what is read is taken in the same turn."""

    __slots__ = ("_connection", "_listener", "_quiet", "_secure", "_transport")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._quiet = 0
        self._secure: Secure | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a socket's transport was expected")
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._secure = self._listener.secure()
        write = transport.write if self._secure is None else partial(_write_sealed, transport.write, self._secure)
        self._connection = Connection(write, self._listener.begin)
        self._listener.joined(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._quiet = 0
        try:
            if self._secure is None:
                self._connection.receive(bytes(self._listener.buffer[:nbytes]))
            else:
                self._take_sealed(self._secure, nbytes)
        except ConnectionBroken as broken:
            self._break(broken)
        except ssl.SSLError:
            self._transport.abort()

    def _take_sealed(self, secure: Secure, nbytes: int) -> None:
        try:
            data = secure.opened(self._listener.buffer[:nbytes])
        finally:
            if pending := secure.pending():  # an alert says what was wrong with a handshake
                self._transport.write(pending)
        if data:
            self._connection.receive(data)
        elif data is None:
            self._transport.close()

    def _break(self, broken: ConnectionBroken) -> None:
        if self._connection.is_open:
            self._connection.go_away(broken.fault, str(broken))
        self._transport.close()

    def eof_received(self) -> None:
        """The client has closed; so has the transport then."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.left(self)
        self._connection.lose()

    def pause_writing(self) -> None:
        self._connection.pause()

    def resume_writing(self) -> None:
        self._connection.resume()

    def look(self) -> None:
        """Nothing was heard since the last look but once."""
        self._quiet += 1
        if self._quiet >= LOST_LOOKS or (self._quiet >= QUIET_LOOKS and not self._connection.is_open):
            self._transport.abort()
        elif self._quiet >= QUIET_LOOKS:
            self._connection.ping()

    def go_away(self) -> None:
        """Let the client begin no more calls here."""
        if self._connection.is_open:
            self._connection.go_away()

    def close(self) -> None:
        """Close, after what was written."""
        self._transport.close()


def _write_sealed(write: Callable[[bytes], None], secure: Secure, data: bytes) -> None:
    write(secure.sealed(data))
