"""Whether a replayed moment was served: by what the zone recorded of its proxy, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from shared.events.event import ProxyConnected
from shared.events.history import History
from shared.events.state import Position
from shared.history.bundle import open_bundle, write_bundle
from shared.history.trace import past_traces
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, egress, generator, mes, mesh
from zone_cp.marks import Head
from zone_cp.replay import snapshot_at
from zone_cp.served import Served, replayed
from zone_cp.took import Record, Took
from zone_cp.xds.digest import type_digest
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import CLUSTER, SECRET
from zone_cp.xds.wire import encode

PROXY = ".egress-1"
HELD_AT = "2026-01-01T00:00:05Z"


def _past() -> tuple[LogBuilder, ZoneBuilder]:
    """At g4 there is a service, g5 is about nothing that the egress is given, at g6 the endpoint moves."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    resource = egress()
    zone.write(applied(resource, "east"))
    zone.write(ProxyConnected(proxy=PROXY, key=key_of(resource, "east"), connection="c"))
    hub.append(applied(mesh()), applied(generator()), applied(mes("orders")), applied(mes()))
    zone.follow(hub)
    hub.append(applied(mesh("other", mtls=False)))
    zone.follow(hub)
    hub.append(applied(mes(endpoints=("203.0.113.2:8080",))))
    zone.follow(hub)
    return hub, zone


def _digests(history: History, at: Position) -> dict[str, str]:
    resources = snapshot_at(history, "east", at, PROXY).resources
    return {short_type(url): type_digest(url, names) for url, names in resources.items()}


def _judged(history: History, at: str) -> Served:
    found, served = replayed(history, "east", history.position("east", at), PROXY, ("cluster",))
    assert set(found) == {"Cluster"}
    return served


def _recorded(
    hub: LogBuilder, zone: ZoneBuilder, at: str, digests: Mapping[str, str] | None = None, *, incarnation: str = ""
) -> History:
    history = History.of(hub.events, {"east": zone.own.events})
    position = history.position("east", at)
    found = _digests(history, position) if digests is None else dict(digests)
    took = Took((incarnation or hub.state.incarnation, zone.own.state.incarnation), position, found, (PROXY,))
    head = Head((hub.state.incarnation, zone.own.state.incarnation), position, HELD_AT)
    messages = [msgspec.json.encode(one) for one in (head, Record(HELD_AT, (took,)))]
    return History(history.hub, history.zones, {"east": [b"{}", *messages]})


@pytest.mark.parametrize(
    ("recorded", "asked", "verdict", "told"),
    [
        ("4", "4", "served", f"served (digest matches), held by {HELD_AT}"),
        ("4", "5", "served", f"served (digest matches), held by {HELD_AT}"),
        ("4", "6", "computed", "computed, not served: the proxy still held what was served at g4"),
        ("6", "6", "served", f"served (digest matches), held by {HELD_AT}"),
        ("6", "4", "unrecorded", "no record"),
    ],
)
def test_a_moment_is_judged_by_the_last_record_before_it(recorded: str, asked: str, verdict: str, told: str) -> None:
    """What did not change between a push and the moment was served; what did change was only computed."""
    history = _recorded(*_past(), recorded)
    found = _judged(history, asked)
    assert found.verdict == verdict
    assert told in found.told


@pytest.mark.parametrize("asked", ["4", "6"])
def test_another_digest_at_the_recorded_moment_is_told(asked: str) -> None:
    """With the types that differ: this compiler, or somebody, makes something else of the log."""
    hub, zone = _past()
    history = History.of(hub.events, {"east": zone.own.events})
    digests = _digests(history, history.position("east", "4")) | {"Cluster": "0" * 16}
    history = _recorded(hub, zone, "4", digests)
    found = _judged(history, asked)
    assert found.verdict == "differs"
    assert found.types == ("Cluster",)


def test_a_record_of_an_earlier_incarnation_says_nothing() -> None:
    """Its positions count in another log."""
    history = _recorded(*_past(), "4", incarnation="before")
    assert _judged(history, "4").verdict == "unrecorded"


def test_a_digest_names_content_and_secrets_by_their_events() -> None:
    """Content and names count, order does not; of a secret the bytes do not count, its events do."""
    hub, _ = _past()
    source, other = (hub.state.resources[key].last for key in list(hub.state.resources)[:2])
    one, two = encode(CLUSTER, "a", b"1"), encode(CLUSTER, "b", b"2")
    assert type_digest(CLUSTER, {"a": one, "b": two}) == type_digest(CLUSTER, {"b": two, "a": one})
    assert type_digest(CLUSTER, {"a": one}) != type_digest(CLUSTER, {"a": encode(CLUSTER, "a", b"3")})
    assert type_digest(CLUSTER, {"a": one}) != type_digest(CLUSTER, {"b": one})
    secret = type_digest(SECRET, {"s": encode(SECRET, "s", b"1", (source,))})
    assert secret == type_digest(SECRET, {"s": encode(SECRET, "s", b"2", (source,))})
    assert secret != type_digest(SECRET, {"s": encode(SECRET, "s", b"1", (other,))})


def test_a_bundle_carries_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine a moment is proven by the digests that went with it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    hub, zone = _past()
    history = _recorded(hub, zone, "4")
    write_bundle(history, tmp_path / "past", time=HELD_AT)
    elsewhere = open_bundle(tmp_path / "past")[0]
    for at in ("4", "5", "6"):
        assert _judged(elsewhere, at) == _judged(history, at)
    assert _judged(elsewhere, "4").verdict == "served"


def test_a_record_tells_by_when_a_change_had_arrived() -> None:
    """Where marks are not, as on global: at the latest when the proxy took it, or something later."""
    hub, zone = _past()
    history = _recorded(hub, zone, "4")
    for change, known in ((4, True), (6, False)):
        (trace,) = past_traces(history, "global", change)
        assert trace.recorded is not None
        assert [one.by for one in trace.recorded.delivered] == ([HELD_AT] if known else [])
        assert trace.recorded.unrecorded == (() if known else (PROXY,))
