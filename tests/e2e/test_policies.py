"""What policies do to traffic: a zone from manifests, two real Envoys, real servers outside."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shared.model.resource import ResourceKey
from tests.e2e.governed import Held, World, both_worlds, service
from tests.xds.clients import http1
from tests.xds.envoys import eventually
from tests.xds.servers import while_busy

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with both_worlds(tmp_path_factory) as made:
        yield made


@pytest.fixture(params=["egress", "sidecar"])
def world(worlds: dict[str, World], request: pytest.FixtureRequest) -> Iterator[World]:
    """Through the zone egress, and in direct mode."""
    world = worlds[request.param]
    yield world
    for server in world.servers.values():
        server.status, server.seen = 200, 0
    assert world.zone.nacks() == []


@pytest.fixture
def held(world: World) -> Iterator[Any]:
    with ExitStack() as stack:

        def hold(name: str) -> Held:
            made = Held(world.vip(name), world.port)
            stack.callback(made.close)
            return made

        yield hold


def test_a_request_timeout_holds_for_the_service_it_names(world: World, held: Any) -> None:
    """MeshTimeout http.requestTimeout: 504 in time, others as before, and an open connection is not drained."""
    connection = held("slow")
    assert connection.get("/slow/0.6") == 200
    with world.policy("MeshTimeout", "slow", {"http": {"requestTimeout": "200ms"}}):
        eventually(lambda: connection.get("/slow/0.6") == 504, "a timeout on the connection that was open")
        assert world.get("other", "/slow/0.6").status == 200
        assert connection.get() == 200
    eventually(lambda: connection.get("/slow/0.6") == 200, "no timeout without the policy")


def test_the_more_specific_timeout_wins_over_the_meshs(world: World) -> None:
    """`to: Mesh` holds for every service, and what is said about one of them is merged over it."""
    with (
        world.policy("MeshTimeout", "", {"http": {"requestTimeout": "200ms"}}),
        world.policy("MeshTimeout", "other", {"http": {"requestTimeout": "10s"}}),
    ):
        eventually(lambda: world.get("slow", "/slow/0.6").status == 504, "the mesh's timeout")
        assert world.get("other", "/slow/0.6").status == 200


def test_a_policy_for_other_proxies_changes_nothing_here(world: World) -> None:
    """The top-level targetRef selects the proxies that obey."""
    with world.policy(
        "MeshTimeout",
        "slow",
        {"http": {"requestTimeout": "100ms"}},
        targetRef={"kind": "MeshService", "name": "somebody-else"},
    ):
        before = world.zone.view.meshes["default"].policies
        assert len(before.rules) == 1
        assert world.get("slow", "/slow/0.4").status == 200


def test_an_idle_tcp_connection_is_closed_in_time(world: World, held: Any) -> None:
    """MeshTimeout idleTimeout for one TCP service; connections to others stay open through the change."""
    other = held("quiet")
    assert other.talk()
    with world.policy("MeshTimeout", "lines", {"idleTimeout": "300ms"}):

        def idles_out() -> bool:
            connection = held("lines")
            return bool(connection.talk() and connection.closed_within(1.5))

        eventually(idles_out, "an idle connection that is closed")
        assert other.talk()


def test_a_connection_that_does_not_come_about_is_given_up(world: World) -> None:
    """MeshTimeout connectionTimeout holds where the outside is dialled; without it this takes five seconds."""
    with socket.socket() as deaf, ExitStack() as stack:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        lost = service("lost", world.port, deaf.getsockname()[1])
        with world.applied(lost), world.policy("MeshTimeout", "lost", {"connectionTimeout": "150ms"}):
            eventually(lambda: world.get("lost").status == 503, "a 503")
            start = time.monotonic()
            assert "lost" in world.get("lost").body
            assert time.monotonic() - start < 4


def test_what_a_retry_names_is_tried_again_that_often(world: World) -> None:
    """MeshRetry: 1 + numRetries attempts for the statuses named; without a policy an answer is an answer."""
    slow = world.servers["slow"]
    slow.status = 418

    def attempts() -> int:
        before = slow.seen
        assert world.get("slow").status == 418
        return slow.seen - before

    assert attempts() == 1
    fast = {"baseInterval": "1ms", "maxInterval": "2ms"}
    with world.policy("MeshRetry", "slow", {"http": {"numRetries": 3, "retryOn": ["418"], "backOff": fast}}):
        eventually(lambda: attempts() == 4, "four attempts")
        world.servers["other"].status = 418
        world.get("other")
        assert world.servers["other"].seen == 1


def test_retries_can_be_switched_off(world: World) -> None:
    """numRetries 0 for one service switches off what the mesh asks for; retryOn is merged in from the mesh's."""
    slow = world.servers["slow"]
    slow.status = world.servers["other"].status = 500

    def attempts(name: str) -> int:
        before = world.servers[name].seen
        world.get(name)
        return world.servers[name].seen - before

    with world.policy("MeshRetry", "", {"http": {"numRetries": 2, "retryOn": ["5xx"]}}):
        eventually(lambda: attempts("slow") == 3, "three attempts")
        with world.policy("MeshRetry", "slow", {"http": {"numRetries": 0}}):
            eventually(lambda: attempts("slow") == 1, "one attempt")
            assert attempts("other") == 3


