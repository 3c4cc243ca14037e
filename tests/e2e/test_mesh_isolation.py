"""One egress for all meshes: a workload reaches services of its own mesh and class, whatever it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from shared.events.decide import Apply, Rejected, decide_write
from shared.model.resource import ResourceKey
from tests.conftest import take_port
from tests.xds.envoys import eventually
from tests.xds.knocks import Workload, http1, http2
from tests.xds.loopback import MESH, LoopbackZone, read
from tests.xds.servers import Server, Servers
from zone_cp.view.zone_view import ExternalServiceView

pytestmark = pytest.mark.e2e

MESHES = ("default", "b")
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
        self.zone.apply(MESH.replace("name: default", "name: b"))
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
    target = world.service("b", protocol)
    hostile = (f"x-zonal-cluster: {target.cluster}", f"x-zonal-sni: {target.sni}")
    for said in (http1(*hostile), http2(*hostile), b"?\n"):
        assert world.knock("default", target.sni, protocols, said) == b""
    assert world.seen() == before


@pytest.mark.parametrize("said", [http1, http2])
def test_headers_do_not_choose_the_destination(world: World, said: object) -> None:
    """On its own connection a client that names another's cluster, twice even, reaches its own."""
    before, target = world.seen(), world.service("b", "http")
    make = http1 if said is http1 else http2
    hostile = (f"x-zonal-cluster: {target.cluster}", f"x-zonal-cluster: {target.cluster}", f"x-zonal-sni: {target.sni}")
    protocols = ("http/1.1",) if said is http1 else ("h2",)
    assert b'"default-http"' in world.knock("default", world.service("default", "http").sni, protocols, make(*hostile))
    after = world.seen()
    assert after["default", "http"] == before["default", "http"] + 1
    assert {key: count for key, count in after.items() if key[0] == "b"} == {
        key: count for key, count in before.items() if key[0] == "b"
    }


def hostile_names(world: World) -> list[str]:
    """Names of everything an egress has, and names that are built to confuse suffixes, prefixes and classes."""
    mine, theirs = world.service("default", "http"), world.service("b", "http")
    stem = theirs.sni.removesuffix(".b.mes")
    return [
        "ads",
        "mes/nobody",
        "egress-http",
        mine.cluster,
        theirs.cluster,
        f"x/../../b/{theirs.sni}",
        theirs.sni,
        f"{theirs.sni}.default.mes",
        f"{stem}.default.mes",
        f"{stem}.a.b.mes",
        f"{stem}.b.mes.",
        f"{mine.sni}.",
        f"{mine.sni}..",
        f"x.{mine.sni}",
        mine.sni.replace(".default.mes", ".b.default.mes"),
        mine.sni.replace(".default.mes", "..default.mes"),
        f"{mine.sni}\n",
        f"%DYNAMIC_METADATA(x)%.{mine.sni}",
        f"*.{mine.sni}",
        "*.default.mes",
        "default.mes",
        f"{'x' * (255 - len(mine.sni) - 1)}.{mine.sni}",
    ]


def test_no_name_leads_out_of_mesh_and_class(world: World) -> None:
    """Each of them reaches nobody in either class, and is asked of no control plane."""
    before, ads = world.seen(), world.zone.ads["isolation-egress"]
    heard = len(ads.heard)
    for sni in (*hostile_names(world), world.service("default", "tcp").sni):
        for said in (http1(), http1(f"x-vip: {world.service('b', 'http').sni}")):
            answer = world.knock("default", sni, ("http/1.1",), said)
            assert b" 200 " not in answer, (sni, answer)
    for sni in (*hostile_names(world), world.service("default", "http").sni):
        assert world.knock("default", sni, ("mes-tcp",), b"?\n") == b"", sni
    assert world.seen() == before
    assert [name for one in ads.heard[heard:] for name in one.resource_names_subscribe] == []


def test_the_name_of_a_mesh_is_one_label(world: World) -> None:
    """Else the suffix of one mesh could be the suffix of another: beside `b` there is no `a.b`."""
    resources = [Apply(one) for one in read(MESH.replace("name: default", "name: a.b"))]
    refused = decide_write(resources, world.zone.hub.state)
    assert isinstance(refused, Rejected)
    assert [one.path for one in refused.refusals] == ["name"]


def test_case_does_not_matter(world: World) -> None:
    """Names are compared in lower case: another spelling of the other mesh is the other mesh, and stays shut."""
    mine = world.service("default", "http").sni
    assert b" 200 " in world.knock("default", mine.upper(), ("http/1.1",), http1())
    assert world.knock("default", world.service("b", "http").sni.upper(), ("http/1.1",), http1()) == b""
