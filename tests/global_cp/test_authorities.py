"""What global owes the mesh, made with real keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from global_cp.authorities import Authorities
from global_cp.decide import Need, NeedIntermediate, NeedRoot, NeedWrap
from shared.events.event import Change, DataKeyWrapped, IntermediateIssued, RootCaCreated
from shared.events.state import GlobalState
from shared.keys import ca
from shared.keys.seal import Keyring, Sealer, Unreadable
from tests.builders import LogBuilder

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYRINGS = {name: Keyring(name, X25519PrivateKey.generate()) for name in ("global", "east", "west")}


class World:
    """Authorities over a log that the test keeps."""

    def __init__(self) -> None:
        self.now = NOW
        self.log = LogBuilder()
        self.sealer = Sealer({name: one.public for name, one in KEYRINGS.items()})
        self.authorities = Authorities(KEYRINGS["global"], self.sealer, lambda: self.now)

    def meet(self, need: Need) -> tuple[Change, ...]:
        changes = self.authorities.meet(need, GlobalState(self.log.state))
        self.log.append(*changes)
        return changes

    def opens(self, name: str, change: RootCaCreated | IntermediateIssued) -> bool:
        try:
            return b"PRIVATE KEY" in KEYRINGS[name].unseal(change.key, self.log.state.data_keys)
        except Unreadable:
            return False


def root_and_intermediate(world: World) -> tuple[RootCaCreated, IntermediateIssued]:
    *_, root = world.meet(NeedRoot("default", "ca-1"))
    *_, issued = world.meet(NeedIntermediate("default", "ca-1", "east"))
    assert isinstance(root, RootCaCreated)
    assert isinstance(issued, IntermediateIssued)
    return root, issued


def test_who_can_open_which_key() -> None:
    """A root's is global's alone; an intermediate's is global's and its zone's; no certificate holds a key."""
    world = World()
    root, issued = root_and_intermediate(world)
    assert [name for name in KEYRINGS if world.opens(name, root)] == ["global"]
    assert [name for name in KEYRINGS if world.opens(name, issued)] == ["global", "east"]
    assert "PRIVATE" not in root.certificate + issued.certificate


def test_an_intermediate_is_signed_by_the_root_of_its_mesh() -> None:
    """Its certificate verifies by the root's, and lives for thirty days."""
    world = World()
    root, issued = root_and_intermediate(world)
    one, other = (x509.load_pem_x509_certificate(text.certificate.encode()) for text in (issued, root))
    one.verify_directly_issued_by(other)
    assert one.not_valid_after_utc <= NOW + timedelta(days=ca.INTERMEDIATE_DAYS, minutes=10)


def test_without_a_root_nothing_is_signed() -> None:
    """An intermediate that is asked for too early changes nothing: its root comes first."""
    assert World().meet(NeedIntermediate("default", "ca-1", "east")) == ()


def test_a_secret_is_wrapped_for_a_zone_that_needs_it() -> None:
    """Sealed before the zone was known, it can be read there once wrapped, and still nowhere else."""
    world = World()
    sealed, wraps = world.sealer.seal(b"hunter2", only=("global",))
    world.log.append(*wraps)
    with pytest.raises(Unreadable):
        KEYRINGS["west"].unseal(sealed, world.log.state.data_keys)
    (wrapped,) = world.meet(NeedWrap(sealed.kid, "west"))
    assert isinstance(wrapped, DataKeyWrapped)
    assert KEYRINGS["west"].unseal(sealed, world.log.state.data_keys) == b"hunter2"
    with pytest.raises(Unreadable):
        KEYRINGS["east"].unseal(sealed, world.log.state.data_keys)


def test_what_is_due() -> None:
    """A certificate authority is due while a part of its life is left, never only when it is over."""
    world = World()
    _, issued = root_and_intermediate(world)
    assert not world.authorities.due(issued.certificate)
    world.now = NOW + timedelta(days=ca.INTERMEDIATE_DAYS - 1)
    assert world.authorities.due(issued.certificate)


def test_a_zone_without_a_seal_key_gets_nothing() -> None:
    """A zone that is in the settings but was never laid out is warned about, and stops nobody else."""
    world = World()
    root_and_intermediate(world)
    sealed, wraps = world.sealer.seal(b"hunter2", only=("global",))
    world.log.append(*wraps)
    assert world.meet(NeedIntermediate("default", "ca-1", "north")) == ()
    assert world.meet(NeedWrap(sealed.kid, "north")) == ()
