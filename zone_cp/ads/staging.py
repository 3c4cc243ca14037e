"""StagedStream: what the delta and the SotW stream share, as a value. Snapshots go in, encoded responses come out.

Theory of operation (design/xds.md §3 and §7). A snapshot goes through the stream in stages:

    target ──▶ awaiting ──▶ upper ──▶ settling ──▶ floor ──▶ clearing ──▶ delivered
      filters, secrets,       listeners, routes      what no longer
      clusters, endpoints     are sent               exists is removed
      are sent (`guarding`)

It leaves `awaiting` when the clusters sent for it are ACKed (Envoy ACKs them once they are warm), `settling` when
all that was sent for it is answered, `clearing` when the removals are. Newer snapshots replace older ones at
every stage, and a stage never holds more entries than there are responses in flight, so a slow proxy skips
intermediate snapshots and a fast sequence of changes starves nothing. All snapshots between `target` and `floor`
are *retained*: what one of them has is not removed, since the client may still be using it. A listener or
cluster kept at its last good version after a NACK retains (*pins*) the snapshots it came from. What goes with a change
of listeners is removed once their connections have drained (`lingering`).

A variant says how requests change subscriptions, how many responses of a type may wait for their answer (`window`)
and what a change looks like on the wire (`_parts`, `_encode`); all else is here.

No clock and no IO: the caller feeds `receive` and `offer` and writes what `responses` returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from immutables import Map

from shared.events.state import Position
from zone_cp.ads import guarding
from zone_cp.ads.delivery import ResourceState, TypeDelivery, delivery_of, states_of
from zone_cp.ads.facts import Acked, Due, Fact, Nacked, Part, RemoteProtocolError, Sent
from zone_cp.ads.lingering import Lingering
from zone_cp.ads.nonces import Nonces
from zone_cp.ads.pins import Pins
from zone_cp.ads.references import owe_references
from zone_cp.ads.stages import Stage, enqueue, of_type, postpone
from zone_cp.ads.subscription import Resources, Subscription
from zone_cp.view.lineage import UNKNOWN
from zone_cp.xds.snapshot import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    PUSH_ORDER,
    SECRET,
    Encoded,
    Snapshot,
)

MAX_TYPES = 32
LOWER = (SECRET, CLUSTER, ENDPOINT)
EARLY = (EXTENSION_CONFIG, *LOWER)
NOTHING: Map[str, Encoded] = Map()
_UNASKED = {type_url: Subscription(type_url) for type_url in PUSH_ORDER}
_UNASKED_LOWER = tuple(_UNASKED[type_url] for type_url in LOWER)


Refused: TypeAlias = Mapping[str, Mapping[tuple[str, str], str]]
"""By type: names and versions that no client of the zone is sent, with the reason."""
NOTHING_REFUSED: Refused = Map()


class StagedStream(ABC):
    """One stream; delivered is the newest position whose every addition, change and removal is answered.

    refused is what other clients of the zone have refused: as if this one had.
    """

    window: ClassVar[int]
    """Responses of one type that may wait for their answer before newer state waits too."""
    loads_on_demand: ClassVar[bool] = False
    """Whether the client can load what a snapshot has `on_demand`; else it is sent all of it."""

    def __init__(self) -> None:
        """A stream that nothing has been said on."""
        self.delivered: Position | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._order: list[Subscription] = []
        self._lower = _UNASKED_LOWER
        self.refused: Refused = NOTHING_REFUSED
        self._nonces = Nonces()
        self._serial = 0
        self._cluster_serial = 0
        self._resending: set[str] = set()
        self._target: Snapshot | None = None
        self._walked: Snapshot | None = None
        self._awaiting: Stage = []
        self._upper: Snapshot | None = None
        self._settling: Stage = []
        self._floor: Snapshot | None = None
        self._clearing: Stage = []
        self._pins = Pins()
        self.lingering = Lingering()

    @property
    def unanswered(self) -> bool:
        """Whether any response waits for its ACK or NACK."""
        return any(subscription.in_flight for subscription in self._subscriptions.values())

    def offer(self, snapshot: Snapshot) -> None:
        """Say what the proxy should hold from now on; the newest offer wins."""
        self._target = snapshot

    def drained(self, mark: int) -> None:
        """LINGER_SECONDS have passed since `lingering.newest` was `mark`."""
        self.lingering.over(mark)

    def withhold(self) -> None:
        """Say nothing more until something is offered again: the client keeps what it has."""
        self._target = None

    def subscription(self, type_url: str) -> Subscription | None:
        """What was asked of a type, None where nothing was."""
        return self._subscriptions.get(type_url)

    def responses(self) -> list[bytes]:
        """All that may be sent now, as encoded DeltaDiscoveryResponses in the order to write them."""
        out: list[bytes] = []
        target = self._target
        if target is None or self._is_through(target):
            return out
        self._walked = target
        if self._pins:
            self._pins.release(target, self._subscription)
        if self._push_lower(target, out):
            enqueue(self._awaiting, self._cluster_serial, target, self._upper)
        self._promote()
        if self._upper is not None and self._push_upper(self._upper, out):
            enqueue(self._settling, self._serial, self._upper, self._floor)
        if self._resending and not any(self._subscription(t).suspecting for t in self._resending):
            self._resending.clear()
            postpone(self._settling, self._serial)
            postpone(self._clearing, self._serial)
        while self._settling and not self._unanswered(self._settling[0][0]):
            mark, self._floor = self._settling.pop(0)
            self.lingering.begin(mark, self._order)
        if self._floor is not None:
            self._remove(self._floor, out)
            if self._floor.position != self.delivered and self._asked_for(self._floor):
                enqueue(self._clearing, self._serial, self._floor, None)
        while self._clearing and not self._unanswered(self._clearing[0][0]):
            self.delivered = self._clearing.pop(0)[1].position
        return out

    def _is_through(self, target: Snapshot) -> bool:
        """Whether nothing is unanswered or left to be told of a target that was looked at before: it has passed all
        stages then, and another look would find just that.
        """
        if self._walked is not target or self._resending or self._pins or not self._asked_for(target):
            return False
        for subscription in self._order:
            if not subscription.rests(target.resources.get(subscription.type_url, NOTHING)):
                return False
        if self._floor is not target or self.delivered is not target.position:
            self._upper = self._floor = target
            self.lingering.begin(self._serial, self._order)
            self._awaiting.clear()
            self._settling.clear()
            self._clearing.clear()
            self.delivered = target.position
        return True

    def status(self) -> tuple[TypeDelivery, ...]:
        """How far each type that was asked for has come."""
        return tuple(delivery_of(s, self._target) for s in self._order if s.asked)

    def positions(self) -> Iterator[tuple[str, Position | None, Position | None]]:
        """Of every type that was asked for: the moment of what was sent last, and of what was ACKed last."""
        for subscription in self._subscriptions.values():
            if subscription.asked:
                yield subscription.type_url, subscription.sent_position, subscription.acked_position

    def states(self) -> list[ResourceState]:
        """Every resource of every type that was asked for."""
        return [state for s in self._order if s.asked for state in states_of(s, self._target)]

    # -- what the variants say --------------------------------------------------------------------------------

    @abstractmethod
    def receive(self, request: Any) -> Sequence[Fact]:
        """Take a request of the variant's own type. Raises RemoteProtocolError."""

    @abstractmethod
    def reported(self, request: Any) -> Mapping[str, str] | None:
        """What the first request for a type says the client holds, names and versions; None: it cannot be told."""

    @abstractmethod
    def _parts(self, subscription: Subscription, due: Due, removed: tuple[str, ...]) -> list[Part]:
        """The responses that tell a change; none when the protocol has no words for it."""

    @abstractmethod
    def _encode(self, subscription: Subscription, version: str, nonce: str, part: Part) -> bytes:
        """One response."""

    def _asked_of(self, type_url: str) -> Subscription:
        """The subscription a request is about. Raises RemoteProtocolError when the type is missing (rule 1)."""
        if not type_url:
            raise RemoteProtocolError("a request on an aggregated stream must name its type_url")
        subscription = self._subscriptions.get(type_url)
        if subscription is None:
            if len(self._subscriptions) >= MAX_TYPES:
                raise RemoteProtocolError(f"more than {MAX_TYPES} resource types", limit=True)
            subscription = self._subscriptions[type_url] = Subscription(type_url)
            subscription.rejected.update(self.refused.get(type_url, {}))
            self._arrange()
        return subscription

    def _settled(self, subscription: Subscription, nonce: str, error: str | None) -> Sequence[Fact]:
        """Take an ACK or NACK (error: what the client says is wrong)."""
        if subscription.type_url == CLUSTER and not subscription.asked:
            self._restart()
        fact = subscription.settle(nonce, error)
        match fact:
            case Nacked(names=names, rejected=rejected):
                if names and not rejected:
                    self._resending.add(subscription.type_url)
                self._pins.pin(subscription, names, self._retained)
            case Acked(versions=versions, removed=removed):
                if self._pins:
                    self._pins.unpin(subscription.type_url, (*(name for name, _ in versions), *removed))
            case None:
                return ()
        return (fact,)

    # -- stages -----------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Listeners wait for clusters again: the client has only now asked for clusters."""
        self._upper = self._floor = None
        self._awaiting.clear()
        self._settling.clear()
        self._clearing.clear()

    def _promote(self) -> None:
        """Let snapshots through whose clusters are ACKed, that is warm (xds.md §3.2)."""
        clusters = self._subscription(CLUSTER)
        if CLUSTER in self._resending and not clusters.suspecting:
            postpone(self._awaiting, self._serial)
        while self._awaiting and not clusters.suspecting:
            mark, snapshot = self._awaiting[0]
            if any(sent.upserts and sent.serial <= mark for sent in clusters.in_flight.values()):
                break
            self._upper = snapshot
            self._awaiting.pop(0)

    def _push_lower(self, target: Snapshot, out: list[bytes]) -> bool:
        """Filters, secrets and clusters, then endpoints. False when a type has too much in flight to go on."""
        secrets, clusters, endpoints = self._lower
        if not self._push_filters(target, out):
            self._push(secrets, target, out)
            return False
        complete = self._push(secrets, target, out)
        before = self._serial
        complete &= self._push(clusters, target, out)
        if self._serial != before:
            self._cluster_serial = self._serial
            owe_references(self._lower, before)
            if secrets.asked:
                complete &= self._push(secrets, target, out)
        return (not endpoints.asked or self._push(endpoints, target, out)) and complete

    def _push_filters(self, target: Snapshot, out: list[bytes]) -> bool:
        """See `guarding`. False when clusters have to wait, since what guards them could not be sent."""
        filters, clusters = self._subscription(EXTENSION_CONFIG), self._subscription(CLUSTER)
        if not filters.asked:
            return not guarding.may_ask(filters, clusters, self._subscription(LISTENER), target)
        if guarding.is_told(filters, target):
            return True
        if self.loads_on_demand and clusters.asked:
            clusters.load_on_demand(target.on_demand)
        if names := guarding.unguarded(clusters, target):
            if clusters.suspecting or len(clusters.in_flight) >= self.window:
                return False
            self._drop(clusters, target, names, out)
        return self._push(filters, target, out)

    def _push_upper(self, upper: Snapshot, out: list[bytes]) -> bool:
        """Listeners with their removals (an address may change hands), then routes and all else."""
        complete = True
        for subscription in self._order:
            if subscription.type_url not in EARLY:
                complete &= self._push(subscription, upper, out)
        return complete

    def _push(self, subscription: Subscription, current: Snapshot, out: list[bytes]) -> bool:
        if not subscription.asked:
            return True
        if len(subscription.in_flight) >= self.window:
            return False
        type_url = subscription.type_url
        if type_url == CLUSTER and self.loads_on_demand:
            subscription.load_on_demand(current.on_demand)
        wanted = current.resources.get(type_url, NOTHING)
        if subscription.quiet(wanted):
            return self._send_parts(subscription, current, subscription.backlog(), out)
        newer, lineage = self._newer(current), current.lineages.get(type_url, UNKNOWN)
        due = subscription.due(wanted, lambda: self._older(type_url, current, newer), of_type(type_url, newer), lineage)
        removed = subscription.removable(of_type(type_url, (current, *newer))) if type_url == LISTENER else ()
        return self._send(subscription, current, due, removed, out)

    def _newer(self, current: Snapshot) -> list[Snapshot]:
        """Snapshots that are on their way to where `current` is; nothing is newer than the target."""
        if current is self._target:
            return []
        return [s for s in (self._target, *(s for _, s in self._awaiting)) if s is not None and s is not current]

    def _older(self, type_url: str, current: Snapshot, newer: Sequence[Snapshot]) -> list[Resources]:
        return of_type(type_url, [s for s in self._retained() if s is not current and s not in newer])

    def _remove(self, floor: Snapshot, out: list[bytes]) -> None:
        """Tell what no retained snapshot has any more: users first, then clusters, then what clusters use (rule 6)."""
        for subscription in reversed(self._order):
            type_url = subscription.type_url
            if type_url == LISTENER or not subscription.gone or subscription.suspecting:
                continue
            if len(subscription.in_flight) >= self.window:
                continue
            if type_url in {ENDPOINT, SECRET} and self._removing_clusters():
                continue
            names = subscription.removable(of_type(type_url, self._retained(type_url)))
            names = self.lingering.left_of(type_url, names)
            self._drop(subscription, floor, names, out)
            if names and self._pins:
                # SotW has no word for a route that is gone: what it used goes right now.
                self._pins.release(self._target or floor, self._subscription)

    def _drop(self, subscription: Subscription, snapshot: Snapshot, names: tuple[str, ...], out: list[bytes]) -> None:
        replaced = Due(subscription.tombstones(names))
        kept = {one.name for one in replaced.upserts}
        self._send(subscription, snapshot, replaced, tuple(name for name in names if name not in kept), out)

    def _removing_clusters(self) -> bool:
        clusters = self._subscription(CLUSTER)
        return bool(clusters.gone) or any(sent.removed for sent in clusters.in_flight.values())

    def _retained(self, type_url: str = SECRET) -> list[Snapshot]:
        """Every snapshot whose resources of this type may still be in use, without repetition, newest first."""
        stages = (self._target, *(s for _, s in reversed(self._awaiting)), self._upper)
        rest = (*(s for _, s in reversed(self._settling)), self._floor)
        every = (*stages, *rest, *self._pins.of_users(type_url))
        return list({id(s): s for s in every if s is not None}.values())

    def _unanswered(self, mark: int) -> bool:
        return bool(self._resending) or any(
            sent.serial <= mark for s in self._subscriptions.values() for sent in s.in_flight.values()
        )

    # -- responses --------------------------------------------------------------------------------------------

    def _send(
        self, subscription: Subscription, snapshot: Snapshot, due: Due, removed: tuple[str, ...], out: list[bytes]
    ) -> bool:
        """Send a change. False when a part of it has to wait for an answer first."""
        parts = self._parts(subscription, due, removed)
        if not parts and subscription.reply_due:
            parts = [((), ())]  # rule 5
        return self._send_parts(subscription, snapshot, parts, out)

    def _send_parts(
        self, subscription: Subscription, snapshot: Snapshot, parts: Sequence[Part], out: list[bytes]
    ) -> bool:
        if not parts:
            return True
        version = snapshot.versions.get(subscription.type_url)
        if version is None:
            version = str(snapshot.position)
        for sent, part in enumerate(parts):
            if sent and len(subscription.in_flight) >= self.window:
                subscription.postpone(parts[sent:])
                return False
            self._serial += 1
            if subscription.type_url == LISTENER and subscription.replaces(part):
                self.lingering.sent(self._serial)
            nonce = self._nonces.next(subscription.type_url, snapshot.position, self._serial)
            out.append(self._encode(subscription, version, nonce, part))
            subscription.mark_sent(nonce, Sent(self._serial, snapshot.position, *part))
        return True

    def _subscription(self, type_url: str) -> Subscription:
        """What was asked of a type; not to be changed where nothing was."""
        return self._subscriptions.get(type_url) or _UNASKED[type_url]

    def _arrange(self) -> None:
        """Subscriptions in push order; types this stream alone has asked for come last."""
        known = [self._subscriptions[type_url] for type_url in PUSH_ORDER if type_url in self._subscriptions]
        self._order = known + [s for s in self._subscriptions.values() if s.type_url not in PUSH_ORDER]
        self._lower = tuple(self._subscription(type_url) for type_url in LOWER)

    def _asked_for(self, snapshot: Snapshot) -> bool:
        """Whether a client that is still starting has asked for what it will surely ask for."""
        for type_url in (CLUSTER, LISTENER):
            if not self._subscription(type_url).asked and snapshot.resources.get(type_url):
                return False
        return True
