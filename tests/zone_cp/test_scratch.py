"""A scratch plane: what it changes of a moment, what it does without keys, and what an Envoy refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from immutables import Map

from shared.events.event import ProxyConnected
from shared.events.halving import Verdict
from shared.events.history import History, NoSuchMoment
from shared.events.redaction import REDACTED
from shared.keys.seal import Keyring, Sealer
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, generator, mes, mesh
from tests.xds.views import services_of
from zone_cp.replay import snapshot_at
from zone_cp.scratch import check
from zone_cp.scratch.moved import Moved, egress_at, moved, uses_egress
from zone_cp.scratch.plane import Asked, ScratchPlane
from zone_cp.scratch.secrets import ScratchSecrets
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds.inspect import decode
from zone_cp.xds.secrets import MaterialMissing, authority_fault, key_pair_fault
from zone_cp.xds.snapshot import CLUSTER, LISTENER
from zone_cp.xds.tcp_access import GUARDED
from zone_cp.xds.wire import encode, piece

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def history() -> History:
    """A redirected sidecar, an egress and one service."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(generator()), applied(mes(endpoints=("payments.example.com:443",))))
    zone.apply(egress(), dataplane(transparentProxying={"redirectPortOutbound": 15001}))
    for proxy, kind, mesh_name, name in (
        (".egress-1", "ZoneEgress", "", "egress-1"),
        ("default.web-1", "Dataplane", "default", "web-1"),
    ):
        key = ResourceKey(kind, mesh_name, name, "east")
        zone.write(ProxyConnected(proxy, key, "1", ("redirect", "access-log=/of/the/host"), "/ca.pem"))
    zone.follow(hub)
    return History.of(hub.events, {"east": zone.own.events})


def shown(history: History, proxy: str, **options: object) -> Moved:
    """What a scratch proxy is served at the end."""
    settings = {"endpoints": {}, "system_ca": lambda path: path, "secrets": ScratchSecrets("east", None, NOW)} | options
    return moved(history, "east", history.position("east"), proxy, **settings)  # type: ignore[arg-type]


def test_a_sidecar_stands_at_ports_of_its_own(history: History) -> None:
    """No listener where the running one listens, one per VIP instead of the redirected one, no log of the host."""
    found = shown(history, "default.web-1", egress=("127.0.0.1", 7))
    assert uses_egress(found.snapshot)
    assert egress_at(history, "east", history.position("east")) == ".egress-1"
    listeners = found.snapshot.resources[LISTENER]
    (service,) = found.services
    assert f"outbound/{service.vip}:80" in listeners
    for one in listeners.values():
        message: Any = decode(one)
        assert (message.address.socket_address.address, message.address.socket_address.port_value) == ("127.0.0.1", 0)
        assert b"/of/the/host" not in one.body
    assert dict(found.names) == {"payments.ext.local": service.vip}


def test_everything_else_is_as_it_was(history: History) -> None:
    """An egress's clusters are those that were served; an endpoint map changes where they dial, and no more."""
    position = history.position("east")
    served = snapshot_at(history, "east", position, ".egress-1")
    tried = shown(history, ".egress-1").snapshot
    assert tried.resources[CLUSTER] == served.resources[CLUSTER]
    assert b"127.0.0.1" not in tried.resources[LISTENER][GUARDED].body  # within Envoy
    mapped = {("payments.example.com", 443): ("127.0.0.1", 8443)}
    (before,), (after,) = (
        services_of(served).values(),
        services_of(shown(history, ".egress-1", endpoints=mapped).snapshot).values(),
    )
    old: Any = decode(before)
    new: Any = decode(after)
    host = new.load_assignment.endpoints[0].lb_endpoints[0].endpoint
    assert host.hostname == "payments.example.com"
    address = host.address.socket_address
    assert (address.address, address.port_value) == ("127.0.0.1", 8443)
    address.address, address.port_value = "payments.example.com", 443
    assert new == old


