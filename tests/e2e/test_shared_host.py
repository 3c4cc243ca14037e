"""Two sidecars on one host without redirect: one has the VIPs, the other says so, and takes over when it is gone.

Who a request leaves as is told by a permission: of the two applications only `app` may use the service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from shared.demo import application
from shared.demo.looking import eventually
from shared.demo.processes import Process
from shared.demo.system import System
from tests.e2e.living import Living

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 32_200
WITHIN_SECONDS = 30.0
MANY = 12
CALLS = 40
OWN_OUTBOUND = BASE_PORT + 90
VIP_PORT = 8950

DATAPLANE = """\
type: Dataplane
name: second
mesh: default
networking:
  address: 127.0.0.1
  inbound:
    - port: {inbound}
      servicePort: {application}
      tags:
        kuma.io/service: second
        kuma.io/protocol: http
  outbound:
    - address: 127.0.0.1
      port: {outbound}
      backendRef:
        kind: MeshExternalService
        name: whose
  admin:
    port: {admin}
"""
PERMISSION = {
    "type": "MeshTrafficPermission",
    "mesh": "default",
    "name": "only-app",
    "spec": {
        "targetRef": {"kind": "MeshExternalService", "name": "whose"},
        "rules": [{"default": {"allow": [{"spiffeID": {"type": "Exact", "value": "spiffe://default/app"}}]}}],
    },
}


def service(system: System, name: str, port: int = VIP_PORT) -> dict[str, Any]:
    match = {"type": "HostnameGenerator", "port": port, "protocol": "http"}
    endpoints = [{"address": "127.0.0.1", "port": system.services.http}]
    spec = {"match": match, "endpoints": endpoints}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}


async def apply(system: System, *resources: dict[str, Any]) -> None:
    file = system.write("host.yaml", "\n---\n".join(json.dumps(one) for one in resources))
    code, out, err = await system.cli("apply", "-f", str(file), "--wait", "--timeout", "60")
    assert code in (0, 1), out + err  # 1: the second sidecar has refused what it cannot listen at


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones; a second sidecar beside east's one."""
    async with Living(tmp_path_factory.mktemp("host"), BASE_PORT) as made:
        await made.begin()
        await apply(made, service(made, "whose"))
        await apply(made, PERMISSION)
        await second(made)
        yield made


async def second(system: Living) -> Process:
    text = DATAPLANE.format(
        inbound=BASE_PORT + 91, application=BASE_PORT + 92, outbound=OWN_OUTBOUND, admin=BASE_PORT + 93
    )
    options = ["--dataplane", str(system.write("second.yaml", text, public=True))]
    token = system._issuer().dataplane_token("default", name="second", zone="east")
    await system._proxy("east", "sidecar", token, options, BASE_PORT + 93, called="second")
    return system._named["east-second"]


async def listeners(port: int) -> set[str]:
    """The explicit outbounds of an Envoy, by what its listeners are called."""
    body = (await application.get("127.0.0.1", port, "admin", "/listeners")).text
    return {line.partition("::")[0] for line in body.splitlines() if line.startswith("outbound/")}


async def vips(system: Living, admin: int) -> set[str]:
    start = str(system.placement.vip_range("east").network_address).rsplit(".", 2)[0]
    return {name for name in await listeners(admin) if name.startswith(f"outbound/{start}.")}


async def said(system: Living, name: str, zone: str | None = None) -> dict[str, Any]:
    """What there is to say of where a sidecar listens; nothing where all is well."""
    rows = (await system.api("GET", "/status/dataplanes", zone=zone))["items"]
    found = [one for row in rows if row["name"] == name and row["zone"] == "east" for one in row["conditions"]]
    return next((one for one in found if one["type"] == "Listening"), {})


async def statuses(ip: str, port: int) -> set[int]:
    """What fresh connections are answered."""
    return {(await application.get(ip, port, "whose.ext.mesh")).status for _ in range(CALLS)}


async def yields(system: Living, name: str) -> str:
    """Wait until the zone has decided that a proxy is given no VIP until the other is gone; what is said of it."""
    look, word = partial(said, system, name, "east"), "it is given no VIP while that is so"
    told = await eventually(look, lambda one: word in one.get("message", ""), f"{name} yields", WITHIN_SECONDS)
    assert told["reason"] == "AddressTaken"
    return str(told["message"])


async def address(system: Living, name: str = "whose") -> str:
    found: str = await eventually(
        lambda: application.resolve(f"{name}.ext.mesh", system.dns_port("east")), bool, f"{name} has a VIP"
    )
    return found


