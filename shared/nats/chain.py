"""The chain of a log (`shared.events.chain`) on messages of a stream: they stand where their events say."""

from __future__ import annotations

from shared.events.chain import ChainFault, Link, follow, link_of, read
from shared.nats.pull import RawEvent

__all__ = ["ChainFault", "Link", "link", "verify"]


def link(raw: RawEvent) -> Link:
    """The link an event forms, without checking what came before. Raises ChainFault."""
    return link_of(read(raw.sequence, raw.data))


def verify(previous: Link, raw: RawEvent) -> Link:
    """Check that `raw` continues the chain at `previous` and return where the chain then stands. Raises ChainFault."""
    if raw.sequence != previous.n + 1:
        raise ChainFault(raw.sequence, f"stands at {raw.sequence}, expected {previous.n + 1}")
    subject = read(raw.sequence, raw.data).subject
    if subject != raw.subject:
        raise ChainFault(raw.sequence, f"stands on {raw.subject}, says {subject}")
    return follow(previous, raw.data)
