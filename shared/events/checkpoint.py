"""Checkpoints: a `LogState` as bytes, so that a question about the past need not begin at the first event. Pure.

Resources that are given by their events (`sketch`) are written as these, so that a checkpoint is nothing without its
log. It is kept outside the log and proves nothing by itself: it can be deleted at any time, and before use its head is
compared with the log's own chain. The bytes are a line of text (what it is, its digest) and MessagePack, not
compressed: that would take longer than all the rest, in a place that can be emptied at any time.
What follows from the rest (kinds, names, retired, expiring, active leases) is not written but derived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from immutables import Map

from shared.events.event import EventRef, ZoneSettingsChanged
from shared.events.fold import expiry_of
from shared.events.sketch import Written
from shared.events.state import (
    Authority,
    Claim,
    Hold,
    Lease,
    LogState,
    Narrowed,
    ProxyStatus,
    Quarantine,
    Stored,
    Yield,
)
from shared.model import codec
from shared.model.resource import ResourceKey

MAGIC = b"zonal checkpoint 5"

K = TypeVar("K")
V = TypeVar("V")


class CheckpointFault(Exception):
    """These bytes are no checkpoint that can be used; the message says why."""


class _Derived(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is derived otherwise, written out: in a log that no control plane of ours has written it may differ."""

    leases: list[Lease]
    names: list[tuple[ResourceKey, list[tuple[str, Claim]]]]
    retired: list[tuple[ResourceKey, list[tuple[str, Lease]]]]
    expiring: list[tuple[tuple[str, str], list[tuple[tuple[str, str], str]]]]


class _Image(msgspec.Struct, frozen=True, omit_defaults=True):
    origin: str
    n: int
    head: str
    incarnation: str
    time: str
    seen: int
    resources: list[Stored]
    vips: list[Lease]
    claims: list[Claim]
    proxies: list[ProxyStatus]
    settings: ZoneSettingsChanged | None
    roots: list[Authority]
    intermediates: list[Authority]
    data_keys: dict[str, dict[str, str]]
    skipped: list[tuple[tuple[str, int], str]]
    narrowed: list[tuple[str, list[tuple[Narrowed, EventRef]]]]
    derived: _Derived | None = None
    holds: list[Hold] = []
    quarantined: list[Quarantine] = []
    unread: list[tuple[int, str]] = []
    written: list[Written] = []
    yields: list[Yield] = []


_decoder = codec.unpacker(_Image)


def encode_checkpoint(state: LogState, written: Iterable[Written] = ()) -> bytes:
    """The state as bytes, in no particular order. written: resources that it does not hold."""
    body = codec.pack(_image(state, _values, list(written)))
    return b"%s %s\n%s" % (MAGIC, sha256(body).hexdigest().encode(), body)


def checkpoint_text(state: LogState) -> bytes:
    """The state as JSON, the same for the same state: what digests are of."""
    return codec.encode(_image(state, _sorted))


def _image(state: LogState, values: Callable[[Map[Any, Any]], list[Any]], written: Sequence[Written] = ()) -> _Image:
    return _Image(
        origin=state.origin,
        n=state.n,
        head=state.head,
        incarnation=state.incarnation,
        time=state.time,
        seen=state.seen,
        resources=values(state.resources),
        vips=values(state.vips),
        claims=values(state.claims),
        proxies=values(state.proxies),
        settings=state.settings,
        roots=values(state.roots),
        intermediates=values(state.intermediates),
        data_keys={kid: dict(wraps) for kid, wraps in state.data_keys.items()},
        skipped=sorted(state.skipped.items()),
        narrowed=[(mesh, sorted(known.items(), key=_loss)) for mesh, known in sorted(state.narrowed.items())],
        derived=None if _follows(state) else _written_out(state),
        holds=values(state.holds),
        quarantined=values(state.quarantined),
        unread=sorted(state.unread.items()),
        written=list(written),
        yields=values(state.yields),
    )


def decode_checkpoint(data: bytes) -> tuple[LogState, list[Written]]:
    """The state that was encoded, and the resources that it does not hold. Raises CheckpointFault."""
    end = data.find(b"\n")
    magic, _, digest = data[: max(end, 0)].rpartition(b" ")
    body = memoryview(data)[end + 1 :]
    if magic != MAGIC:
        raise CheckpointFault("no checkpoint of this version")
    if sha256(body).hexdigest().encode() != digest:
        raise CheckpointFault("the digest is another one: it was damaged")
    try:
        image: _Image = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise CheckpointFault(str(error)) from None
    state = _derived(_plain(image))
    return state if image.derived is None else _as_written(state, image.derived), image.written


