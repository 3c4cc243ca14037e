"""In-mesh services as Envoy is told about them."""

from __future__ import annotations

from typing import Any

import pytest
from immutables import Map

from shared.events.event import EventRef
from shared.model.inbound import Inbound
from shared.model.policy import (
    BreakerConf,
    ConnectionLimits,
    HttpRetry,
    HttpTimeouts,
    RetryConf,
    TimeoutConf,
)
from shared.model.resource import Outbound, Protocol, ResourceKey
from shared.model.target import TargetRef
from tests.xds.views import Secrets, mesh_view, sidecar, zone_view
from zone_cp.view.policies import NOTHING_SAID, MeshPolicies, Rule
from zone_cp.view.workloads import Instance, Workloads, WorkloadService
from zone_cp.view.zone_view import MeshView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.in_mesh import Destination, destination, in_mesh_resources
from zone_cp.xds.inspect import plain
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, Snapshot

SECRETS = Secrets()
NAME = "service/default/backend"


def instance(number: int, *, idle: str = "", version: str = "v1", protocol: Protocol = "http") -> Instance:
    tags = Map({"kuma.io/service": "backend", "version": version})
    return Instance(
        dataplane=f"b-{number}",
        address=f"10.0.0.{number}",
        port=8080,
        zone="east",
        tags=tags,
        protocol=protocol,
        guarded=True,
        idle=idle,
        sources=(EventRef("east", 20 + number),),
    )


def serving(*instances: Instance, protocol: Protocol = "http", **settings: Any) -> MeshView:
    found: Map[tuple[str, int], Instance] = Map({(one.dataplane, 0): one for one in instances})
    return mesh_view(workloads=Workloads(Map({"backend": WorkloadService("backend", protocol, found)})), **settings)


def compiled(mesh: MeshView, **tags: str) -> Snapshot:
    outbound = Outbound(port=10001, tags=Map({"kuma.io/service": "backend", **tags}))
    return compile_proxy(zone_view(mesh), sidecar(outbound=(outbound,)), SECRETS)


def hosts(mesh: MeshView, name: str = NAME, **tags: str) -> list[str]:
    """Addresses in the assignment."""
    found = plain(compiled(mesh, **tags))["ClusterLoadAssignment"][name]
    localities = found.get("endpoints", [])
    assert all(one["locality"] == {"zone": "east"} for one in localities)
    assert [one["load_balancing_weight"] for one in localities] == [len(one["lb_endpoints"]) for one in localities]
    return [
        each["endpoint"]["address"]["socket_address"]["address"] for one in localities for each in one["lb_endpoints"]
    ]


def test_ready_instances_are_endpoints() -> None:
    """Each weighs one; who is not ready is left out; tags choose a subset with a cluster of its own."""
    mesh = serving(instance(1), instance(2, version="v2"), instance(3, idle="its proxy is not connected"))
    assert hosts(mesh) == ["10.0.0.1", "10.0.0.2"]
    assert hosts(mesh, f"{NAME}{{version=v2}}", version="v2") == ["10.0.0.2"]
    assert hosts(serving(instance(1, idle="x"))) == []
    assert hosts(mesh_view()) == []


def test_who_comes_and_goes_changes_endpoints_alone() -> None:
    """The same bytes of every other resource, be it the last instance that went."""
    before = compiled(serving(instance(1), instance(2)))
    for mesh in (serving(instance(1), instance(2, idle="x")), serving(instance(1, idle="x"), instance(2, idle="x"))):
        after = compiled(mesh)
        changed = {
            (type_url, name)
            for type_url, resources in after.resources.items()
            for name, one in resources.items()
            if one.version != before.resources[type_url][name].version
        }
        assert changed == {(ENDPOINT, NAME)}


def test_equal_endpoints_are_encoded_once() -> None:
    """Two views that share a service share its bytes."""
    mesh = serving(instance(1))
    one, other = (compiled(mesh).resources[ENDPOINT][NAME] for _ in range(2))
    assert one is other


