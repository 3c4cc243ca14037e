"""`zonal events` and `zonal inspect`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.commands.api import Api, Request
from tests.commands.conftest import Zonal


def event(n: int, origin: str = "global") -> dict[str, Any]:
    kind = "Mesh" if n % 2 else "Secret"
    change: dict[str, Any] = {"type": "ResourceApplied", "resource": {"type": kind, "mesh": "default", "name": f"r{n}"}}
    if origin != "global":
        key = {"kind": "MeshExternalService", "mesh": "default", "name": "payments"}
        change = {"type": "VipLeased", "key": key, "ip": "127.101.0.7", "protocolClass": "http"}
    return {"n": n, "origin": origin, "time": f"2026-01-01T00:00:0{n}Z", "actor": "admin", "change": change}


def log(request: Request) -> tuple[int, Any]:
    query = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
    after, until = int(query.get("after", 0)), int(query.get("until", 9))
    origin = query["origin"]
    limit = min(int(query["limit"]), 4)
    return 200, {"items": [event(n, origin) for n in range(1, 10) if after < n <= until][:limit], "last": 9}


@pytest.fixture
def logs(api: Api) -> Api:
    api.answers["GET /events"] = log
    return api


def shown(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_the_latest_events_are_shown(logs: Api, zonal: Zonal) -> None:
    """Without bounds the last ones are shown, in order; --after, --until and --limit choose others."""
    assert shown(zonal("events").out) == [str(n) for n in range(1, 10)]
    assert shown(zonal("events", "--limit", "2").out) == ["8", "9"]
    assert shown(zonal("events", "--after", "3", "--until", "8").out) == ["4", "5", "6", "7", "8"]
    assert shown(zonal("events", "--after", "3", "--limit", "2").out) == ["4", "5"]
    assert zonal("events", "--after", "8").out.splitlines()[1].split() == [
        "9", "2026-01-01T00:00:09Z", "admin", "ResourceApplied", "Mesh", "default/r9",
    ]  # fmt: skip


def test_a_zones_events_are_named_by_zone(logs: Api, zonal: Zonal) -> None:
    """`--zone east` reads east's log; its moments are written east:n."""
    done = zonal("events", "--zone", "east", "--limit", "1")
    assert done.out.splitlines()[1].split() == [
        "east:9", "2026-01-01T00:00:09Z", "admin", "VipLeased", "MeshExternalService", "default/payments",
        "127.101.0.7",
    ]  # fmt: skip


def test_events_are_chosen_by_kind(logs: Api, zonal: Zonal) -> None:
    """--kind takes a kind of resource or of change."""
    assert shown(zonal("events", "--kind", "mesh").out) == ["1", "3", "5", "7", "9"]
    assert shown(zonal("events", "--kind", "VipLeased").out) == []
    found = json.loads(zonal("events", "--kind", "secret", "-o", "json").out)
    assert ([one["n"] for one in found["items"]], found["last"]) == ([2, 4, 6, 8], 9)


def test_following_prints_one_line_per_event(logs: Api, zonal: Zonal) -> None:
    """--follow starts after the last event, streams JSON lines, and fails when the stream breaks."""
    lines = b"".join(json.dumps(event(n)).encode() + b"\n\n" for n in (10, 11))
    logs.answers["GET /events/follow"] = (200, lines)
    done = zonal("events", "--follow", "-o", "json")
    assert [json.loads(line)["n"] for line in done.out.splitlines()] == [10, 11]
    assert logs.requests[-1].path == "/events/follow?origin=global&after=9"
    assert (done.code, done.err) == (1, "the stream of events ended\n")
    assert zonal("events", "--follow").out.splitlines()[0].split()[0] == "10"


def test_proxies_are_listed_and_inspected(api: Api, zonal: Zonal) -> None:
    """Without an argument the proxies are listed; with one, what it is served is shown as YAML or JSON."""
    row = {"zone": "east", "proxy": "default.app", "kind": "Dataplane", "mesh": "default", "name": "app"}
    api.answers["GET /proxies"] = (200, {"items": [row | {"online": True, "acked": "g7.z3"}], "next": None})
    api.answers["GET /proxies/default.app/inspect"] = (200, {"Cluster": {"egress": {}}})
    assert zonal("inspect").out.splitlines()[1].split() == [
        "east", "default.app", "Dataplane", "default", "yes", "g7.z3",
    ]  # fmt: skip
    assert zonal("inspect", "default.app").out == "Cluster:\n  egress: {}\n"
    assert json.loads(zonal("inspect", "default.app", "-o", "json").out) == {"Cluster": {"egress": {}}}
    api.answers["GET /proxies/default.app/inspect"] = (200, {"Notes": ["an outbound leads nowhere"]})
    assert zonal("inspect", "default.app").err == "note: an outbound leads nowhere\n"
