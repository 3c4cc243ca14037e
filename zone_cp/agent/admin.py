"""Envoy's admin interface: one request at a time, over TCP or a Unix socket."""

from __future__ import annotations

import asyncio
import socket
from http.client import HTTPConnection, HTTPException

TIMEOUT_SECONDS = 3.0


class AdminUnreachable(Exception):
    """Envoy's admin interface did not answer."""


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


class Admin:
    """address is `ip:port`, or the path of a socket."""

    def __init__(self, address: str) -> None:
        self.address = address

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body. Raises AdminUnreachable."""
        return await asyncio.to_thread(self._request, "GET", path)

    async def post(self, path: str) -> tuple[int, str]:
        """Status and body. Raises AdminUnreachable."""
        return await asyncio.to_thread(self._request, "POST", path)

    async def active_connections(self) -> int:
        """Connections that clients hold open on Envoy's listeners now (the admin interface's own not counted)."""
        _, body = await self.get("/stats?filter=^listener%5C..*%5C.downstream_cx_active$")
        return sum(
            int(line.rpartition(":")[2])
            for line in body.splitlines()
            if not line.startswith("listener.admin.") and ".worker_" not in line
        )

    def _request(self, method: str, path: str) -> tuple[int, str]:
        connection = (
            _UnixConnection(self.address)
            if self.address.startswith("/")
            else HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
        )
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise AdminUnreachable(f"{method} {path} on {self.address}: {error}") from error
        finally:
            connection.close()
