"""Exchange: one gRPC call as an HTTP/2 stream carries it. Messages in, messages and a status out. A value, no IO.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. What a client sends is taken as it comes where somebody
takes it (`take`), or kept until it is asked for; kept messages are not credited, so that a client which is not listened
to comes to a halt by itself. What is sent goes out as far as the client's windows and the socket let it; then who sends
is to wait for `on_ready`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol
from urllib.parse import quote

from zone_cp.ads.rpc import frames
from zone_cp.ads.rpc.fields import OK, Fields, literal
from zone_cp.ads.rpc.frames import Fault, StreamBroken

RECEIVE_WINDOW = 256 * 1024
"""What a client may send on one stream before it is credited: more than an Envoy's first request has."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_FIRST_BYTES = 16 * 1024 * 1024
"""A message of somebody who was not admitted yet: the versions of 100,000 resources that a proxy comes back with."""
MAX_HELD_BYTES = MAX_MESSAGE_BYTES + 16 * 1024 * 1024
"""What all calls of one connection may have sent that is not a whole message yet, or that nobody has taken."""
KEPT_BYTES = 64
"""What a kept message costs beside its own bytes."""
REASON_CHARACTERS = 1_000
"""A longer grpc-message would not fit into a frame, nor into what clients take of header fields (8 KiB of grpcio)."""

_UNSAFE = "".join(chr(one) for one in range(0x20, 0x7F) if chr(one) != "%")


