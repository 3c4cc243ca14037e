"""The wire: protobuf fields spliced from bytes that were encoded once.

A protobuf message is the concatenation of its fields, so a message whose variable parts are few is built as
static bytes (made once from envoy-data-plane's dataclasses) joined with length-delimited pieces. Tests parse
what is spliced here with envoy-data-plane and compare it with the message built whole.

envoy.service.discovery.v3.Resource: 1 version, 2 resource (Any), 3 name; DeltaDiscoveryResponse:
2 resources. google.protobuf.Any: 1 type_url, 2 value.
"""

from __future__ import annotations

from hashlib import blake2b

from zone_cp.view.zone_view import Sources
from zone_cp.xds.snapshot import Encoded

LENGTH_DELIMITED = 2


_SHORT = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """A non-negative integer as a protobuf varint."""
    if value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def piece(field: int, data: bytes | str) -> bytes:
    """A length-delimited field: a string, bytes or an embedded message."""
    raw = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | LENGTH_DELIMITED) + varint(len(raw)) + raw


def tagged(tag: bytes, data: bytes | str) -> bytes:
    """`piece` for a caller that keeps the tag of its field."""
    raw = data.encode() if isinstance(data, str) else data
    return tag + varint(len(raw)) + raw


def number(field: int, value: int) -> bytes:
    """A varint field: an integer, bool or enum."""
    return varint(field << 3) + varint(value)


def any_message(type_url: str, value: bytes) -> bytes:
    """The body of a google.protobuf.Any."""
    return piece(1, type_url) + piece(2, value)


def encode(type_url: str, name: str, body: bytes, sources: Sources = ()) -> Encoded:
    """Wrap the bytes of one resource for every stream that will ever carry them."""
    version = blake2b(body, digest_size=8).hexdigest()
    field = piece(2, piece(1, version) + piece(2, any_message(type_url, body)) + piece(3, name))
    return Encoded(name, type_url, version, body, field, sources)
