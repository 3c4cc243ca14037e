"""Who may see what of a history: one rule, for the present and for the past. Pure.

A reader may be limited to some meshes, to some zones, or to both. What belongs to no mesh (zones, zone egresses,
generators, settings) every reader of the zone may see. Of an event that is not for a reader there stays that it
happened: its place, time and hashes, without subject, author and content (`WITHHELD`). It is folded as nothing at all,
so that whatever is worked out of a reader's history follows from what that reader may see, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from shared.events.event import GLOBAL
from shared.events.index import WITHHELD, Lines, LogIndex
from shared.events.past import PastLog
from shared.events.subject import place_of
from shared.model.resource import ResourceKey

_BY_CONTENT = frozenset({"Vip", "Push", "Quarantine", "Skipped"})
"""Whose subject does not say which mesh an event is about, or whose content is shown in part."""


class Reader(msgspec.Struct, frozen=True):
    """What somebody may read: of these meshes and these zones; without any, of all."""

    meshes: frozenset[str] = frozenset()
    zones: frozenset[str] = frozenset()

    @property
    def is_limited(self) -> bool:
        """Whether anything is kept from them."""
        return bool(self.meshes or self.zones)

    @property
    def limits(self) -> str:
        """What they are limited to, in words; "" for nothing. Equal words, equal rights."""
        named = (("mesh", self.meshes), ("zone", self.zones))
        return " ".join(f"{kind}={name}" for kind, names in named for name in sorted(names))

    def sees_mesh(self, mesh: str) -> bool:
        """Whether they see what belongs to a mesh, "" for what belongs to none."""
        return not self.meshes or not mesh or mesh in self.meshes

    def sees_zone(self, zone: str) -> bool:
        """Whether they see what belongs to a zone, "" (or global) for what belongs to none."""
        return not self.zones or zone in ("", GLOBAL) or zone in self.zones

    def sees(self, key: ResourceKey) -> bool:
        """Whether they see the resource `key`."""
        own = self.sees_mesh(key.name) if key.kind == "Mesh" else self.sees_mesh(key.mesh)
        return own and self.sees_zone(key.zone) and (key.kind != "Zone" or self.sees_zone(key.name))

    def sees_proxy(self, proxy: str) -> bool:
        """Whether they see that a proxy is there; a zone egress (`.<name>`) belongs to no mesh."""
        return self.sees_mesh(proxy.partition(".")[0])

    def inspects(self, proxy: str) -> bool:
        """Whether they see all that a proxy holds: an egress has something of every mesh."""
        return self.sees_proxy(proxy) and not (self.meshes and proxy.startswith("."))


EVERYTHING = Reader()


def line_for(reader: Reader, line: bytes) -> bytes:
    """An encoded event as a reader may have it. Raises msgspec.DecodeError for what is no event."""
    if not reader.is_limited:
        return line
    event = msgspec.json.decode(line)
    verdict = _sees_subject(reader, event["subject"])
    if verdict is None:
        change = _content_for(reader, event["change"])
        return line if change is event["change"] else _with(event, change)
    return line if verdict else _with(event, _NOTHING)


def is_withheld(line: bytes) -> bool:
    """Whether an encoded event is there without its content."""
    return b'"change":{"type":"%s"}' % WITHHELD.encode() in line


def past_for(reader: Reader, past: PastLog) -> PastLog:
    """A log as a reader may see it, up to its present end. Takes time in proportion to the log."""
    return PastLog(_index_for(reader, past), _LinesFor(reader, past.lines))


def records_for(reader: Reader, records: Iterable[bytes]) -> list[bytes]:
    """What a zone recorded of its proxies (`History.deliveries`), as a reader may have it."""
    if not reader.meshes:
        return list(records)
    found = []
    for record in records:
        match msgspec.json.decode(record):
            case {"rows": dict(rows)} as kept:
                seen = {proxy: row for proxy, row in rows.items() if reader.inspects(proxy)}
                found.append(msgspec.json.encode({**kept, "rows": seen}))
            case {"took": list(took)} as kept:
                named = [{**one, "proxies": list(filter(reader.inspects, one["proxies"]))} for one in took]
                found.append(msgspec.json.encode({**kept, "took": [one for one in named if one["proxies"]]}))
            case _:
                pass  # it names no proxies; what is of another version is for nobody
    return found


class _LinesFor:
    """Lines that are narrowed when they are asked for, one event at a time."""

    def __init__(self, reader: Reader, lines: Lines) -> None:
        self._reader, self._lines = reader, lines

    def __getitem__(self, part: slice) -> bytes:
        return line_for(self._reader, self._lines[part])


def _index_for(reader: Reader, past: PastLog) -> LogIndex:
    index = past.index
    verdicts = [_sees_subject(reader, text) for text in index.subjects.texts]
    hidden = [
        n
        for n, subject in enumerate(index.subject_of, 1)
        if not (verdicts[subject] if verdicts[subject] is not None else _content_seen(reader, past.raw(n)))
    ]
    return index.without(hidden)


def _content_seen(reader: Reader, line: bytes) -> bool:
    change = msgspec.json.decode(line)["change"]
    return bool(_content_for(reader, change) != _NOTHING)


_NOTHING: dict[str, Any] = {"type": WITHHELD}


def _sees_subject(reader: Reader, subject: str) -> bool | None:
    """Whether a reader sees events of a subject; None where that follows from each event's content."""
    mesh, kind, name = place_of(subject)
    match kind:
        case "Mesh":
            return reader.sees_mesh(name)
        case "Zone":
            return reader.sees_zone(name)
        case "Intermediate":
            return reader.sees_mesh(mesh) and reader.sees_zone(name.partition("/")[0])
        case "Proxy" | "Yield":
            return reader.sees_proxy(name)
        case _ if kind in _BY_CONTENT:
            return None
        case _:
            return reader.sees_mesh(mesh)


def _content_for(reader: Reader, change: dict[str, Any]) -> dict[str, Any]:
    match change:
        case {"type": "PushHeld" | "PushReleased", "proxies": proxies}:
            seen = [one for one in proxies if reader.sees_proxy(one)]
            return change if len(seen) == len(proxies) else {**change, "proxies": seen} if seen else _NOTHING
        case {"type": "ResourceQuarantined" | "QuarantineEnded", "name": name}:
            return change if not reader.meshes or _named_in(reader.meshes, name) else _NOTHING
        case {"type": "EventSkipped", "reason": reason}:
            # That it is passed over everybody must know who folds the log; the reason may quote any event.
            return {**change, "reason": ""} if reader.meshes and reason else change
        case {"key": {"mesh": mesh}}:
            return change if reader.sees_mesh(mesh) else _NOTHING
        case _:
            return change


def _named_in(meshes: Collection[str], name: str) -> bool:
    return any(mesh in name.split("/") for mesh in meshes)


def _with(event: dict[str, Any], change: dict[str, Any]) -> bytes:
    if change is _NOTHING:
        event = {**event, "actor": "", "subject": "", "cause": ""}
    return msgspec.json.encode({**event, "change": change})
