"""Fleet: what every online proxy of a zone should hold, as a value. Pure.

Proxies in equal situation hold one and the same snapshot: what is particular to a proxy (its id, the events that it
is there because of) is in no resource, and its Dataplane's name and labels only where something follows from them. A
change visits the groups that something it touches concerns, and no others: with one listener for all of a mesh's
services, a thousand sidecars cost nothing when one of those services changes.

Nothing here is undone or cleaned up: a fleet that was made of a state which is then not to be is just not used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.event import Event
from shared.events.fold import drop, put
from shared.events.state import ZoneState
from shared.model.builtin import is_builtin
from shared.model.inbound import SERVICE_TAG
from shared.model.part import NO_LABELS
from shared.model.resource import Dataplane, ResourceKey, ZoneEgress
from zone_cp.view.gateways import GATEWAY_FIELDS
from zone_cp.view.names import NO_NAMES, Names, following
from zone_cp.view.project import empty_view, first_step, next_step, proxy_view
from zone_cp.view.zone_view import Difference, ProxyView, ZoneView
from zone_cp.xds.abroad import trusting
from zone_cp.xds.compile import compile_next, compile_whole, reads
from zone_cp.xds.parts import OF_SOME, READS_ANY, Changed, Compiled, Reads, Workload, all_of, services_alone
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Snapshot

EGRESSES = "*"
"""What zone egresses stand under in `Fleet.concerned`: they serve all meshes."""


class Group(msgspec.Struct, frozen=True):
    """Proxies in equal situation. `compiled` is None while it cannot be compiled, `fault` then says why."""

    situation: ProxyView
    members: Map[str, None]
    compiled: Compiled | None = None
    fault: str = ""


class Fleet(msgspec.Struct, frozen=True):
    """The groups by situation; by proxy its situation; by resource the proxies that it is.

    concerned: by mesh, or EGRESSES, the groups that look at it; readers: those of them that single services concern;
    callers: those that call other workloads; gateways: those that are builtin gateways; broken: those that cannot be
    compiled. names: by mesh, what its hostnames resolve to.
    """

    state: ZoneState
    view: ZoneView
    groups: Map[ProxyView, Group] = Map()
    situations: Map[str, ProxyView] = Map()
    proxies: Map[ResourceKey, Map[str, None]] = Map()
    concerned: Map[str, Map[ProxyView, None]] = Map()
    readers: Map[str, Map[ProxyView, None]] = Map()
    callers: Map[str, Map[ProxyView, None]] = Map()
    broken: Map[ProxyView, None] = Map()
    names: Map[str, Names] = Map()
    gateways: Map[str, Map[ProxyView, None]] = Map()

    def snapshot(self, proxy: str) -> Snapshot | None:
        """What an online proxy should hold; None where that is not known."""
        situation = self.situations.get(proxy)
        compiled = self.groups[situation].compiled if situation is not None else None
        return None if compiled is None else compiled.assembly.snapshot

    def mesh_of(self, proxy: str) -> str:
        """The mesh of an online sidecar; "" for any other proxy."""
        situation = self.situations.get(proxy)
        return situation.resource.mesh if situation and isinstance(situation.resource, Dataplane) else ""

    def workloads(self) -> frozenset[Workload]:
        """The certificates that online proxies hold."""
        made = (group.compiled for group in self.groups.values())
        return frozenset(one for compiled in made if compiled is not None for one in compiled.workloads)

    def egresses(self) -> list[str]:
        """The online zone egresses, by id."""
        groups = (self.groups[one] for one in self.concerned.get(EGRESSES, Map()))
        return sorted(proxy for group in groups for proxy in group.members)

    def sidecars(self, mesh: str) -> Iterator[str]:
        """The online sidecars of a mesh."""
        for situation in self.concerned.get(mesh, Map()):
            yield from self.groups[situation].members


class Turn(msgspec.Struct, frozen=True):
    """The fleet after some events, and what they changed.

    came: proxies that have connected. offers: what proxies should hold from now on that held something else, or
    nothing. left: those whose snapshot is not kept up to date any more. faults: those that cannot be compiled, and why.
    regrouped: whether the groups, or the certificates they hold, are others than before.
    """

    fleet: Fleet
    difference: Difference
    came: tuple[str, ...] = ()
    offers: tuple[tuple[str, Snapshot], ...] = ()
    left: tuple[str, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()
    regrouped: bool = False


Authorities: TypeAlias = Callable[[ZoneView], Collection[str]]
"""Brings issuers of certificates up to date with a view; returns the meshes for which that changed anything."""


def first_turn(state: ZoneState, secrets: SecretSource, authorities: Authorities = lambda _view: ()) -> Turn:
    """The fleet of a state, from nothing."""
    view, difference = first_step(state)
    nothing = Fleet(state, empty_view(state))
    return _turned(nothing, state, view, Changed(difference, frozenset(), frozenset(authorities(view))), secrets)


def next_turn(
    fleet: Fleet,
    state: ZoneState,
    secrets: SecretSource,
    *,
    events: Iterable[Event] | None = None,
    identities: Collection[Workload] = (),
    authorities: Authorities = lambda _view: (),
) -> Turn:
    """The fleet after `events` (None: the states are compared), and after certificates were replaced."""
    view, difference = fleet.view, Difference()
    if fleet.state is not state:
        view, difference = next_step(fleet.view, fleet.state, state, events)
    changed = Changed(difference, frozenset(identities), frozenset(authorities(view)))
    return _turned(fleet, state, view, changed, secrets)


def turn_between(
    before: ZoneState, after: ZoneState, secrets: SecretSource, *, events: Iterable[Event] | None = None
) -> tuple[Fleet, Turn]:
    """What the fleet of one state holds, and the turn to another, as far as they differ: groups of proxies that nothing
    between the two concerns are compiled in neither. `events`: as in `next_turn`.
    """
    view, difference = first_step(before)
    nothing = Fleet(before, empty_view(before))
    draft = _Draft(nothing, before, view)
    for proxy in _to_place(nothing, difference):
        draft.place(proxy, connected=False)
    for situation in draft.groups:
        draft.foresee(situation)
    then, moved = next_step(view, before, after, events)
    changed = Changed(moved)
    later = _placed(draft.fleet(Map()), after, then, changed)
    elsewhere = {draft.situations[proxy] for proxy in later.moved if proxy in draft.situations}
    start = all_of(view, moved.services if services_alone(moved) and EGRESSES not in map(_place, elsewhere) else None)
    for situation in {*_visited(later, changed), *elsewhere}:
        if situation in draft.groups:
            draft.compile(situation, start, secrets)
    fleet = draft.fleet(_names(nothing, view, difference))
    return fleet, _turned(fleet, after, then, changed, secrets)


def situation_of(view: ZoneView, proxy: ProxyView) -> ProxyView:
    """What a proxy's snapshot follows from, and nothing else: equal for proxies that hold the same."""
    resource = proxy.resource
    if isinstance(resource, Dataplane):
        mesh = view.meshes.get(resource.mesh)
        if _tagged(resource) and not (mesh and mesh.policies.tells_apart):
            resource = msgspec.structs.replace(resource, name="", labels=NO_LABELS)
    return ProxyView("", resource, proxy.features, proxy.system_ca_path, ())


