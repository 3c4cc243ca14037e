"""Predicates: what can be asked of a moment without an Envoy, in words.

    cluster NAME present|absent         what the proxy was served; also listener, route, endpoint, secret
    hostname NAME resolves [to VIP]     what the zone's DNS answered
    resource KIND/NAME exists|missing   KIND/MESH/NAME where the mesh matters; KIND as the commands know it
    field KIND/NAME PATH == VALUE       or !=; KIND may be cluster, listener, … of the proxy

NAME of an xDS resource may be an external service's name, hostname or VIP. A moment at which the proxy was not known
yet is skipped. Pure but for the history it reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from shared.events.halving import Verdict
from shared.events.history import History, NoSuchMoment
from shared.events.redaction import shown
from shared.events.state import Position, Stored, ZoneState
from shared.history.tree import tree_at
from shared.model import codec
from shared.model.kinds import Kind, lookup

XDS_KINDS = {
    "cluster": "Cluster",
    "listener": "Listener",
    "route": "RouteConfiguration",
    "endpoint": "ClusterLoadAssignment",
    "secret": "Secret",
}
FORMS = (
    "cluster|listener|route|endpoint|secret NAME present|absent; hostname NAME resolves [to VIP]; "
    "resource KIND/NAME exists|missing; field KIND/NAME PATH ==|!= VALUE"
)
ABSENT = "nothing"
"""What is said of a field that is not there."""

Judge: TypeAlias = Callable[[History, str, Position], Verdict]
"""Takes a history, a zone and a moment of it. Raises NoSuchMoment for a zone that is not known."""


class BadPredicate(ValueError):
    """The text is no predicate; the message says which there are."""


def predicate(text: str, proxy: str | None = None) -> Judge:
    """The judge that `text` describes. Raises BadPredicate."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadPredicate(f"{text!r}: {error}") from None
    match words:
        case [kind, name, "present" | "absent" as wanted] if kind in XDS_KINDS:
            return _served(kind, name, _needed(proxy, text), present=wanted == "present")
        case ["hostname", name, "resolves"]:
            return _resolves(name, None)
        case ["hostname", name, "resolves", "to", vip]:
            return _resolves(name, vip)
        case ["resource", place, "exists" | "missing" as wanted]:
            return _exists(*_place(place), present=wanted == "exists")
        case ["field", place, path, "==" | "!=" as relation, value]:
            kind = place.partition("/")[0]
            found = (
                _served_field(kind, place.partition("/")[2], _needed(proxy, text), path)
                if kind in XDS_KINDS and "/" in place
                else _stored_field(*_place(place), path)
            )
            return _compared(found, f"{place} {path}", value, equal=relation == "==")
        case _:
            raise BadPredicate(f"{text!r} is none of: {FORMS}")


def _needed(proxy: str | None, text: str) -> str:
    if proxy is None:
        raise BadPredicate(f"{text!r} is about what a proxy is served: name it with --proxy")
    return proxy


def _verdict(*, good: bool, reason: str) -> Verdict:
    return Verdict("good" if good else "bad", reason)


# --- what a proxy is served -------------------------------------------------------------------------------------------


def _served(kind: str, name: str, proxy: str, *, present: bool) -> Judge:
    def judge(history: History, zone: str, position: Position) -> Verdict:
        try:
            found = sorted(_matching(history, zone, position, (proxy, kind, name)))
        except NoSuchMoment as missing:
            return Verdict("skip", str(missing))
        told = f"{kind} {', '.join(found)} is there" if found else f"there is no {kind} {name}"
        return _verdict(good=bool(found) == present, reason=told)

    return judge


def _matching(history: History, zone: str, position: Position, wanted: tuple[str, str, str]) -> dict[str, Any]:
    proxy, kind, name = wanted
    state = history.state(zone, position)
    tree = tree_at(history, zone, position, proxy=proxy, kinds=(XDS_KINDS[kind],))
    patterns = [re.escape(name), *(f"v?{re.escape(vip)}" for vip in _vips(state, name))]
    whole = re.compile(rf"(?<![\w-])(?:{'|'.join(patterns)})(?![\w-])")
    return {one: value for names in tree.values() for one, value in names.items() if whole.search(one)}


