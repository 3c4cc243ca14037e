"""Provenance is complete: change an input that an xDS resource does not name as a cause, and its bytes stay.

Inputs are the resources of both logs, and the leases, hostname claims and connections that a zone recorded. Each is
taken out of a state, or altered in what it says (not in whom it is meant for: a policy that comes to mean somebody else
is another policy), and everything is compiled from nothing. What a group of proxies holds does not name the events that
each of them is there because of (`situation_of`); those are causes of all that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import EventRef
from shared.events.fold import drop
from shared.events.state import LogState, Stored, ZoneState
from shared.model import codec
from shared.model.resource import Resource
from tests.xds.test_fleet import PROXIES, Played, acts
from tests.xds.test_fleet import act as played_act
from zone_cp.provenance import causes
from zone_cp.replay import RedactedSecrets
from zone_cp.view.project import project, proxy_view
from zone_cp.view.sources import Sources
from zone_cp.view.zone_view import ProxyView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.fleet import situation_of
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import Encoded

Held: TypeAlias = dict[tuple[str, str, str], tuple[Encoded, Sources]]
"""By proxy, type and name: the resource and its causes."""


def held(state: ZoneState) -> Held:
    """What every online proxy holds, compiled as for a group of proxies."""
    view = project(state)
    found: Held = {}
    for proxy, known in proxies(state):
        snapshot = compile_proxy(view, situation_of(view, known), RedactedSecrets())
        for url, names in snapshot.resources.items():
            found |= {
                (proxy, short_type(url), name): (one, causes(snapshot, one, known)) for name, one in names.items()
            }
    return found


def proxies(state: ZoneState) -> Iterator[tuple[str, ProxyView]]:
    for proxy, status in state.own.proxies.items():
        known = proxy_view(state, proxy) if status.online else None
        if known is not None:
            yield proxy, known


# --- inputs ------------------------------------------------------------------------------------------------------


def inputs(state: ZoneState) -> list[tuple[str, EventRef, ZoneState]]:
    """Every input of a state: what it is, the event it stands for, and the state with it taken out or altered."""
    found: list[tuple[str, EventRef, ZoneState]] = []
    for place, log in (("hub", state.hub), ("own", state.own)):

        def other(place: str = place, **fields: Any) -> ZoneState:
            changed = msgspec.structs.replace(getattr(state, place), **fields)
            return msgspec.structs.replace(state, **{place: changed})

        for key, stored in log.resources.items():
            kinds = drop(log.kinds, key.kind, key)
            found.append((f"{key} gone", stored.last, other(resources=log.resources.delete(key), kinds=kinds)))
            for what, resource in altered(stored.resource):
                changed = Stored(key, resource, stored.created, stored.last)
                members = log.kinds[key.kind].set(key, changed)
                after = other(resources=log.resources.set(key, changed), kinds=log.kinds.set(key.kind, members))
                found.append((f"{key} {what}", stored.last, after))
    own = state.own
    for key, lease in own.leases.items():
        found.append((f"lease of {key}", lease.event, _own(state, leases=own.leases.delete(key))))
    for key, names in own.names.items():
        for name, claim in names.items():
            found.append((f"{name} of {key}", claim.event, _own(state, names=drop(own.names, key, name))))
    for proxy, status in own.proxies.items():
        gone = msgspec.structs.replace(status, online=False)
        found.append((f"{proxy} offline", status.event, _own(state, proxies=own.proxies.set(proxy, gone))))
    return found


def _own(state: ZoneState, **fields: Any) -> ZoneState:
    own: LogState = msgspec.structs.replace(state.own, **fields)
    return msgspec.structs.replace(state, own=own)


def altered(resource: Resource) -> Iterator[tuple[str, Resource]]:
    """The resource saying something else to the same."""
    plain: dict[str, Any] = codec.to_plain(resource)
    spec = plain.get("spec", {})
    match plain["type"]:
        case "MeshExternalService" if "endpoints" in spec:
            yield "moved", _with(plain, spec=spec | {"endpoints": [{"address": "198.51.100.7", "port": 7}]})
        case "MeshExternalService":
            yield (
                "answers",
                _with(plain, spec=spec | {"extension": {"type": "static-response", "config": {"status": 299}}}),
            )
        case "Dataplane" | "ZoneEgress":
            yield "moved", _with(plain, networking=plain["networking"] | {"address": "198.51.100.8"})
        case "Secret":
            sealed = plain["sealed"] | {"digest": "another"}
            yield "rotated", _with(plain, sealed=sealed)
        case "MeshGateway":
            listeners = [one | {"port": one["port"] + 100} for one in plain["conf"]["listeners"]]
            yield "elsewhere", _with(plain, conf={"listeners": listeners})
        case "Mesh":
            yield "other access", _with(plain, routing={"defaultForbidMeshExternalServiceAccess": not _forbids(plain)})
            yield "without mTLS", _with({key: one for key, one in plain.items() if key != "mtls"})
        case "MeshTimeout":
            to = [{"targetRef": one["targetRef"], "default": {"idleTimeout": "77s"}} for one in spec["to"]]
            yield "other times", _with(plain, spec=spec | {"to": to})
        case "MeshTrafficPermission":
            rules = (
                []
                if spec.get("rules")
                else [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://x"}}]}}]
            )
            yield "other rules", _with(plain, spec=spec | {"rules": rules})
        case _:
            pass


def _forbids(plain: dict[str, Any]) -> bool:
    return bool(plain.get("routing", {}).get("defaultForbidMeshExternalServiceAccess"))


def _with(plain: dict[str, Any], **fields: Any) -> Resource:
    made: Resource = codec.convert(plain | fields, Resource)
    return made


# --- the property -----------------------------------------------------------------------------------------------


def unnamed(cause: EventRef, after: ZoneState, before: Held) -> list[str]:
    """The resources that differ after an input was changed and do not name it."""
    now = held(after)
    found = []
    for place, (one, why) in before.items():
        other = now.get(place)
        if other is not None and other[0].version == one.version:
            continue
        named = {(ref.origin, ref.n) for ref in why}
        if (cause.origin, cause.n) not in named:
            found.append(f"{place} is {'gone' if other is None else 'another'} and names {sorted(named)}, not {cause}")
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(acts, max_size=14), st.data())
def test_what_is_not_named_changes_nothing(history: list[tuple[str, int, bool]], data: st.DataObject) -> None:
    """Over any state, any input, all resources of all proxies."""
    state = played(history)
    before = held(state)
    choices = inputs(state)
    for number in data.draw(
        st.lists(st.integers(0, len(choices) - 1), min_size=3, max_size=6, unique=True), label="inputs"
    ):
        what, cause, after = choices[number]
        assert unnamed(cause, after, before) == [], what


def played(history: list[tuple[str, int, bool]]) -> ZoneState:
    """A state after some acts, with proxies of every sort."""
    it = Played()
    for resource, features in PROXIES:
        it.connect(resource, features)
    for verb, number, flag in history:
        played_act(it, verb, number, flag)
    it.events()
    return it.zone.state


RICH = [
    *(("service", number, number % 2 == 0) for number in range(10)),
    ("secret", 0, False),
    ("secret", 1, False),
    ("answering", 3, False),
    ("local", 2, True),
    ("policy", 1, False),
    ("policy", 2, True),
    ("route", 1, False),
    ("route", 2, True),
    ("guard", 1, True),
    ("passing", 1, True),
    ("gateway", 2, False),
    ("gateway", 1, True),
    ("gateway route", 1, True),
    ("newer gateway route", 1, True),
    ("newer gateway route", 4, True),
    ("newer gateway route", 8, False),
]


@pytest.mark.parametrize("further", [[], [("settings", 1, False)], [("mesh", 0, True)], [("mesh", 3, False)]])
def test_every_input_of_a_rich_state_is_named(further: list[tuple[str, int, bool]]) -> None:
    """Through the egress, loaded on demand, forbidden, direct: every input in turn."""
    state = played([*RICH, *further])
    before = held(state)
    found = {what: bad for what, cause, after in inputs(state) if (bad := unnamed(cause, after, before))}
    assert found == {}
