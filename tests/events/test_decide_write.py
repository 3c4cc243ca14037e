from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map
from msgspec.structs import replace

from shared.events.decide import Apply, Decision, Delete, Rejected, decide_write
from shared.events.event import GLOBAL, DataKeyWrapped, ResourceApplied, ResourceDeleted
from shared.events.sealing import is_sealed, seal_all
from shared.events.state import LogState
from shared.model.limits import RESOURCE_BYTES_MAX
from shared.model.resource import (
    CaBackend,
    Dataplane,
    DataplaneNetworking,
    DataSource,
    ExternalTls,
    Mtls,
    Resource,
    ResourceKey,
    Sealed,
    Secret,
    SubjectAltName,
    Verification,
    Zone,
    key_of,
)
from tests.builders import LogBuilder, gateway, mes, mesh, resource

EMPTY = LogState(origin=GLOBAL)


def seal(plaintext: bytes) -> tuple[Sealed, tuple[DataKeyWrapped, ...]]:
    """A stand-in with the property that matters: other ciphertext each time, same digest for same plaintext."""
    seal.count += 1  # type: ignore[attr-defined]
    kid = f"kid-{seal.count}"  # type: ignore[attr-defined]
    sealed = Sealed(kid=kid, nonce="bg==", ciphertext="Yw==", digest=f"d{hash(plaintext)}")
    return sealed, (DataKeyWrapped(kid=kid, recipient=GLOBAL, wrapped="dw=="),)


seal.count = 0  # type: ignore[attr-defined]


def after(state, *commands, hub=None, zone="", wraps=(), zones=None):
    """The state once a decision that must be accepted is folded."""
    decision = decide_write(commands, state, hub, zone, wraps=wraps, zones=zones)
    assert isinstance(decision, Decision), decision
    builder = LogBuilder(zone or GLOBAL)
    builder.state = state
    for change in decision.changes:
        builder.append(change)
    return builder.state


def refused(state, *commands, **more):
    rejection = decide_write(commands, state, **more)
    assert isinstance(rejection, Rejected), rejection
    return rejection


@pytest.fixture
def hub():
    return after(EMPTY, Apply(mesh()))


def test_created_configured_unchanged(hub):
    """A first write creates, a different one configures, the same one makes no event."""
    decision = decide_write([Apply(mes())], hub)
    assert isinstance(decision, Decision)
    assert [result.outcome for result in decision.results] == ["created"]
    (change,) = decision.changes
    assert isinstance(change, ResourceApplied)
    assert change.resource.labels["kuma.io/origin"] == "global"
    state = after(hub, Apply(mes()))
    again = decide_write([Apply(mes())], state)
    assert isinstance(again, Decision)
    assert (again.changes, again.results[0].outcome, again.results[0].version) == ((), "unchanged", state.n)
    other = decide_write([Apply(mes(port=81))], state)
    assert isinstance(other, Decision)
    assert other.results[0].outcome == "configured"


def test_mesh_must_exist(hub):
    """404 without the mesh; one that was declared earlier in the batch counts, a later one does not."""
    rejection = refused(EMPTY, Apply(mes()))
    assert (rejection.status, rejection.title) == (404, "Failed to retrieve Mesh")
    assert after(EMPTY, Apply(mesh()), Apply(mes())).n == 2
    assert refused(EMPTY, Apply(mes()), Apply(mesh())).status == 404


def test_a_refused_mesh_is_told_once():
    """Resources of a mesh that is refused in the same batch are not refused for its absence."""
    rejection = refused(EMPTY, Apply(mesh(labels={"zonal.io/mes-origination": "x"})), Apply(mes()))
    assert [refusal.index for refusal in rejection.refusals] == [0]


def test_batches_are_all_or_nothing(hub):
    """Every refusal of a batch is told, with its position; nothing comes out."""
    bad = replace(mes("bad"), spec=replace(mes().spec, endpoints=()))
    rejection = refused(hub, Apply(mes("good")), Apply(bad), Delete(ResourceKey("Zone", "", "none")))
    assert [(r.index, r.path, r.status) for r in rejection.refusals] == [(1, "spec.endpoints", 400), (2, "", 404)]
    assert rejection.status == 400


