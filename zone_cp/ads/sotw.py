"""SotwStream: one state-of-the-world stream as a value. Requests and snapshots go in, encoded responses come out.

Theory of operation. The stream reckons in changes, as the delta one does (`staging`, `subscription`), and differs in
what it says of them (design/xds.md §7, rules 8 to 10):

    clusters, listeners    every response carries the whole subscribed set: what the client has accepted with the
                           change applied. What is left out is thereby removed, so removals travel like changes.
    all other types        a response carries what changed. That something is gone cannot be said.

At most one response of a type waits for its answer. So the nonce of an ACK is the latest or the request is stale,
what the client has accepted is exactly known, and a refused change is tried again in parts over what was accepted.
A new stream is answered whatever version it reports: after a NACK a client may hold parts of what it refused
while it reports the version before, so no version proves what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared.pb.discovery_pb2 import DiscoveryRequest
from zone_cp.ads.batch import batches
from zone_cp.ads.facts import Due, Fact, Part
from zone_cp.ads.staging import StagedStream
from zone_cp.ads.subscription import Subscription
from zone_cp.xds.snapshot import CLUSTER, LISTENER
from zone_cp.xds.wire import any_message, piece

WHOLE_STATE_TYPES = frozenset({CLUSTER, LISTENER})
"""https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#grouping-resources-into-responses"""


class SotwStream(StagedStream):
    """The server's side of one state-of-the-world stream."""

    window = 1

    def __init__(self) -> None:
        """A stream that nothing has been said on."""
        super().__init__()
        self._latest: dict[str, str] = {}

    def receive(self, request: DiscoveryRequest) -> Sequence[Fact]:
        """Take a request: an ACK or NACK, other names, or both.

        Raises RemoteProtocolError when the type is missing (rule 1) or a limit is exceeded.
        """
        subscription = self._asked_of(request.type_url)
        latest = self._latest.get(request.type_url, "")
        if latest and request.response_nonce not in {"", latest}:
            return ()  # rule 9: what it says of names is repeated by the answer to the latest response
        error = request.error_detail.message if request.HasField("error_detail") else None
        facts = self._settled(subscription, request.response_nonce, error)
        before = subscription.names
        subscription.replace_names(request.resource_names)
        self._pins.unpin(subscription.type_url, [*(before - subscription.names)])
        return facts

    def reported(self, request: DiscoveryRequest) -> Mapping[str, str] | None:
        """See StagedStream: a client that has accepted something says which version, but not what is in it."""
        return None if request.version_info else {}

    def _parts(self, subscription: Subscription, due: Due, removed: tuple[str, ...]) -> list[Part]:
        groups = subscription.groups(due.upserts)
        if subscription.type_url not in WHOLE_STATE_TYPES:
            subscription.mark_gone(removed)
            return [(batch, ()) for group in groups for batch in batches(group)]
        names = (*due.absent, *removed)
        if not names:
            return [(group, ()) for group in groups]
        if subscription.suspecting or not groups:
            return [((), names), *((group, ()) for group in groups)]
        return [(groups[0], names), *((group, ()) for group in groups[1:])]

    def _encode(self, subscription: Subscription, version: str, nonce: str, part: Part) -> bytes:
        upserts, removed = part
        self._latest[subscription.type_url] = nonce
        carried = {encoded.name: encoded for encoded in upserts}
        if subscription.type_url in WHOLE_STATE_TYPES:
            carried = subscription.accepted() | carried
            for name in removed:
                carried.pop(name, None)
        bodies = (piece(2, any_message(e.type_url, e.body)) for e in carried.values())
        return b"".join((piece(1, version), *bodies, piece(4, subscription.type_url), piece(5, nonce)))
