"""What to say to one DNS query: pure, bytes in, a verdict out (decision 27, xds.md §4).

The fast path parses the header and the question's name only: answers are prebuilt (`dns_table.py`) and the
question is echoed byte by byte, so the case a resolver randomised (0x20) comes back as it was. A name of the table
is ours for every type: A is answered, everything else is NODATA (RFC 2308 §2.2), never NXDOMAIN, or stub resolvers
that ask A and AAAA together would fail the whole lookup. Any other name goes to the system's resolvers.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from zone_cp.agent.dns_table import MAX_LABEL, MAX_NAME, NameTable

HEADER = 12
MAX_UDP_PAYLOAD = 1232
"""What we advertise with EDNS0, the DNS flag day's value: no fragments."""

FORMERR, SERVFAIL, NOTIMP, REFUSED = 1, 2, 4, 5
BADVERS_HIGH = 1  # BADVERS is 16: its upper eight bits travel in the OPT record

_A, _OPT, _ANY = b"\0\x01", 41, b"\0\xff"
_IN = b"\0\x01"
_QR, _AA, _RD, _RA = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE = 0x7800


class Reply(msgspec.Struct, frozen=True):
    """Send these bytes back."""

    data: bytes


class Forward(msgspec.Struct, frozen=True):
    """Not ours: ask the upstream resolvers. question_end is the offset behind the question."""

    query: bytes
    question_end: int


class Ignore(msgspec.Struct, frozen=True):
    """Nothing that deserves an answer: too short, or itself a response."""


Verdict: TypeAlias = Reply | Forward | Ignore


def verdict(query: bytes, table: NameTable) -> Verdict:
    """Decide about one message of a client. Never raises, whatever the bytes."""
    if len(query) < HEADER:
        return Ignore()
    flags = query[2] << 8 | query[3]
    if flags & _QR:
        return Ignore()
    if flags & _OPCODE:
        return Reply(_header(query, NOTIMP))
    if query[4:6] != b"\0\x01":
        return Reply(_header(query, FORMERR))
    # A name of the table holds no zero byte, so the first one ends it; on a miss the labels are walked.
    end = query.find(b"\0", HEADER) + 1
    record = table.answers.get(query[HEADER:end].lower()) if end else None
    if record is not None and len(query) >= end + 4:
        return Reply(_known(query, end + 4, record, table.ttl_seconds))
    name_end = _name_end(query)
    if name_end is None or len(query) < name_end + 4:
        return Reply(_header(query, FORMERR))
    return Forward(query, name_end + 4)


def failure(query: bytes, question_end: int, code: int = SERVFAIL) -> bytes:
    """An answer without records to a query that `verdict` forwarded and nobody answered."""
    return _message(query, question_end, code, b"", b"", authoritative=False)


def matches(query: bytes, question_end: int, response: bytes, identifier: bytes) -> bool:
    """Whether a datagram answers the query that was sent upstream under `identifier`."""
    if len(response) < HEADER or response[:2] != identifier or not response[2] & _QR >> 8:
        return False
    if response[4:6] == b"\0\0":  # some servers drop the question from an error
        return bool(response[3] & 0x0F)
    return response[HEADER:question_end].lower() == query[HEADER:question_end].lower()


def _known(query: bytes, question_end: int, record: bytes, ttl_seconds: int) -> bytes:
    kind, klass = query[question_end - 4 : question_end - 2], query[question_end - 2 : question_end]
    if klass != _IN:
        return _message(query, question_end, REFUSED, b"", b"", authoritative=False)
    if kind in (_A, _ANY):
        return _message(query, question_end, 0, record, b"", authoritative=True)
    return _message(query, question_end, 0, b"", _soa(ttl_seconds), authoritative=True)


def _message(
    query: bytes, question_end: int, code: int, answer: bytes, authority: bytes, *, authoritative: bool
) -> bytes:
    option, bad_version = _option(query, question_end)
    if bad_version:
        code, answer, authority = 0, b"", b""
    flags = _QR | _RA | code | (_AA if authoritative else 0) | ((query[2] << 8) & _RD)
    return b"".join(
        (
            query[:2],
            flags.to_bytes(2, "big"),
            b"\0\x01",
            b"\0\x01" if answer else b"\0\0",
            b"\0\x01" if authority else b"\0\0",
            b"\0\x01" if option else b"\0\0",
            query[HEADER:question_end],
            answer,
            authority,
            option,
        )
    )


def _header(query: bytes, code: int) -> bytes:
    flags = _QR | _RA | code | ((query[2] << 8) & (_RD | _OPCODE))
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def _option(query: bytes, question_end: int) -> tuple[bytes, bool]:
    """Our OPT record when the query carries one (RFC 6891 §6.1.1), and whether its version is unknown to us."""
    record = query[question_end : question_end + 11]
    if query[6:10] != bytes(4) or query[10:12] == b"\0\0" or len(record) < 11:
        return b"", False
    if record[0] != 0 or record[1] << 8 | record[2] != _OPT:
        return b"", False
    bad_version = record[6] != 0
    extended = BADVERS_HIGH if bad_version else 0
    return b"\0\0\x29" + MAX_UDP_PAYLOAD.to_bytes(2, "big") + bytes((extended, 0, 0, 0, 0, 0)), bad_version


def _soa(ttl_seconds: int) -> bytes:
    """An SOA at the name itself, so that "no such type" is cached as briefly as an address (RFC 2308 §5)."""
    ttl = ttl_seconds.to_bytes(4, "big")
    data = b"\0\0" + b"\0\0\0\x01" + ttl * 4  # root as server and mailbox; serial; refresh, retry, expire, minimum
    return b"\xc0\x0c\0\x06\0\x01" + ttl + len(data).to_bytes(2, "big") + data


def _name_end(query: bytes) -> int | None:
    """Offset behind the question's name, or None where it is malformed (compression has no place in a question)."""
    at = HEADER
    while at < len(query):
        length = query[at]
        at += 1
        if length == 0:
            return at if at - HEADER <= MAX_NAME else None
        if length > MAX_LABEL:
            return None
        at += length
    return None