def test_what_no_event_can_hold_is_refused(hub):
    """A resource beyond what the log takes is the author's fault, told at once, not an unreachable log."""
    named = tuple(SubjectAltName(type="Exact", value="x" * 1000) for _ in range(RESOURCE_BYTES_MAX // 1000))
    tls = ExternalTls(enabled=True, verification=Verification(subject_alt_names=named))
    (refusal,) = refused(hub, Apply(mes(tls=tls))).refusals
    assert "too large" in refusal.reason


def test_twice_in_one_batch(hub):
    """One resource stands in a batch once."""
    rejection = refused(hub, Apply(mes()), Apply(mes(port=81)))
    assert rejection.refusals[0].index == 1


@pytest.mark.parametrize("command", ["apply", "delete"])
def test_stale_versions_are_conflicts(hub, command):
    """Another version than expected is 409; the right one passes; 0 means it must not exist."""
    state = after(hub, Apply(mes()))
    key = key_of(mes())

    def write(expected):
        return Apply(mes(port=82), expected) if command == "apply" else Delete(key, expected)

    assert refused(state, write(1)).status == 409
    assert refused(state, write(0)).status == 409
    assert after(state, write(state.n)).n == state.n + 1
    if command == "apply":
        assert refused(hub, write(7)).status == 409
        assert after(hub, write(0)).n == hub.n + 1


def test_who_may_write_what(hub):
    """Dataplanes are read-only on global; Meshes, Zones and Secrets in a zone: 405 with Kuma's sentences."""
    dataplane = Dataplane(name="d", networking=DataplaneNetworking(address="10.0.0.1"))
    rejection = refused(hub, Apply(dataplane))
    assert rejection.status == 405
    assert "On global control plane you can not modify dataplane" in rejection.refusals[0].reason
    east = LogState(origin="east")
    for one in (mesh("m"), Zone(name="z"), Secret(name="s", data="YQ==")):
        assert refused(east, Apply(one), hub=hub, zone="east").status == 405
    assert after(east, Apply(dataplane), hub=hub, zone="east").n == 1


def test_origin_of_others_is_read_only(hub):
    """A zone cannot take over or delete what global declared, nor global what a zone declared."""
    hub = after(hub, Apply(mes()))
    east = LogState(origin="east")
    claims = replace(mes(), labels=Map({"kuma.io/origin": "global"}))
    assert refused(east, Apply(claims), hub=hub, zone="east").refusals[0].path == 'labels["kuma.io/origin"]'
    for key in (key_of(mes()), key_of(mes(), "east"), key_of(mes(), "west")):
        rejection = refused(east, Delete(key), hub=hub, zone="east")
        assert rejection.refusals[0].reason == "the origin label must be set to 'zone'"
    theirs = replace(mes(), labels=Map({"kuma.io/origin": "zone"}))
    assert refused(hub, Apply(theirs)).refusals[0].reason == "the origin label must be set to 'global'"
    assert refused(hub, Delete(key_of(mes(), "east"))).status == 400
    own = after(east, Apply(mes()), hub=hub, zone="east")
    assert key_of(mes(), "east") in own.resources, "a resource of the same name in the zone is another resource"


def test_zone_label(hub):
    """In a zone the label must be its own; on global it pins the egress and is immutable (decision 19)."""
    pinned = replace(mes(), labels=Map({"kuma.io/zone": "east"}))
    west = LogState(origin="west")
    assert refused(west, Apply(pinned), hub=hub, zone="west").refusals[0].reason == (
        "kuma.io/zone label should have west value"
    )
    state = after(hub, Apply(pinned))
    assert refused(state, Apply(mes())).refusals[0].reason == 'is immutable, cannot be removed (was "east")'
    moved = replace(mes(), labels=Map({"kuma.io/zone": "west"}))
    assert refused(state, Apply(moved)).refusals[0].reason == 'is immutable, cannot be changed from "east" to "west"'


def test_mesh_of_dataplanes_is_not_deleted(hub):
    """A mesh with dataplanes in any zone stays; else its members go with it, before it."""
    dataplane = Dataplane(name="d", networking=DataplaneNetworking(address="10.0.0.1"))
    east = after(LogState(origin="east"), Apply(dataplane), hub=hub, zone="east")
    delete = Delete(ResourceKey("Mesh", "", "default"))
    rejection = refused(hub, delete, zones={"east": east})
    assert rejection.refusals[0].reason == "unable to delete mesh, there are still some dataplanes attached"
    full = after(hub, Apply(mes("a")), Apply(mes("b")))
    decision = decide_write([delete], full)
    assert isinstance(decision, Decision)
    assert [change.key.name for change in decision.changes if isinstance(change, ResourceDeleted)] == [
        "a",
        "b",
        "default",
    ]
    assert decision.results[0].change == 2


def test_ca_is_not_changed_while_enabled(hub):
    """Another CA needs mTLS off first."""
    other = replace(mesh(), mtls=Mtls(enabled_backend="ca-2", backends=(CaBackend(name="ca-2", type="builtin"),)))
    assert "Changing CA when mTLS is enabled is forbidden" in refused(hub, Apply(other)).refusals[0].reason
    off = after(hub, Apply(mesh(mtls=False)))
    assert after(off, Apply(other)).n == off.n + 1


def test_allowed_addresses_come_from_mesh_or_settings(hub):
    """Loopback endpoints need the mesh's label or the zone's setting (decision 13)."""
    local = replace(mes(), spec=replace(mes().spec, endpoints=(replace(mes().spec.endpoints[0], address="127.0.0.9"),)))
    assert refused(hub, Apply(local)).status == 400
    assert isinstance(decide_write([Apply(local)], hub, allowed=("127.0.0.0/8",)), Decision)
    open_mesh = mesh(labels={"zonal.io/allow-addresses": "127.0.0.0_24"})
    assert isinstance(decide_write([Apply(open_mesh), Apply(local)], hub), Decision)


def test_secrets_enter_sealed_only(hub):
    """A secret in clear is a programmer's error; sealed, its data key precedes it."""
    secret = Secret(name="s", data="aGVsbG8=")
    with pytest.raises(ValueError, match="in clear"):
        decide_write([Apply(secret)], hub)
    admitted = seal_all([secret], seal)
    decision = decide_write([Apply(admitted.resources[0])], hub, wraps=admitted.wraps)
    assert isinstance(decision, Decision)
    assert [type(change).__name__ for change in decision.changes] == ["DataKeyWrapped", "ResourceApplied"]
    assert decision.results[0].change == 1


def service_with_key(name="web"):
    key = DataSource(inline_string="-----BEGIN PRIVATE KEY-----")
    tls = ExternalTls(verification=Verification(client_cert=DataSource(secret="c"), client_key=key))
    return replace(mes(name), spec=replace(mes().spec, tls=tls))


@pytest.mark.parametrize("make", [lambda: Secret(name="s", data="aGVsbG8="), service_with_key])
def test_sealing_again_changes_nothing(hub, make):
    """The same plaintext sealed anew is an unchanged resource, and no orphaned data key is recorded."""
    first = seal_all([make()], seal)
    assert is_sealed(first.resources[0])
    state = after(hub, Apply(first.resources[0]), wraps=first.wraps)
    second = seal_all([make()], seal)
    assert second.resources != first.resources
    decision = decide_write([Apply(second.resources[0])], state, wraps=second.wraps)
    assert isinstance(decision, Decision)
    assert decision.changes == ()


def test_warnings(hub):
    """Direct mode, SkipCA and missing secrets are told, and written all the same (decisions 2, 3)."""
    direct = decide_write([Apply(mesh(labels={"zonal.io/mes-origination": "sidecar"}))], EMPTY)
    assert isinstance(direct, Decision)
    assert "originated at the sidecars" in direct.warnings[0]
    tls = ExternalTls(enabled=True, verification=Verification(mode="SkipCA", ca_cert=DataSource(secret="nope")))
    skips = decide_write([Apply(replace(mes(), spec=replace(mes().spec, tls=tls)))], hub)
    assert isinstance(skips, Decision)
    assert "SAN is not checked" in skips.warnings[0]
    assert 'Secret "nope" does not exist' in skips.warnings[1]
    assert decide_write([Apply(mesh())], EMPTY).warnings == ()  # type: ignore[union-attr]


def test_who_deletes_a_secret_is_told_who_uses_it(hub):
    """Their destinations fail closed, and nothing else says so before it happens; who goes too is not named."""
    tls = ExternalTls(enabled=True, verification=Verification(ca_cert=DataSource(secret="ca")))
    services: list[Resource] = [replace(mes(name), spec=replace(mes(name).spec, tls=tls)) for name in "abcdefg"]
    secret = Secret(name="ca", sealed=Sealed(kid="k", nonce="n", ciphertext="c", digest="d"))
    state = after(hub, Apply(secret), *(Apply(one) for one in services))
    deleted = decide_write([Delete(key_of(secret))], state)
    assert isinstance(deleted, Decision)
    named = ", ".join(f"MeshExternalService {name}" for name in "abcde")
    assert deleted.warnings == (
        f'Secret "ca" of mesh default is used by {named} and 2 more: until it is there again they answer 503',
    )
    together = decide_write([Delete(key_of(secret)), *(Delete(key_of(one)) for one in services)], state)
    assert isinstance(together, Decision)
    assert together.warnings == ()


@pytest.mark.parametrize("name", ["bücher.example", "a" * 254, "a b"])
def test_names_that_no_certificate_holds_are_told(hub, name):
    """They are written all the same, and can never match."""
    names = (SubjectAltName(value="good.test"), SubjectAltName(value=name), SubjectAltName(value="spiffe://x/ü"))
    tls = ExternalTls(enabled=True, verification=Verification(subject_alt_names=names))
    (warning,) = decide_write([Apply(replace(mes(), spec=replace(mes().spec, tls=tls)))], hub).warnings  # type: ignore[union-attr]
    assert "subjectAltNames[1].value matches no certificate: " in warning


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(80, 82), st.booleans()), max_size=8))
def test_any_accepted_batch_makes_its_own_results_true(steps):
    """Whatever is accepted folds to a state in which each result holds; writing it again changes nothing."""
    state = after(EMPTY, Apply(mesh()))
    for name, port, delete in steps:
        command = Delete(key_of(mes(name))) if delete else Apply(mes(name, port=port))
        decision = decide_write([command], state)
        if isinstance(decision, Rejected):
            assert delete
            assert key_of(mes(name)) not in state.resources
            continue
        state = after(state, command)
        if isinstance(command, Apply):
            assert state.resources[key_of(mes(name))].resource.spec.match.port == port
            assert decide_write([command], state).changes == ()  # type: ignore[union-attr]
        else:
            assert key_of(mes(name)) not in state.resources


