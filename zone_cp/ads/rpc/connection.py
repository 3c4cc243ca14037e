"""Connection: one HTTP/2 connection of a gRPC client, seen from the server. Bytes in, calls and bytes out; no IO.

What RFC 9113 asks of a server, and no more than gRPC needs of it: no pushes, no priorities, response headers that no
table remembers. Limits are named here; a client that goes beyond them loses its connection with the reason in a GOAWAY.
`receive` does so much in one turn and leaves the rest for another, and what a frame costs does not grow with those
before it: whoever talks a lot delays himself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from hpack import Decoder
from hpack.exceptions import HPACKError

from zone_cp.ads.rpc import frames
from zone_cp.ads.rpc.exchange import RECEIVE_WINDOW, Exchange
from zone_cp.ads.rpc.fields import announced, checked, refusal, sorted_out
from zone_cp.ads.rpc.frames import ConnectionBroken, Fault, StreamBroken

CONNECTION_WINDOW = 4 * 1024 * 1024
"""What all streams of a connection may send before it is credited; each is held to its own window beside."""
MAX_STREAMS = 2_048
"""Calls that one connection may have under way: a client may have a stream for every subscription of a single type."""
MAX_HEADER_BYTES = 16 * 1024
"""Header fields of a call, as they are sent and as they are meant: as many as grpcio takes."""
MAX_CHATTER = 8 * MAX_STREAMS
"""Frames that further no call (pings, settings, priorities, what is unknown, empty data, calls that are given up,
broken off or refused) between two looks: all calls may be given up at once, and grpc-go may ping once a round trip.
"""
TURN_WORK, CALL_WORK = 1_000, 40
"""Frames that are taken in one turn, and for how many of them a call counts that begins: some milliseconds."""

_SETTINGS = {
    frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
    frames.INITIAL_WINDOW_SIZE: RECEIVE_WINDOW,
    frames.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
}
_OPENING = frames.settings(_SETTINGS) + frames.window_update(0, CONNECTION_WINDOW - frames.FIRST_WINDOW)
_PING = b"zonal..."
_resizes_often = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\0-\x7f]){3}").match
"""More changes of a table's size than a block has use for (RFC 7541, section 4.2); each costs as much as a field."""


