"""ZoneSecrets: what a zone can read, and what it says when it cannot."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from immutables import Map

from shared.events.event import DataKeyWrapped, EventRef
from shared.events.state import Authority, LogState, ZoneState
from shared.keys import ca
from shared.keys.seal import Keyring, Sealer
from zone_cp.identity.material import ZoneSecrets
from zone_cp.identity.rotation import Rotation
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds.secrets import MaterialMissing

EAST = Keyring("east", X25519PrivateKey.generate())
GLOBAL = Keyring("global", X25519PrivateKey.generate())
SEALER = Sealer({"global": GLOBAL.public, "east": EAST.public})


def with_keys(log: LogState, *wraps: DataKeyWrapped) -> LogState:
    keys = log.data_keys
    for one in wraps:
        keys = keys.set(one.kid, keys.get(one.kid, Map()).set(one.recipient, one.wrapped))
    return msgspec.structs.replace(log, data_keys=keys)


class World:
    """A zone whose state the test sets."""

    def __init__(self) -> None:
        self.state = ZoneState("east", LogState("global"), LogState("east"))
        self.rotation = Rotation(
            loop=asyncio.get_running_loop(), jitter=lambda: 0.0, on_rotated=lambda _mesh, _spiffe_id: None
        )
        self.secrets = ZoneSecrets(EAST, lambda: self.state, self.rotation)

    def hub(self, **fields: object) -> None:
        self.state = ZoneState("east", msgspec.structs.replace(self.state.hub, **fields), self.state.own)

    def authority(self, n: int, *, readers: tuple[str, ...] = ("global", "east")) -> None:
        now = datetime.now(UTC)
        root, root_key = ca.create_root("default", "ca-1", now)
        own, own_key = ca.create_intermediate(root, root_key, mesh="default", zone="east", now=now)
        root_sealed, _ = SEALER.seal(root_key.encode(), only=("global",))
        own_sealed, wraps = SEALER.seal(own_key.encode(), only=readers)
        at = EventRef("global", n)
        roots: Map[str, Authority] = Map(default=Authority("default", "ca-1", "", root, root_sealed, at))
        intermediates: Map[tuple[str, str], Authority] = Map()
        authority = Authority("default", "ca-1", "east", own, own_sealed, at)
        self.hub(roots=roots, intermediates=intermediates.set(("default", "east"), authority))
        self.state = ZoneState("east", with_keys(self.state.hub, *wraps), self.state.own)


@pytest.mark.anyio
async def test_clear_and_sealed_material_become_bytes() -> None:
    """Text passes through; sealed material of either log is opened with the zone's key."""
    world = World()
    from_hub, hub_wraps = SEALER.seal(b"hub secret")
    from_own, own_wraps = SEALER.seal(b"own secret")
    world.state = ZoneState("east", with_keys(world.state.hub, *hub_wraps), with_keys(world.state.own, *own_wraps))
    assert world.secrets.text(TlsMaterial("a", text="PEM")) == b"PEM"
    assert world.secrets.text(TlsMaterial("b", sealed=from_hub)) == b"hub secret"
    assert world.secrets.text(TlsMaterial("c", sealed=from_own)) == b"own secret"
    with pytest.raises(MaterialMissing, match="no content"):
        world.secrets.text(TlsMaterial("d"))


@pytest.mark.anyio
async def test_shredding_reaches_what_was_read_before() -> None:
    """A secret whose data key is gone cannot be read, not even from memory."""
    world = World()
    sealed, wraps = SEALER.seal(b"x")
    world.state = ZoneState("east", with_keys(world.state.hub, *wraps), world.state.own)
    assert world.secrets.text(TlsMaterial("a", sealed=sealed)) == b"x"
    world.hub(data_keys=Map())
    with pytest.raises(MaterialMissing, match="shredded"):
        world.secrets.text(TlsMaterial("a", sealed=sealed))


@pytest.mark.anyio
async def test_identities_follow_the_state() -> None:
    """Once the log holds root and intermediate the zone issues; a new root is the bundle from then on."""
    world = World()
    with pytest.raises(MaterialMissing):
        world.secrets.identity("default", "spiffe://default/web")
    assert "default" in world.secrets.refresh({"default": 3600}).failures
    world.authority(1)
    assert not world.secrets.refresh({"default": 3600}).failures
    first = world.secrets.identity("default", "spiffe://default/web")
    assert world.secrets.trust_bundle("default") == world.state.hub.roots["default"].certificate
    assert not world.secrets.refresh({"default": 3600}).failures
    assert world.secrets.identity("default", "spiffe://default/web") is first
    world.authority(2)
    assert not world.secrets.refresh({"default": 3600}).failures
    assert world.secrets.identity("default", "spiffe://default/web").serial != first.serial
    world.secrets.refresh({})
    with pytest.raises(MaterialMissing):
        world.secrets.identity("default", "spiffe://default/web")
    world.rotation.close()


@pytest.mark.anyio
async def test_an_unreadable_authority_is_a_reason_not_a_crash() -> None:
    """An intermediate that was not wrapped for this zone leaves the mesh without identities, and says why."""
    world = World()
    world.authority(1, readers=("global",))
    failures = world.secrets.refresh({"default": 3600}).failures
    assert "not wrapped for east" in failures["default"]


@pytest.mark.anyio
async def test_who_is_kept_no_more_is_issued_no_more() -> None:
    """A workload that no proxy is any more is forgotten; one that comes back gets another certificate."""
    world = World()
    world.authority(1)
    world.secrets.refresh({"default": 3600.0})
    first = world.secrets.identity("default", "spiffe://default/web")
    gone = world.secrets.identity("default", "spiffe://default/gone")
    world.secrets.keep({("default", "spiffe://default/web")})
    assert [svid.spiffe_id for _, svid in world.rotation.held()] == ["spiffe://default/web"]
    assert world.secrets.identity("default", "spiffe://default/web") is first
    assert world.secrets.identity("default", "spiffe://default/gone") is not gone
    world.rotation.close()


@pytest.mark.anyio
async def test_refresh_tells_whose_issuers_are_others() -> None:
    """What is compiled of a mesh's certificates follows from nothing else."""
    world = World()
    assert world.secrets.refresh({"default": 3600.0}).changed == frozenset()
    world.authority(1)
    assert world.secrets.refresh({"default": 3600.0}).changed == {"default"}
    assert world.secrets.refresh({"default": 3600.0}).changed == frozenset()
    assert world.secrets.refresh({}).changed == {"default"}
    world.rotation.close()
