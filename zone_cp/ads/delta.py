"""DeltaStream: one incremental stream as a value. Requests and snapshots go in, encoded responses come out.

What a snapshot goes through on its way is told in `staging`; what a client has asked for, in `subscription`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from zone_cp.ads.batch import MAX_CHUNK_BYTES, Batch, batches
from zone_cp.ads.delivery import TypeDelivery
from zone_cp.ads.facts import Acked, Due, Fact, Nacked, Part, RemoteProtocolError
from zone_cp.ads.staging import MAX_TYPES, StagedStream
from zone_cp.ads.subscription import Subscription
from zone_cp.xds.wire import piece

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_TYPES",
    "Acked",
    "DeltaStream",
    "Fact",
    "Nacked",
    "RemoteProtocolError",
    "TypeDelivery",
]

MAX_IN_FLIGHT_PER_TYPE = 8
ENVELOPES_KEPT = 64
"""Beginnings and ends of responses that are remembered: streams that are told the same share them."""


@lru_cache(maxsize=ENVELOPES_KEPT)
def _around(version: str, type_url: str, nonce: str) -> tuple[bytes, bytes]:
    """What stands before and after the resources of a response."""
    return piece(1, version), piece(4, type_url) + piece(5, nonce)


class DeltaStream(StagedStream):
    """The server's side of one delta stream."""

    window = MAX_IN_FLIGHT_PER_TYPE
    loads_on_demand = True

    def receive(self, request: DeltaDiscoveryRequest) -> Sequence[Fact]:
        """Take a request: an ACK or NACK, subscription changes, or both.

        Raises RemoteProtocolError when the type is missing (rule 1) or a limit is exceeded.
        """
        subscription = self._asked_of(request.type_url)
        error = request.error_detail.message if request.HasField("error_detail") else None
        facts = self._settled(subscription, request.response_nonce, error)
        # All other requests are answers and nothing more.
        unsubscribed = request.resource_names_unsubscribe
        if unsubscribed or request.resource_names_subscribe or not subscription.asked:
            subscription.request(request)
            self._pins.unpin(subscription.type_url, unsubscribed)
        return facts

    def reported(self, request: DeltaDiscoveryRequest) -> Mapping[str, str]:
        """See StagedStream."""
        return dict(request.initial_resource_versions)

    def _parts(self, subscription: Subscription, due: Due, removed: tuple[str, ...]) -> list[Part]:
        names = (*due.absent, *removed)
        parts: list[Part] = []
        if subscription.suspecting and names:
            parts.append(((), names))
            names = ()
        for group in subscription.groups(due.upserts):
            for batch in batches(group):
                parts.append((batch, names))
                names = ()
        return [*parts, ((), names)] if names else parts

    def _encode(self, subscription: Subscription, version: str, nonce: str, part: Part) -> bytes:
        upserts, removed = part
        head, tail = _around(version, subscription.type_url, nonce)
        if removed:
            tail = b"".join((tail, *(piece(6, name) for name in removed)))
        return upserts.response(head, tail) if isinstance(upserts, Batch) else head + tail