class Connection:
    """write sends bytes or keeps them until the socket takes them; begin is given every call, once it is understood."""

    __slots__ = (
        "_begin", "_block", "_block_flags", "_block_stream", "_chatter", "_decoder", "_ending", "_first_window",
        "_has_grown", "_last", "_rest", "_room", "_shrink_table", "_work", "exchanges", "held", "is_going", "is_open",
        "max_frame", "paused", "stalled", "window", "write",
    )  # fmt: skip

    def __init__(self, write: Callable[[bytes], None], begin: Callable[[Exchange], None]) -> None:
        self.write = write
        self._begin = begin
        self.is_open = False
        self.is_going = False
        self.paused = False
        self.window = frames.FIRST_WINDOW
        self.max_frame = frames.LEAST_MAX_FRAME
        self.exchanges: dict[int, Exchange] = {}
        self.stalled: dict[int, Exchange] = {}
        self._first_window = frames.FIRST_WINDOW
        self._room = CONNECTION_WINDOW
        self._last = 0
        self._rest = b""
        self._decoder: Decoder | None = None
        self._block = b""
        self._block_stream = self._block_flags = 0
        self._shrink_table = self._has_grown = False
        self._chatter = self._work = 0
        self._ending: tuple[int, ...] = ()
        self.held = 0

    # --- what the client says ------------------------------------------------------------------------------------

    def receive(self, data: bytes = b"") -> bool:
        """Take what came; whether there is more of it than should be taken in one turn. Raises ConnectionBroken."""
        if self._rest:
            data = self._rest + data
        at = 0
        if not self.is_open:
            at = len(frames.PREFACE)
            if data[:at] != frames.PREFACE[: len(data)]:
                raise ConnectionBroken(Fault.PROTOCOL_ERROR, "this is gRPC: HTTP/2 with prior knowledge, or ALPN h2")
            if len(data) < at:
                self._rest = data
                return False
            self.is_open = True
            self.write(_OPENING)
        size, self._work = len(data), TURN_WORK
        while size - at >= frames.HEAD_BYTES and self._work > 0:
            high, low, kind, flags, stream = frames.head_of(data, at)
            length = high << 8 | low
            if length > frames.LEAST_MAX_FRAME:
                raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, f"a frame of {length} octets")
            end = at + frames.HEAD_BYTES + length
            if end > size:
                break
            self._take(kind, flags, stream & frames.MOST_WINDOW, data[at + frames.HEAD_BYTES : end])
            at = end
            self._work -= 1
        self._rest = data[at:] if at < size else b""
        if self._has_grown:
            self._has_grown = False
            self.go_on()
        return self._work <= 0 and at < size

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block_stream and (kind != frames.CONTINUATION or stream != self._block_stream):
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == frames.DATA:
            self._data(flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            self._continuation(flags, payload)
        elif kind in {frames.SETTINGS, frames.PING, frames.GOAWAY}:
            self._about_connection(kind, flags, stream, payload)
        elif kind == frames.RST_STREAM:
            self._reset(stream, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "clients do not push")
        else:  # PRIORITY and unknown types say nothing to us (sections 5.3.2 and 5.5)
            self._bear()
            if kind == frames.PRIORITY and not (stream and len(payload) == 5):
                raise ConnectionBroken(Fault.FRAME_SIZE_ERROR if stream else Fault.PROTOCOL_ERROR, "a false PRIORITY")

    def _bear(self) -> None:
        """Something came that furthers no call."""
        self._chatter += 1
        if self._chatter > MAX_CHATTER:
            raise ConnectionBroken(Fault.ENHANCE_YOUR_CALM, "too much that furthers no call, or is given up")

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        octets = len(payload)
        self._room -= octets
        if self._room < 0:
            raise ConnectionBroken(Fault.FLOW_CONTROL_ERROR, "more was sent than the connection's window had")
        if CONNECTION_WINDOW - self._room > CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, CONNECTION_WINDOW - self._room))
            self._room = CONNECTION_WINDOW
        if not octets and not flags & frames.END_STREAM:
            self._bear()
        exchange = self.exchanges.get(stream)
        if exchange is None:
            self._known(stream)  # of a stream that is over: what was on its way when it ended
            return
        try:
            if exchange.ended:
                raise StreamBroken(Fault.STREAM_CLOSED, "data after the end")  # noqa: TRY301 - as those below
            exchange.receive(frames.unpadded(flags, payload) if flags else payload, octets)
            if flags & frames.END_STREAM and not exchange.is_over:
                exchange.half_close()
        except StreamBroken as broken:
            self._break(stream, broken.fault)

    def _known(self, stream: int) -> None:
        """Raises ConnectionBroken for a stream that was never opened (section 5.1.1)."""
        if stream > self._last or not stream % 2:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, f"stream {stream} was never opened")

    def _break(self, stream: int, fault: Fault) -> None:
        """Counted as those that the client gives up: it may as well let us do it (CVE-2025-8671)."""
        self._bear()
        self.write(frames.reset(stream, fault))
        exchange = self.exchanges.pop(stream, None)
        if exchange is not None:
            exchange.lose()

    def _reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "RST_STREAM has four octets")
        self._known(stream)
        self._bear()
        exchange = self.exchanges.pop(stream, None)
        if exchange is not None:
            exchange.lose()

    def _window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four octets")
        octets = int.from_bytes(payload, "big") & frames.MOST_WINDOW
        if not stream:
            self.window += octets
            if not octets or self.window > frames.MOST_WINDOW:
                raise ConnectionBroken(Fault.FLOW_CONTROL_ERROR if octets else Fault.PROTOCOL_ERROR, "a false window")
            self._has_grown = True
            return
        exchange = self.exchanges.get(stream)
        if exchange is None:
            self._known(stream)
        elif not octets or exchange.window + octets > frames.MOST_WINDOW:
            self._break(stream, Fault.FLOW_CONTROL_ERROR if octets else Fault.PROTOCOL_ERROR)
        else:
            exchange.window += octets
            exchange.go_on()

    def _about_connection(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "what concerns the connection was said of a stream")
        self._bear()
        if kind == frames.GOAWAY:
            return  # it begins no calls then; those that it has go on
        if kind == frames.PING:
            if len(payload) != 8:
                raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "PING has eight octets")
            if not flags & frames.ACK:
                self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif flags & frames.ACK:
            if payload:
                raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "an acknowledgment of settings says nothing else")
        else:
            for name, value in dict(frames.settings_in(payload)).items():  # the last of a name is what holds
                self._set(name, value)
            self.write(frames.frame(frames.SETTINGS, frames.ACK, 0, b""))

    def _set(self, name: int, value: int) -> None:
        if name == frames.HEADER_TABLE_SIZE:
            self._shrink_table = True
        elif name == frames.ENABLE_PUSH and value > 1:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.LEAST_MAX_FRAME <= value <= frames.MOST_MAX_FRAME:
                raise ConnectionBroken(Fault.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self.max_frame = value
        elif name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MOST_WINDOW:
                raise ConnectionBroken(Fault.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            grown, self._first_window = value - self._first_window, value
            for exchange in self.exchanges.values():
                exchange.window += grown  # below zero where it shrank (section 6.9.2)
                if exchange.window > frames.MOST_WINDOW:
                    raise ConnectionBroken(Fault.FLOW_CONTROL_ERROR, "a window grew beyond all windows")
            self._has_grown = True
            self._work -= len(self.exchanges) // 8  # a window is about an eighth of a frame's work

    # --- calls begin ---------------------------------------------------------------------------------------------

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        payload = frames.unpadded(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
        if not stream % 2:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, f"stream {stream} cannot be opened")
        if stream <= self._last and stream not in self.exchanges and not flags & frames.END_STREAM:
            raise ConnectionBroken(Fault.STREAM_CLOSED, f"stream {stream} is closed")
        self._block_stream, self._block_flags = stream, flags
        self._work -= CALL_WORK
        self._continuation(flags, payload)

    def _continuation(self, flags: int, payload: bytes) -> None:
        stream = self._block_stream
        if not stream:
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "CONTINUATION of nothing")
        if len(self._block) + len(payload) > MAX_HEADER_BYTES:
            raise ConnectionBroken(Fault.ENHANCE_YOUR_CALM, f"more than {MAX_HEADER_BYTES} octets of header fields")
        self._block += payload
        if not flags & frames.END_HEADERS:
            self._bear()
            return
        block, self._block, self._block_stream = self._block, b"", 0
        if _resizes_often(block):
            raise ConnectionBroken(Fault.COMPRESSION_ERROR, "header fields: a table's size is changed over and over")
        if self._decoder is None:
            self._decoder = Decoder(max_header_list_size=MAX_HEADER_BYTES)
        try:
            fields: Iterable[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)
        except (HPACKError, ValueError) as error:
            raise ConnectionBroken(Fault.COMPRESSION_ERROR, f"header fields: {type(error).__name__}") from error
        self._opened(stream, fields)

    def _opened(self, stream: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        ends = bool(self._block_flags & frames.END_STREAM)
        exchange = self.exchanges.get(stream)
        try:
            if exchange is not None:  # trailers
                if not ends:
                    raise StreamBroken(Fault.PROTOCOL_ERROR, "headers in the middle of a call")  # noqa: TRY301
                checked(fields)
                exchange.half_close()
                return
            if stream <= self._last:
                self._late(fields)
                return
            self._last = stream
            pseudo, others = sorted_out(fields)
            octets = announced(others)
            if ends and octets:
                raise StreamBroken(Fault.PROTOCOL_ERROR, "content was announced and is none")  # noqa: TRY301
        except StreamBroken as broken:
            self._break(stream, broken.fault)
            return
        if len(self.exchanges) >= MAX_STREAMS or self.is_going:
            self._break(stream, Fault.REFUSED_STREAM)
            return
        exchange = Exchange(self, stream, self._first_window, pseudo.get(b":path", b"").decode("latin-1"), others)
        exchange.announced = octets
        self.exchanges[stream] = exchange
        if (answer := refusal(pseudo, others)) is not None:
            exchange.refuse(answer)
            return
        self._begin(exchange)
        if ends and not exchange.is_over:
            exchange.half_close()

    def _late(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """Trailers of a call that we ended while they were on their way, and not a call that takes its place."""
        self._bear()
        if any(name[:1] == b":" for name, _ in fields):
            raise ConnectionBroken(Fault.PROTOCOL_ERROR, "streams are not opened twice, nor in another order")

    # --- what it is told -----------------------------------------------------------------------------------------

    def block(self, fields: bytes, stream: int, *, last: bool) -> bytes:
        """Encoded header fields as a HEADERS frame; see `Wire`."""
        if self._shrink_table:  # the client made its table smaller: say that ours is empty (RFC 7541, section 4.2)
            self._shrink_table = False
            fields = b"\x20" + fields
        return frames.frame(frames.HEADERS, frames.END_HEADERS | (frames.END_STREAM if last else 0), stream, fields)

    def forget(self, stream: int) -> None:
        """A call came to its end."""
        self.exchanges.pop(stream, None)

    def pause(self) -> None:
        """The socket takes no more for now."""
        self.paused = True

    def resume(self) -> None:
        """The socket takes more."""
        self.paused = False
        self.go_on()

    def go_on(self) -> None:
        """Let those send who had to wait."""
        for exchange in tuple(self.stalled.values()):
            if self.paused:
                return
            exchange.go_on()

    def look(self) -> None:
        """Some time has passed: whoever has its answer and did not take it since the last look is sent away."""
        self._chatter = 0
        ending = tuple(one.id for one in self.exchanges.values() if one.is_ending)
        for stream in ending:
            if stream in self._ending:
                self._break(stream, Fault.CANCEL)
        self._ending = ending

    def ping(self) -> None:
        """Ask whether the client is there."""
        self.write(frames.frame(frames.PING, 0, 0, _PING))

    def go_away(self, fault: Fault = Fault.NO_ERROR, message: str = "") -> None:
        """Take no more calls; those there are go on."""
        self.is_going = True
        self.write(frames.go_away(self._last, fault, message))

    def lose(self) -> None:
        """The client is gone."""
        exchanges, self.exchanges = self.exchanges, {}
        for exchange in exchanges.values():
            exchange.lose()
