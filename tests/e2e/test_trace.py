"""`zonal trace` and `--wait` on two zones with real Envoys: when a change has arrived, and who is missing otherwise."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from shared.demo.looking import eventually
from shared.demo.narration import Narrator
from shared.demo.placement import ZONES
from shared.demo.story import Story
from shared.demo.system import System
from tests.e2e.living import WITHIN_SECONDS, Living

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 26_900
MANY = 12
SIDECAR, EGRESS = "default.app", ".egress"
LATE, NO_USE = 5, 1
"""Exit codes: not in time; waiting does not help."""


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Two zones with the demo's resources ready."""
    async with Living(tmp_path_factory.mktemp("trace"), BASE_PORT) as made:
        made.prepare()
        await made.start_control_planes()
        await made.start_proxies()
        await Story(made, Narrator("json")).prologue()
        yield made


def service(name: str, port: int = 8080) -> dict[str, Any]:
    match = {"type": "HostnameGenerator", "port": port, "protocol": "http"}
    spec = {"match": match, "endpoints": [{"address": "127.0.0.1", "port": 9}]}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}


async def applied(system: System, *resources: dict[str, Any], wait: str = "--wait") -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON that is printed, stderr."""
    file = system.write("trace.yaml", "\n---\n".join(json.dumps(one) for one in resources))
    code, out, err = await system.cli("apply", "-f", str(file), wait, "--timeout", "30", "-o", "json")
    return code, json.loads(out), err


async def clusters(system: System, zone: str) -> int:
    """How many the Envoy of the zone's egress has."""
    told = await system.admin(zone, system.egress_admin(zone), "/clusters")
    return told.text.count("::observability_name::")


async def test_apply_returns_when_every_proxy_has_it(system: System) -> None:
    """Right after `apply --wait` the egresses of both zones have the clusters; the trace tells the steps in order."""
    before = {zone: await clusters(system, zone) for zone in ZONES}
    code, told, err = await applied(system, *(service(f"many-{number}") for number in range(MANY)))
    assert code == 0, err
    for zone in ZONES:
        assert await clusters(system, zone) == before[zone] + MANY
    trace = told["trace"]
    assert (trace["missing"], trace["n"]) == ([], told["sequence"])
    for zone in trace["zones"]:
        assert (zone["state"], zone["online"]) == ("delivered", 2)
        push = zone["push"]
        times = [trace["event"]["time"], zone["seenAt"], push["offeredAt"], push["sentFirst"], push["ackedFirst"]]
        assert [*times, push["ackedLast"]] == sorted([*times, push["ackedLast"]])
        assert EGRESS in push["names"]
        assert "Cluster" in {one["type"] for one in push["types"]}
    assert "east: delivered" in err.splitlines()

    code, out, _ = await system.cli("trace", str(told["sequence"]))
    assert code == 0
    assert out.count("delivered: all of 2 online proxies have it") == len(ZONES)
    code, out, _ = await system.cli("trace", "east:1", "--wait")
    assert (code, out.startswith("event east:1  ")) == (0, True)


async def test_a_proxy_that_refuses_is_missing(system: System) -> None:
    """A port that is taken on the host: both sidecars say so, and are named with what they said. A deletion arrives."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        code, told, err = await applied(system, service("taken", taken.getsockname()[1]))
    assert code == NO_USE, err
    assert {
        (zone["zone"], one["proxy"], one["state"]) for zone in told["trace"]["zones"] for one in zone["missing"]
    } == {(zone, SIDECAR, "refused") for zone in ZONES}
    assert f"east: {SIDECAR} refused (Listener outbound/" in err
    assert "cannot bind" in err
    code, out, err = await system.cli("delete", "mes", "taken", "--wait", "--timeout", "30")
    assert (code, out) == (0, "MeshExternalService default/taken deleted\n"), err


async def test_a_zone_that_is_cut_off_is_missing(system: System) -> None:
    """It is named, the other zone is not held up, and when the link is back the same event arrives there."""
    await system.link("west").cut()
    file = system.write("trace.yaml", json.dumps(service("many-1", 8081)))
    code, _, err = await system.cli("apply", "-f", str(file), "--wait=zones", "--timeout", "2")
    assert code == LATE
    missing = "west: has not seen it (the zone last spoke at"
    assert missing in err
    code, told, err = await applied(system, service("many-1", 8082), wait="--wait=east")
    assert code == 0, err
    n = str(told["sequence"])
    code, _, err = await system.cli("trace", n, "--wait=zones", "--timeout", "1")
    assert (code, missing in err, "east: has not" in err) == (LATE, True, False)
    assert "not seen: the zone's last word is of" in (await system.cli("trace", n))[1]
    await system.link("west").heal()
    code, out, err = await system.cli("trace", n, "--wait=zones,west", "--timeout", "30")
    assert code == 0, err
    assert "not seen" not in out


async def test_a_proxy_that_is_held_is_missing(system: System) -> None:
    """The shrink guard keeps what the egress has: waiting does not help, and the reason is told."""
    mesh = {"type": "Mesh", "name": "default", "labels": {"zonal.io/allow-addresses": "127.0.0.0_8"}}
    code, told, err = await applied(system, mesh, wait="--wait=east")
    assert code == NO_USE, err
    assert f"east: {EGRESS} held (would remove " in err
    _, out, _ = await system.cli("trace", str(told["sequence"]), "--zone", "east")
    assert f"missing  {EGRESS}  held: would remove " in out
    code, out, err = await system.cli("release", EGRESS)
    assert code == 0, err
    # Until the zone has said so, global knows of a push that is held, and of no use in waiting.
    waited = partial(system.cli, "trace", str(told["sequence"]), "--wait", "--timeout", "30")
    await eventually(waited, lambda one: one[0] == 0, "it arrives", WITHIN_SECONDS)