async def test_the_second_says_so_and_nothing_is_shared(system: Living) -> None:
    """What is sent to the VIP always leaves as the first; the second's own outbound as the second."""
    told = await eventually(lambda: said(system, "second"), bool, "the second says what is taken", WITHIN_SECONDS)
    assert (told["status"], told["reason"]) == ("False", "AddressTaken")
    assert "proxy default.app listens at " in told["message"]
    assert "Address already in use" in told["message"]
    assert await said(system, "app") == {}
    assert await eventually(lambda: said(system, "second", "east"), bool, "its zone says so, too", WITHIN_SECONDS)
    ip = await address(system)
    for host, port, status in ((ip, VIP_PORT, 200), ("127.0.0.1", OWN_OUTBOUND, 403)):
        look = partial(application.get, host, port, "whose.ext.mesh")
        await eventually(look, lambda one, wanted=status: one.status == wanted, f"{status} at {port}", WITHIN_SECONDS)  # type: ignore[misc]
        assert await statuses(host, port) == {status}
    code, out, _ = await system.cli("get", "dataplanes")
    assert code == 0
    assert "Listening=False (AddressTaken: proxy default.app listens at" in " ".join(out.split())


async def test_the_service_is_ready_all_the_same(system: Living) -> None:
    """One proxy's host is no fault of a service's."""
    look = partial(system.api, "GET", "/meshes/default/meshexternalservices/whose/_status")
    await eventually(look, lambda found: found["ready"] == "2/2", "ready in both zones", WITHIN_SECONDS)


async def test_new_services_go_to_the_first_as_well(system: Living) -> None:
    """Both are told of them at once; who has some VIPs has all of them, and nobody has some."""
    for turn in range(3):
        await apply(system, *(service(system, f"new-{turn}-{n}", 9500 + n) for n in range(MANY)))
    first = await eventually(
        lambda: vips(system, system.sidecar_admin("east")),
        lambda found: len([one for one in found if int(one.rpartition(":")[2]) >= 9500]) == 3 * MANY,
        "the first has all of the new ones",
        WITHIN_SECONDS,
    )
    assert await vips(system, BASE_PORT + 93) == set()
    assert f"outbound/127.0.0.1:{OWN_OUTBOUND}" in await listeners(BASE_PORT + 93)
    assert len(first) > 3 * MANY


async def test_what_was_left_out_is_left_out_of_the_past(system: Living) -> None:
    """A replay of either sidecar is what it was served, by its digest, on the zone and on global; the log says why."""
    for zone in ("east", None):
        for proxy in ("default.second", "default.app"):
            asked = f"/history/replay?zone=east&proxy={proxy}&kind=Listener"
            told = await eventually(
                lambda asked=asked, zone=zone: system.api("GET", asked, zone=zone),  # type: ignore[misc]
                lambda told: told["served"]["verdict"] == "served",
                f"{proxy} was served what is replayed",
                WITHIN_SECONDS,
            )
            stands = [name for name in told["found"]["Listener"] if name.endswith(f":{VIP_PORT}")]
            assert len(stands) == (proxy == "default.app")
    changes = [event["change"] for event in await system.events("east")]
    assert {"type": "VipsYielded", "proxy": "default.second", "to": "default.app", "skippable": True} in changes


async def test_the_second_takes_over(system: Living) -> None:
    """Once the first is gone the second has every VIP, and requests leave as it; the first, when it is back, yields."""
    ip = await address(system)
    before = await vips(system, system.sidecar_admin("east"))
    await system.kill("east-sidecar")
    await eventually(lambda: vips(system, BASE_PORT + 93), lambda found: found == before, "taken over", WITHIN_SECONDS)
    await eventually(lambda: said(system, "second"), lambda found: not found, "nothing is taken", WITHIN_SECONDS)
    assert await statuses(ip, VIP_PORT) == {403}
    await system.start_sidecar("east")
    told = await eventually(lambda: said(system, "app"), bool, "the first says what is taken", WITHIN_SECONDS)
    assert "proxy default.second listens at " in told["message"]
    assert await statuses(ip, VIP_PORT) == {403}
    assert await vips(system, system.sidecar_admin("east")) == set()


async def test_it_survives_the_control_plane(system: Living) -> None:
    """A zone that starts again finds who has what, and takes nothing from whom it serves."""
    ip = await address(system)
    await system.kill("east-zone")
    await system.start("east-zone")
    assert "proxy default.second listens at " in await yields(system, "app")
    assert await statuses(ip, VIP_PORT) == {403}
    assert await vips(system, system.sidecar_admin("east")) == set()


async def test_both_at_once(system: Living) -> None:
    """Both start together: one has all, the other none, whoever was first at which address."""
    await system.kill("east-sidecar")
    await system.kill("east-second")
    await asyncio.gather(system.start_sidecar("east"), second(system))
    admins = (system.sidecar_admin("east"), BASE_PORT + 93)

    async def shares() -> list[int]:
        return sorted([len(await vips(system, admin)) for admin in admins])

    found = await eventually(shares, lambda now: now[0] == 0 and now[1] > 3 * MANY, "one has all", WITHIN_SECONDS)
    ip = await address(system)
    assert await statuses(ip, VIP_PORT) in ({200}, {403})
    (loser,) = [name for name, admin in zip(("app", "second"), admins, strict=True) if not await vips(system, admin)]
    await yields(system, loser)
    assert await shares() == found
