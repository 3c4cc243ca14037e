"""nats-py with less between the wire and who waits for it: a change of a resource is read and answered three times
on its way to a proxy, and every switch of tasks there costs as much as the work in between.

Callbacks run in the task that reads the connection, one after the other, instead of in one task per subscription with
a queue before it. So a callback must not wait for an answer of this connection. A request is written at once instead of
by the flusher's task, together with whatever was published before it and still waits there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from nats import errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport

_NOBODY = "503"
_UNFIT = re.compile(r"[\s\x00]|^$")
"""What no subject may have: it would end there, and the rest be read as something else."""


class Client(NatsClient):
    """A nats-py client whose connection has one reader."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        # A third of nats-py's cost: most of the time of a replay went there (measured).
        headers: dict[str, str] = {}
        for line in raw.split(b"\r\n"):
            name, found, value = line.partition(b":")
            if found:
                headers[name.decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
        return headers

    async def _process_connect_init(self) -> None:
        # nats-py upgrades to TLS and tells its stream nothing of it. That would answer the end of the connection with
        # what a TLS transport cannot do, of which asyncio warns, and could not hold back a server that is too fast.
        await super()._process_connect_init()
        writer = self._transport._io_writer if isinstance(self._transport, TcpTransport) else None  # noqa: SLF001
        if writer is not None and writer.get_extra_info("sslcontext") is not None:
            writer.transport.get_protocol().connection_made(writer.transport)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        subscription = self._subs.get(sid)
        if subscription is None or subscription._cb is None:  # noqa: SLF001 - nats-py offers no other way in
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            known = await self._process_headers(headers) if headers else None
            await subscription._cb(self._build_message(sid, subject, reply, data, known))  # noqa: SLF001
        except Exception as error:  # noqa: BLE001 - one message must not end the reading of all others
            await self._error_cb(error)

    async def ask(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> Msg:
        """Publish and wait for the reply, for ever: bound it. Raises errors.Error, OSError."""
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        prefix = self._resp_sub_prefix or bytearray()
        self._asked += 1
        token = str(self._asked)
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._resp_map[token] = answer
        try:
            self._write(published(subject, f"{prefix.decode()}{token}", payload, headers or {}))
            message = await answer
        finally:
            self._resp_map.pop(token, None)
        if message.headers and message.headers.get("Status") == _NOBODY:
            raise errors.NoRespondersError
        return message

    def _write(self, command: bytes) -> None:
        """Write now, after what waits for the flusher. Raises errors.Error when there is no connection."""
        if not self.is_connected or self._transport is None:
            raise errors.ConnectionClosedError
        if len(command) > self._max_payload:
            raise errors.MaxPayloadError
        pending, self._pending, self._pending_data_size = [*self._pending, command], [], 0
        self._transport.writelines(pending)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(command)


def published(subject: str, reply: str, payload: bytes, headers: Mapping[str, str]) -> bytes:
    """The command that publishes a message. Raises errors.BadSubjectError, errors.BadHeaderError."""
    if _UNFIT.search(subject):
        raise errors.BadSubjectError
    if not headers:
        return f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise errors.BadHeaderError(lines)
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"".join(
        (f"HPUB {subject} {reply} {len(head)} {len(head) + len(payload)}\r\n".encode(), head, payload, b"\r\n")
    )