def test_a_limit_sheds_what_is_too_much(world: World) -> None:
    """MeshCircuitBreaker connectionLimits: the third of three requests at once is refused, others' are not."""

    async def three(name: str) -> list[int]:
        asked = (http1(world.vip(name), world.port, "/slow/0.5") for _ in range(3))
        return sorted(answer.status for answer in await asyncio.gather(*asked))

    assert asyncio.run(three("slow")) == [200, 200, 200]
    limits = {"maxConnections": 1, "maxPendingRequests": 1, "maxRequests": 1}
    with world.policy("MeshCircuitBreaker", "slow", {"connectionLimits": limits}):
        eventually(lambda: 503 in asyncio.run(three("slow")), "a request that is refused")
        assert asyncio.run(three("other")) == [200, 200, 200]


def test_an_endpoint_that_fails_is_ejected(world: World) -> None:
    """MeshCircuitBreaker outlierDetection: after two failures in a row the endpoint is left alone for a while."""
    detection = {
        "interval": "100ms",
        "baseEjectionTime": "1s",
        "maxEjectionPercent": 100,
        "healthyPanicThreshold": 0,
        "detectors": {"totalFailures": {"consecutive": 2}},
    }
    slow = world.servers["slow"]
    with world.policy("MeshCircuitBreaker", "slow", {"outlierDetection": detection}):
        slow.status = 500
        eventually(lambda: "none of its endpoints" in world.get("slow").body, "an ejected endpoint")
        slow.status = 200
        eventually(lambda: world.get("slow").status == 200, "an endpoint that is back")


def test_a_clients_proxy_writes_who_called_what(world: World, tmp_path: Path) -> None:
    """MeshAccessLog to a file, plain and JSON, for one service; Kuma's placeholders are filled in."""
    plain, fields, all_of_them = (tmp_path / name for name in ("plain.log", "fields.log", "all.log"))
    json_format = [
        {"key": "to", "value": "%KUMA_DESTINATION_SERVICE%"},
        {"key": "code", "value": "%RESPONSE_CODE%"},
        {"key": "mesh", "value": "%KUMA_MESH%"},
    ]
    text = "%KUMA_SOURCE_SERVICE% > %KUMA_DESTINATION_SERVICE% %REQ(:PATH)%"
    backends = [
        {"type": "File", "file": {"path": str(plain), "format": {"type": "Plain", "plain": text}}},
        {"type": "File", "file": {"path": str(fields), "format": {"type": "Json", "json": json_format}}},
    ]
    everything = {"backends": [{"type": "File", "file": {"path": str(all_of_them)}}]}

    def lines(path: Path, name: str = "slow", query: str = "/called") -> list[str]:
        world.get(name, query)
        return path.read_text().splitlines() if path.exists() else []

    with world.policy("MeshAccessLog", "slow", {"backends": backends}):
        eventually(lambda: lines(plain), "a line")
        assert set(lines(plain)) == {"web > slow /called"}
        first = eventually(lambda: lines(fields), "a line of fields")[0]
        assert json.loads(first) == {"to": "slow", "code": 200, "mesh": "default"}
        world.get("other", "/elsewhere")
        eventually(lambda: any("/after" in line for line in lines(plain, query="/after")), "a line that is later")
        assert not any("elsewhere" in line for line in lines(plain))
    with world.policy("MeshAccessLog", "", everything):
        eventually(lambda: lines(all_of_them, "other", "/any"), "a line about any service")
        world.talk("lines")
        eventually(lambda: any("/any" not in line for line in lines(all_of_them, "other", "/any")), "a line about TCP")


FAST = {"interval": "100ms", "noTrafficInterval": "100ms", "timeout": "1s", "unhealthyThreshold": 1}


def test_an_endpoint_that_is_not_well_gets_no_traffic(world: World) -> None:
    """MeshHealthCheck over HTTP: who does not answer as expected is left alone until it does."""
    slow = world.servers["slow"]
    check = FAST | {"healthyPanicThreshold": 0, "http": {"path": "/"}}
    with world.policy("MeshHealthCheck", "slow", check):
        seen = slow.seen
        eventually(lambda: slow.seen > seen + 2, "checks")
        assert world.get("slow").status == 200
        slow.status = 500
        eventually(lambda: "none of its endpoints" in world.get("slow").body, "an endpoint that is left alone")
        slow.status = 200
        eventually(lambda: world.get("slow").status == 200, "an endpoint that is well again")