def _vips(state: ZoneState, name: str) -> Iterator[str]:
    """VIPs of the external services that are called so, by name or by hostname."""
    holders = {claim.key for claim in state.own.claims.values() if claim.hostname == name and claim.until is None}
    for key, lease in state.own.leases.items():
        if name in (key.name, lease.ip) or key in holders:
            yield lease.ip


def _served_field(kind: str, name: str, proxy: str, path: str) -> Callable[[History, str, Position], list[Any]]:
    def find(history: History, zone: str, position: Position) -> list[Any]:
        found = _matching(history, zone, position, (proxy, kind, name))
        return [value for one in found.values() for value in _at(one, path)]

    return find


# --- names ------------------------------------------------------------------------------------------------------------


def _resolves(name: str, vip: str | None) -> Judge:
    wanted = name.lower().rstrip(".")

    def judge(history: History, zone: str, position: Position) -> Verdict:
        own = history.state(zone, position).own
        holders = [claim.key for claim in own.claims.values() if claim.hostname == wanted and claim.until is None]
        found = sorted(lease.ip for key in holders if (lease := own.leases.get(key)) is not None)
        told = f"{name} resolves to {', '.join(found)}" if found else f"{name} does not resolve"
        return _verdict(good=vip in found if vip else bool(found), reason=told)

    return judge


# --- resources --------------------------------------------------------------------------------------------------------


def _place(place: str) -> tuple[Kind, str | None, str]:
    kind, *rest = place.split("/")
    known = lookup(kind)
    if known is None or len(rest) not in (1, 2) or not all(rest):
        raise BadPredicate(f"{place!r} is not KIND/NAME or KIND/MESH/NAME")
    return known, rest[0] if len(rest) > 1 else None, rest[-1]


def _stored(state: ZoneState, kind: Kind, mesh: str | None, name: str) -> Iterator[Stored]:
    for log in (state.hub, state.own):
        for key, stored in log.kinds.get(kind.name, {}).items():
            if key.name == name and mesh in (None, key.mesh):
                yield stored


def _exists(kind: Kind, mesh: str | None, name: str, *, present: bool) -> Judge:
    def judge(history: History, zone: str, position: Position) -> Verdict:
        found = [str(one.key) for one in _stored(history.state(zone, position), kind, mesh, name)]
        told = f"{', '.join(found)} exists" if found else f"there is no {kind.name} {name}"
        return _verdict(good=bool(found) == present, reason=told)

    return judge


def _stored_field(kind: Kind, mesh: str | None, name: str, path: str) -> Callable[[History, str, Position], list[Any]]:
    def find(history: History, zone: str, position: Position) -> list[Any]:
        found = _stored(history.state(zone, position), kind, mesh, name)
        return [value for one in found for value in _at(shown(codec.to_plain(one.resource)), path)]

    return find


# --- fields -----------------------------------------------------------------------------------------------------------


_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


def _at(value: Any, path: str) -> Iterator[Any]:
    """What stands at a path such as `spec.endpoints[0].port`."""
    for name, index in _STEP.findall(path):
        if index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        elif name and isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return
    yield value


def _compared(find: Callable[[History, str, Position], list[Any]], what: str, wanted: str, *, equal: bool) -> Judge:
    def judge(history: History, zone: str, position: Position) -> Verdict:
        try:
            found = [_text(value) for value in find(history, zone, position)]
        except NoSuchMoment as missing:
            return Verdict("skip", str(missing))
        told = f"{what} is {', '.join(found) or ABSENT}"
        return _verdict(good=(set(found) == {wanted}) == equal, reason=told)

    return judge


def _text(value: Any) -> str:
    return value if isinstance(value, str) else codec.encode(value).decode()
