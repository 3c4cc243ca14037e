"""A zone on loopback from manifests alone: real admission, log, decisions, view and compiler, and two real Envoys.

Only the control planes' shells are missing (NATS, the ADS server); they have tests of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from immutables import Map

from shared.events.decide import Apply, Command, Delete, Rejected, decide_write
from shared.events.event import DataKeyWrapped, ProxyConnected
from shared.events.sealing import seal_all
from shared.keys.seal import Keyring, Sealer, Unreadable
from shared.model import manifest
from shared.model.resource import Resource, ResourceKey, key_of
from tests.builders import LogBuilder, ZoneBuilder
from tests.conftest import take_port
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.views import Secrets
from zone_cp.identity.svid import Svid
from zone_cp.view.project import project, proxy_view
from zone_cp.view.zone_view import ExternalServiceView, Failure, ProxyView, TlsMaterial, ZoneView
from zone_cp.xds.compile import compile_proxy, compile_whole
from zone_cp.xds.secrets import MaterialMissing
from zone_cp.xds.snapshot import Snapshot

ZONE = "east"
CIDR = "127.16.0.0/16"
MESH = """\
type: Mesh
name: default
labels: {zonal.io/allow-addresses: 127.0.0.0_8}
mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}
"""
DIRECT = MESH.replace("labels: {", "labels: {zonal.io/mes-origination: sidecar, ")


def read(text: str) -> tuple[Resource, ...]:
    """Resources of a manifest that has no fault."""
    parsed = manifest.parse(text, "test.yaml")
    assert parsed.faults == (), parsed.faults
    return tuple(one.resource for one in parsed.documents)


class Opened:
    """The compiler's SecretSource: sealed material is opened with the zone's key, identities are made at once."""

    def __init__(self, keyring: Keyring, zone: ZoneBuilder) -> None:
        self._keyring, self._zone, self._issued = keyring, zone, Secrets()

    def text(self, material: TlsMaterial) -> bytes:
        if material.text is not None:
            return material.text.encode()
        assert material.sealed is not None
        kid = material.sealed.kid
        state = self._zone.state
        wraps = {**state.hub.data_keys.get(kid, {}), **state.own.data_keys.get(kid, {})}
        try:
            return self._keyring.unseal(material.sealed, {kid: wraps})
        except Unreadable as fault:
            raise MaterialMissing(fault.reason) from None

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        return self._issued.identity(mesh, spiffe_id)

    def trust_bundle(self, mesh: str) -> str:
        return self._issued.trust_bundle(mesh)


class LoopbackZone:
    """The zone `east` with an egress and a sidecar; `apply` writes, `show` compiles and offers."""

    def __init__(
        self,
        directory: Path,
        dataplane: str,
        *,
        features: tuple[str, ...] = ("redirect",),
        system_ca_path: str = "",
        mesh: str = MESH,
        name: str = "zone",
        bootstrap: dict[str, Any] | None = None,
        on_demand: bool = False,
        legacy: str = "127.17.0.0/16",
    ) -> None:
        self.on_demand = on_demand
        self.hub, self.zone = LogBuilder(), ZoneBuilder(ZONE, CIDR, legacy=legacy)
        keyring = Keyring(ZONE, X25519PrivateKey.generate())
        self._sealer = Sealer({ZONE: keyring.public})
        self.secrets = Opened(keyring, self.zone)
        self.egress_port = take_port()
        self.access_log = directory / f"{name}-access.log"
        self.access_log.touch()
        self.apply(mesh)
        self.apply(
            f"type: ZoneEgress\nname: egress-1\nzone: {ZONE}\n"
            f"networking: {{address: 127.0.0.1, port: {self.egress_port}}}\n",
            origin=ZONE,
        )
        self.apply(dataplane, origin=ZONE)
        self.sidecar_key = key_of(read(dataplane)[0], ZONE)
        self.features = (*features, f"access-log={self.access_log}")
        self.connect(system_ca_path)
        ads = {f"{name}-egress": take_port(), f"{name}-sidecar": take_port()}
        self.ads = {one: DeltaServer(port) for one, port in ads.items()}
        self.show()
        self._starts = {one: partial(Envoy, directory, one, take_port(), port, bootstrap) for one, port in ads.items()}
        self.envoys = {one: start() for one, start in self._starts.items()}

    def restart(self, placement: str) -> None:
        """End one of the Envoys, and start it with nothing."""
        (one,) = (name for name in self._starts if name.endswith(f"-{placement}"))
        self.envoys[one].stop()
        self.envoys[one] = self._starts[one]()

    def stop(self) -> None:
        """End the Envoys and their ADS servers."""
        for envoy in self.envoys.values():
            envoy.stop()
        for double in self.ads.values():
            double.stop()

    def connect(self, system_ca_path: str) -> None:
        """Both proxies are online, and say which system CA they have."""
        self._system_ca_path = system_ca_path
        egress = ResourceKey("ZoneEgress", "", "egress-1", ZONE)
        for proxy, key in ((".egress-1", egress), ("default.sidecar", self.sidecar_key)):
            time = str(self.zone.own.state.n)
            self.zone.write(ProxyConnected(proxy, key, time, self.features, system_ca_path))

    def become(self, dataplane: str, *features: str) -> None:
        """The sidecar is another Dataplane from now on."""
        self.apply(dataplane, origin=ZONE)
        self.sidecar_key = key_of(read(dataplane)[0], ZONE)
        self.features = (*features, f"access-log={self.access_log}")
        self.connect(self._system_ca_path)

    def apply(self, *texts: str | Resource, origin: str = "") -> tuple[str, ...]:
        """Write resources, of global or of zone origin, as one batch; the warnings for their author."""
        resources: list[Resource] = []
        for text in texts:
            resources.extend(read(text) if isinstance(text, str) else (text,))
        admitted = seal_all(resources, self._sealer.seal)
        warnings = self._write([Apply(one) for one in admitted.resources], admitted.wraps, origin)
        return (*admitted.warnings, *warnings)

    def delete(self, *keys: ResourceKey) -> None:
        """Delete resources of global origin, as one batch."""
        self._write([Delete(key) for key in keys], (), "")

    def _write(self, commands: Sequence[Command], wraps: Sequence[DataKeyWrapped], origin: str) -> tuple[str, ...]:
        log = self.zone.own.state if origin else self.hub.state
        seen = self.zone.hub if origin else None
        decision = decide_write(commands, log, seen, origin, allowed=("::1/128",), wraps=wraps)
        assert not isinstance(decision, Rejected), decision
        if origin:
            self.zone.write(*decision.changes)
        else:
            self.hub.append(*decision.changes)
            self.zone.follow(self.hub)
        return decision.warnings

    @property
    def view(self) -> ZoneView:
        """What the zone's proxies are to be told."""
        view = project(self.zone.state)
        return msgspec.structs.replace(view, on_demand_above=0) if self.on_demand else view

    def service(self, name: str, origin: str = "") -> ExternalServiceView:
        """A service of the default mesh."""
        return self.view.meshes["default"].services[ResourceKey("MeshExternalService", "default", name, origin)]

    def door(self, host: str, port: int) -> ExternalServiceView:
        """A door of ExternalServices of the default mesh."""
        return self.view.meshes["default"].services[ResourceKey("ExternalService", "default", f"{host}:{port}")]

    def proxies(self) -> tuple[ProxyView, ...]:
        """The egress and the sidecar."""
        egress, sidecar = (proxy_view(self.zone.state, one) for one in (".egress-1", "default.sidecar"))
        assert egress is not None
        assert sidecar is not None
        return egress, sidecar

    def show(self) -> None:
        """Compile the present for both proxies and offer it."""
        view = self.view
        for double, proxy in zip(self.ads.values(), self.proxies(), strict=True):
            double.offer(compile_proxy(view, proxy, self.secrets))

    def compiled(self) -> Snapshot:
        """What the egress should hold now."""
        return compile_proxy(self.view, self.proxies()[0], self.secrets)

    def closed(self) -> Map[ResourceKey, Failure]:
        """The services that are closed where they would be dialled, and why."""
        view = self.view
        found = (compile_whole(view, proxy, self.secrets).failures for proxy in self.proxies())
        return Map(item for one in found for item in one.items())

    def settled(self, clusters: Sequence[str], *, direct: bool = False) -> None:
        """Wait until the proxy that dials knows all of these clusters and the sidecar listens."""
        wanted = set(clusters)
        dialling, listening = [*self.envoys.values()][direct], [*self.envoys.values()][1]

        def known() -> bool:
            held = set(re.findall(r"^(.+?)::observability_name::", dialling.admin("/clusters"), re.MULTILINE))
            return wanted <= held

        eventually(known, f"{len(wanted)} clusters", 30)
        eventually(lambda: listening.listens("outbound/"), "the sidecar's listeners")

    def answered(self) -> None:
        """Wait until every Envoy has answered for what was shown last."""
        position, doubles = self.view.position, self.ads.values()
        eventually(lambda: all(one.stream.delivered == position for one in doubles), "every Envoy's answer", 40)

    def nacks(self) -> list[str]:
        """What either Envoy refused."""
        return [fault for double in self.ads.values() for fault in double.nacks]