def _tagged(resource: Dataplane) -> bool:
    gateway = resource.networking.gateway
    tags = [*(one.tags for one in resource.networking.inbound), *((gateway.tags,) if gateway is not None else ())]
    return any(SERVICE_TAG in one for one in tags)


# --- one turn ---------------------------------------------------------------------------------------------------------


class _Draft:
    """The next fleet, while it is made."""

    def __init__(self, fleet: Fleet, state: ZoneState, view: ZoneView) -> None:
        self.before = fleet
        self.state, self.view = state, view
        self.groups, self.situations, self.proxies = fleet.groups, fleet.situations, fleet.proxies
        self.concerned, self.broken = fleet.concerned, fleet.broken
        self.readers, self.callers, self.gateways = fleet.readers, fleet.callers, fleet.gateways
        self.came: dict[str, None] = {}
        self.left: dict[str, None] = {}
        self.moved: dict[str, None] = {}
        self.regrouped = False

    def place(self, proxy: str, *, connected: bool) -> None:
        """Put a proxy into the group of its situation, or into none while it is offline or unknown.

        connected: something was recorded of its connection, so that it is to be told in any case.
        """
        status = self.state.own.proxies.get(proxy)
        if status is not None:
            self.proxies = put(self.proxies, status.key, proxy, None)
        known = proxy_view(self.state, proxy) if status is not None and status.online else None
        after = None if known is None else situation_of(self.view, known)
        before = self.situations.get(proxy)
        if after == before:
            if after is not None and connected:
                self.came[proxy] = None
            return
        self.regrouped, self.moved[proxy] = True, None
        if before is not None:
            self._leave(proxy, before)
        if after is None:
            self.left[proxy] = None
            return
        self.came[proxy] = None
        group = self.groups.get(after) or Group(after, Map())
        self.situations = self.situations.set(proxy, after)
        self.groups = self.groups.set(after, msgspec.structs.replace(group, members=group.members.set(proxy, None)))
        self.concerned = put(self.concerned, _place(after), after, None)
        if isinstance(after.resource, Dataplane) and is_builtin(after.resource):
            self.gateways = put(self.gateways, _place(after), after, None)

    def _leave(self, proxy: str, situation: ProxyView) -> None:
        group = self.groups[situation]
        members = group.members.delete(proxy)
        self.situations = self.situations.delete(proxy)
        if members:
            self.groups = self.groups.set(situation, msgspec.structs.replace(group, members=members))
        else:
            self.groups = self.groups.delete(situation)
            self.broken = _less(self.broken, situation)
            place = _place(situation)
            self.concerned, self.gateways = (drop(one, place, situation) for one in (self.concerned, self.gateways))
            self.readers, self.callers = (drop(one, place, situation) for one in (self.readers, self.callers))

    def compile(self, situation: ProxyView, changed: Changed, secrets: SecretSource) -> Group:
        """Bring one group up to date."""
        group = self.groups[situation]
        try:
            if group.compiled is None:
                compiled = compile_whole(self.view, situation, secrets, changed.only)
            else:
                compiled = compile_next(group.compiled, self.view, situation, secrets, changed)
        except Exception as fault:  # noqa: BLE001 - whatever it is: these keep what they have, the others are served
            after = msgspec.structs.replace(group, compiled=None, fault=f"{type(fault).__name__}: {fault}")
        else:
            before = group.compiled.workloads if group.compiled is not None else frozenset()
            self.regrouped = self.regrouped or compiled.workloads != before
            after = msgspec.structs.replace(group, compiled=compiled, fault="")
        self.groups = self.groups.set(situation, after)
        self._index(situation, self._reads(situation))
        self.broken = self.broken.set(situation, None) if after.fault else _less(self.broken, situation)
        return after

    def foresee(self, situation: ProxyView) -> None:
        """Say of a group what compiling it would: whether single services and workloads concern it."""
        self._index(situation, reads(self.view, situation))

    def _index(self, situation: ProxyView, follows: Reads) -> None:
        place = _place(situation)
        services, workloads = (one is None or bool(one) for one in (follows.services, follows.workloads))
        self.readers = put(self.readers, place, situation, None) if services else drop(self.readers, place, situation)
        self.callers = put(self.callers, place, situation, None) if workloads else drop(self.callers, place, situation)

    def reading(self, mesh: str, keys: Collection[ResourceKey]) -> Iterator[ProxyView]:
        """The groups that a change of these external services concerns."""
        for situation in self.readers.get(mesh, Map()):
            if self._reads(situation).any_of(keys):
                yield situation

    def calling(self, mesh: str) -> Iterator[ProxyView]:
        """The groups that a change of what Dataplanes serve concerns."""
        was, now = (view.meshes.get(mesh) for view in (self.before.view, self.view))
        for situation in self.callers.get(mesh, Map()):
            if self._reads(situation).differ(was, now):
                yield situation

    def _reads(self, situation: ProxyView) -> Reads:
        return READS_ANY if (compiled := self.groups[situation].compiled) is None else compiled.reads

    def fleet(self, names: Map[str, Names]) -> Fleet:
        """The result."""
        return Fleet(
            self.state,
            self.view,
            self.groups,
            self.situations,
            self.proxies,
            self.concerned,
            self.readers,
            self.callers,
            self.broken,
            names,
            self.gateways,
        )


