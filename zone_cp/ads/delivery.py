"""How far a stream has come: what was sent of a type, what is accepted, what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import Literal

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


class ResourceState(msgspec.Struct, frozen=True):
    """One resource on one stream.

    version and body are of what the client holds, or of what was sent when it holds none; "" and empty for neither.
    refused is what it said of `refused_version`, which is offered now; "" when it said nothing.
    """

    type_url: str
    name: str
    version: str
    state: Literal["accepted", "sent", "refused", "absent"]
    body: bytes = b""
    refused: str = ""
    refused_version: str = ""
    refused_body: bytes = b""


def states_of(subscription: Subscription, target: Snapshot | None) -> Iterator[ResourceState]:
    """Every resource a client holds, was sent, has refused or has asked for by name, by name."""
    wanted = NOTHING if target is None else target.resources.get(subscription.type_url, NOTHING)
    in_flight = {one.name: one for sent in subscription.in_flight.values() for one in sent.upserts}
    refused = {name for name, version in subscription.rejected if name in wanted and wanted[name].version == version}
    for name in sorted(subscription.known.keys() | refused | subscription.names):
        held, sent, offered = subscription.held.get(name), in_flight.get(name), wanted.get(name)
        shown = held if held is not None else sent
        version = "" if shown is None else version_of(shown)
        body = shown.body if isinstance(shown, Encoded) else b""
        if not body and offered is not None and offered.version == version:
            body = offered.body  # what a client reported on a new stream was said by version alone
        one = partial(ResourceState, subscription.type_url, name, version, body=body)
        if name in refused:
            key = (name, wanted[name].version)
            message = subscription.rejected[key] or "refused"
            yield one("refused", refused=message, refused_version=key[1], refused_body=wanted[name].body)
        elif sent is not None:
            yield one("sent")
        else:
            yield one("accepted" if held is not None else "absent")
