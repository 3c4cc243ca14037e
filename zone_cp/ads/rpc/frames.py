"""Frames: the words of HTTP/2 (RFC 9113) that a gRPC server reads and writes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every client begins with (section 3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
"""Types (section 6)."""
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
"""Settings (section 6.5.2)."""

HEAD_BYTES = 9
LEAST_MAX_FRAME, MOST_MAX_FRAME = 2**14, 2**24 - 1
FIRST_WINDOW, MOST_WINDOW = 2**16 - 1, 2**31 - 1

head_of = Struct(">HBBBI").unpack_from
"""Length (its upper 16 bits and its lower 8), type, flags and stream (with a reserved bit) of the frame at a place."""

_setting = Struct(">HI")
SHARED_MAX_BYTES, LARGE_MAX_BYTES = LEAST_MAX_FRAME - 5, 1024 * 1024
SHARED_KEPT, LARGE_KEPT = 64, 32
"""Messages that are remembered as they go out, of one frame and of more: all who are told the same share them. One that
is larger still is put together for everybody anew.
"""


class Fault(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionBroken(Exception):
    """The peer broke the protocol, and its connection cannot go on (section 5.4.1)."""

    def __init__(self, fault: Fault, message: str) -> None:
        """fault: the code of the GOAWAY that ends it."""
        super().__init__(message)
        self.fault = fault


class StreamBroken(Exception):
    """The peer broke the protocol on one stream (section 5.4.2)."""

    def __init__(self, fault: Fault, message: str) -> None:
        """fault: the code of the RST_STREAM that ends it."""
        super().__init__(message)
        self.fault = fault


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return b"".join((_head(len(payload), kind, flags, stream), payload))


def _head(length: int, kind: int, flags: int, stream: int) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")


def window_update(stream: int, octets: int) -> bytes:
    """Let the peer send so many octets more; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, octets.to_bytes(4, "big"))


def reset(stream: int, fault: Fault) -> bytes:
    """End a stream."""
    return frame(RST_STREAM, 0, stream, fault.to_bytes(4, "big"))


def go_away(last_stream: int, fault: Fault, message: str = "") -> bytes:
    """Streams after the last one are not looked at."""
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + fault.to_bytes(4, "big") + message.encode())


def settings(values: Mapping[int, int]) -> bytes:
    """What the peer should keep to."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(*pair) for pair in values.items()))


def settings_in(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings of a SETTINGS frame. Raises ConnectionBroken."""
    if len(payload) % _setting.size:
        raise ConnectionBroken(Fault.FRAME_SIZE_ERROR, "SETTINGS of a length that no list of settings has")
    return _setting.iter_unpack(payload)


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding (section 6.1). Raises ConnectionBroken."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(Fault.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def prefixed(message: bytes) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    return b"".join((b"\0", len(message).to_bytes(4, "big"), message))


@lru_cache(maxsize=SHARED_KEPT)
def in_one_frame(message: bytes, stream: int) -> bytes:
    """A gRPC message of SHARED_MAX_BYTES at most as a DATA frame."""
    size = len(message)
    return b"".join((_head(size + 5, DATA, 0, stream), b"\0", size.to_bytes(4, "big"), message))


@lru_cache(maxsize=LARGE_KEPT)
def in_many_frames(message: bytes, stream: int, max_frame: int) -> bytes:
    """A gRPC message of LARGE_MAX_BYTES at most as DATA frames of `max_frame` at most; see `forget`."""
    return in_frames(memoryview(prefixed(message)), stream, max_frame)


def forget() -> None:
    """Keep no large messages: those who were told the same were told it at about the same time."""
    in_many_frames.cache_clear()


def in_frames(data: memoryview, stream: int, max_frame: int) -> bytes:
    """A piece of a stream as DATA frames of `max_frame` at most."""
    parts: list[bytes | memoryview] = []
    for start in range(0, len(data), max_frame):
        part = data[start : start + max_frame]
        parts += (_head(len(part), DATA, 0, stream), part)
    return b"".join(parts)
