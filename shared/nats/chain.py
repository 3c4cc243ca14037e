"""The chain of a log, checked on the bytes: gapless n, `prev` and `payload_hash` as the events before say.

Nothing needs to understand the change itself, so an event whose change is unknown here is still verified and kept.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from shared.events.event import NO_HASH, Envelope, decode_envelope, event_hash
from shared.nats.pull import RawEvent


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


def link(raw: RawEvent) -> Link:
    """The link an event forms, without checking what came before. Raises ChainFault."""
    envelope = _envelope(raw)
    return Link(envelope.n, event_hash(envelope), envelope.id)


def verify(previous: Link, raw: RawEvent) -> Link:
    """Check that `raw` continues the chain at `previous` and return where the chain then stands. Raises ChainFault."""
    envelope = _envelope(raw)
    if envelope.n != raw.sequence or envelope.n != previous.n + 1:
        raise ChainFault(raw.sequence, f"is event {envelope.n}, expected {previous.n + 1}")
    if envelope.prev != previous.hash:
        raise ChainFault(raw.sequence, "prev is not the hash of the event before: the log was rewritten or rolled back")
    if envelope.subject != raw.subject:
        raise ChainFault(raw.sequence, f"stands on {raw.subject}, says {envelope.subject}")
    # The log holds canonical JSON, so the change's bytes are what its hash was made of.
    if sha256(bytes(envelope.change)).hexdigest() != envelope.payload_hash:
        raise ChainFault(raw.sequence, "payload_hash is not the hash of the change")
    return Link(envelope.n, event_hash(envelope), envelope.id)


def _envelope(raw: RawEvent) -> Envelope:
    try:
        return decode_envelope(raw.data)
    except msgspec.DecodeError as error:
        raise ChainFault(raw.sequence, f"not an event: {error}") from error