def test_tcp_is_checked_by_what_is_sent_and_received(world: World) -> None:
    """MeshHealthCheck over TCP: `send` and `receive` are base64 of bytes, and an answer must hold what is expected."""
    good, bad = (
        {"send": b64encode(b"ping\n").decode(), "receive": [b64encode(one).decode()]} for one in (b"ping", b"no")
    )
    with world.policy("MeshHealthCheck", "lines", FAST | {"healthyPanicThreshold": 0, "tcp": bad}):
        eventually(lambda: world.talk("lines").status == 0, "an endpoint that is left alone")
        assert world.talk("quiet").status == 200
    with world.policy("MeshHealthCheck", "lines", FAST | {"healthyPanicThreshold": 0, "tcp": good}):
        eventually(lambda: world.talk("lines").status == 200, "an endpoint that is well")


def test_the_endpoint_with_the_fewest_requests_is_chosen(world: World) -> None:
    """MeshLoadBalancingStrategy LeastRequest: an endpoint that is busy gets nothing while another is free."""
    ends = [world.servers[name].port for name in ("slow", "other")]
    both = service("slow", world.port, ends[0]).replace("}]", f"}}, {{address: 127.0.0.1, port: {ends[1]}}}]", 1)
    strategy = {"loadBalancer": {"type": "LeastRequest", "leastRequest": {"choiceCount": 10}}}

    def busy() -> set[str]:
        return asyncio.run(while_busy(partial(http1, world.vip("slow"), world.port), world.servers.values()))

    try:
        world.zone.apply(both)
        world.zone.show()
        eventually(lambda: busy() == {"slow", "other"}, "both endpoints by turns")
        with world.policy("MeshLoadBalancingStrategy", "slow", strategy):
            eventually(lambda: len(busy()) == 1, "the endpoint that is free")
    finally:
        world.zone.apply(service("slow", world.port, ends[0]))
        world.zone.show()


def permission(name: str, service: str, **rules: list[tuple[str, str]]) -> str:
    conf = {verb: [{"spiffeID": {"type": kind, "value": value}} for kind, value in ids] for verb, ids in rules.items()}
    spec = {"targetRef": {"kind": "MeshExternalService", "name": service}, "rules": [{"default": conf}]}
    return f"{{type: MeshTrafficPermission, name: {name}, mesh: default, spec: {json.dumps(spec)}}}"


WEB = ("Exact", "spiffe://default/web")
EVERYBODY = ("Prefix", "spiffe://default/")


def test_a_permission_denies_by_identity_and_drains_nothing(world: World, held: Any) -> None:
    """MeshTrafficPermission on HTTP: 403 with a reason while the identity is denied, on the connection that is open."""
    connection, other = held("slow"), held("other")
    assert (connection.get(), other.get()) == (200, 200)
    with world.applied(permission("a", "slow", allow=[EVERYBODY], deny=[WEB])):
        eventually(lambda: connection.get() == 403, "a refusal")
        refused = "access to this service is denied: {}\n"
        denies = "a MeshTrafficPermission denies this workload the use of this MeshExternalService"
        assert world.get("slow").body in {  # the egress's words, and a sidecar's
            refused.format("rbac_access_denied_matched_policy[" + denies.replace(" ", "_") + "]"),
            refused.format("no MeshTrafficPermission allows this workload to use this MeshExternalService"),
        }
        assert other.get() == 200
        seen = world.servers["slow"].seen
        assert world.get("slow").status == 403
        assert world.servers["slow"].seen == seen
    eventually(lambda: connection.get() == 200, "the end of the refusal, on the same connection")


def test_who_is_allowed_passes_and_who_is_not_named_does_not(world: World) -> None:
    """A guarded service is open to those it allows, and to nobody else."""
    with world.applied(permission("a", "slow", allow=[("Exact", "spiffe://default/somebody-else")])):
        eventually(lambda: world.get("slow").status == 403, "a refusal")
        with world.applied(permission("b", "slow", allow=[WEB])):
            eventually(lambda: world.get("slow").status == 200, "a permission")


def test_tcp_is_closed_to_who_is_denied(world: World) -> None:
    """No line comes back, and other TCP services are as before."""
    with world.applied(permission("a", "lines", allow=[EVERYBODY], deny=[WEB])):
        eventually(lambda: world.talk("lines").status == 0, "a closed connection")
        assert world.talk("quiet").status == 200
    eventually(lambda: world.talk("lines").status == 200, "an echo")


def test_a_permission_opens_what_the_mesh_forbids(world: World, held: Any) -> None:
    """defaultForbidMeshExternalServiceAccess is the default; a permission on a service says otherwise for it."""
    connection = held("slow")
    assert connection.get() == 200
    mesh = world.mesh
    forbidding = mesh.rstrip() + "\nrouting: {defaultForbidMeshExternalServiceAccess: true}\n"
    try:
        world.zone.apply(forbidding, permission("a", "slow", allow=[WEB]), permission("b", "lines", allow=[WEB]))
        world.zone.show()
        eventually(lambda: world.get("other").status == 403, "a refusal")
        assert "forbids" in world.get("other").body
        eventually(lambda: world.talk("quiet").status == 0, "a closed connection")
        assert connection.get() == 200
        assert world.talk("lines").status == 200
    finally:
        world.zone.apply(mesh)
        for name in "ab":
            world.delete(ResourceKey("MeshTrafficPermission", "default", name))
        eventually(lambda: world.get("other").status == 200, "an answer")
