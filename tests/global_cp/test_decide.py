from __future__ import annotations

from immutables import Map

from global_cp.decide import NeedIntermediate, NeedRoot, NeedWrap, may_owe, pending
from shared.events.event import DataKeyWrapped, IntermediateIssued, ResourceApplied, ResourceDeleted, RootCaCreated
from shared.events.state import GlobalState
from shared.model.resource import ResourceKey, Sealed, Secret
from tests.builders import LogBuilder, mes, mesh

SEALED = Sealed(kid="k1", nonce="bg==", ciphertext="Yw==", digest="ZA==")
ZONES = ("east", "west")


def hub(*changes):
    builder = LogBuilder()
    for change in changes:
        builder.append(change)
    return GlobalState(builder.state)


def root(backend="ca-1"):
    return RootCaCreated(mesh="default", backend=backend, certificate="PEM", key=SEALED)


def issued(zone, backend="ca-1"):
    return IntermediateIssued(mesh="default", backend=backend, zone=zone, certificate=f"PEM {zone}", key=SEALED)


APPLIED = ResourceApplied(resource=mesh())


def test_nothing_is_owed_without_mtls():
    """A mesh without mTLS needs no authority."""
    assert pending(hub(ResourceApplied(resource=mesh(mtls=False))), ZONES) == ()


def test_root_first_then_an_intermediate_per_zone():
    """The root comes first; with it each zone is owed an intermediate, until it has one."""
    assert pending(hub(APPLIED), ZONES) == (NeedRoot("default", "ca-1"),)
    assert pending(hub(APPLIED, root()), ZONES) == tuple(NeedIntermediate("default", "ca-1", zone) for zone in ZONES)
    assert pending(hub(APPLIED, root(), issued("west")), ZONES) == (NeedIntermediate("default", "ca-1", "east"),)
    assert pending(hub(APPLIED, root(), issued("west"), issued("east")), ZONES) == ()


def test_intermediates_are_renewed():
    """A due intermediate, or one of an earlier root, is owed again."""
    state = hub(APPLIED, root(), issued("east"), issued("west"))
    assert pending(state, ZONES, due=lambda pem: pem == "PEM east") == (NeedIntermediate("default", "ca-1", "east"),)
    assert len(pending(hub(APPLIED, root(), issued("east"), issued("west"), root()), ZONES)) == 2


def test_another_backend_needs_another_root():
    """A root belongs to the backend that is enabled."""
    assert pending(hub(APPLIED, root("ca-0")), ZONES) == (NeedRoot("default", "ca-1"),)


def test_a_mesh_made_anew_does_not_inherit_trust():
    """Deleting a mesh and declaring it again gives it another root."""
    deleted = ResourceDeleted(key=ResourceKey("Mesh", "", "default"))
    assert pending(hub(APPLIED, root(), deleted), ZONES) == ()
    assert pending(hub(APPLIED, root(), deleted, APPLIED), ZONES) == (NeedRoot("default", "ca-1"),)


def test_data_keys_reach_zones_that_came_later():
    """Each zone is owed a wrap of each secret's data key; without global's own wrap the secret is shredded."""
    plain = ResourceApplied(resource=mesh(mtls=False))
    secret = ResourceApplied(resource=Secret(name="s", sealed=SEALED, labels=Map()))

    def wrap(recipient):
        return DataKeyWrapped(kid="k1", recipient=recipient, wrapped="dw==")

    assert pending(hub(plain, wrap("global"), wrap("east"), secret), ZONES) == (NeedWrap("k1", "west"),)
    assert pending(hub(plain, wrap("east"), secret), ZONES) == ()
    assert pending(hub(plain, wrap("global"), secret, ResourceApplied(resource=mes())), ()) == ()


def test_nothing_becomes_pending_by_a_change_that_owes_nothing():
    """What is not looked at after a write could not have made anything pending."""
    deleted = ResourceDeleted(key=ResourceKey("Mesh", "", "default"))
    secret = ResourceApplied(resource=Secret(name="s", sealed=SEALED, labels=Map()))
    own = DataKeyWrapped(kid="k1", recipient="global", wrapped="dw==")
    service = ResourceApplied(resource=mes())
    history = (APPLIED, service, root(), service, issued("east"), own, service, secret, service, deleted, APPLIED)
    for end, change in enumerate(history, start=1):
        before, after = pending(hub(*history[: end - 1]), ZONES), pending(hub(*history[:end]), ZONES)
        assert may_owe(change) or set(after) <= set(before)
    assert not may_owe(service)
    assert not may_owe(deleted)
