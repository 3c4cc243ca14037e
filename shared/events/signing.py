"""Who vouches for a log: the last event of every append is signed by its origin, and the chain vouches for the rest.

Pure. An event's hash covers its place, its time, its content and, through `prev`, every event before it, so a signature
over that hash is a signed checkpoint of the whole log up to there: nothing that was acknowledged is ever without one.
`kid` stands in every header of a signing origin and is hashed; `sig` is not, it comes last.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from shared.events.event import Envelope, Event, event_hash

SIGNED_WITHIN = 1000
"""Events of one append at most: so many stand between two signatures."""
_DOMAIN = b"zonal log 1 "

Check: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether a signature (first) is one of a message (second)."""
Checks: TypeAlias = Mapping[str, Mapping[str, Check]]
"""By origin and kid: what verifies its signatures."""


class Signer(Protocol):
    """An origin's signing key (`shared.keys.signing`)."""

    @property
    def kid(self) -> str:
        """Names the key."""
        ...

    @property
    def public(self) -> str:
        """The public key, base64."""
        ...

    def sign(self, message: bytes) -> bytes:
        """A signature."""
        ...


def signed(events: Sequence[Event], signer: Signer) -> list[Event]:
    """The events of one append with a signature on the last of them. They were composed with the signer's kid."""
    *others, last = events
    signature = signer.sign(_message(event_hash(last)))
    return [*others, msgspec.structs.replace(last, sig=b64encode(signature).decode())]


def vouches(envelope: Envelope, digest: str, check: Check) -> bool:
    """Whether the event's signature is one of its hash `digest`."""
    try:
        signature = b64decode(envelope.sig, validate=True)
    except ValueError:
        return False
    # base64 leaves bits of the last character unused: only the one spelling is the signature.
    return b64encode(signature).decode() == envelope.sig and check(signature, _message(digest))


def _message(digest: str) -> bytes:
    return _DOMAIN + digest.encode()
