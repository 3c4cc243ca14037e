"""Reading a whole log quickly: a push consumer with flow control, read by our own parser.

For a server without auth on this machine, which is what a copy of a store is opened under: about three times as fast
as the client library, whose cost is a task per message (design/nats.md §2). What arrives is not checked here beyond
being in one piece; whoever takes the events knows which n comes next.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import urlsplit

from shared.events.log import LogUnavailable
from shared.nats.connection import decode_api
from shared.nats.stream import API, NANOSECONDS

RECEIVE_BYTES = 1 << 20
RECEIVE_SECONDS = 20.0
HEARTBEAT_SECONDS = 5.0
MESSAGE_BYTES_LIMIT = 64 << 20
"""Of one message; a server's own limit is lower."""

_REPLIES = b"1"
_STATUS = b"NATS/1.0 "
_FLOW_CONTROL = b"NATS/1.0 100 FlowControl"


class _Link:
    """A connection of the NATS protocol: bytes in, payloads of the second subscription out."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._held = b""
        self.reply = b""
        """The last message of the first subscription."""

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._peer, data)

    async def messages(self) -> AsyncGenerator[list[bytes], None]:
        """The payloads of what arrives next, perhaps none, for ever. Raises LogUnavailable."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(RECEIVE_SECONDS):
                    received = await loop.sock_recv(self._peer, RECEIVE_BYTES)
            except (TimeoutError, OSError) as error:
                raise LogUnavailable(f"nats: the server gave nothing: {error!r}") from error
            if not received:
                raise LogUnavailable("nats: the server closed the connection")
            found, answers = self._take(received)
            if answers:
                await self.send(b"".join(answers))
            yield found

    def _take(self, received: bytes) -> tuple[list[bytes], list[bytes]]:
        """Payloads that are complete now, and what must be answered."""
        data = self._held + received if self._held else received
        found: list[bytes] = []
        answers: list[bytes] = []
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            line = data[at:end]
            verb = line[:4]
            if verb in (b"HMSG", b"MSG "):
                fields = line.split()
                size = int(fields[-1])
                if size > MESSAGE_BYTES_LIMIT:
                    raise LogUnavailable(f"nats: a message of {size} bytes")
                begin = end + 2
                at_end = begin + size
                if len(data) < at_end + 2:
                    break
                header = int(fields[-2]) if verb == b"HMSG" else 0
                if header and data.startswith(_STATUS, begin):
                    if data.startswith(_FLOW_CONTROL, begin):
                        answers.append(b"PUB %s 0\r\n\r\n" % fields[3])
                    else:
                        # Nothing for HEARTBEAT_SECONDS, although there is more: it does not get past a damaged message.
                        raise LogUnavailable("nats: the server gives nothing more: the store is damaged (zonal verify)")
                elif fields[2] == _REPLIES:
                    self.reply = data[begin + header : at_end]
                else:
                    found.append(data[begin + header : at_end])
                at = at_end + 2
                continue
            if verb == b"PING":
                answers.append(b"PONG\r\n")
            elif verb == b"-ERR":
                raise LogUnavailable(f"nats: {line.decode(errors='replace')}")
            at = end + 2
        self._held = data[at:]
        return found, answers


async def read_fast(url: str, stream: str, after: int, until: int) -> AsyncGenerator[list[bytes], None]:
    """The data of messages after < sequence <= until, in order, in lists. Raises LogUnavailable, ApiError."""
    if after >= until:
        return
    place = urlsplit(url)
    loop = asyncio.get_running_loop()
    with socket.socket() as peer:
        peer.setblocking(False)
        try:
            await loop.sock_connect(peer, (place.hostname, place.port))
        except OSError as error:
            raise LogUnavailable(f"nats: cannot connect to {url}: {error}") from error
        link = _Link(peer)
        async with aclosing(_delivered(link, stream, after)) as deliveries:
            async for found in deliveries:
                after += len(found)
                yield found if after <= until else found[: until - after]
                if after >= until:
                    return


async def _delivered(link: _Link, stream: str, after: int) -> AsyncGenerator[list[bytes], None]:
    name = uuid.uuid4().hex
    config = {
        "name": name,
        "deliver_subject": f"fast.{name}",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "ack_policy": "none",
        "flow_control": True,
        "idle_heartbeat": int(HEARTBEAT_SECONDS * NANOSECONDS),
        "mem_storage": True,
        "num_replicas": 1,
    }
    body = json.dumps({"stream_name": stream, "config": config}).encode()
    await link.send(
        b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
        b"SUB made.%(name)s 1\r\nSUB fast.%(name)s 2\r\n"
        b"PUB %(api)s.CONSUMER.CREATE.%(stream)s.%(name)s made.%(name)s %(size)d\r\n%(body)s\r\n"
        % {
            b"name": name.encode(),
            b"api": API.encode(),
            b"stream": stream.encode(),
            b"size": len(body),
            b"body": body,
        }
    )
    made = False
    async for found in link.messages():
        if link.reply and not made:
            decode_api(link.reply)
            made = True
        if found:
            yield found
