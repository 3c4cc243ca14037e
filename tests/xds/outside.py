"""Real external services on loopback: they answer with what they saw."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc


class _Seen(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        connection: Any = self.connection
        encrypted = isinstance(connection, ssl.SSLSocket)
        certificate: Any = (connection.getpeercert() if encrypted else None) or {"subject": ()}
        name: Any = connection.getsockname()
        body = json.dumps(
            {
                "sni": getattr(connection, "seen_name", None),
                "client": [value for group in certificate["subject"] for _, value in group],
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "instance": name[1] if isinstance(name, tuple) else name,
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's signature
        return


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Seen)
        self.context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        super().finish_request(_wrapped(self.context, request), client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


class _Socket(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Seen)


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class _Echo(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Lines)
        self.context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        super().finish_request(_wrapped(self.context, request), client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return


def _wrapped(context: ssl.SSLContext | None, request: socket.socket) -> socket.socket:
    return request if context is None else context.wrap_socket(request, server_side=True)


def server_context(directory: Path, pair: tuple[str, str], clients: str | None = None) -> ssl.SSLContext:
    """A server's context from PEM texts; with `clients` (a CA) it demands a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, text in zip(("server.pem", "server.key"), pair, strict=True):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients)

    def remember(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.seen_name = name

    context.sni_callback = remember
    return context


class Outside:
    """The servers, by what they speak; stops them on exit."""

    def __init__(self, directory: Path, mutual: ssl.SSLContext, simple: ssl.SSLContext) -> None:
        self.socket = directory / "outside.sock"
        tcp = [_Http(None), _Http(mutual), _Echo(simple)]
        self.http, self.https, self.tcp = (server.server_address[1] for server in tcp)
        self._servers: list[socketserver.BaseServer] = [*tcp, _Socket(self.socket)]
        self._rpc = grpc.server(ThreadPoolExecutor(2))
        handler: Any = grpc.stream_stream_rpc_method_handler(lambda requests, _: iter(requests))
        self._rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Talk": handler}),))
        self.rpc = self._rpc.add_insecure_port("127.0.0.1:0")
        self._rpc.start()
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rpc.stop(0)
        for server in self._servers:
            server.shutdown()
            server.server_close()
