"""`zonal replay`, `diff` and `explain` on the store of a real nats-server that is stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared import cli
from shared.events.compose import compose
from shared.events.event import Change, Event, ProxyConnected, VipLeased
from shared.events.fold import fold
from shared.events.state import LogState
from shared.model.resource import ResourceKey
from shared.nats import topology
from shared.nats.config import scratch_text
from shared.nats.connection import NatsSettings, connect
from shared.nats.server import start_server
from tests.builders import applied, at, egress, mes, mesh, service_key, settings
from tests.conftest import take_port

pytestmark = pytest.mark.e2e


def composed(origin: str, changes: Sequence[Change], seen: int = 0) -> list[Event]:
    state = LogState(origin=origin)
    events: list[Event] = []
    for number, change in enumerate(changes, 1):
        made = compose(state, [change], ids=[f"{origin}-{number}"], time=at(number), actor="admin", seen=seen)
        events += made
        state = fold(state, made[0])
    return events


async def write_store(directory: Path, port: int) -> None:
    """A hub's store with a mesh, a service whose endpoint moves, and a zone that leases its VIP."""
    directory.mkdir()
    config = directory.parent / "nats.conf"
    config.write_text(scratch_text("127.0.0.1", port, str(directory)))
    server = await start_server(config)
    try:
        connection = await connect(NatsSettings(url=f"nats://127.0.0.1:{port}"))
        await topology.ensure_hub(connection)
        await topology.ensure_zone_on_hub(connection, "east")
        moves = [mes(endpoints=(f"10.0.0.1:{port}",)) for port in (443, 8443)]
        changes = [applied(mesh()), *(applied(move) for move in moves)]
        await topology.global_log(connection).append(composed("global", changes))
        key = ResourceKey("ZoneEgress", "", "egress-1", "east")
        own: list[Change] = [
            settings(),
            applied(egress(), "east"),
            VipLeased(key=service_key(), protocol_class="http", ip="242.0.0.7"),
            ProxyConnected(proxy="egress-1", key=key, connection="c1", system_ca_path="/ca.pem"),
        ]
        await topology.zone_log_on_hub(connection, "east").append(composed("east", own, seen=2))
        await connection.close()
    finally:
        await server.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("history") / "store"
    asyncio.run(write_store(directory, take_port()))
    return directory


