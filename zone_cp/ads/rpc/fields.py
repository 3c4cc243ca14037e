"""Fields: the header fields of requests and answers, as HTTP/2 (RFC 9113, section 8) and gRPC have them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from zone_cp.ads.rpc.frames import Fault, StreamBroken

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names and values."""

OK = b"\x88\x0f\x10\x10application/grpc"
"""HPACK: `:status: 200` by index, `content-type` by its index with a value that is not indexed."""
MAX_CONTENT_DIGITS = 15
"""Of a content-length: more than anybody sends."""
_PSEUDO_FIELDS = frozenset({b":authority", b":method", b":path", b":scheme"})
_CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_is_name = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-z]+").fullmatch
_has_control = re.compile(rb"[\0\r\n]").search
"""Section 8.2.1."""
_is_grpc = re.compile(rb"application/grpc(?:[+; ].*)?").fullmatch
"""gRPC's own content, and not that of gRPC-Web, whose ends are written otherwise."""


def sorted_out(fields: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], Fields]:
    """Pseudo header fields, and all others. Raises StreamBroken where they are malformed (sections 8.2 and 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    others: list[tuple[bytes, bytes]] = []
    for field in fields:
        name, value = field
        if name[:1] == b":":
            if others or name in pseudo or name not in _PSEUDO_FIELDS:
                raise StreamBroken(Fault.PROTOCOL_ERROR, "a pseudo header field out of place")
            pseudo[name] = value
            if _has_control(value):
                raise StreamBroken(Fault.PROTOCOL_ERROR, "a header field of more than one line")
        else:
            others.append(field)
    checked(others)
    if not (pseudo.keys() >= {b":method", b":scheme", b":path"} and pseudo[b":path"]):
        raise StreamBroken(Fault.PROTOCOL_ERROR, "a pseudo header field is missing")
    return pseudo, tuple(others)


def checked(fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Fields that are not of the pseudo ones: a request's or its trailers. Raises StreamBroken."""
    for name, value in fields:
        if not _is_name(name) or name in _CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            raise StreamBroken(Fault.PROTOCOL_ERROR, "a header field that HTTP/2 has not")
        if _has_control(value):
            raise StreamBroken(Fault.PROTOCOL_ERROR, "a header field of more than one line")


def announced(fields: Fields) -> int | None:
    """How many octets the content is to have, None where nobody said so. Raises StreamBroken (section 8.1.1)."""
    said = {value for name, value in fields if name == b"content-length"}
    if not said:
        return None
    octets = said.pop()
    if said or not octets.isdigit() or len(octets) > MAX_CONTENT_DIGITS:
        raise StreamBroken(Fault.PROTOCOL_ERROR, "a content-length that is none")
    return int(octets)


def refusal(pseudo: dict[bytes, bytes], fields: Fields) -> bytes | None:
    """What to answer to a request that is no gRPC, None when it is."""
    if pseudo[b":method"] != b"POST":
        return literal(":status", "405")
    return None if _is_grpc(dict(fields).get(b"content-type", b"")) else literal(":status", "415")


def literal(name: str, value: str) -> bytes:
    """A header field that no table is to remember (RFC 7541, section 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(value: str) -> bytes:
    raw = value.encode()
    size = len(raw)
    if size < 0x7F:
        return bytes((size,)) + raw
    rest, out = size - 0x7F, bytearray((0x7F,))
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out) + raw
