"""The chain of a log, checked on the bytes: gapless n, `prev` and `payload_hash` as the events before say. Pure.

Nothing needs to understand the change itself, so an event whose change is unknown here is still verified and kept.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from shared.events.event import NO_HASH, Envelope, decode_envelope, event_hash
from shared.events.redaction import is_redacted


class ChainFault(Exception):
    """The event at `sequence` does not continue the chain."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"event {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class Link(msgspec.Struct, frozen=True):
    """Where a chain stands: its last event and that event's hash. The empty chain is `Link()`."""

    n: int = 0
    hash: str = NO_HASH
    id: str = ""


def read(sequence: int, line: bytes) -> Envelope:
    """The envelope of what stands at `sequence`. Raises ChainFault when it is none."""
    try:
        return decode_envelope(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ChainFault(sequence, f"not an event: {error}") from error


def link_of(envelope: Envelope) -> Link:
    """The link an event forms, without checking what came before."""
    return Link(envelope.n, event_hash(envelope), envelope.id)


def follow(previous: Link, line: bytes, *, redacted: bool = False) -> Link:
    """Check that the event `line` continues the chain at `previous`; where the chain then stands. Raises ChainFault.

    redacted: an event of which secrets were left out need not hold what was hashed; its header still must fit.
    """
    envelope = read(previous.n + 1, line)
    if envelope.n != previous.n + 1:
        raise ChainFault(previous.n + 1, f"is event {envelope.n}, expected {previous.n + 1}")
    if envelope.prev != previous.hash:
        reason = "prev is not the hash of the event before: the log was rewritten or rolled back"
        raise ChainFault(envelope.n, reason)
    # The log holds canonical JSON, so the change's bytes are what its hash was made of.
    held = sha256(bytes(envelope.change)).hexdigest() == envelope.payload_hash
    if not held and not (redacted and is_redacted(line)):
        raise ChainFault(envelope.n, "payload_hash is not the hash of the change")
    return link_of(envelope)
