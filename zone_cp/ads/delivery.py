"""How far a stream has come: what was sent of a type, what is accepted, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.ads.subscription import Subscription, version_of
from zone_cp.xds.snapshot import Encoded, Snapshot

NOTHING: Map[str, Encoded] = Map()


class TypeDelivery(msgspec.Struct, frozen=True):
    """How far one type has come. Digests are over the sorted (name, version) pairs; equal digests, equal content.

    rejected is (name, version, Envoy's message) of what is offered now but was refused by this client: it keeps its
    last good version, or has none.
    """

    type_url: str
    sent_digest: str
    sent_count: int
    sent_position: Position | None
    acked_digest: str
    acked_count: int
    acked_position: Position | None
    in_flight: int
    rejected: tuple[tuple[str, str, str], ...]


def delivery_of(subscription: Subscription, target: Snapshot | None) -> TypeDelivery:
    """How far a subscription has come towards `target`."""
    wanted = NOTHING if target is None else target.resources.get(subscription.type_url, NOTHING)
    refused = ((*key, message) for key, message in subscription.rejected.items())
    held = {name: version_of(value) for name, value in subscription.held.items()}
    return TypeDelivery(
        type_url=subscription.type_url,
        sent_digest=_digest(subscription.known),
        sent_count=len(subscription.known),
        sent_position=subscription.sent_position,
        acked_digest=_digest(held),
        acked_count=len(held),
        acked_position=subscription.acked_position,
        in_flight=len(subscription.in_flight),
        rejected=tuple(r for r in refused if r[0] in wanted and wanted[r[0]].version == r[1]),
    )


def _digest(versions: Mapping[str, str]) -> str:
    pairs = "\n".join(f"{name}\0{version}" for name, version in sorted(versions.items()))
    return blake2b(pairs.encode(), digest_size=8).hexdigest()
