"""Fold: one event onto one log's state. The only place (with `safety`) where the meaning of an event is written down.

Redelivery is harmless: an event at or before `state.n` changes nothing. `check` verifies an event against the
chain before it is folded; it is the reader's duty to call it on everything that came over a link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, TypeVar, assert_never

import msgspec
from immutables import Map, MapMutation

from shared.events import narrowing
from shared.events.event import (
    GLOBAL,
    DataKeyWrapped,
    Event,
    EventRef,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    IntermediateIssued,
    LogRestored,
    LogSigned,
    ProxyConnected,
    ProxyDisconnected,
    PushHeld,
    PushReleased,
    QuarantineEnded,
    ResourceApplied,
    ResourceDeleted,
    ResourceQuarantined,
    RootCaCreated,
    Unreadable,
    VipLeased,
    VipQuarantined,
    VipReleased,
    VipsYielded,
    ZoneSettingsChanged,
    event_hash,
    payload_hash,
    ref,
)
from shared.events.safety import apply_hold, apply_quarantine, apply_yield
from shared.events.state import Authority, Claim, Lease, LogState, ProxyStatus, Stored
from shared.events.upcast import SCHEMA
from shared.model.resource import Resource, ResourceKey, key_of, mesh_of

K = TypeVar("K")
J = TypeVar("J")
V = TypeVar("V")

FaultKind: TypeAlias = Literal["origin", "gap", "fork", "incarnation", "payload", "prev", "seen"]


class ChainFault(msgspec.Struct, frozen=True):
    """An event that does not continue the log: which rule it breaks, and a sentence."""

    kind: FaultKind
    message: str


def check(state: LogState, event: Event) -> ChainFault | None:
    """Whether `event` continues the log that `state` is the fold of, or repeats a part of it.

    A repeat can be compared only where it is the last event; `gap` means that events are missing before it,
    `fork` that the log was another one before (a hub that was rolled back, decision 33).
    """
    if event.origin != state.origin:
        return ChainFault("origin", f"{event.id} is of {event.origin}, not of {state.origin}")
    if _is_as_written(event) and payload_hash(event.change) != event.payload_hash:
        return ChainFault("payload", f"{ref(event)} does not hold what its header says")
    if event.n <= state.n:
        return _check_repeat(state, event)
    if event.n > state.n + 1:
        return ChainFault("gap", f"{ref(event)} came after {state.n}")
    if event.prev != state.head:
        return ChainFault("prev", f"{ref(event)} does not follow the event that stands before it")
    restored = isinstance(event.change, LogRestored)
    if not event.incarnation or (state.incarnation and (event.incarnation == state.incarnation) == restored):
        return ChainFault("incarnation", f"{ref(event)} is of incarnation {event.incarnation or 'none'}")
    if event.seen < state.seen or (event.origin == GLOBAL and event.seen):
        return ChainFault("seen", f"{ref(event)} saw {event.seen}, the one before it {state.seen}")
    return None


def _is_as_written(event: Event) -> bool:
    """Whether the change is the one that was hashed: it was neither upcast nor unreadable."""
    return event.v == SCHEMA and not isinstance(event.change, Unreadable)


def fold(state: LogState, event: Event) -> LogState:
    """The state after `event`; the same object when the event is a repeat.

    Raises ValueError for an event of another log or after a gap: the caller did not `check`.
    """
    if event.n <= state.n and event.origin == state.origin:
        return state
    _expect(state.origin, state.n, event)
    after = _apply(state, event)
    return _standing(after, event, event_hash(event), max(state.time, event.time), max(state.seen, event.seen))


def fold_all(state: LogState, events: Iterable[Event]) -> LogState:
    """Fold many events, as `fold` does. Only the last one is hashed: nobody sees the heads in between."""
    return _folded(state, events, _repeats)


def fold_part(state: LogState, events: Iterable[Event]) -> LogState:
    """Fold some of the events that follow, in order, the last one among them. The caller vouches that those left out
    left no trace (`shared.events.index`). Raises ValueError for an event of another log or out of order.
    """
    return _folded(state, events, _leaves_out)


def _folded(state: LogState, events: Iterable[Event], passes: Callable[[str, int, Event], bool]) -> LogState:
    """passes: whether an event that is not the next one is passed over. Raises ValueError where it must not come."""
    run: _Run | None = None
    last: Event | None = None
    time, seen, n, origin = state.time, state.seen, state.n, state.origin
    for event in events:
        if (event.n != n + 1 or event.origin != origin) and passes(origin, n, event):
            continue
        n, last = event.n, event
        if event.time > time:  # noqa: PLR1730 - `max` takes three times as long, for each event of a replay
            time = event.time
        if event.seen > seen:  # noqa: PLR1730 - as above
            seen = event.seen
        change = event.change
        if type(change) is ResourceApplied and type(change.resource) not in narrowing.TYPES:
            run = run or _Run(state)
            run.applied(event, change.resource)
        elif isinstance(change, ResourceDeleted) and not narrowing.concerns(change):
            run = run or _Run(state)
            run.deleted(change.key)
        else:
            state = _apply(state if run is None else run.state(), event)
            run = None
    after = state if run is None else run.state()
    return after if last is None else _standing(after, last, event_hash(last), time, seen)


def _standing(state: LogState, event: Event, head: str, time: str, seen: int) -> LogState:
    return msgspec.structs.replace(state, n=event.n, head=head, incarnation=event.incarnation, time=time, seen=seen)


def _repeats(origin: str, n: int, event: Event) -> bool:
    if event.n > n or event.origin != origin:
        _expect(origin, n, event)
    return True


def _leaves_out(origin: str, n: int, event: Event) -> bool:
    if event.n <= n or event.origin != origin:
        raise ValueError(f"{event.origin}:{event.n} cannot be folded after {origin}:{n}")
    return False


def _check_repeat(state: LogState, event: Event) -> ChainFault | None:
    if event.n == state.n and event_hash(event) != state.head:
        return ChainFault("fork", f"another event stands at {ref(event)} already")
    if isinstance(event.change, LogRestored) and event.incarnation != state.incarnation:
        return ChainFault("fork", f"the log was restored at {ref(event)}, events up to {state.n} were known here")
    return None


def _expect(origin: str, last: int, event: Event) -> None:
    if event.origin != origin or event.n != last + 1:
        raise ValueError(f"{event.origin}:{event.n} cannot be folded onto {origin}:{last}")


_Place: TypeAlias = tuple[str, str, str]
"""Kind, mesh and name of a resource."""
_Written: TypeAlias = tuple[Resource, str, int, str, str, str]
"""A resource with what cites the event that wrote it. To keep the events themselves took up to a tenth longer."""


class _Run:
    """Events that follow each other and write resources. Of each resource the last one counts, so what it amounts to is
    made once, at the end.

    Beside `_apply_resource` this is the second place that knows what such an event means; a test holds them together.
    """

    __slots__ = ("_created", "_last", "_state", "_zone")

    def __init__(self, state: LogState) -> None:
        self._state = state
        self._zone = "" if state.origin == GLOBAL else state.origin
        self._created: dict[_Place, EventRef] = {}
        self._last: dict[_Place, _Written | None] = {}

    def applied(self, event: Event, resource: Resource) -> None:
        """A resource was written."""
        place = (type(resource).__name__, mesh_of(resource), resource.name)
        if self._last.get(place) is None:
            self._created[place] = self._creation(place, event)
        self._last[place] = (resource, event.origin, event.n, event.id, event.time, event.actor)

    def deleted(self, key: ResourceKey) -> None:
        """A resource is gone."""
        if key.zone == self._zone:
            self._last[key.kind, key.mesh, key.name] = None

    def _creation(self, place: _Place, event: Event) -> EventRef:
        """What created a resource that was not written in this run yet, or was deleted last."""
        before = None if place in self._last else self._state.resources.get(ResourceKey(*place, self._zone))
        return ref(event) if before is None else before.created

    def state(self) -> LogState:
        """The state after them; nothing can be added any more."""
        resources = self._state.resources.mutate()
        kinds: dict[str, MapMutation[ResourceKey, Stored]] = {}
        for place, last in self._last.items():
            kind, key = place[0], ResourceKey(*place, self._zone)
            if kind not in kinds:
                kinds[kind] = self._state.kinds.get(kind, Map()).mutate()
            if last is not None:
                resource, origin, n, id_, time, actor = last
                cited = EventRef(origin, n, id_, time, actor)
                resources[key] = kinds[kind][key] = Stored(key, resource, self._created[place], cited)
            elif key in resources:
                del resources[key], kinds[kind][key]
        found = self._state.kinds
        for kind, mutation in kinds.items():
            members = mutation.finish()
            found = found.set(kind, members) if members else found.delete(kind) if kind in found else found
        return msgspec.structs.replace(self._state, resources=resources.finish(), kinds=found)


def _apply(state: LogState, event: Event) -> LogState:
    change = event.change
    match change:
        case ResourceApplied() | ResourceDeleted():
            return _apply_resource(state, change, ref(event))
        case VipLeased() | VipQuarantined() | VipReleased():
            return apply_vip(state, change, ref(event))
        case HostnameClaimed() | HostnameQuarantined() | HostnameReleased():
            return apply_hostname(state, change, ref(event))
        case RootCaCreated():
            root = Authority(change.mesh, change.backend, "", change.certificate, change.key, ref(event))
            return msgspec.structs.replace(state, roots=state.roots.set(change.mesh, root))
        case IntermediateIssued():
            issued = Authority(change.mesh, change.backend, change.zone, change.certificate, change.key, ref(event))
            intermediates = state.intermediates.set((change.mesh, change.zone), issued)
            return msgspec.structs.replace(state, intermediates=intermediates)
        case DataKeyWrapped():
            wraps = put(state.data_keys, change.kid, change.recipient, change.wrapped)
            return msgspec.structs.replace(state, data_keys=wraps)
        case ProxyConnected() | ProxyDisconnected():
            return _apply_proxy(state, change, ref(event))
        case PushHeld() | PushReleased():
            return apply_hold(state, change, ref(event))
        case VipsYielded():
            return apply_yield(state, change, ref(event))
        case ResourceQuarantined() | QuarantineEnded():
            return apply_quarantine(state, change, ref(event))
        case ZoneSettingsChanged():
            return msgspec.structs.replace(state, settings=change)
        case EventSkipped():
            return _apply_skip(state, change)
        case Unreadable() if not event.subject:
            return state  # withheld from this reader (`reading`)
        case Unreadable(skippable=True):
            return msgspec.structs.replace(state, skipped=state.skipped.set((event.origin, event.n), change.reason))
        case Unreadable():
            return msgspec.structs.replace(state, unread=state.unread.set(event.n, change.reason))
        case LogRestored() | LogSigned():
            return state
        case _:
            assert_never(change)


def _apply_skip(state: LogState, change: EventSkipped) -> LogState:
    origin, n = change.skips
    unread = state.unread.delete(n) if origin == state.origin and n in state.unread else state.unread
    return msgspec.structs.replace(state, skipped=state.skipped.set(change.skips, change.reason), unread=unread)


def _apply_resource(state: LogState, change: ResourceApplied | ResourceDeleted, event: EventRef) -> LogState:
    after = _write(state, change, event)
    return narrowing.narrowed(state, after, change, event) if narrowing.concerns(change) else after


def _write(state: LogState, change: ResourceApplied | ResourceDeleted, event: EventRef) -> LogState:
    match change:
        case ResourceApplied(resource=resource):
            key = key_of(resource, "" if state.origin == GLOBAL else state.origin)
            before = state.resources.get(key)
            stored = Stored(key, resource, before.created if before else event, event)
            return msgspec.structs.replace(
                state, resources=state.resources.set(key, stored), kinds=put(state.kinds, key.kind, key, stored)
            )
        case ResourceDeleted(key=key):
            if key not in state.resources:
                return state
            return msgspec.structs.replace(
                state, resources=state.resources.delete(key), kinds=drop(state.kinds, key.kind, key)
            )
        case _:
            assert_never(change)


def apply_vip(state: LogState, change: VipLeased | VipQuarantined | VipReleased, event: EventRef) -> LogState:
    """Leases after a change: `leases`, `vips`, `retired` and `expiring` move together."""
    before = state.vips.get(change.ip)
    leases, vips, retired, expiring = state.leases, state.vips, state.retired, state.expiring
    if before is not None and before.until is not None:
        retired = drop(retired, before.key, before.ip)
        expiring = drop(expiring, expiry_of(before.key, before.until), ("", before.ip))
    elif before is not None and leases.get(before.key) == before:
        leases = leases.delete(before.key)
    match change:
        case VipLeased():
            lease = Lease(change.ip, change.key, change.protocol_class, event)
            leases, vips = leases.set(change.key, lease), vips.set(change.ip, lease)
        case VipQuarantined():
            protocol_class = before.protocol_class if before else "http"
            lease = Lease(change.ip, change.key, protocol_class, event, change.until)
            vips = vips.set(change.ip, lease)
            retired = put(retired, change.key, change.ip, lease)
            expiring = put(expiring, expiry_of(change.key, change.until), ("", change.ip), change.until)
        case VipReleased():
            vips = vips.delete(change.ip) if before is not None else vips
        case _:
            assert_never(change)
    return msgspec.structs.replace(state, leases=leases, vips=vips, retired=retired, expiring=expiring)


def apply_hostname(
    state: LogState, change: HostnameClaimed | HostnameQuarantined | HostnameReleased, event: EventRef
) -> LogState:
    """Claims after a change: `claims`, `names` and `expiring` move together."""
    place = (change.mesh, change.hostname)
    before = state.claims.get(place)
    claims, names, expiring = state.claims, state.names, state.expiring
    if before is not None and before.until is not None:
        expiring = drop(expiring, expiry_of(before.key, before.until), place)
    elif before is not None:
        names = drop(names, before.key, before.hostname)
    match change:
        case HostnameClaimed():
            claim = Claim(change.mesh, change.hostname, change.key, change.generator, event)
            claims, names = claims.set(place, claim), put(names, change.key, change.hostname, claim)
        case HostnameQuarantined():
            generator = before.generator if before else ResourceKey("HostnameGenerator", "", "")
            claims = claims.set(place, Claim(change.mesh, change.hostname, change.key, generator, event, change.until))
            expiring = put(expiring, expiry_of(change.key, change.until), place, change.until)
        case HostnameReleased():
            claims = claims.delete(place) if before is not None else claims
        case _:
            assert_never(change)
    return msgspec.structs.replace(state, claims=claims, names=names, expiring=expiring)


def _apply_proxy(state: LogState, change: ProxyConnected | ProxyDisconnected, event: EventRef) -> LogState:
    before = state.proxies.get(change.proxy)
    match change:
        case ProxyConnected():
            # The later connection wins, and connections are ordered by when the control plane recorded them.
            status = ProxyStatus(
                change.proxy, change.key, True, change.connection, change.features, change.system_ca_path, event
            )
        case ProxyDisconnected():
            if before is None or before.connection != change.connection:
                return state
            status = msgspec.structs.replace(before, online=False, event=event)
        case _:
            assert_never(change)
    return msgspec.structs.replace(state, proxies=state.proxies.set(change.proxy, status))


def expiry_of(key: ResourceKey, until: str) -> tuple[str, str]:
    """Bucket of `LogState.expiring`: whose event time counts ("" = global's), and the second."""
    return key.zone, until[:19]


def put(outer: Map[K, Map[J, V]], first: K, second: J, value: V) -> Map[K, Map[J, V]]:
    """`outer` with one entry set two levels down."""
    inner = outer.get(first)
    return outer.set(first, Map({second: value}) if inner is None else inner.set(second, value))


def drop(outer: Map[K, Map[J, V]], first: K, second: J) -> Map[K, Map[J, V]]:
    """`outer` without one entry two levels down; emptied inner maps go as well."""
    inner = outer.get(first)
    if inner is None or second not in inner:
        return outer
    return outer.delete(first) if len(inner) == 1 else outer.set(first, inner.delete(second))