def test_policies_say_what_has_no_effect(hub):
    """A policy that is accepted but not heard, or that denies everybody, says so to its author."""
    to = [{"targetRef": {"kind": "Mesh"}, "default": {"connectionTimeout": "1s", "idleTimeout": "1s"}}]
    mine = resource(type="MeshTimeout", name="t", spec={"targetRef": {"kind": "Dataplane"}, "to": to})
    (warning,) = decide_write([Apply(mine)], hub).warnings  # type: ignore[union-attr]
    assert warning.startswith(
        "MeshTimeout t: connectionTimeout has no effect on MeshExternalServices: it holds at the zone egress"
    )
    whole = resource(type="MeshTimeout", name="t", spec={"to": to})
    assert decide_write([Apply(whole)], hub).warnings == ()  # type: ignore[union-attr]
    on_gateway = {
        "targetRef": {"kind": "MeshGateway", "name": "edge"},
        "to": [to[0] | {"default": {"idleTimeout": "1s"}}],
    }
    edge = resource(type="MeshTimeout", name="t", spec=on_gateway)
    (warning,) = decide_write([Apply(edge)], hub).warnings  # type: ignore[union-attr]
    assert warning == "MeshTimeout t has no effect yet: there is no MeshGateway edge in mesh default"
    assert decide_write([Apply(edge), Apply(gateway())], hub).warnings == ()  # type: ignore[union-attr]
    shadow = resource(type="MeshTimeout", name="t", labels={"kuma.io/effect": "shadow"}, spec={"to": to})
    assert "shadow" in decide_write([Apply(shadow)], hub).warnings[0]  # type: ignore[union-attr]
    rules = [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://default/"}}]}}]
    guard = resource(
        type="MeshTrafficPermission",
        name="g",
        spec={"targetRef": {"kind": "MeshExternalService", "name": "payments"}, "rules": rules},
    )
    assert decide_write([Apply(guard)], hub).warnings == ()  # type: ignore[union-attr]
    bare = after(EMPTY, Apply(mesh(mtls=False)))
    assert "everybody is denied" in decide_write([Apply(guard)], bare).warnings[0]  # type: ignore[union-attr]
