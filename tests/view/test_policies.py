"""Matching and merging of policies (spec 4 B0-B2): the order is that of the specification, never that of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import Stored
from shared.model.part import Labels
from shared.model.policy import Policy, SpiffeMatch
from shared.model.resource import ResourceKey, key_of
from tests.builders import dataplane, resource
from zone_cp.view.permissions import both
from zone_cp.view.policies import (
    Effective,
    MeshPolicies,
    Permission,
    effective,
    for_egress,
    for_proxy,
    mesh_policies,
    permission,
)

SERVICE = ResourceKey("MeshExternalService", "default", "payments")
LABELS: Labels = Map({"team": "a", "kuma.io/display-name": "payments"})
MESH = {"kind": "Mesh"}
PAYMENTS = {"kind": "MeshExternalService", "name": "payments"}
TEAM = {"kind": "MeshExternalService", "labels": {"team": "a"}}
WEB = dataplane()

Found = tuple[Policy, Stored]


def policy(
    name: str, default: dict[str, Any], *, top: Any = None, to: Any = PAYMENTS, zone: str = "", n: int = 1, **extra: Any
) -> Found:
    """A MeshTimeout and how it is stored."""
    spec = {"targetRef": top or MESH, "to": [{"targetRef": to, "default": default}]}
    made = resource(type="MeshTimeout", name=name, mesh="default", spec=spec, **extra)
    assert isinstance(made, Policy)
    ref = EventRef(zone or "global", n)
    return made, Stored(key_of(made, zone), made, ref, ref)


def said(*policies: Found, proxy: Any = WEB) -> Effective:
    return effective(for_proxy(mesh_policies(policies), proxy), SERVICE, LABELS)


def connect(found: Effective) -> str | None:
    return found.timeout.connection_timeout


def test_fields_are_merged_and_cite_their_event() -> None:
    """RFC 7396: the more specific one wins field by field; every field names the event it follows from."""
    wide = policy("wide", {"connectionTimeout": "1s", "http": {"requestTimeout": "1s"}}, to=MESH, n=1)
    narrow = policy("narrow", {"http": {"requestTimeout": "2s", "streamIdleTimeout": "3s"}}, n=2)
    found = said(wide, narrow)
    assert found.timeout.http is not None
    assert (connect(found), found.timeout.http.request_timeout) == ("1s", "2s")
    assert found.origins == (
        ("timeout.connectionTimeout", EventRef("global", 1)),
        ("timeout.http.requestTimeout", EventRef("global", 2)),
        ("timeout.http.streamIdleTimeout", EventRef("global", 2)),
    )


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ({"to": MESH}, {"to": PAYMENTS}),
        ({"to": MESH}, {"to": TEAM}),
        ({"to": PAYMENTS}, {"top": {"kind": "Dataplane"}, "to": MESH}),
        ({"top": {"kind": "Dataplane"}}, {"top": {"kind": "Dataplane", "name": "web-1"}}),
        ({"top": {"kind": "Dataplane", "name": "web-1"}}, {"top": {"kind": "MeshSubset"}}),
        ({"top": {"kind": "MeshSubset"}}, {"top": {"kind": "MeshService", "name": "web"}}),
        ({}, {"zone": "east"}),
        ({"zone": "east"}, {"top": {"kind": "Dataplane"}}),
    ],
)
def test_the_more_specific_policy_wins(lower: dict[str, Any], higher: dict[str, Any]) -> None:
    """Top-level kind, then a Dataplane's selector, then origin, then the destination's kind."""
    one = policy("a", {"connectionTimeout": "1s"}, **lower)
    other = policy("b", {"connectionTimeout": "2s"}, **higher)
    assert connect(said(one, other)) == connect(said(other, one)) == "2s"


def test_among_equals_the_smallest_name_wins() -> None:
    """Display name descending: `a` overrides `b`."""
    found = said(policy("a", {"connectionTimeout": "1s"}), policy("b", {"connectionTimeout": "2s"}))
    assert connect(found) == "1s"


@pytest.mark.parametrize(
    ("top", "selected"),
    [
        ({"kind": "Mesh"}, True),
        ({"kind": "Mesh", "proxyTypes": ["Gateway"]}, False),
        ({"kind": "Mesh", "proxyTypes": ["Sidecar"]}, True),
        ({"kind": "Dataplane", "name": "web-2"}, False),
        ({"kind": "Dataplane", "labels": {"x": "y"}}, False),
        ({"kind": "MeshSubset", "tags": {"kuma.io/protocol": "http"}}, True),
        ({"kind": "MeshSubset", "tags": {"kuma.io/protocol": "*"}}, True),
        ({"kind": "MeshSubset", "tags": {"kuma.io/zone": "west"}}, False),
        ({"kind": "MeshService", "name": "web"}, True),
        ({"kind": "MeshService", "name": "api"}, False),
        ({"kind": "MeshServiceSubset", "name": "web", "tags": {"version": "2"}}, False),
    ],
)
def test_the_top_level_selects_proxies(top: dict[str, Any], selected: bool) -> None:
    """By kind of proxy, name, labels or tags of one inbound."""
    assert (connect(said(policy("a", {"connectionTimeout": "1s"}, top=top))) == "1s") is selected


@pytest.mark.parametrize(
    ("to", "zone", "meant"),
    [
        (TEAM, "", True),
        ({"kind": "MeshExternalService", "labels": {"team": "b"}}, "", False),
        ({"kind": "MeshExternalService", "name": "other"}, "", False),
        (PAYMENTS, "east", True),
    ],
)
def test_destinations_are_meant_by_name_or_labels(to: dict[str, Any], zone: str, meant: bool) -> None:
    """Every given label must be there; a policy of a zone may name a service of global."""
    assert (connect(said(policy("a", {"connectionTimeout": "1s"}, to=to, zone=zone))) == "1s") is meant


def test_a_global_policy_does_not_name_a_zones_service() -> None:
    """A name is looked up where the policy comes from; labels reach both."""
    own = ResourceKey("MeshExternalService", "default", "payments", "east")
    rules = for_egress(mesh_policies([policy("a", {"connectionTimeout": "1s"})]))
    assert connect(effective(rules, own, LABELS)) is None
    assert connect(effective(rules, SERVICE, LABELS)) == "1s"


def test_a_policy_in_shadow_has_no_effect() -> None:
    """Label `kuma.io/effect: shadow`."""
    assert said(policy("a", {"connectionTimeout": "1s"}, labels={"kuma.io/effect": "shadow"})) == Effective()


def test_the_egress_hears_only_what_holds_for_all() -> None:
    """Spec 4 §6.8: no policy written for one client changes what all clients share."""
    policies = mesh_policies(
        [
            policy("a", {"connectionTimeout": "1s"}, top={"kind": "MeshService", "name": "web"}),
            policy("b", {"connectionTimeout": "2s"}, top={"kind": "Mesh", "proxyTypes": ["Sidecar"]}),
            policy("c", {"connectionTimeout": "3s"}, top={"kind": "Mesh", "proxyTypes": ["Gateway"]}),
        ]
    )
    assert connect(effective(for_egress(policies), SERVICE, LABELS)) == "2s"


tops = st.sampled_from([MESH, {"kind": "Dataplane"}, {"kind": "Dataplane", "name": "web-1"}, {"kind": "MeshSubset"}])
destinations = st.sampled_from([MESH, PAYMENTS, TEAM, {"kind": "MeshExternalService", "name": "other"}])
conf = st.fixed_dictionaries(
    {}, optional={"connectionTimeout": st.sampled_from(["1s", "2s"]), "idleTimeout": st.sampled_from(["3s", "4s"])}
).filter(bool)
policies = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "east"]), tops, destinations, conf),
    unique_by=lambda one: (one[0], one[1]),
    max_size=6,
).map(
    lambda found: [
        policy(name, default, top=top, to=to, zone=zone, n=n)
        for n, (name, zone, top, to, default) in enumerate(found, 1)
    ]
)


@settings(max_examples=60, deadline=None)
@given(policies, st.randoms())
def test_merging_depends_on_no_order_of_events(found: list[Found], random: Any) -> None:
    """Whatever the order policies arrived in, the merged values and their origins are the same."""
    shuffled = list(found)
    random.shuffle(shuffled)
    assert mesh_policies(shuffled) == mesh_policies(found)
    assert said(*shuffled) == said(*found)


@settings(max_examples=60, deadline=None)
@given(policies)
def test_each_field_is_the_last_ones_who_says_it(found: list[Found]) -> None:
    """Field by field, the value is that of the highest rule which sets it, and of no other."""
    rules = for_proxy(mesh_policies(found), WEB)
    whole = effective(rules, SERVICE, LABELS)
    for field in ("connection_timeout", "idle_timeout"):
        alone = [getattr(effective((rule,), SERVICE, LABELS).timeout, field) for rule in rules]
        spoken = [value for value in alone if value is not None]
        assert getattr(whole.timeout, field) == (spoken[-1] if spoken else None)


def guard(name: str, n: int = 1, **default: Any) -> Found:
    """A MeshTrafficPermission on `payments`."""
    conf = {
        verb: [{"spiffeID": {"type": kind, "value": value}} for kind, value in ids] for verb, ids in default.items()
    }
    spec = {"targetRef": PAYMENTS, "rules": [{"default": conf}]}
    made = resource(type="MeshTrafficPermission", name=name, mesh="default", spec=spec)
    assert isinstance(made, Policy)
    ref = EventRef("global", n)
    return made, Stored(key_of(made), made, ref, ref)


def test_deny_wins_and_who_is_not_named_is_denied() -> None:
    """Decision 20, with Kuma's rule: deny over allow, of whatever policy; nothing matches, denied."""
    found = permission(
        mesh_policies(
            [
                guard("a", 1, allow=[("Prefix", "spiffe://default/")]),
                guard("b", 2, deny=[("Exact", "spiffe://default/web")]),
            ]
        ),
        SERVICE,
        LABELS,
    )
    assert found == Permission(
        (SpiffeMatch(type="Exact", value="spiffe://default/web"),),
        (SpiffeMatch(type="Prefix", value="spiffe://default/"),),
        (EventRef("global", 2), EventRef("global", 1)),
        ("MeshTrafficPermission",),
        "MeshExternalService",
    )
    assert not found.allows("spiffe://default/web")
    assert found.allows("spiffe://default/api")
    assert not found.allows("spiffe://other/api")


def test_a_service_without_permission_is_not_guarded() -> None:
    """Default: as the mesh says (decision 20)."""
    assert permission(MeshPolicies(), SERVICE, LABELS) is None
    other = SERVICE.__class__("MeshExternalService", "default", "other")
    assert permission(mesh_policies([guard("a", deny=[("Exact", "spiffe://x/y")])]), other, LABELS) is None


ids = st.sampled_from([f"spiffe://m/{name}" for name in ("a", "ab", "abc", "b", "")])
matches = st.lists(st.builds(SpiffeMatch, type=st.sampled_from(["Exact", "Prefix"]), value=ids), max_size=3)
permissions = st.none() | st.builds(lambda deny, allow: Permission(tuple(deny), tuple(allow)), matches, matches)


@given(permissions, permissions, ids)
def test_both_allow_whom_each_of_them_does(one: Permission | None, other: Permission | None, who: str) -> None:
    """And nobody else; None allows everybody."""
    met = both(one, other)
    each = all(said is None or said.allows(who) for said in (one, other))
    assert (met is None or met.allows(who)) == each