def _less(members: Map[ProxyView, None], one: ProxyView) -> Map[ProxyView, None]:
    return members.delete(one) if one in members else members


def _place(situation: ProxyView) -> str:
    return EGRESSES if isinstance(situation.resource, ZoneEgress) else situation.resource.mesh


def _turned(fleet: Fleet, state: ZoneState, view: ZoneView, changed: Changed, secrets: SecretSource) -> Turn:
    draft = _placed(fleet, state, view, changed)
    visited = dict.fromkeys(_visited(draft, changed))
    faults: list[tuple[str, str]] = []
    offers: dict[str, Snapshot] = {}
    for situation in visited:
        before, after = fleet.groups.get(situation), draft.compile(situation, changed, secrets)
        if after.compiled is None:
            draft.left.update(after.members)
            faults += [(proxy, after.fault) for proxy in after.members]
            continue
        snapshot = after.compiled.assembly.snapshot
        held = before.compiled.assembly.snapshot if before is not None and before.compiled is not None else None
        if snapshot is not held:
            offers |= dict.fromkeys(after.members, snapshot)
    for proxy in draft.came:
        known = draft.groups[draft.situations[proxy]].compiled
        if known is not None:
            offers[proxy] = known.assembly.snapshot
    made = draft.fleet(_names(fleet, view, changed.view))
    return Turn(
        made, changed.view, tuple(draft.came), tuple(offers.items()), tuple(draft.left), tuple(faults), draft.regrouped
    )


