"""A tiny delta ADS server for tests of the generator alone: no memory of versions, every change is re-sent whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue
from typing import Any

import grpc
from immutables import Map

from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, PUSH_ORDER, Snapshot
from zone_cp.xds.wire import piece

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        tag = varint()
        if tag & 7 != 2:
            varint()
            continue
        length = varint()
        yield tag >> 3, data[position : position + length]
        position += length


class Stream:
    """One Envoy's stream: what it asked for and what it was told."""

    def __init__(self) -> None:
        self.queue: Queue[bytes | None] = Queue()
        self.subscribed: dict[str, set[str]] = {}
        self.sent: dict[str, dict[str, str]] = {}


class DeltaDouble:
    """Serves one snapshot to whoever asks; `offer` replaces it; `nacks` collects what Envoy refused."""

    def __init__(self, port: int) -> None:
        self.nacks: list[str] = []
        self.acked = threading.Condition()
        self.acks: dict[str, int] = {}
        self._snapshot: Snapshot | None = None
        self._streams: list[Stream] = []
        self._lock = threading.RLock()
        self._nonce = 0
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve)
        generic = grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.queue.put(None)
        self._server.stop(0)

    def offer(self, snapshot: Snapshot) -> None:
        """Serve this from now on."""
        with self._lock:
            self._snapshot = snapshot
            for stream in self._streams:
                for type_url in PUSH_ORDER:
                    if type_url in stream.subscribed:
                        self._push(stream, type_url)

    def _serve(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        stream = Stream()
        with self._lock:
            self._streams.append(stream)
        threading.Thread(target=self._read, args=(requests, stream), daemon=True).start()
        while True:
            try:
                response = stream.queue.get(timeout=30)
            except Empty:
                continue
            if response is None:
                return
            yield response

    def _read(self, requests: Iterator[bytes], stream: Stream) -> None:
        try:
            for request in requests:
                self._receive(stream, request)
        except grpc.RpcError:
            pass
        stream.queue.put(None)

    def _receive(self, stream: Stream, request: bytes) -> None:
        found: dict[int, list[bytes]] = {}
        for number, data in fields(request):
            found.setdefault(number, []).append(data)
        type_url = found[2][0].decode()
        if 7 in found:
            self.nacks.append(b" ".join(found[7]).decode(errors="replace"))
        names = {name.decode() for name in found.get(3, [])}
        with self._lock:
            first = type_url not in stream.subscribed
            known = stream.subscribed.setdefault(type_url, set())
            known |= names
            known -= {name.decode() for name in found.get(4, [])}
            if first or names:
                self._push(stream, type_url, names)

    def _push(self, stream: Stream, type_url: str, asked: AbstractSet[str] = frozenset()) -> None:
        if self._snapshot is None:
            return
        resources = dict(self._snapshot.resources.get(type_url, Map()))
        wanted = set(resources) if type_url in (CLUSTER, LISTENER) else stream.subscribed[type_url]
        sent = stream.sent.setdefault(type_url, {})
        out, changed = b"", type_url in (CLUSTER, LISTENER) and not sent
        for name in wanted:
            one = resources.get(name)
            if one is not None and (sent.get(name) != one.version or name in asked or type_url == ENDPOINT):
                out += one.field
                sent[name] = one.version
        for name in [*(name for name in sent if name not in resources), *(asked - resources.keys())]:
            out += piece(6, name)
            sent.pop(name, None)
        if out or changed:
            self._nonce += 1
            stream.queue.put(out + piece(4, type_url) + piece(5, str(self._nonce)))