def test_a_cluster_asks_for_the_service_by_its_spiffe_id() -> None:
    """Mutual TLS with Kuma's SNI and ALPN; without mTLS in the mesh, and for who holds no certificate, plaintext."""
    mesh = serving(instance(1))
    socket = plain(compiled(mesh))["Cluster"][NAME]["transport_socket"]["typed_config"]
    common = socket["common_tls_context"]
    wanted = common["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
    assert wanted == [{"san_type": "URI", "matcher": {"exact": "spiffe://default/backend"}}]
    assert (socket["sni"], common["alpn_protocols"]) == ("backend{mesh=default}", ["kuma"])
    assert "transport_socket" not in plain(compiled(serving(instance(1), mtls=False)))["Cluster"][NAME]
    bare = {one.type_url: one for one in in_mesh_resources(mesh, Destination("backend"), NOTHING_SAID, plain=True)}
    assert b"spiffe" not in bare[CLUSTER].body


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "tcp"])
def test_an_outbound_speaks_its_service_s_protocol(protocol: Protocol) -> None:
    """HTTP: routes over RDS with Kuma's default timeouts and retries; TCP: a proxy to the cluster."""
    found = plain(compiled(serving(instance(1, protocol=protocol), protocol=protocol)))
    (chain,) = found["Listener"]["outbound/127.0.0.1:10001"]["filter_chains"]
    (only,) = [one["typed_config"] for one in chain["filters"]]
    if protocol == "tcp":
        assert (only["cluster"], only["max_connect_attempts"]) == (NAME, 5)
        assert NAME not in found["RouteConfiguration"]
        return
    assert only["rds"]["route_config_name"] == NAME
    (host,) = found["RouteConfiguration"][NAME]["virtual_hosts"]
    action = host["routes"][0]["route"]
    assert (action["cluster"], action["timeout"], action["idle_timeout"]) == (NAME, "15s", "1800s")
    retry = action["retry_policy"]
    assert retry["num_retries"] == 5
    assert ("unavailable" in retry["retry_on"]) is (protocol == "grpc")
    assert retry.get("per_try_timeout") == (None if protocol == "grpc" else "16s")
    assert "connect-failure" in retry["retry_on"]


def test_an_inbound_speaks_its_application_s_protocol() -> None:
    """HTTP tells the application who calls, and by nobody else's word; every inbound has a cluster of its own."""
    tags = Map({"kuma.io/service": "web"})
    inbound = (
        Inbound(port=8000, service_port=9000, tags=tags.set("kuma.io/protocol", "grpc")),
        Inbound(port=8001, service_port=9000, tags=tags),
        Inbound(port=8002, service_port=9000, tags=tags, state="Ignored"),
    )
    found = plain(compile_proxy(zone_view(mesh_view()), sidecar(inbound=inbound), SECRETS))
    (chain,) = found["Listener"]["inbound/127.0.0.1:8000"]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
    assert manager["set_current_client_cert_details"] == {"uri": True}
    action = found["RouteConfiguration"]["inbound/127.0.0.1:8000"]["virtual_hosts"][0]["routes"][0]["route"]
    assert (action["cluster"], action["timeout"]) == ("inbound/127.0.0.1:8000", "0s")
    assert "typed_extension_protocol_options" in found["Cluster"]["inbound/127.0.0.1:8000"]
    assert "typed_extension_protocol_options" not in found["Cluster"]["inbound/127.0.0.1:8001"]
    assert "inbound/127.0.0.1:8002" not in found["Listener"]


def test_tags_are_a_destination() -> None:
    """Order does not matter; without the service's tag there is none."""
    tags = Map({"version": "v1", "kuma.io/service": "backend", "env": "dev"})
    assert destination(tags).cluster("m") == "service/m/backend{env=dev,version=v1}"
    with pytest.raises(KeyError):
        destination(Map({"version": "v1"}))


def test_policies_on_the_whole_mesh_hold_for_in_mesh_traffic() -> None:
    """`to: Mesh`: timeouts in cluster and route, retries in the route, limits in the cluster."""
    everybody, source = TargetRef(kind="Mesh"), EventRef("global", 9)
    confs = (
        TimeoutConf(connection_timeout="7s", http=HttpTimeouts(request_timeout="3s")),
        RetryConf(http=HttpRetry(num_retries=2)),
        BreakerConf(connection_limits=ConnectionLimits(max_connections=5)),
    )
    rules = tuple(
        Rule(everybody, everybody, "", conf, source, ResourceKey("MeshTimeout", "default", "p")) for conf in confs
    )
    found = compiled(serving(instance(1), policies=MeshPolicies(rules)))
    cluster = plain(found)["Cluster"][NAME]
    action = plain(found)["RouteConfiguration"][NAME]["virtual_hosts"][0]["routes"][0]["route"]
    assert (cluster["connect_timeout"], cluster["circuit_breakers"]["thresholds"][0]["max_connections"]) == ("7s", 5)
    assert (action["timeout"], action["retry_policy"]["num_retries"]) == ("3s", 2)
    assert source in found.resources[CLUSTER][NAME].sources
