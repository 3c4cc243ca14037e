"""Applications for tests: what a workload says in plaintext to its sidecar, one answer per call."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import msgspec

TIMEOUT_SECONDS = 15


class Answer(msgspec.Struct):
    """status 0: the connection was closed. `seen` is what the external server tells, {} when it was not reached."""

    status: int
    body: str = ""
    headers: dict[str, str] = {}
    trailers: dict[str, str] = {}

    @property
    def seen(self) -> dict[str, Any]:
        if not self.body.lstrip("\0").startswith("{"):
            return {}
        return json.loads(self.body)  # type: ignore[no-any-return]


async def http1(
    host: str,
    port: int,
    path: str = "/",
    *,
    headers: str = "",
    host_header: str = "app",
    seconds: float = TIMEOUT_SECONDS,
) -> Answer:
    """A GET on a connection of its own. Whoever is asked need not close it: some take their time (Envoy a second)."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host_header}\r\n{headers}connection: close\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.rstrip().split("\r\n")
            found = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            body = await body_of(reader, found)
            writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return Answer(0)
    return Answer(int(first.split()[1]), body.decode(errors="replace"), found)


async def body_of(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """The body of an answer with these headers (in lower case), to its end."""
    if headers.get("transfer-encoding") == "chunked":
        return b"".join([one async for one in chunks(reader)])
    if length := headers.get("content-length"):
        return await reader.readexactly(int(length))
    return await reader.read()


def is_whole(raw: bytes) -> bool:
    """Whether these are an answer's head and all of the body that its content-length promises."""
    head, end, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\ncontent-length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a body, as they come."""
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


async def tcp(host: str, port: int, line: bytes = b"?\n") -> Answer:
    """A line there and a line back; status 200 for an answer."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(line)
            answer = await reader.readline()
            writer.close()
    except OSError:
        return Answer(0)
    return Answer(200 if answer else 0, answer.decode(errors="replace"))


async def http2(host: str, port: int, path: str = "/", *, grpc: bool = False) -> Answer:
    """One HTTP/2 request with prior knowledge; with `grpc` a unary call, whose status is 200 only for grpc-status 0."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    kind = [("content-type", "application/grpc"), ("te", "trailers")] if grpc else []
    verb = "POST" if grpc else "GET"
    fields = [(":method", verb), (":path", path), (":scheme", "http"), (":authority", "app"), *kind]
    connection.send_headers(1, fields, end_stream=not grpc)
    if grpc:
        connection.send_data(1, bytes(5), end_stream=True)
    answer, body = Answer(0), bytearray()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(connection.data_to_send())
            while data := await reader.read(65536):
                done = _received(connection.receive_data(data), answer, body)
                writer.write(connection.data_to_send())
                if done:
                    break
            writer.close()
    except OSError:
        return Answer(0)
    answer.body = bytes(body[5:] if grpc else body).decode(errors="replace")
    if grpc and not answer.body:
        answer.body = answer.headers.get("grpc-message", "") or answer.trailers.get("grpc-message", "")
    if grpc and answer.status == 200 and {**answer.headers, **answer.trailers}.get("grpc-status") != "0":
        answer.status = 503
    return answer


def _received(events: list[Any], answer: Answer, body: bytearray) -> bool:
    for event in events:
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = {str(key): str(value) for key, value in event.headers}
            answer.status = int(answer.headers[":status"])
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = {str(key): str(value) for key, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            body += event.data
        elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
            return True
    return False


async def ask(protocol: str, host: str, port: int) -> Answer:
    """One question in the service's own protocol."""
    match protocol:
        case "http":
            return await http1(host, port)
        case "http2":
            return await http2(host, port)
        case "grpc":
            return await http2(host, port, "/test.Echo/Who", grpc=True)
        case _:
            return await tcp(host, port)
