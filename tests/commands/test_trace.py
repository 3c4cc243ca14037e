"""`zonal trace`, and `--wait` of `apply` and `delete`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.commands.api import Api, Request
from tests.commands.conftest import Zonal

COMMITTED = "2026-01-01T00:00:00.000000Z"
HELD = "east: a held (too much)"
EAST: dict[str, Any] = {
    "zone": "east",
    "state": "delivered",
    "saidAt": "2026-01-01T00:00:01.000000Z",
    "position": {"g": 9, "z": 2},
    "seenAt": "2026-01-01T00:00:00.002500Z",
    "online": 3,
    "push": {
        "after": {"g": 6, "z": 2},
        "position": {"g": 9, "z": 2},
        "offeredAt": "2026-01-01T00:00:00.004000Z",
        "touched": 1,
        "names": ["a"],
        "sentFirst": "2026-01-01T00:00:00.004500Z",
        "ackedFirst": "2026-01-01T00:00:00.006000Z",
        "ackedLast": "2026-01-01T00:00:00.007000Z",
        "types": [{"type": "Cluster", "first": COMMITTED, "last": "2026-01-01T00:00:00.006000Z", "count": 1}],
    },
}
LATE = EAST | {
    "state": "delivering",
    "missingCount": 1,
    "missing": [{"proxy": "a", "state": "held", "why": "too much"}],
}
WEST: dict[str, Any] = {
    "zone": "west", "state": "not seen", "saidAt": COMMITTED, "position": {"g": 3, "z": 1}, "offline": 1,
    "offlineNames": ["b"],
}  # fmt: skip


def trace(*zones: dict[str, Any], missing: tuple[str, ...] = (), stuck: bool = False, revision: str = "r") -> Any:
    change = {"type": "ResourceApplied", "resource": {"type": "Mesh", "name": "default"}}
    event = {"time": COMMITTED, "actor": "alice", "change": change}
    return {"origin": "global", "n": 7, "event": event, "about": "Mesh default", "zones": zones} | {
        "missing": missing,
        "stuck": stuck,
        "revision": revision,
    }


def queries(api: Api) -> list[dict[str, str]]:
    asked = [one for one in api.requests if "/history/trace/" in one.path]
    return [{k: v[0] for k, v in parse_qs(urlsplit(one.path).query).items()} for one in asked]


def test_a_timeline_per_zone(api: Api, zonal: Zonal) -> None:
    """Every step with the milliseconds since the event; what is missing and who is offline stands below."""
    api.answers["GET /history/trace/global/7"] = (200, trace(LATE, WEST))
    done = zonal("trace", "7")
    assert done.out.splitlines() == [
        "event 7  ResourceApplied Mesh default",
        f"committed {COMMITTED} by alice",
        "",
        "east  delivering: 1 of 3 online proxies do not have it",
        "       +2.5 ms  seen: the zone's copy of the log holds it",
        "       +4.0 ms  offered to 1 proxies: a (g9.z2, together with later changes)",
        "       +4.5 ms  first sent",
        "       +6.0 ms  ACKed Cluster",
        "       +7.0 ms  last answer",
        "       missing  a  held: too much",
        "",
        f"west  not seen: the zone's last word is of {COMMITTED}, at g3.z1",
        "       offline  1: b (given it when they are back)",
    ]
    assert (done.code, json.loads(zonal("trace", "7", "-o", "json").out)["n"]) == (0, 7)


def test_a_zones_event_is_asked_for_by_its_origin(api: Api, zonal: Zonal) -> None:
    """`east:57`; what is no event is told."""
    api.answers["GET /history/trace/east/57"] = (200, trace(EAST) | {"origin": "east", "n": 57})
    assert zonal("trace", "east:57").out.startswith("event east:57  ")
    done = zonal("trace", "yesterday")
    assert (done.code, done.err) == (2, "yesterday is no event: give 1234 (global's sequence) or east:57\n")


def test_waiting_asks_until_it_has_arrived(api: Api, zonal: Zonal) -> None:
    """Each request names what is known already; news go to stderr."""
    answers = iter([trace(LATE, missing=(HELD,), revision="1"), trace(EAST, revision="2")])
    api.answers["GET /history/trace/global/7"] = lambda _: (200, next(answers))
    done = zonal("trace", "7", "--wait=east")
    assert (done.code, done.err) == (0, "east: delivering, 1 of 3 proxies missing\neast: delivered\n")
    first, second = queries(api)
    assert (first["until"], first["waitMs"], second["known"]) == ("east", "20000", "1")


@pytest.mark.parametrize(("stuck", "code", "why"), [(True, 1, "waiting does not help"), (False, 5, "in time")])
def test_who_is_missing_is_the_failure(api: Api, zonal: Zonal, stuck: bool, code: int, why: str) -> None:
    """Code 1 at once where no waiting helps, 5 when time is up; both name who is missing."""
    api.answers["GET /history/trace/global/7"] = (200, trace(LATE, missing=(HELD,), stuck=stuck))
    done = zonal("trace", "7", "--wait", "--timeout", "0")
    assert done.code == code
    assert why in done.err
    assert done.err.endswith(f"missing:\n  {HELD}\n")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "mesh.yaml"
    file.write_text("type: Mesh\nname: default\n")
    return file


@pytest.mark.parametrize(("outcome", "n"), [("configured", 7), ("unchanged", 4)])
def test_apply_waits_for_what_it_wrote(api: Api, zonal: Zonal, manifest: Path, outcome: str, n: int) -> None:
    """For the last event of the write; where nothing changed, for what stands there already. One JSON document."""
    result = {"type": "Mesh", "mesh": "", "name": "default", "zone": "", "outcome": outcome, "version": 4}
    api.answers["POST /apply"] = (200, {"results": [result], "warnings": [], "sequence": 7})
    api.answers["GET /"] = (200, {"zone": ""})
    api.answers[f"GET /history/trace/global/{n}"] = (200, trace(EAST))
    done = zonal("apply", "-f", str(manifest), "--wait", "-o", "json")
    assert (done.code, json.loads(done.out)["trace"]["revision"]) == (0, "r")
    assert zonal("apply", "-f", str(manifest), "--wait=zones").out == f"Mesh default {outcome}\n"
    assert [one["until"] for one in queries(api)] == ["all", "zones"]


def test_a_write_stands_when_waiting_fails(api: Api, zonal: Zonal, manifest: Path) -> None:
    """What was written is shown all the same."""
    result = {"type": "Mesh", "mesh": "", "name": "default", "zone": "east", "outcome": "created", "version": 7}
    api.answers["POST /apply"] = (200, {"results": [result], "warnings": [], "sequence": 7})
    api.answers["GET /"] = (200, {"zone": "east"})
    api.answers["GET /history/trace/east/7"] = (200, trace(LATE, missing=(HELD,), stuck=True))
    done = zonal("apply", "-f", str(manifest), "--wait")
    assert (done.code, done.out) == (1, "Mesh default created\n")
    assert HELD in done.err


def test_a_deletion_needs_an_api_that_tells_its_event(api: Api, zonal: Zonal) -> None:
    """An API that does not say it cannot be waited for; the deletion stands."""

    def deleted(_: Request) -> tuple[int, Any]:
        return 200, {}

    api.answers["DELETE /meshes/default/secrets/a"] = deleted
    done = zonal("delete", "secret", "a", "--wait")
    assert (done.code, "does not say which event" in done.err) == (1, True)
    assert zonal("delete", "secret", "a").code == 0
