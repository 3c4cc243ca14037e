"""Many delta ADS clients in one thread, each on a TCP connection of its own: subscribe, hold, ACK whatever comes.

`python -m shared.bench.clients PORT COUNT PREFIX` runs until its standard input ends. It stands for proxies, so it
must never be what is measured: HTTP/2 is written by hand (RFC 9113), the few frames that a gRPC server sends are told
apart by their first bytes, and what a proxy says is joined from bytes made once. Measured, one update costs this
process about a fifth of what it costs the server.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
EXTENSIONS = 516
"""What Envoy 1.40 lists in its first request, which makes it 61 KB."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_MAX_FRAME = 16_384
_MAX_WINDOW = 2**31 - 1
"""Never used up in one measurement: no client has to say that it has read."""
_FIRST_WINDOW = 65_535
_RECEIVE_BYTES = 512 * 1024


class Broken(Exception):
    """The server ended a connection or a stream."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(data: bytes) -> bytes:
    """A gRPC message on stream 1, in as many frames as it takes."""
    whole = b"\0" + len(data).to_bytes(4, "big") + data
    parts = (whole[start : start + _MAX_FRAME] for start in range(0, len(whole), _MAX_FRAME))
    return b"".join(frame(_DATA, 0, 1, part) for part in parts)


def _opening() -> bytes:
    """The connection's preface, windows that never fill up, and the call of METHOD."""
    windows = frame(_SETTINGS, 0, 0, b"\0\4" + _MAX_WINDOW.to_bytes(4, "big"))
    windows += frame(_WINDOW, 0, 0, (_MAX_WINDOW - _FIRST_WINDOW).to_bytes(4, "big"))
    # HPACK: POST and http by index, then literals that are not indexed (path, authority, content-type, te).
    fields = b"\x83\x86\x04" + _text(METHOD) + b"\x01" + _text("zone") + b"\x0f\x10" + _text("application/grpc")
    return _PREFACE + windows + frame(_HEADERS, _END_HEADERS, 1, fields + b"\0" + _text("te") + _text("trailers"))


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return bytes((len(raw),)) + raw


def _node(name: str) -> bytes:
    """A first request as large as Envoy's."""
    metadata = {"features": ["redirect"], "version": {"envoy": {"version": "1.40.0"}}}
    node = Node(id=name, cluster=name, metadata=metadata)
    # envoy.config.core.v3.Node.extensions, which the control plane has no use for.
    extension = b"\x0a" + _text("envoy.filters.http.one_of_many_extensions") + b"\x12" + _text("envoy.filters.http")
    many = (b"\x4a" + _text(extension + b"\x32" + _text("t" * 50))) * EXTENSIONS
    return DeltaDiscoveryRequest(node=Node.FromString(node.SerializeToString() + many)).SerializeToString()


class Client:
    """One connection: bytes in, bytes to answer out."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""
        self._message = bytearray()

    def received(self, data: bytes) -> bytes:
        """What to answer to these bytes. Raises Broken."""
        data = self._rest + data if self._rest else data
        at, answers = 0, b""
        while len(data) >= at + 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == _DATA:
                answers += self._acknowledged(data[at + 9 : end])
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                answers += frame(kind, _ACK, 0, data[at + 9 : end] if kind == _PING else b"")
            elif kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
                raise Broken(f"frame {kind} with {data[at + 9 : end]!r}")
            at = end
        self._rest = data[at:]
        return answers

    def _acknowledged(self, data: bytes) -> bytes:
        held = self._message
        held += data
        answers = b""
        while len(held) >= 5 and len(held) >= (end := 5 + int.from_bytes(held[1:5], "big")):
            response = DeltaDiscoveryResponse.FromString(bytes(held[5:end]))
            request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
            answers += message(request.SerializeToString())
            del held[:end]
        return answers


def _clients(port: int, count: int, prefix: str) -> Iterator[Client]:
    opening = _opening()
    listeners = message(DeltaDiscoveryRequest(type_url=LISTENER).SerializeToString())
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = DeltaDiscoveryRequest(type_url=CLUSTER).SerializeToString() + _node(f"{prefix}{number}")
        connection.sendall(opening + message(first) + listeners)
        connection.setblocking(False)
        yield Client(connection)


def run(port: int, count: int, prefix: str) -> None:
    """Serve `count` connections until standard input ends. Raises Broken, OSError."""
    poll = select.epoll()
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    clients: dict[int, Client] = {}
    for client in _clients(port, count, prefix):
        clients[client.connection.fileno()] = client
        poll.register(client.connection.fileno(), select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            one = clients.get(descriptor)
            if one is None:
                return
            data = one.connection.recv(_RECEIVE_BYTES)
            if not data:
                raise Broken("the server closed a connection")
            if answers := one.received(data):
                # Small beside a socket's buffer, which the server empties.
                one.connection.sendall(answers)


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