def _plain(image: _Image) -> LogState:
    return LogState(
        origin=image.origin,
        n=image.n,
        head=image.head,
        incarnation=image.incarnation,
        time=image.time,
        seen=image.seen,
        resources=_by(image.resources, lambda stored: stored.key),
        vips=_by(image.vips, lambda lease: lease.ip),
        claims=_by(image.claims, lambda claim: (claim.mesh, claim.hostname)),
        proxies=_by(image.proxies, lambda status: status.proxy),
        settings=image.settings,
        roots=_by(image.roots, lambda root: root.mesh),
        intermediates=_by(image.intermediates, lambda issued: (issued.mesh, issued.zone)),
        data_keys=Map({kid: Map(wraps) for kid, wraps in image.data_keys.items()}),
        skipped=Map(image.skipped),
        unread=Map(image.unread),
        narrowed=_nested(image.narrowed),
        holds=_by(image.holds, lambda hold: hold.proxy),
        yields=_by(image.yields, lambda one: one.proxy),
        quarantined=_by(image.quarantined, lambda one: (one.type_url, one.name, one.version)),
    )


def _derived(state: LogState) -> LogState:
    """The state with all that follows from its other fields."""
    kinds: dict[str, dict[ResourceKey, Stored]] = {}
    for key, stored in state.resources.items():
        kinds.setdefault(key.kind, {})[key] = stored
    leases: dict[ResourceKey, Lease] = {}
    retired: dict[ResourceKey, dict[str, Lease]] = {}
    names: dict[ResourceKey, dict[str, Claim]] = {}
    expiring: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for lease in state.vips.values():
        if lease.until is None:
            leases[lease.key] = lease
        else:
            retired.setdefault(lease.key, {})[lease.ip] = lease
            expiring.setdefault(expiry_of(lease.key, lease.until), {})["", lease.ip] = lease.until
    for place, claim in state.claims.items():
        if claim.until is None:
            names.setdefault(claim.key, {})[claim.hostname] = claim
        else:
            expiring.setdefault(expiry_of(claim.key, claim.until), {})[place] = claim.until
    return msgspec.structs.replace(
        state,
        kinds=_nested(kinds.items()),
        leases=Map(leases),
        retired=_nested(retired.items()),
        names=_nested(names.items()),
        expiring=_nested(expiring.items()),
    )


def _follows(state: LogState) -> bool:
    """Whether what is derived otherwise is what `_derived` makes of the rest, without making most of it."""
    leases, names = state.leases, state.names
    active = published = 0
    ended: list[Lease] = []
    for lease in state.vips.values():
        if lease.until is not None:
            ended.append(lease)
        elif (found := leases.get(lease.key)) is lease or found == lease:
            active += 1
        else:
            return False
    held: dict[tuple[str, str], Claim] = {}
    for place, claim in state.claims.items():
        if claim.until is not None:
            held[place] = claim
        elif (own := names.get(claim.key)) is not None and own.get(claim.hostname) == claim:
            published += 1
        else:
            return False
    if active != len(leases) or published != sum(map(len, names.values())):
        return False
    few = LogState(state.origin, vips=Map({lease.ip: lease for lease in ended}), claims=Map(held))
    few = _derived(few)
    return few.retired == state.retired and few.expiring == state.expiring


def _written_out(state: LogState) -> _Derived:
    return _Derived(
        leases=_sorted(state.leases),
        names=_listed(state.names),
        retired=_listed(state.retired),
        expiring=_listed(state.expiring),
    )


def _as_written(state: LogState, derived: _Derived) -> LogState:
    return msgspec.structs.replace(
        state,
        leases=_by(derived.leases, lambda lease: lease.key),
        names=_nested(derived.names),
        retired=_nested(derived.retired),
        expiring=_nested(derived.expiring),
    )


def _sorted(values: Map[Any, V]) -> list[V]:
    return [value for _, value in sorted(values.items(), key=lambda item: item[0])]


def _values(values: Map[Any, V]) -> list[V]:
    return list(values.values())


def _loss(item: tuple[Narrowed, EventRef]) -> tuple[int, str]:
    return item[1].n, repr(item[0])


def _by(values: Iterable[V], key: Callable[[V], K]) -> Map[K, V]:
    return Map({key(value): value for value in values})


def _nested(items: Iterable[tuple[Any, Any]]) -> Map[Any, Any]:
    return Map({key: Map(inner) for key, inner in items})


def _listed(outer: Map[Any, Any]) -> list[Any]:
    return [(key, sorted(inner.items(), key=lambda item: item[0])) for key, inner in sorted(outer.items())]
