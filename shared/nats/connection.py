"""One connection to the local nats-server: it reconnects for ever and says plainly when it is not connected.

Every failure of the transport leaves this module as `LogUnavailable`; every refusal of the JetStream API as `ApiError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, TypeAlias

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.events.log import LogUnavailable
from shared.nats.client import Client

PING_INTERVAL_SECONDS = 2
RECONNECT_WAIT_SECONDS = 0.1
CONNECT_TIMEOUT_SECONDS = 2
ATTEMPT_TIMEOUT_SECONDS = 3.0
REQUEST_TIMEOUT_SECONDS = 2.0
CLOSE_SECONDS = 2.0

MessageCallback: TypeAlias = Callable[[Msg], Awaitable[None]]


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the nats-server of this site.

    url: `nats://host:port`, or `tls://host:port` with `ca_file`. nkey_seed_file: path of the file that holds the
    nkey seed (mode 0600), None for a server without auth. cert_file and key_file: client certificate, where the
    server asks for one. name: shown in the server's connection list.
    """

    url: str = "nats://127.0.0.1:4222"
    nkey_seed_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    name: str = "zonal"


class ApiError(Exception):
    """The JetStream API refused a request. `err_code` is NATS' own five-digit number."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class Connection:
    """A nats client with the errors of this project. Build it with `connect`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._listeners: set[Callable[[], None]] = set()
        self._waiting: set[asyncio.Timeout] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the link to the own server stands now."""
        return bool(self.client.is_connected)

    def when_connected(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` after each reconnection; returns what takes it off again."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def announce(self) -> None:
        """Tell the listeners that the link stands again."""
        for listener in tuple(self._listeners):
            listener()

    def give_up(self) -> None:
        """End the requests in flight: the link they went out on is gone, and no answer will come."""
        now = asyncio.get_running_loop().time()
        for waiting in tuple(self._waiting):
            waiting.reschedule(now)

    async def pause(self, seconds: float) -> None:
        """Wait for the given time, or until the link to the own server comes back, whichever is first."""
        woken = asyncio.Event()
        remove = self.when_connected(woken.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await woken.wait()
        finally:
            remove()

    async def publish(
        self, subject: str, data: bytes = b"", *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send without waiting for anything. Raises LogUnavailable."""
        self._check()
        try:
            await self.client.publish(subject, data, reply=reply, headers=dict(headers) if headers else None)
        except (errors.Error, OSError) as error:
            raise LogUnavailable(f"nats: cannot send: {error!r}") from error

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Msg:
        """Send and wait for one reply. Raises LogUnavailable; ambiguous when the request may have arrived."""
        self._check()
        waiting = asyncio.timeout(timeout_seconds)
        self._waiting.add(waiting)
        try:
            async with waiting:
                return await self.client.ask(subject, data, headers)
        except errors.NoRespondersError as error:
            raise LogUnavailable(f"nats: nobody answers on {subject}") from error
        except (TimeoutError, errors.Error, OSError) as error:
            raise LogUnavailable(f"nats: no answer on {subject}: {error!r}", ambiguous=True) from error
        finally:
            self._waiting.discard(waiting)

    async def api(self, subject: str, body: object = None, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> Any:
        """Call the JetStream API and decode its JSON. Raises ApiError, LogUnavailable."""
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self.request(subject, data, timeout_seconds=timeout_seconds)
        return decode_api(reply.data)

    async def subscribe(self, subject: str, callback: MessageCallback) -> Subscription:
        """Deliver messages of `subject` to `callback`, in order; it must not wait for an answer of this connection.

        Raises LogUnavailable.
        """
        self._check()
        try:
            return await self.client.subscribe(subject, cb=callback)
        except (errors.Error, OSError) as error:
            raise LogUnavailable(f"nats: cannot subscribe: {error!r}") from error

    async def flush(self, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        """Wait until the own server has read all that was sent. Raises LogUnavailable."""
        self._check()
        try:
            await self.client.flush(timeout=max(1, int(timeout_seconds)))
        except (TimeoutError, errors.Error, OSError) as error:
            raise LogUnavailable(f"nats: {error!r}", ambiguous=True) from error

    def new_inbox(self) -> str:
        """A subject of our own for replies."""
        return str(self.client.new_inbox())

    async def drain(self) -> None:
        """Deliver what is buffered, then close."""
        with contextlib.suppress(TimeoutError, errors.Error, OSError):
            await self.client.drain()

    async def close(self) -> None:
        """Close at once."""
        with contextlib.suppress(TimeoutError, errors.Error, OSError):
            await _end(self.client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check(self) -> None:
        # A publish while reconnecting would sit in nats-py's buffer and be sent much later: refuse it instead.
        if not self.client.is_connected:
            raise LogUnavailable("nats: not connected")


def decode_api(data: bytes) -> Any:
    """The JSON of an API reply or a publish acknowledgement. Raises ApiError."""
    try:
        answer = json.loads(data) if data else {}
    except ValueError as error:
        raise ApiError(500, 0, f"unreadable reply {data[:80]!r}") from error
    problem = answer.get("error")
    if problem:
        raise ApiError(int(problem.get("code", 0)), int(problem.get("err_code", 0)), problem.get("description", ""))
    return answer


async def connect(settings: NatsSettings, *, timeout_seconds: float = 30.0) -> Connection:
    """Connect, trying for up to `timeout_seconds`; once up, reconnect for ever. Raises LogUnavailable."""
    connection = Connection(Client())

    async def reconnected() -> None:
        connection.announce()

    async def disconnected() -> None:
        connection.give_up()

    last_error: list[Exception] = []

    async def failed(error: Exception) -> None:
        # nats-py prints errors by default; whoever needs the connection sees them as LogUnavailable.
        last_error[:] = [error]

    options: dict[str, Any] = {
        "servers": [settings.url],
        "name": settings.name,
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_SECONDS,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "ping_interval": PING_INTERVAL_SECONDS,
        "max_outstanding_pings": 2,
        "reconnected_cb": reconnected,
        "disconnected_cb": disconnected,
        "error_cb": failed,
    }
    if settings.nkey_seed_file:
        options["nkeys_seed"] = settings.nkey_seed_file
    if settings.ca_file:
        options["tls"] = _tls_context(settings)
    clock = asyncio.get_running_loop()
    deadline = clock.time() + timeout_seconds
    while True:
        left = deadline - clock.time()
        try:
            await _establish(connection.client, options, last_error, min(left, ATTEMPT_TIMEOUT_SECONDS))
        except LogUnavailable:
            # A first connection over TLS was seen to hang within nats-py; a fresh client does not.
            if clock.time() + RECONNECT_WAIT_SECONDS >= deadline:
                raise
            connection.client = Client()
        else:
            return connection


async def _establish(
    client: Client, options: dict[str, Any], last_error: list[Exception], timeout_seconds: float
) -> None:
    url = options["servers"][0]
    connecting = asyncio.create_task(client.connect(**options))
    try:
        await asyncio.wait((connecting,), timeout=timeout_seconds)
        if not connecting.done():
            why = last_error[0] if last_error else f"no answer within {timeout_seconds} s"
            raise LogUnavailable(f"nats: cannot connect to {url}: {why!r}")
        connecting.result()
        if not client.is_connected:
            raise LogUnavailable(f"nats: {url} refused the connection")
    except (TimeoutError, errors.Error, OSError, ValueError) as error:
        raise LogUnavailable(f"nats: cannot connect to {url}: {error!r}") from error
    finally:
        # nats-py may swallow a cancellation while it tries the next server, so one is not always enough.
        while not connecting.done():
            connecting.cancel()
            await asyncio.wait((connecting,), timeout=RECONNECT_WAIT_SECONDS)
        if not client.is_connected:
            with contextlib.suppress(Exception):
                await _end(client)


async def _end(client: Client) -> None:
    # nats-py waits for ever for the end of a connection whose TLS had only begun.
    async with asyncio.timeout(CLOSE_SECONDS):
        await client.close()


def _tls_context(settings: NatsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    return context


__all__ = ["ApiError", "Connection", "NatsSettings", "connect", "decode_api"]
