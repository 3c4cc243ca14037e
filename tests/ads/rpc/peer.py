"""A client of the zone's gRPC server: h2, which checks all that it is told, joined to a Connection without a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from zone_cp.ads.rpc.connection import Connection
from zone_cp.ads.rpc.exchange import Exchange
from zone_cp.ads.rpc.frames import prefixed

PATH = "/a.Service/Method"
FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "zone"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


class Peer:
    """calls: what the server was asked; what it said is in `headers`, `trailers`, `resets` and `messages` by stream.

    generous: it credits at once what it has read.
    """

    def __init__(self, settings: Mapping[int, int] | None = None) -> None:
        """settings: the client's own."""
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.calls: list[Exchange] = []
        self.said = bytearray()
        self.headers: dict[int, dict[str, str]] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.credits: list[tuple[int, int]] = []
        self.generous = False
        self._data: dict[int, bytearray] = {}
        self.server = Connection(self.said.extend, self.calls.append)
        self.client.initiate_connection()
        self.client.update_settings(dict(settings or {}))
        self.flush()

    def call(self, *more: tuple[str, str], fields: Sequence[tuple[str, str]] = FIELDS, ends: bool = False) -> int:
        """Begin a call; returns its stream."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, [*fields, *more], end_stream=ends)
        self.flush()
        return stream

    def say(self, stream: int, message: bytes, *, ends: bool = False) -> None:
        """Send a message, in as many frames as it takes."""
        data = prefixed(message)
        size = self.client.max_outbound_frame_size
        for start in range(0, len(data), size):
            self.client.send_data(stream, data[start : start + size], end_stream=ends and start + size >= len(data))
            self.flush()

    def flush(self, chunk: int = 0) -> None:
        """Carry bytes both ways until nobody says anything; chunk: how many octets the server gets at a time."""
        while data := self.client.data_to_send():
            for start in range(0, len(data), chunk or len(data)):
                self.server.receive(data[start : start + (chunk or len(data))])
            self.hear()

    def hear(self) -> None:
        """Let the client read what the server said."""
        data, self.said[:] = bytes(self.said), b""
        for event in self.client.receive_data(data):
            match event:
                case events.ResponseReceived(stream_id=int(stream), headers=fields):
                    self.headers[stream] = _plain(fields)
                case events.TrailersReceived(stream_id=int(stream), headers=fields):
                    self.trailers[stream] = _plain(fields)
                case events.DataReceived(stream_id=int(stream), data=bytes(part), flow_controlled_length=int(octets)):
                    self._data.setdefault(stream, bytearray()).extend(part)
                    if self.generous and octets:
                        self.client.increment_flow_control_window(octets, stream)
                        self.client.increment_flow_control_window(octets)
                case events.StreamEnded(stream_id=int(stream)):
                    self.ended.add(stream)
                case events.StreamReset(stream_id=int(stream), error_code=int(code)):
                    self.resets[stream] = code
                case events.WindowUpdated(stream_id=int(stream), delta=int(octets)):
                    self.credits.append((stream, octets))
                case _:
                    pass

    def messages(self, stream: int) -> list[bytes]:
        """The whole messages that came on a stream."""
        data, found = bytes(self._data.get(stream, b"")), []
        while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[1:5], "big")):
            found.append(data[5:end])
            data = data[end:]
        return found


def _plain(fields: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in fields}  # type: ignore[attr-defined]
