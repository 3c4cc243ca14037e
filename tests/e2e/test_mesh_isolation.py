"""One egress for all meshes: a workload reaches services of its own mesh and class, whatever it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shared.model.resource import ResourceKey
from tests.conftest import take_port
from tests.xds.envoys import eventually
from tests.xds.knocks import Workload, http1, http2
from tests.xds.loopback import MESH, LoopbackZone
from tests.xds.servers import Server, Servers
from zone_cp.view.zone_view import ExternalServiceView

pytestmark = pytest.mark.e2e

MESHES = ("default", "other")
ALPN = (("http/1.1",), ("h2",), ("mes-tcp",), ("kuma",), ("mes-tcp", "http/1.1"), ("h2", "mes-tcp"), ())


class World:
    """Two meshes with the same services each, and one egress."""

    def __init__(self, directory: Path, servers: Servers, *, on_demand: bool) -> None:
        self.port = take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(directory, dataplane, name="isolation", on_demand=on_demand)
        self.knock = Workload(self.zone, directory).knock
        self.zone.apply(MESH.replace("name: default", "name: other"))
        self.servers: dict[tuple[str, str], Server] = {}
        for mesh in MESHES:
            for protocol in ("http", "tcp"):
                server = self.servers[mesh, protocol] = servers.add(f"{mesh}-{protocol}")
                spec = {
                    "match": {"port": self.port, "protocol": protocol},
                    "endpoints": [{"address": "127.0.0.1", "port": server.port}],
                }
                whole = {"type": "MeshExternalService", "name": protocol, "mesh": mesh, "spec": spec}
                self.zone.apply(yaml.safe_dump(whole))
        self.zone.show()
        self.zone.settled([] if on_demand else [self.service(*one).cluster for one in self.servers])

    def service(self, mesh: str, protocol: str) -> ExternalServiceView:
        return self.zone.view.meshes[mesh].services[ResourceKey("MeshExternalService", mesh, protocol)]

    def seen(self) -> dict[tuple[str, str], int]:
        return {key: server.seen for key, server in self.servers.items()}


@pytest.fixture(scope="module", params=["eager", "on-demand"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("isolation"), servers, on_demand=request.param == "on-demand")
        try:
            for mesh in MESHES:
                sni = made.service(mesh, "http").sni
                eventually(lambda mesh=mesh, sni=sni: b" 200 " in made.knock(mesh, sni, ("http/1.1",), http1()), mesh)  # type: ignore[misc]
            yield made
        finally:
            made.zone.stop()
    assert made.zone.nacks() == []


@pytest.mark.parametrize("mesh", MESHES)
def test_each_mesh_reaches_its_own(world: World, mesh: str) -> None:
    """With its certificate, its SNI and the application protocol of the class: HTTP and TCP."""
    assert b" 200 " in world.knock(mesh, world.service(mesh, "http").sni, ("http/1.1",), http1())
    assert f'"{mesh}-tcp"'.encode() in world.knock(mesh, world.service(mesh, "tcp").sni, ("mes-tcp",), b"?\n")


@pytest.mark.parametrize("protocols", ALPN, ids="+".join)
@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_a_certificate_of_one_mesh_opens_nothing_of_another(
    world: World, protocol: str, protocols: tuple[str, ...]
) -> None:
    """The other mesh's SNI leads to a chain that trusts the other mesh's CA alone: the handshake fails."""
    before = world.seen()
    target = world.service("other", protocol)
    hostile = (f"x-zonal-cluster: {target.cluster}", f"x-zonal-sni: {target.sni}")
    for said in (http1(*hostile), http2(*hostile), b"?\n"):
        assert world.knock("default", target.sni, protocols, said) == b""
    assert world.seen() == before


@pytest.mark.parametrize("said", [http1, http2])
def test_headers_do_not_choose_the_destination(world: World, said: object) -> None:
    """On its own connection a client that names another's cluster, twice even, reaches its own."""
    before, target = world.seen(), world.service("other", "http")
    make = http1 if said is http1 else http2
    hostile = (f"x-zonal-cluster: {target.cluster}", f"x-zonal-cluster: {target.cluster}", f"x-zonal-sni: {target.sni}")
    protocols = ("http/1.1",) if said is http1 else ("h2",)
    assert b'"default-http"' in world.knock("default", world.service("default", "http").sni, protocols, make(*hostile))
    after = world.seen()
    assert after["default", "http"] == before["default", "http"] + 1
    assert {key: count for key, count in after.items() if key[0] == "other"} == {
        key: count for key, count in before.items() if key[0] == "other"
    }


def test_no_name_leads_out_of_mesh_and_class(world: World) -> None:
    """Names that are built to confuse suffixes, prefixes and classes reach nobody."""
    before = world.seen()
    mine, theirs = world.service("default", "http").sni, world.service("other", "http").sni
    tcp = world.service("default", "tcp").sni
    for sni in (
        f"{theirs}.default.mes",
        f"mes/http/other/{theirs}".replace("/", "-"),
        f"x.{mine}",
        theirs.removesuffix(".other.mes") + ".default.mes",
        mine.replace(".default.mes", ".other.default.mes"),
        "default.mes",
        tcp,
    ):
        answer = world.knock("default", sni, ("http/1.1",), http1())
        assert b" 200 " not in answer, (sni, answer)
    assert world.knock("default", mine, ("mes-tcp",), b"?\n") == b""
    assert world.seen() == before


def test_case_does_not_matter(world: World) -> None:
    """Names are compared in lower case: another spelling of the other mesh is the other mesh, and stays shut."""
    assert world.knock("default", world.service("other", "http").sni.upper(), ("http/1.1",), http1()) == b""
