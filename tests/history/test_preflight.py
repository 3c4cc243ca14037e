"""Another version of the compiler, in processes of its own: nothing differs from itself, and what differs is listed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared import cli
from shared.api.app import build_api
from shared.events.event import ProxyConnected
from shared.events.history import History
from shared.events.log import MemoryLog
from shared.history.bundle import write_bundle
from shared.history.plane import PlaneHistory
from shared.history.preflight import CannotRun, installation
from shared.model.resource import key_of
from tests.api.memory_store import ADMIN, READER, MemoryStore, RawMemory, Tokens
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, mes, mesh

ROOT = Path(__file__).resolve().parents[2]
CHANGED = ("\nCONNECT_TIMEOUT = timedelta(seconds=5)", "\nCONNECT_TIMEOUT = timedelta(seconds=6)")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hub, zone = _past()
    file = tmp_path_factory.mktemp("preflight") / "past.bundle"
    write_bundle(History.of(hub.events, {"east": zone.own.events}), file, time="2026-01-01T00:00:00Z")
    return file


def _past() -> tuple[LogBuilder, ZoneBuilder]:
    """A mesh with two services, an egress and a sidecar with one listener for all."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), applied(mes()), applied(mes("orders")))
    zone.follow(hub)
    for proxy, resource, features in ((".egress-1", egress(), ()), ("default.web-1", dataplane(), ("redirect",))):
        zone.write(applied(resource, "east"))
        zone.write(ProxyConnected(proxy=proxy, key=key_of(resource, "east"), connection="c", features=features))
    return hub, zone


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this version with one line changed."""
    tree = tmp_path_factory.mktemp("other")
    for package in ("shared", "zone_cp", "global_cp"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    defaults = tree / "zone_cp" / "xds" / "defaults.py"
    text = defaults.read_text()
    assert CHANGED[0] in text
    defaults.write_text(text.replace(*CHANGED))
    return tree


def test_a_version_does_not_differ_from_itself(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, by its python."""
    assert cli.run(["preflight", "--with", sys.executable, "--bundle", str(bundle), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["zone"], one["proxies"], one["groups"]) for one in told["items"]] == [("east", 2, [])]


def test_what_another_version_makes_otherwise_is_listed(
    bundle: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; the proxies, the resources, and the one field; and this version is as it was."""
    assert cli.run(["preflight", "--with", str(other), "--bundle", str(bundle)]) == 1
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].endswith("2 of 2 proxies touched")
    assert "1 proxy (.egress-1): 9 Clusters changed" in lines
    assert "1 proxy (default.web-1): 3 Clusters changed" in lines
    assert [line.strip() for line in lines if "connect_timeout" in line] == [
        "- connect_timeout: 5s",
        "+ connect_timeout: 6s",
    ] * 2


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient[Litestar]]:
    """Global's API over the same past."""
    hub, zone = _past()
    logs = {"global": MemoryLog(), "east": MemoryLog()}
    logs["global"].events, logs["east"].events = hub.events, zone.own.events
    past = PlaneHistory({name: RawMemory(log) for name, log in logs.items()}, tmp_path / "history")
    with TestClient(build_api(MemoryStore(), authenticator=Tokens(), role="global", past=past)) as client:
        client.headers.update(ADMIN)
        yield client


def test_a_running_system_compiles_its_past(
    api: TestClient[Litestar], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same lines as the command prints, also of one moment and with bodies."""
    for words, query in (
        ([], {}),
        (["--at", "2"], {"at": "2"}),
        (["--body", ".egress-1"], {"body": ".egress-1"}),
    ):
        assert cli.run(["compile", "--from-bundle", str(bundle), *words]) == 0
        told = api.get("/history/compile", params=query)
        assert told.status_code == 200
        assert told.text == capsys.readouterr().out
    assert cli.run(["compile", "--bundle", str(bundle)]) == 0
    assert api.get("/history/compile", params={"at": "77"}).status_code == 404


def test_a_running_system_tries_a_version_that_is_installed(
    api: TestClient[Litestar], other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that its operator put on the PATH, no file that a caller names, and for admins only."""
    script = tmp_path / "zonal-9.9"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{other}" exec "{sys.executable}" -P -m shared.cli "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = api.get("/history/preflight", params={"with": "9.9"})
    assert found.status_code == 200, found.text
    (zone,) = found.json()["items"]
    assert [group["proxies"] for group in zone["groups"]] == [[".egress-1"], ["default.web-1"]]
    for named in ("9.8", str(other), "../9.9", ""):
        refused = api.get("/history/preflight", params={"with": named})
        assert refused.status_code == 400
        assert refused.json()["invalid_parameters"][0]["field"] == "with"
    assert api.get("/history/preflight", params={"with": "9.9", "at": "77"}).status_code == 404
    assert api.get("/history/preflight", params={"with": "9.9"}, headers=READER).status_code == 403


def test_what_cannot_be_run_is_told(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such version; one that is no zonal; one that breaks off."""
    with pytest.raises(CannotRun, match=r"no zonal-9\.9 on the PATH"):
        installation("9.9")
    for script, said in (("exit 7", "ended with 7"), ("echo '{\"contract\": 99}'", "does not keep the contract")):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        assert cli.run(["preflight", "--with", str(python), "--bundle", str(bundle)]) == 2
        assert said in capsys.readouterr().err
