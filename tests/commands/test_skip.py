"""`zonal skip` and `zonal halted`, and what every command says of a plane that stands before an event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.api import Api
from tests.commands.conftest import Zonal


@pytest.mark.parametrize("event, origin, n", [("42", "global", 42), ("east:57", "east", 57)])
def test_skip_says_what_was_recorded(zonal: Zonal, api: Api, event: str, origin: str, n: int) -> None:
    """The event, the reason and nothing else are sent; the tombstone is named."""
    recorded = [{"origin": origin, "n": n + 1, "id": "t"}]
    api.answers["POST /skip"] = (200, {"recorded": recorded, "halted": []})
    done = zonal("skip", event, "--reason", "nobody needs it", "--api", api.url)
    assert done.code == 0
    assert api.requests[-1].body == {"origin": origin, "n": n, "reason": "nobody needs it"}
    assert f"recorded as {event[:-2]}{n + 1}" in done.out
    as_json = zonal("skip", event, "--reason", "why", "--api", api.url, "-o", "json")
    assert json.loads(as_json.out)["recorded"] == recorded


def test_skip_needs_a_reason_and_an_event(zonal: Zonal, api: Api) -> None:
    """Nothing is sent without."""
    assert zonal("skip", "42", "--api", api.url).code == 2
    assert zonal("skip", "soon", "--reason", "why", "--api", api.url).code == 2
    assert api.requests == []


def test_a_refusal_is_told(zonal: Zonal, api: Api) -> None:
    """With its own exit code."""
    api.answers["POST /skip"] = (409, {"title": "Nothing to pass over", "detail": "global reads all events"})
    refused = zonal("skip", "42", "--reason", "why", "--api", api.url)
    assert (refused.code, "global reads all events" in refused.err) == (4, True)


def test_a_plane_that_stands_still_is_warned_of_once(zonal: Zonal, api: Api) -> None:
    """Beside what is shown, not in it."""
    api.headers["Zonal-Halted"] = "42"
    api.answers["GET /zones"] = (200, {"items": [], "total": 0, "next": None})
    shown = zonal("get", "zones", "--api", api.url, "-o", "json")
    assert json.loads(shown.out) == {"items": [], "total": 0}
    assert shown.err.count("stands before event 42") == 1
    api.headers.clear()
    assert "stands before" not in zonal("get", "zones", "--api", api.url).err


def test_what_stands_still_in_a_zone_is_told_by_global(zonal: Zonal, api: Api) -> None:
    """By what the zone said of itself: in the list of what stands still, and as a mark in that of zones."""
    part = {"what": "before event 42", "reason": "unknown", "mend": "zonal skip 42"}
    api.answers["GET /halted"] = (200, {"items": [], "total": 0, "zones": {"east": [part]}})
    api.answers["GET /"] = (200, {"product": "Zonal", "role": "global", "zone": ""})
    zones = [{"type": "Zone", "name": name} for name in ("east", "west")]
    api.answers["GET /zones"] = (200, {"items": zones, "total": 2, "next": None})
    told = zonal("halted", "--api", api.url)
    assert (told.code, told.out.splitlines()[1].split()[0]) == (1, "east")
    assert json.loads(zonal("halted", "--api", api.url, "-o", "json").out)["items"] == [{"where": "east", **part}]
    listed = zonal("get", "zones", "--api", api.url)
    rows = {row.split()[0]: row for row in listed.out.splitlines()}
    assert "HALTED" in rows["NAME"]
    assert ("before event 42" in rows["east"], "before event" in rows["west"]) == (True, False)
    api.answers["GET /halted"] = (404, {"title": "Not found"})
    assert zonal("get", "zones", "--api", api.url).code == 0


def test_a_zone_that_does_not_answer_is_told_of_by_what_it_said_last(zonal: Zonal, api: Api, tmp_path: Path) -> None:
    """With a word about it: it may have gone on since."""
    part = {"what": "outbox", "reason": "a fork", "mend": "zonal resume"}
    api.answers["GET /halted"] = (200, {"items": [], "total": 0, "zones": {"east": [part]}})
    file = tmp_path / ".zonal" / "context.yaml"
    file.parent.mkdir()
    file.write_text('zones:\n  east: {api: "http://127.0.0.1:1"}\n')
    told = zonal("halted", "-o", "json")
    assert (told.code, json.loads(told.out)["items"]) == (1, [{"where": "east", **part}])
    assert "of zone east this is what it told global last" in told.err
