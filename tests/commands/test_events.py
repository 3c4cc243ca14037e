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


def row(n: int, origin: str) -> dict[str, Any]:
    told = {"about": "MeshExternalService default/payments", "what": "spec.match.port 80→81"}
    moment = str(n) if origin == "global" else f"{origin}:{n}"
    return {"moment": moment, "time": f"2026-01-01T00:00:0{n}Z", "actor": "admin", "whole": event(n, origin)} | told


def query_of(request: Request) -> dict[str, list[str]]:
    return parse_qs(urlsplit(request.path).query)


def log(request: Request) -> tuple[int, Any]:
    query = query_of(request)
    (origin,) = query["origin"]
    after, limit = int(query.get("after", ["0"])[0]), int(query["limit"][0])
    last = 12 if after >= 9 else 9
    return 200, {"items": [row(n, origin) for n in range(after + 1, last + 1)][-limit:], "last": {origin: last}}


@pytest.fixture
def logs(api: Api) -> Api:
    api.answers["GET /history/events"] = log
    return api


def shown(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_each_event_is_a_line_that_says_what_changed(logs: Api, zonal: Zonal) -> None:
    """Moment, time, author, and what became of what; a zone's moments are written east:n."""
    assert shown(zonal("events").out) == [str(n) for n in range(1, 10)]
    assert shown(zonal("events", "--limit", "2").out) == ["8", "9"]
    done = zonal("events", "--zone", "east", "--limit", "1")
    assert done.out.splitlines()[1] == (
        "east:9  2026-01-01T00:00:09Z  admin  MeshExternalService default/payments: spec.match.port 80→81"
    )
    found = json.loads(zonal("events", "--limit", "2", "-o", "json").out)
    assert ([one["n"] for one in found["items"]], found["last"]) == ([8, 9], 9)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kind", "mes", "--kind", "Vip", "--name", "pay*"), {"kind": ["mes", "Vip"], "name": ["pay*"]}),
        (("-m", "default", "--actor", "system:*"), {"mesh": ["default"], "actor": ["system:*"]}),
        (("--after", "3", "--until", "8"), {"after": ["3"], "upto": ["8"]}),
        (("--since", "2026-01-01", "--until", "2026-01-01T03:12:00+02:00"),
         {"since": ["2026-01-01T00:00:00.000000Z"], "until": ["2026-01-01T01:12:00.000000Z"]}),
    ],
)  # fmt: skip
def test_events_are_asked_for_as_people_mean_them(
    logs: Api, zonal: Zonal, words: tuple[str, ...], expected: dict[str, list[str]]
) -> None:
    """Conditions go to the API; times as events carry them, a number as --until is a sequence."""
    assert zonal("events", *words).code == 0
    assert query_of(logs.requests[-1]) == {"origin": ["global"], "limit": ["100"]} | expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "nonsense"), "no kind of resource or change; there are: "),
        (("--since", "yesterday"), "is no time"),
        (("--limit", "0"), "from 1 to"),
        (("--follow", "--until", "9"), "without an end"),
    ],
)
def test_what_cannot_be_meant_is_refused(logs: Api, zonal: Zonal, words: tuple[str, ...], said: str) -> None:
    """Before anything is asked."""
    done = zonal("events", *words)
    assert (done.code, logs.requests) == (2, [])
    assert said in done.err


def test_following_goes_on_where_the_last_ones_end(logs: Api, zonal: Zonal) -> None:
    """--follow shows the newest, then what comes, and fails when the stream breaks."""
    lines = b"".join(json.dumps(event(n)).encode() + b"\n\n" for n in (10, 11))
    logs.answers["GET /events/follow"] = (200, lines)
    done = zonal("events", "--follow", "--limit", "2", "-o", "json")
    assert [json.loads(line)["n"] for line in done.out.splitlines()] == [8, 9, 10, 11, 12]
    assert "/events/follow?origin=global&after=9" in [request.path for request in logs.requests]
    assert (done.code, done.err) == (1, "the stream of events ended\n")
    assert zonal("events", "--follow", "--limit", "1").out.splitlines()[1].split()[0] == "10"


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