class Status(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Wire(Protocol):
    """What an exchange needs of its connection."""

    window: int
    """Octets that the client lets all streams together send."""
    max_frame: int
    paused: bool
    held: int
    """Octets that the client sent and nobody has taken."""
    stalled: dict[int, Exchange]

    def write(self, data: bytes) -> None:
        """Send, or keep until the socket takes it."""

    def block(self, fields: bytes, stream: int, *, last: bool) -> bytes:
        """Encoded header fields as a HEADERS frame."""

    def forget(self, stream: int) -> None:
        """The stream is closed on both sides."""


class Exchange:
    """See the module. path and fields are the request's (fields as they came: many calls share them); window: octets
    that the client lets it send; limit: bytes that a message of the client may have; announced: octets that are still
    to come of its content, None where it did not say.

    on_lost is called once, when the client resets the stream, breaks its rules or is gone before the call has ended;
    on_ready when more may be sent after `send` has said no; take with each message, or on_kept when nobody takes it;
    on_half_closed after the last.
    """

    __slots__ = (
        "_answered", "_head", "_held", "_kept", "_left", "_partial", "_room", "_trailers", "_wire", "announced",
        "ended", "fields", "id", "is_over", "limit", "on_half_closed", "on_kept", "on_lost", "on_ready", "path", "take",
        "window",
    )  # fmt: skip

    def __init__(self, wire: Wire, stream: int, window: int, path: str, fields: Fields) -> None:
        self._wire = wire
        self.id = stream
        self.window = window
        self.path = path
        self.fields = fields
        self.limit = MAX_FIRST_BYTES
        self.announced: int | None = None
        self.ended = False
        self.is_over = False
        self.take: Callable[[bytes], None] | None = None
        self.on_half_closed: Callable[[], object] = _ignored
        self.on_kept: Callable[[], object] = _ignored
        self.on_lost: Callable[[], object] = _ignored
        self.on_ready: Callable[[], object] = _ignored
        self._kept: deque[bytes] | None = None
        self._partial: bytearray | None = None
        self._held = 0
        self._room = RECEIVE_WINDOW
        self._answered = False
        self._head = b""
        self._left: memoryview | None = None
        self._trailers = b""

    # --- what the client says ------------------------------------------------------------------------------------

    def receive(self, data: bytes, octets: int) -> None:
        """Take the data of a frame that counts so many octets. Raises StreamBroken."""
        self._room -= octets
        if self._room < 0:
            raise StreamBroken(Fault.FLOW_CONTROL_ERROR, "more was sent than the stream's window had")
        if self.announced is not None:
            self.announced -= len(data)
            if self.announced < 0:
                raise StreamBroken(Fault.PROTOCOL_ERROR, "more content than was announced")
        if self._trailers:
            return  # it has its answer, though not all of it has gone out
        if self._partial is None and data[:1] == b"\0" and int.from_bytes(data[1:5], "big") == len(data) - 5:
            self._deliver(data[5:])
        elif data:
            self._assemble(data)
        self._credit()

    def _assemble(self, data: bytes) -> None:
        held = self._partial
        if held is None:
            held = self._partial = bytearray()
        held += data
        self._hold(len(data))
        while len(held) >= 5 and not self._trailers:
            size = int.from_bytes(held[1:5], "big")
            if held[0]:
                said = literal("grpc-accept-encoding", "identity")
                self._refuse(Status.UNIMPLEMENTED, "messages are taken as they are: send none compressed", said)
            elif size > self.limit:
                self._refuse(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes: here it may have {self.limit}")
            elif len(held) < 5 + size:
                return
            else:
                with memoryview(held) as view:
                    message = bytes(view[5 : 5 + size])
                del held[: 5 + size]
                self._hold(-5 - size)
                self._deliver(message)
        if not held or self._trailers:
            self._partial = None

    def _deliver(self, message: bytes) -> None:
        if self.take is not None:
            self.take(message)
            return
        if self._kept is None:
            self._kept = deque()
        self._kept.append(message)
        self._hold(len(message) + KEPT_BYTES)
        self.on_kept()

    def _hold(self, octets: int) -> None:
        self._held += octets
        self._wire.held += octets
        if octets > 0 and self._wire.held > MAX_HELD_BYTES:
            self._refuse(Status.RESOURCE_EXHAUSTED, "the calls of this connection hold too much that was not taken yet")

    def _drop(self) -> None:
        """Hold nothing that the client sent."""
        self._kept = self._partial = None
        self._hold(-self._held)

    def _refuse(self, status: Status, message: str, more: bytes = b"") -> None:
        """End the call because of what the client sent."""
        self.finish(status, message, more)
        self.on_lost()
        self.on_lost = _ignored

    def _credit(self) -> None:
        """Let the client send on, once half of its window is used up and what it sent was taken."""
        used = RECEIVE_WINDOW - self._room
        if used > RECEIVE_WINDOW // 2 and not (self._kept or self.ended or self._trailers):
            self._room = RECEIVE_WINDOW
            self._wire.write(frames.window_update(self.id, used))

    def kept(self) -> bytes | None:
        """The next message that nobody has taken, None when there is none."""
        message = self._kept.popleft() if self._kept else None
        if message is not None:
            self._hold(-len(message) - KEPT_BYTES)
        if not self._kept:
            self._kept = None
        self._credit()
        return message

    def half_close(self) -> None:
        """The client has no more to say. Raises StreamBroken when it stops within a message."""
        if self.ended:
            raise StreamBroken(Fault.STREAM_CLOSED, "it was ended before")
        self.ended = True
        if self._partial is not None or self.announced:
            raise StreamBroken(Fault.PROTOCOL_ERROR, "it ends within a message")
        self.on_half_closed()

    def lose(self) -> None:
        """The client is gone, or wants to hear no more."""
        if self.is_over:
            return
        self.is_over = True
        self._left = None
        self._drop()
        self._wire.stalled.pop(self.id, None)
        self.on_lost()

    # --- what it is told -----------------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        """Whether it has its answer, and the client does not take what goes before it."""
        return bool(self._trailers)

    @property
    def is_ready(self) -> bool:
        """Whether all that was sent is on its way, and more may follow."""
        return self._left is None and not self._wire.paused

    def send(self, message: bytes) -> bool:
        """Send one message; whether the next may follow at once. False: `on_ready` says when, and nothing may be sent
        before. What is sent after the end is dropped.
        """
        wire, size = self._wire, len(message) + 5
        if self.is_over:
            return True
        if not self._answered:
            self._answered = True
            wire.write(wire.block(OK, self.id, last=False))
        if size <= self.window and size <= wire.window and not wire.paused:
            self.window -= size
            wire.window -= size
            if len(message) <= frames.SHARED_MAX_BYTES:
                wire.write(frames.in_one_frame(message, self.id))
            elif len(message) <= frames.LARGE_MAX_BYTES:
                wire.write(frames.in_many_frames(message, self.id, wire.max_frame))
            else:
                wire.write(frames.in_frames(memoryview(frames.prefixed(message)), self.id, wire.max_frame))
        else:
            self._left, self._head = memoryview(message), b"\0" + len(message).to_bytes(4, "big")
            if not wire.paused:
                self._send_left()
        if self._left is None and not wire.paused:
            return True
        wire.stalled[self.id] = self
        return False

    def go_on(self) -> None:
        """A window has grown, or the socket takes more."""
        if self._left is not None and not self._wire.paused:
            self._send_left()
        if not self.is_ready or self._wire.stalled.pop(self.id, None) is None:
            return
        if self._trailers:
            self._close()
        else:
            self.on_ready()

    def _send_left(self) -> None:
        head, left, wire = self._head, self._left, self._wire
        if left is None:
            return
        count = min(len(head) + len(left), self.window, wire.window)
        if count <= 0:
            return
        self.window -= count
        wire.window -= count
        cut = max(0, count - len(head))
        part = memoryview(b"".join((head[:count], left[:cut]))) if head else left[:cut]
        self._head = head[count:]
        self._left = left[cut:] if self._head or cut < len(left) else None
        wire.write(frames.in_frames(part, self.id, wire.max_frame))

    def finish(self, status: Status, message: str = "", more: bytes = b"") -> None:
        """End the call, after what was sent: nothing follows. more: encoded fields beside the status."""
        if self.is_over or self._trailers:
            return
        fields = b"" if self._answered else OK
        fields += literal("grpc-status", str(int(status)))
        if said := message[:REASON_CHARACTERS].strip(" "):  # a field that begins or ends with a blank is malformed
            fields += literal("grpc-message", quote(said, safe=_UNSAFE, errors="replace"))
        self._trailers = fields + more
        self._drop()
        if self._left is None:
            self._close()

    def _close(self) -> None:
        self.is_over = True
        wire = self._wire
        wire.stalled.pop(self.id, None)
        said = wire.block(self._trailers, self.id, last=True)
        # the client need not say the rest of it (RFC 9113, section 8.1)
        wire.write(said if self.ended else said + frames.reset(self.id, Fault.NO_ERROR))
        wire.forget(self.id)

    def refuse(self, fields: bytes) -> None:
        """Answer what is no gRPC with these encoded header fields."""
        self._answered = True
        self._trailers = fields
        self._close()


def _ignored() -> None:
    """Nobody asked to be told."""
