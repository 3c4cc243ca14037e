"""Long work that a running plane is asked for over HTTP: the event that broke a service, found with real Envoys."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.demo import manifests
from shared.demo.looking import eventually
from shared.demo.placement import ZONES
from shared.keys.tokens import TokenIssuer
from tests.conftest import take_port
from tests.e2e.living import WITHIN_SECONDS, Living

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 32_400
HOST, PORT = "payments.ext.mesh", 8443
PROBE = {"url": f"http://{HOST}:{PORT}/", "expect": 200}


class Allowing(Living):
    """A system whose zones let endpoints be on this host, by their settings: what a task dials instead of another."""

    def prepare(self) -> None:
        super().prepare()
        for zone in ZONES:
            place = self.deployment.zone_settings(zone)
            said = "allowed_addresses: [127.0.0.0/24]"
            text, found = re.subn(r"^allowed_addresses: .*$", said, place.read_text(), flags=re.MULTILINE)
            assert found == 1
            place.write_text(text)


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones with everything ready."""
    directory = tmp_path_factory.mktemp("tasks")
    async with Allowing(directory, BASE_PORT) as living:
        await living.begin()
        yield living


async def _last(client: httpx.AsyncClient) -> int:
    return int((await client.get("/events", params={"origin": "global", "limit": 1})).json()["last"])


async def _done(client: httpx.AsyncClient, order: dict[str, Any]) -> Any:
    answer = await client.post("/history/tasks", json=order)
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(4 * WITHIN_SECONDS):
        while True:
            task = (await client.get(answer.headers["location"], params={"waitMs": 2_000})).json()
            if task["standing"] != "running":
                return task
            assert (await client.get("/ready")).status_code == 200


async def test_the_event_that_broke_a_service_is_found_by_a_probe(system: Living) -> None:
    """At the zone's plane, through a sidecar and an egress of the task's own, with the zone's own keys."""
    async with system.client() as client, system.client("east") as zone:
        good = await _last(client)
        for name in ("before", "broken", "after"):
            port = take_port() if name == "broken" else system.services.https
            text = manifests.payments(port, system.services.host) if name == "broken" else _other(name)
            path = system.write(f"{name}.yaml", text)
            code, _, told = await system.cli("apply", "-f", str(path))
            assert code == 0, told
        bad = await _last(client)
        order = {"do": "bisect", "good": str(good), "zone": "east", "proxy": "default.app", "probe": PROBE}

        async def arrived() -> bool:
            items = (await zone.get("/events", params={"origin": "global", "limit": 1})).json()
            return int(items["last"]) >= bad

        await eventually(arrived, bool, "the zone knows them", WITHIN_SECONDS)
        task = await _done(zone, order)
        assert (task["standing"], task["fault"]) == ("done", ""), task
        (event,) = task["result"]["events"]
        assert event["origin"] == "global"
        assert good < event["n"] < bad
        assert {change["name"] for change in event["changes"]} == {"MeshExternalService/default/payments"}
        assert any("good: the answer is 200" in remark for remark in task["remarks"])
        assert json.dumps(task).count("BEGIN") == 0

        # With another endpoint dialled in its place, what the event broke is whole.
        broken = next(change["after"] for change in event["changes"] if "port" in change["path"])
        host, served = system.services.host, system.services.https
        mended = await _done(zone, {**order, "endpoints": {f"{host}:{broken}": f"{host}:{served}"}})
        assert "the bad moment is not bad" in mended["fault"], mended
        elsewhere = await _done(zone, {**order, "endpoints": {f"{host}:{broken}": "169.254.169.254:80"}})
        assert "link-local is refused" in elsewhere["fault"], elsewhere

        by_words = {**order, "predicate": f"hostname {HOST} resolves"}
        del by_words["probe"]
        claimed = await _done(zone, by_words)
        assert claimed["standing"] == "failed"
        assert "the bad moment is not bad" in claimed["fault"]


def _other(name: str) -> str:
    return (
        f"type: MeshExternalService\nname: {name}\nmesh: default\nspec:\n"
        "  match: {type: HostnameGenerator, port: 7001, protocol: http}\n"
        "  endpoints: [{address: 203.0.113.9, port: 443}]\n"
    )


async def test_what_runs_something_is_for_administrators_and_takes_no_commands(system: Living) -> None:
    """A reader may not order, look or cancel; a command is refused with the reason; what makes no sense is told."""
    order = {"do": "bisect", "good": "1", "zone": "east", "proxy": "default.app"}
    async with system.client("east") as zone:
        for body, reason in (
            ({**order, "check": "touch /tmp/x"}, "a check command is not taken over HTTP"),
            (order, "give either a predicate or a probe"),
            ({**order, "probe": {"url": "file:///etc/passwd"}}, "is not http://"),
            ({**order, "probe": PROBE, "proxy": None}, "a probe needs a proxy"),
            ({"do": "shell"}, "Invalid value 'shell'"),
        ):
            answer = await zone.post("/history/tasks", json=body)
            assert answer.status_code == 400, answer.text
            assert reason in answer.json()["title"] + answer.json()["detail"]
        assert (await zone.get("/history/tasks/unknown")).status_code == 404
        reader = TokenIssuer.load(system.deployment.token_signing_key).user_token("reader@example.com", ())
        zone.headers["authorization"] = f"Bearer {reader}"
        assert (await zone.post("/history/tasks", json=order)).status_code == 403
        for path in ("/history/tasks", "/history/tasks/unknown", "/history/tasks/unknown/store"):
            assert (await zone.get(path)).status_code == 403
        assert (await zone.delete("/history/tasks/unknown")).status_code == 403