def test_sealed_material_is_opened_with_keys_and_stood_in_for_without(history: History) -> None:
    """A stand-in is a certificate and its key; what cannot be opened closes its service, as in production."""
    keyring = Keyring("east", X25519PrivateKey.generate())
    sealed, wraps = Sealer({"east": keyring.public}).seal(b"clear")
    hub = LogBuilder()
    hub.append(*wraps)
    state = history.state("east", history.position("east"))
    material = TlsMaterial("secret/default/key", sealed=sealed)

    opening = ScratchSecrets("east", keyring, NOW)
    opening.state = msgspec.structs.replace(state, hub=hub.state)
    assert opening.text(material) == b"clear"
    opening.state = state
    with pytest.raises(MaterialMissing, match="is gone"):
        opening.text(material)

    bare = ScratchSecrets("east", None, NOW)
    pair = bare.text(material)
    assert not authority_fault(pair)
    assert not key_pair_fault(pair, pair)
    assert bare.stood_in == {"secret/default/key"}
    left_out = msgspec.structs.replace(material, sealed=msgspec.structs.replace(sealed, ciphertext=REDACTED))
    assert opening.text(left_out) != b"clear"


def test_a_proxyless_client_has_no_envoy(history: History) -> None:
    """It cannot be tried."""
    hub, zone = LogBuilder(), ZoneBuilder()
    zone.apply(dataplane())
    zone.write(
        ProxyConnected("default.web-1", ResourceKey("Dataplane", "default", "web-1", "east"), "1", ("proxyless",))
    )
    with pytest.raises(NoSuchMoment, match="proxyless"):
        shown(History.of(hub.events, {"east": zone.own.events}), "default.web-1")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("command", "verdict"),
    [
        ('test "$ZONAL_BISECT_AT" = here', Verdict("good", "the check passed")),
        ("exit 125", Verdict("skip", "the check skipped it (125)")),
        ("exit 3", Verdict("bad", "the check failed with 3")),
        ("sleep 600", Verdict("bad", "the check did not end within 0.5 s")),
    ],
)
async def test_the_exit_code_of_a_check_is_the_verdict(command: str, verdict: Verdict) -> None:
    """As with `git bisect run`."""
    assert await check.run(command, {"ZONAL_BISECT_AT": "here"}, 0.5) == verdict


@pytest.mark.anyio
async def test_a_check_that_was_killed_is_no_verdict() -> None:
    """Neither good nor bad."""
    with pytest.raises(check.CheckFailed, match="no verdict"):
        await check.run("kill -9 $$", {}, 30)


@pytest.mark.anyio
@pytest.mark.e2e
async def test_what_an_envoy_refuses_is_bad_and_the_next_moment_is_tried_with_another(history: History) -> None:
    """With Envoy's own words; nothing of the run is left afterwards."""
    poison = cluster.Cluster(name="poison", type=cluster.ClusterDiscoveryType.STATIC)
    body = bytes(poison) + piece(4, b"\x08\x00")
    asked = Asked("east", "default.web-1", "true", 30, {})
    async with ScratchPlane(history, asked, print) as plane:
        position = history.position("east")
        assert (await plane.judge(position)).outcome == "good"
        good = plane._current
        clusters = good.snapshot.resources[CLUSTER].set("poison", encode(CLUSTER, "poison", body))
        resources = good.snapshot.resources.set(CLUSTER, clusters)
        bad = msgspec.structs.replace(good, snapshot=msgspec.structs.replace(good.snapshot, resources=Map(resources)))
        proxy = plane._proxies["proxy"]
        shown = await proxy.show(bad, anew=False)
        assert shown.fault.startswith("Envoy refuses it: poison: ")
        pid = proxy._envoy.pid if proxy._envoy is not None else None
        assert await plane.judge(position) == Verdict("good", "the check passed")
        assert proxy._envoy is not None
        assert proxy._envoy.pid not in (None, pid)
        directory = plane._directory
        left = [one._envoy.pid for one in plane._proxies.values() if one._envoy is not None]
    assert not directory.exists()
    assert left
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
