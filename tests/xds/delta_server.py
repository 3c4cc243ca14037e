"""The real delta protocol machine behind a small server: one proxy's stream at a time, every word of it kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from typing import Any

import grpc

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.facts import Nacked
from zone_cp.ads.lingering import LINGER_SECONDS
from zone_cp.xds.snapshot import Snapshot

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"


class DeltaServer:
    """Serves one snapshot; `sent` and `heard` are what was said on all streams, `stream` is the newest one."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.sent: list[DeltaDiscoveryResponse] = []
        self.heard: list[DeltaDiscoveryRequest] = []
        self.refusals: list[Nacked] = []
        self.stream = DeltaStream()
        self._queue: Queue[bytes | None] = Queue()
        self._snapshot: Snapshot | None = None
        self._draining: dict[DeltaStream, int] = {}
        self._lock = threading.RLock()
        self.start()

    @property
    def nacks(self) -> list[str]:
        """What Envoy said of what it refused."""
        return [one.message for one in self.refusals]

    def start(self) -> None:
        """Listen, at first and after `stop`."""
        # A port that something outside the test may reuse would be no place to come back to.
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        handler: Any = grpc.stream_stream_rpc_method_handler(self._serve)
        generic = grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """End the stream and listen no more."""
        self._queue.put(None)
        self._server.stop(0).wait()

    def offer(self, snapshot: Snapshot) -> None:
        """Serve this from now on."""
        with self._lock:
            self._snapshot = snapshot
            self.stream.offer(snapshot)
            self._write()

    def _write(self) -> None:
        for response in self.stream.responses():
            self.sent.append(DeltaDiscoveryResponse.FromString(response))
            self._queue.put(response)

    def _serve(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        with self._lock:
            self._queue.put(None)
            self._queue, self.stream = Queue(), DeltaStream()
            queue, stream = self._queue, self.stream
            if self._snapshot is not None:
                stream.offer(self._snapshot)
        threading.Thread(target=self._read, args=(requests, stream, queue), daemon=True).start()
        while (response := queue.get()) is not None:
            yield response

    def _let_drain(self, stream: DeltaStream) -> None:
        """As the hub does: what lingers with a change of listeners is removed in time."""
        newest = stream.lingering.newest
        if newest != self._draining.get(stream, 0):
            self._draining = {stream: newest}
            timer = threading.Timer(LINGER_SECONDS, self._drained, (stream, newest))
            timer.daemon = True
            timer.start()

    def _drained(self, stream: DeltaStream, mark: int) -> None:
        with self._lock:
            stream.drained(mark)
            if stream is self.stream:
                self._write()

    def _read(self, requests: Iterator[bytes], stream: DeltaStream, queue: Queue[bytes | None]) -> None:
        try:
            for raw in requests:
                request = DeltaDiscoveryRequest.FromString(raw)
                with self._lock:
                    if stream is not self.stream:
                        break
                    self.heard.append(request)
                    self.refusals += [one for one in stream.receive(request) if isinstance(one, Nacked)]
                    self._write()
                    self._let_drain(stream)
        except grpc.RpcError:
            pass
        queue.put(None)