def _placed(fleet: Fleet, state: ZoneState, view: ZoneView, changed: Changed) -> _Draft:
    draft = _Draft(fleet, state, view)
    for proxy in _to_place(fleet, changed.view):
        draft.place(proxy, connected=proxy in changed.view.proxies)
    return draft


def _names(fleet: Fleet, view: ZoneView, difference: Difference) -> Map[str, Names]:
    names = fleet.names
    for mesh in {*difference.services, *difference.meshes}:
        before, after = fleet.view.meshes.get(mesh), view.meshes.get(mesh)
        if after is None:
            names = names.delete(mesh) if mesh in names else names
        else:
            keys = difference.services.get(mesh, ())
            names = names.set(mesh, following(names.get(mesh, NO_NAMES), before, after, keys))
    return names


def _to_place(fleet: Fleet, difference: Difference) -> dict[str, None]:
    """Proxies that events are about, and those whose situation may be another because their mesh's policies are."""
    found = dict.fromkeys(sorted(difference.proxies))
    for key in difference.resources:
        found |= dict.fromkeys(fleet.proxies.get(key, Map()))
    for name, fields in difference.meshes.items():
        if "policies" in fields:
            found |= dict.fromkeys(fleet.sidecars(name))
    return found


def _visited(draft: _Draft, changed: Changed) -> Iterator[ProxyView]:
    """The groups that a change concerns, and those that could not be compiled before."""
    difference = changed.view
    yield from draft.broken
    for proxy in draft.came:
        if draft.groups[draft.situations[proxy]].compiled is None:
            yield draft.situations[proxy]
    if difference.egresses or difference.vip_ranges:
        for place, situations in draft.concerned.items():
            if place != EGRESSES:
                yield from situations
    if difference.on_demand_above:
        yield from draft.concerned.get(EGRESSES, Map())
    for mesh in {*difference.meshes, *changed.authorities}:
        fields = difference.meshes.get(mesh, frozenset())
        if mesh not in changed.authorities and fields <= OF_SOME:
            if "workloads" in fields:
                yield from draft.calling(mesh)
            if fields & GATEWAY_FIELDS:
                yield from draft.gateways.get(mesh, Map())
            if "abroad" in fields:
                yield from draft.concerned.get(mesh, Map())
            continue
        yield from draft.concerned.get(mesh, Map())
        yield from draft.concerned.get(EGRESSES, Map())
    for mesh, at_gateways in trusting(draft.view, changed):
        yield from (draft.gateways if at_gateways else draft.concerned).get(mesh, Map())
    for workload in changed.identities:
        for situation in (*draft.concerned.get(workload[0], Map()), *draft.concerned.get(EGRESSES, Map())):
            compiled = draft.groups[situation].compiled
            if compiled is None or workload in compiled.workloads:
                yield situation
    for mesh, keys in difference.services.items():
        yield from draft.reading(mesh, keys)
        yield from draft.concerned.get(EGRESSES, Map())
