"""One kept-alive HTTP connection to a plane's API, as lean as a client can be: it must not be what is measured."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self

TIMEOUT_SECONDS = 120.0


class Refused(Exception):
    """An answer that is no success: the request, the status and the beginning of the body."""


class Api:
    """Calls over one connection, one after the other. Use `async with`."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The bytes of a request, so that making them is not measured."""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\nauthorization: Bearer {self._token}\r\n"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    async def send(self, request: bytes) -> tuple[dict[str, str], bytes]:
        """Send what `request` made: headers (lower case) and body of the answer. Raises Refused, OSError."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            self._writer.write(request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.rstrip().split("\r\n")
            pairs = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if not status.split(" ")[1].startswith("2"):
            what = request.split(b"\r\n", 1)[0].decode()
            raise Refused(f"{what}: {status} {body[:300].decode(errors='replace')}")
        return headers, body

    async def put(self, path: str, body: bytes) -> int:
        """Create or replace a resource; returns the number of its event."""
        headers, _ = await self.send(self.request("PUT", path, body))
        return version(headers)

    async def get(self, path: str) -> Any:
        """The JSON of a path."""
        _, body = await self.send(self.request("GET", path))
        return json.loads(body)

    async def apply(self, batch: bytes) -> int:
        """`POST /apply`; returns global's sequence."""
        _, body = await self.send(self.request("POST", "/apply", batch))
        return int(json.loads(body)["sequence"])


def version(headers: dict[str, str]) -> int:
    """The event number in an ETag."""
    return int(headers["etag"].removeprefix("W/").strip('"'))
