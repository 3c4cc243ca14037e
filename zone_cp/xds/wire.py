"""The wire: protobuf fields spliced from bytes that were encoded once.

A protobuf message is the concatenation of its fields, so a message whose variable parts are few is built as
static bytes (made once from envoy-data-plane's dataclasses) joined with length-delimited pieces. Tests parse
what is spliced here with envoy-data-plane and compare it with the message built whole.

envoy.service.discovery.v3.Resource: 1 version, 2 resource (Any), 3 name; DeltaDiscoveryResponse:
2 resources. google.protobuf.Any: 1 type_url, 2 value.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b

from zone_cp.view.sources import Sources
from zone_cp.xds.snapshot import Encoded

LENGTH_DELIMITED = 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = tuple(_varint(value) for value in range(1 << 14))
"""Varints of up to two bytes: the length of nearly everything."""


def varint(value: int) -> bytes:
    """A non-negative integer as a protobuf varint."""
    return _SHORT[value] if value < 1 << 14 else _varint(value)


def piece(field: int, data: bytes | str) -> bytes:
    """A length-delimited field: a string, bytes or an embedded message."""
    return tagged(varint(field << 3 | LENGTH_DELIMITED), data)


def tagged(tag: bytes, data: bytes | str) -> bytes:
    """`piece` for a caller that keeps the tag of its field."""
    raw = data.encode() if isinstance(data, str) else data
    length = len(raw)
    return tag + (_SHORT[length] if length < 1 << 14 else _varint(length)) + raw


def number(field: int, value: int) -> bytes:
    """A varint field: an integer, bool or enum."""
    return varint(field << 3) + varint(value)


def any_message(type_url: str, value: bytes) -> bytes:
    """The body of a google.protobuf.Any."""
    return piece(1, type_url) + piece(2, value)


def encode(type_url: str, name: str, body: bytes, sources: Sources = ()) -> Encoded:
    """Wrap the bytes of one resource for every stream that will ever carry them."""
    version, any_of, named = blake2b(body, digest_size=8).hexdigest(), _any_of(type_url), name.encode()
    # Spelled out, where all else calls `tagged`: it is done for every resource there is.
    value = _VALUE + varint(len(body)) + body
    whole = b"".join(
        (_VERSION_16, version.encode(), _RESOURCE, varint(len(any_of) + len(value)), any_of, value,
         _NAME, varint(len(named)), named)
    )  # fmt: skip
    return Encoded(name, type_url, version, body, _ENTRY + varint(len(whole)) + whole, sources)


@cache
def _any_of(type_url: str) -> bytes:
    return piece(1, type_url)


_VERSION, _RESOURCE, _NAME = (varint(field << 3 | LENGTH_DELIMITED) for field in (1, 2, 3))
_VERSION_16 = _VERSION + varint(16)
"""Before a version, which is that long."""
_VALUE = _ENTRY = _RESOURCE
