"""The outside world of the demo: real servers on loopback that know nothing of the mesh.

Run as a process of its own (`python -m shared.demo.services --directory D --base-port P`): plain HTTP, HTTPS
that demands a client certificate, a second HTTPS instance (where step 6 moves the endpoint), HTTPS under a
CA nobody trusts, and a TCP echo over TLS. Every HTTP answer says what the server saw, so that the demo can
show it rather than claim it.
"""

from __future__ import annotations

import argparse
import json
import signal
import socketserver
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

SERVICES = ("http", "https", "https_moved", "tcp")
"""Names of the ports."""


class ServicePorts(msgspec.Struct, frozen=True):
    """Where the external services listen; all ports follow one base port."""

    base: int
    host: str = "127.0.0.1"

    @property
    def http(self) -> int:
        """Plain HTTP."""
        return self.base

    @property
    def https(self) -> int:
        """HTTPS with the demo's CA; demands a client certificate."""
        return self.base + 1

    @property
    def https_moved(self) -> int:
        """The same service on another port."""
        return self.base + 2

    @property
    def tcp(self) -> int:
        """TCP echo over TLS."""
        return self.base + 3


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "external"
    sys_version = ""

    def do_GET(self) -> None:
        connection = self.connection
        certificate: Any = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
        body = json.dumps(
            {
                "instance": self.connection.getsockname()[1],
                "path": self.path,
                "host": self.headers.get("host"),
                "tls": connection.version() if isinstance(connection, ssl.SSLSocket) else None,
                "sni": getattr(connection, "seen_server_name", None),
                "client_certificate": _subject(certificate),
                "peer": self.client_address[0],
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is the standard library's
        return


def _subject(certificate: dict[str, Any] | None) -> str | None:
    if not certificate:
        return None
    return ", ".join(f"{name}={value}" for part in certificate["subject"] for name, value in part)


class _Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        super().__init__(address, _Echo)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake runs in the connection's own thread, so that a slow client delays nobody else.
        super().finish_request(self._context.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None) -> None:
        super().__init__(address, _Answer)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._context is not None:
            request = self._context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


def _context(directory: Path, *, demand_client: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    if demand_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(directory / "ca.pem")

    def remember(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        connection.seen_server_name = name  # type: ignore[union-attr]  # read back by _Answer

    context.sni_callback = remember
    return context


def serve(directory: Path, ports: ServicePorts) -> list[socketserver.BaseServer]:
    """Start every service in threads of its own; returns the servers."""
    mutual = _context(directory, demand_client=True)
    servers: list[socketserver.BaseServer] = [
        _HttpServer((ports.host, ports.http), None),
        _HttpServer((ports.host, ports.https), mutual),
        _HttpServer((ports.host, ports.https_moved), mutual),
        _EchoServer((ports.host, ports.tcp), _context(directory, demand_client=False)),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return servers


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--base-port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    servers = serve(arguments.directory, ServicePorts(arguments.base_port, arguments.host))
    print("ready", flush=True)
    stop.wait()
    for server in servers:
        server.shutdown()


if __name__ == "__main__":
    main()
