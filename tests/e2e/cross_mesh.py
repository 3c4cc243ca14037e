"""Run in a network namespace of its own (`test_cross_mesh_netns.py`): cross-mesh listeners and a redirected sidecar.

The application is another user than the Envoys; it connects to VIPs, and the sidecar's one listener takes it to the
gateway of another mesh, which answers by itself that it has no route.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - the application's user may not be able to read it when it is needed
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shared.events.event import ProxyConnected
from shared.model.resource import Resource, ResourceKey
from tests.builders import LogBuilder, ZoneBuilder, applied, gateway, mesh, resource
from tests.conftest import take_port
from tests.e2e.legacy import get
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.servers import Servers
from tests.xds.views import Secrets
from zone_cp.agent.redirect import Redirect, install
from zone_cp.view.project import project, proxy_view
from zone_cp.xds.compile import compile_proxy

VIPS = "240.0.0.0/8"
OUTSIDE = "198.51.100.10"
GATEWAY = "127.0.0.2"
OPEN, OTHER = 8080, 8081
INTERNAL = "internal.edge.payments.mesh"


class World:
    """A gateway of mesh payments and a redirected sidecar of mesh web, in one zone."""

    def __init__(self, directory: Path) -> None:
        self.hub, self.zone, self.secrets = LogBuilder(), ZoneBuilder(legacy=VIPS), Secrets()
        self.port = take_port()
        self.hub.append(applied(mesh("payments")), applied(mesh("web")))
        self.zone.follow(self.hub)
        builtin = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}}
        self.join("payments", "edge", {"address": GATEWAY, "gateway": builtin})
        redirect = {"redirectPortOutbound": self.port}
        self.join("web", "client", {"address": "127.0.0.1", "transparentProxying": redirect}, "redirect")
        ads = {name: take_port() for name in ("payments.edge", "web.client")}
        self.ads = {name: DeltaServer(port) for name, port in ads.items()}
        self.envoys = [Envoy(directory, name, take_port(), port) for name, port in ads.items()]

    def join(self, in_mesh: str, name: str, networking: dict[str, Any], *features: str) -> None:
        """A Dataplane whose proxy is connected."""
        one = resource(type="Dataplane", mesh=in_mesh, name=name, networking=networking)
        self.zone.write(applied(one, "east"))
        key = ResourceKey("Dataplane", in_mesh, name, "east")
        self.zone.write(ProxyConnected(proxy=f"{in_mesh}.{name}", key=key, connection="1", features=features))

    def show(self, *resources: Resource) -> None:
        """Apply these, and offer what follows to both proxies."""
        self.hub.append(*(applied(one) for one in resources))
        self.zone.follow(self.hub)
        view = project(self.zone.state)
        for name, ads in self.ads.items():
            known = proxy_view(self.zone.state, name)
            assert known is not None
            ads.offer(compile_proxy(view, known, self.secrets))

    def vip(self, hostname: str) -> str:
        """Its address in mesh web."""
        found = self.zone.vip(ResourceKey("MeshGateway", "web", f"payments/edge:{hostname}"))
        assert found is not None
        return found

    def stop(self) -> None:
        """End the Envoys and their ADS servers."""
        for envoy in self.envoys:
            envoy.stop()
        for double in self.ads.values():
            double.stop()


def edge(*ports: tuple[int, str]) -> Resource:
    """The MeshGateway, with these cross-mesh listeners."""
    found = [{"port": port, "protocol": "HTTP", "hostname": host, "crossMesh": True} for port, host in ports]
    return gateway("edge", "edge-gateway", *found, mesh="payments")


def reached(vip: str, port: int) -> bool:
    """Whether the gateway answers: that no route matches."""
    status, said = get(vip, port)
    return status == 404 and "Zonal MeshGateway" in said.get("body", "")


def story(world: World) -> None:
    """Two ports of one name and another name; what is declared nowhere is let out meanwhile, also by a matcher."""
    world.show(edge((OPEN, ""), (OTHER, ""), (OPEN, "a.example.com")))
    vip, other = world.vip(INTERNAL), world.vip("a.example.com")
    for where in ((vip, OPEN), (vip, OTHER)):
        eventually(lambda where=where: reached(*where), f"the gateway at {where}", 30)  # type: ignore[misc]
    status, said = get(vip, 8082)
    assert (status, "has no cross-mesh listener at" in said["body"]) == (503, True), said
    eventually(lambda: reached(other, OPEN), "the gateway by its other name", 30)
    assert get(OUTSIDE, 80)[0] == 200
    entry = {"type": "IP", "value": OUTSIDE, "port": 80, "protocol": "tcp"}
    spec = {"targetRef": {"kind": "Mesh"}, "default": {"passthroughMode": "Matched", "appendMatch": [entry]}}
    world.show(resource(type="MeshPassthrough", mesh="web", name="only", spec=spec))
    eventually(lambda: get(OUTSIDE, 81)[0] == 0, "what no entry lets out is blocked", 30)
    assert get(OUTSIDE, 80)[0] == 200
    assert reached(vip, OPEN)
    world.show(edge((OPEN, "")))
    eventually(lambda: get(other, OPEN)[0] == 0, "nobody at the other name's address", 30)
    assert reached(vip, OPEN)
    sys.stderr.write(json.dumps({"vip": vip, "other": other}))


def main() -> None:
    """Every step of the story; an error ends it."""
    for command in ("ip link set lo up", f"ip addr add {OUTSIDE}/32 dev lo", f"ip route add {VIPS} dev lo"):
        subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory() as directory, Servers() as servers:
        for port in (80, 81):
            servers.add(f"outside-{port}", host=OUTSIDE, port=port)
        world = World(Path(directory))
        try:
            install(Redirect(proxy_uid=0, outbound_port=world.port, dns_port=take_port()), "nft")
            story(world)
            assert [one.nacks for one in world.ads.values()] == [[], []]
        finally:
            world.stop()


if __name__ == "__main__":
    main()
