"""What would be if something were written is what is once it is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.events.event import GLOBAL, Change, PushHeld
from shared.events.fault import CA_FIELD
from shared.events.state import ZoneState
from shared.model.resource import DataSource, ExternalTls, Resource, Sealed, Secret, Verification
from tests.builders import applied, at, deleted, generator, mes, mesh, service_key
from tests.xds.test_fleet import PROXIES, Played, act, acts
from tests.zone_cp.test_between import told
from zone_cp.between import states_between
from zone_cp.foresee import foresee, suppose


def held(state: ZoneState) -> dict[str, Any]:
    """What a zone has decided, without the events that say so."""
    own = state.own
    return {
        "leases": {key: (lease.ip, lease.protocol_class) for key, lease in own.leases.items()},
        "vips": {ip: (lease.key, lease.until) for ip, lease in own.vips.items()},
        "claims": {place: (claim.key, claim.generator, claim.until) for place, claim in own.claims.items()},
        "resources": {key: one.resource for log in (state.hub, own) for key, one in log.resources.items()},
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(acts, max_size=10))
def test_what_is_foreseen_comes_about(history: list[tuple[str, int, bool]]) -> None:
    """Leases, claims, quarantines and what every proxy holds, for every write on global; the state stays as it is."""
    played = Played()
    for declared in PROXIES[::2]:
        played.connect(*declared)
    for one in history:
        played.events()
        before, known = played.zone.state, held(played.zone.state)
        n, z = len(played.hub.events), len(played.zone.own.events)
        act(played, *one)
        changes = [event.change for event in played.hub.events[n:]]
        if not changes or len(played.zone.own.events) > z:
            continue  # the zone wrote something of its own in between
        time = at(played.hub.seconds)
        supposed = suppose(before, GLOBAL, changes, time=time, actor="ann")
        found = foresee(before, GLOBAL, changes, time=time, actor="ann")
        played.events()
        assert held(supposed.state) == held(played.zone.state)
        assert told(found.difference) == told(states_between(before, played.zone.state))
        assert len(found.decisions) == len(played.zone.own.events) - z
        assert held(before) == known


def _zone() -> Played:
    played = Played()
    for number in (0, 2):
        played.connect(*PROXIES[number])
    played.hub.append(applied(generator("by-host", '{{ label "host" }}.ext.local')))
    played.hub.append(applied(mes("first", labels={"host": "shop"})))
    played.events()
    return played


def _conditions(played: Played, *changes: Change, seconds: float = 5) -> dict[str, tuple[str | None, str | None]]:
    """By service and condition, what is said before and what would be after."""
    found = foresee(played.zone.state, GLOBAL, changes, time=at(seconds), actor="ann")
    said: dict[str, tuple[str | None, str | None]] = {}
    for service in found.services:
        sides = [{} if one is None else one.conditions for one in (service.before, service.after)]
        for kind in {**sides[0], **sides[1]}:
            was, now = (side.get(kind) for side in sides)
            if was != now:
                said[f"{service.name} {kind}"] = (was, now)
    return said


def _secured(secret: str) -> ExternalTls:
    return ExternalTls(enabled=True, verification=Verification(ca_cert=DataSource(secret=secret)))


def _secret(expires: str) -> Resource:
    return Secret(name="ca", sealed=Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest="1", expires=expires))


COLLISION = "False Collision: shop.ext.local is held by {} through generator HostnameGenerator/by-host"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            [applied(mes("second", labels={"host": "shop"}))],
            {
                "default/second HostnamesGenerated": (
                    None,
                    COLLISION.format(service_key("first")),
                ),
                "default/second Ready": (None, "True"),
                "default/second VipLeased": (None, "True"),
            },
            id="a name that is held",
        ),
        pytest.param(
            [applied(mes("first", labels={"host": "shop"}, tls=_secured("ca")))],
            {
                "default/first Ready": (
                    "True",
                    "False SecretMissing: spec.tls.verification.caCert.secret: mesh default has no Secret ca",
                )
            },
            id="a secret that is not there",
        ),
        pytest.param(
            [applied(_secret(at(4))), applied(mes("first", labels={"host": "shop"}, tls=_secured("ca")))],
            {
                "default/first Ready": (
                    "True",
                    f"False CaExpired: {CA_FIELD}: the last of the CA certificates expired at {at(4)[:19]}Z",
                )
            },
            id="a CA that has expired",
        ),
        pytest.param(
            [deleted(mesh())],
            {"default/first Ready": ("True", "False MeshMissing: mesh default does not exist")},
            id="no mesh",
        ),
    ],
)
def test_conditions_are_foreseen(changes: list[Change], said: dict[str, tuple[str | None, str | None]]) -> None:
    """In the words that `zonal get` would use."""
    assert _conditions(_zone(), *changes) == said


def test_held_proxies_are_named() -> None:
    """They are touched, and would not be told."""
    played = _zone()
    played.zone.write(PushHeld(proxies=(".egress-1",), kept_g=1, kept_z=1, reason="takes most away"))
    found = foresee(played.zone.state, GLOBAL, [deleted(mes("first"))], time=at(9), actor="ann")
    assert found.difference.touched == (".egress-1",)
    assert found.held == (".egress-1",)
    assert Map(found.plain())["touched"] == 1