def files(store: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_any_moment_is_told_from_the_log_alone(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replay shows the endpoint before it moved, diff what moved, explain who moved it; the store stays as it was."""
    before = files(store)

    def zonal(*words: str) -> str:
        code = cli.run([*words, "--store", str(store)])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    told = json.loads(zonal("replay", "--at", "2", "-o", "json"))
    assert told["zone"] == "east"
    (service,) = told["found"]["MeshExternalService"].values()
    assert service["spec"]["endpoints"] == [{"address": "10.0.0.1", "port": 443}]

    served = zonal("replay", "--at", "2", "--proxy", "egress-1", "-o", "json")
    assert "10.0.0.1" in served
    assert "8443" not in served

    assert zonal("diff", "2", "3", "--zone", "east").splitlines() == [
        "east g2.z4 → g3.z4",
        " ~ MeshExternalService MeshExternalService/default/payments",
        "   - spec.endpoints[address=10.0.0.1].port: 443",
        "   + spec.endpoints[address=10.0.0.1].port: 8443",
    ]
    assert "8443" in zonal("diff", "2", "3", "--proxy", "egress-1")
    assert zonal("diff", "2", "3", "--proxies", "--stat").splitlines() == [
        "east g2.z4 → g3.z4: 1 of 1 proxy touched",
        "1 proxy (egress-1): 1 Cluster changed",
    ]
    (group,) = json.loads(zonal("diff", "2", "3", "--proxies", "-o", "json"))["groups"]
    assert [field["after"] for change in group["changes"] for field in change["fields"]] == [8443]
    assert "ExternalService" in zonal("diff", "2", "3", "--views", "-o", "yaml")

    explained = zonal("explain", "egress-1", "payments", "--at", "3")
    assert f"event 3 by admin at {at(3)}: ResourceApplied MeshExternalService payments" in explained

    taken_back = json.loads(zonal("undo", "3", "--dry-run", "-o", "json"))
    assert [step["action"] for step in taken_back["plan"]["steps"]] == ["change"]
    assert (taken_back["whatif"]["touched"], taken_back["results"]) == (1, [])
    assert "nothing was written" not in zonal("undo", "3", "--dry-run")

    assert files(store) == before


def test_the_way_of_a_change_is_told_from_a_bundle(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it was about and by whom; what nobody recorded is not made up; there is nothing to wait for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    bundle = tmp_path / "past.bundle"
    assert cli.run(["bundle", "export", str(bundle), "--store", str(store)]) == 0
    capsys.readouterr()
    assert cli.run(["trace", "3", "--bundle", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "event 3  ResourceApplied MeshExternalService default/payments",
        f"committed {at(3)} by admin",
    ]
    assert cli.run(["trace", "3", "--bundle", str(bundle), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["n"], told["about"]) == (3, "MeshExternalService default/payments")
    assert [zone["zone"] for zone in told["zones"]] == ["east"]
    assert cli.run(["trace", "3", "--bundle", str(bundle), "--wait"]) == 2
    assert cli.run(["trace", "77", "--bundle", str(bundle)]) == 3


MOVED = """
type: MeshExternalService
mesh: default
name: payments
spec:
  match: {type: HostnameGenerator, port: 80, protocol: http}
  endpoints: [{address: 203.0.113.9, port: 443}]
---
type: MeshExternalService
mesh: default
name: fresh
spec:
  match: {type: HostnameGenerator, port: 443, protocol: tcp}
  endpoints: [{address: 203.0.113.9, port: 443}]
"""


def test_what_would_be_is_told_and_not_done(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For files and for a delete: what proxies would hold, what the zone would record; the store stays as it was."""
    before = files(store)
    manifest = tmp_path / "moved.yaml"
    manifest.write_text(MOVED)
    assert cli.run(["whatif", "-f", str(manifest), "--store", str(store)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert " + MeshExternalService MeshExternalService/default/fresh" in lines
    assert "1 proxy (egress-1): 1 Cluster added, 1 Cluster changed" in lines
    assert any(line.startswith(" east would lease 242.") and line.endswith(" to default/fresh") for line in lines)
    assert "1 of 1 proxies touched; nothing was written" in told.err
    assert cli.run(["delete", "mes", "payments", "--dry-run", "diff", "--store", str(store), "-o", "json"]) == 0
    (zone,) = json.loads(capsys.readouterr().out)["zones"]
    assert [one["type"] for one in zone["decisions"]] == ["VipQuarantined"]
    assert [one["verb"] for group in zone["groups"] for one in group["changes"]] == ["removed"]
    assert files(store) == before


def test_what_would_be_refused_is_told_where_it_stands(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File, line and field; a delete of what is not there; and a store from which nothing can be deleted."""
    manifest = tmp_path / "broken.yaml"
    manifest.write_text(MOVED.replace("mesh: default", "mesh: nowhere", 1))
    assert cli.run(["whatif", "-f", str(manifest), "--store", str(store)]) == 3
    assert 'broken.yaml:3:7: mesh: mesh "nowhere" is not found' in capsys.readouterr().err
    assert cli.run(["delete", "mes", "none", "--dry-run", "diff", "--store", str(store)]) == 3
    assert "Not found" in capsys.readouterr().err
    assert cli.run(["delete", "mes", "payments", "--store", str(store)]) == 2
    assert "--dry-run=diff" in capsys.readouterr().err


def test_a_moment_that_never_was_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown moment or proxy exits with 3, an unknown zone or store with 2 or 3; the message says what there is."""
    assert cli.run(["replay", "--at", "99", "--store", str(store)]) == 3
    assert "1 to 3" in capsys.readouterr().err
    assert cli.run(["replay", "--proxy", "nobody", "--store", str(store)]) == 3
    assert "egress-1" in capsys.readouterr().err
    assert cli.run(["replay", "--zone", "north", "--store", str(store)]) == 3
    assert cli.run(["replay", "--store", str(store / "gone")]) == 2
