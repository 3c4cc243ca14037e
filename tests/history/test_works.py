"""Processes that do long work: watched, bounded, and gone in the end; and what a probe may say."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from shared.demo.looking import eventually
from shared.events.event import ZoneSettingsChanged
from shared.events.history import History
from shared.history.order import Bisect, Order, Plane, Verify
from shared.history.probe import Probe
from shared.history.work import CannotTry, endpoints
from shared.history.works import KEPT, Busy, Works
from tests.builders import LogBuilder, ZoneBuilder, applied, mesh

pytestmark = pytest.mark.anyio

PLANE = Plane("east", "nats://127.0.0.1:1", "", "", "/nowhere")
SLEEPS = (
    "import os, subprocess, sys; sys.stdin.readline();"
    "child = subprocess.Popen(['sleep', '600']);"
    'print(\'{"remark": "%d %d"}\' % (os.getpid(), child.pid), flush=True);'
)


def works(directory: Path, script: str, *, seconds: float = 60.0, end_seconds: float = 60.0) -> Works:
    program = (sys.executable, "-c", script)
    return Works(PLANE, directory / "tasks", program=program, seconds=seconds, end_seconds=end_seconds)


def alive(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def _gone(pid: str) -> bool:
    return not alive(pid)


async def _remarked(some: Works) -> bool:
    return bool(some.all()[0].remarks)


async def _cancelled(some: Works, name: str) -> None:
    await some.cancel(name)


async def _waited(some: Works, name: str) -> None:
    await some.ended(name, 60)


@pytest.mark.parametrize(
    ("seconds", "end", "standing"),
    [(60.0, _cancelled, "cancelled"), (1.0, _waited, "failed")],
    ids=["cancelled", "out of time"],
)
async def test_nothing_is_left_of_a_process_that_does_not_end(
    tmp_path: Path, seconds: float, end: Callable[[Works, str], Awaitable[None]], standing: str
) -> None:
    """It pays no heed to the end of its input: it is killed, with what it started, and the next may begin."""
    some = works(tmp_path, SLEEPS + "import time; time.sleep(600)", seconds=seconds, end_seconds=0.1)
    begun = some.start(Verify(), "admin")
    if end is _cancelled:
        await eventually(lambda: _remarked(some), bool, "it has begun", 60)
    with pytest.raises(Busy, match=f"{begun.id} of admin is running"):
        some.start(Verify(), "other")
    await end(some, begun.id)
    told = some.one(begun.id)
    assert told is not None
    assert told.standing == standing
    assert told.ended >= told.started
    for pid in " ".join(told.remarks).split():
        await eventually(partial(_gone, pid), bool, f"{pid} is gone", 60)
    assert some.start(Verify(), "other").standing == "running"
    await some.cancel(some.all()[-1].id)


async def test_a_process_that_says_nothing_is_told_of_by_what_it_wrote_to_stderr(tmp_path: Path) -> None:
    """It broke; the task failed."""
    some = works(tmp_path, "import sys; sys.exit('the disk is full')")
    told = await some.ended(some.start(Verify(), "admin").id, 60)
    assert told is not None
    assert told.standing == "failed"
    assert "ended without a word: the disk is full" in told.fault


async def test_what_a_process_made_is_there_until_it_is_forgotten(tmp_path: Path) -> None:
    """Its file, while the task is among the newest; nothing of one that failed."""
    made = "import json, sys; job = json.loads(sys.stdin.readline()); open(job['target'], 'w').write('abc');"
    some = works(tmp_path, made + "print('{\"result\": {}}')")
    first = some.start(Verify(), "admin").id
    await some.ended(first, 60)
    file = some.made(first)
    assert file is not None
    assert file.read_text() == "abc"
    for _ in range(KEPT):
        await some.ended(some.start(Verify(), "admin").id, 60)
    assert some.one(first) is None
    assert not file.exists()
    assert len(list(file.parent.iterdir())) == KEPT
    failing = works(tmp_path, made + 'print(\'{"fault": "no"}\')')
    name = failing.start(Verify(), "admin").id
    await failing.ended(name, 60)
    assert failing.made(name) is None
    assert not list(file.parent.iterdir())


async def test_the_real_process_says_what_it_cannot_do(tmp_path: Path) -> None:
    """Here because there is no nats-server."""
    some = Works(PLANE, tmp_path / "tasks")
    told = await some.ended(some.start(Verify(), "admin").id, 60)
    assert told is not None
    assert told.standing == "failed"
    assert "nats" in told.fault


def test_an_order_takes_no_command_and_names_what_it_needs() -> None:
    """Told as the fault of the body."""
    for more, reason in (
        ({"check": "id"}, "not taken over HTTP"),
        ({}, "either a predicate or a probe"),
        ({"probe": {"url": "http://a/"}}, "needs a proxy"),
        ({"predicate": "hostname a resolves", "target": "/etc/passwd"}, "unknown field"),
    ):
        with pytest.raises(msgspec.ValidationError, match=reason):
            msgspec.convert({"do": "bisect", "good": "1", **more}, Order)
    found = msgspec.convert({"do": "bisect", "good": "1", "predicate": "hostname a resolves"}, Order)
    assert isinstance(found, Bisect)


@pytest.mark.parametrize(
    "url", ["https://a/", "http:///x", "http://u:p@a/", "http://a/x y", "http://a/\r\nx: y", "http://a:0/", "a", ""]
)
def test_what_is_no_request_to_a_service_is_no_probe(url: str) -> None:
    """Other schemes, credentials, and what would end a line of the request."""
    with pytest.raises(ValueError, match=r"url|port"):
        Probe(url=url)


def test_a_probe_asks_as_an_application_would() -> None:
    """Host and port as the URL has them; any status below 400 is good unless one is named."""
    probe = Probe(url="http://pay.ext.mesh:8443/a/b?c=d")
    assert (probe.host, probe.port) == ("pay.ext.mesh", 8443)
    assert probe.request.startswith(b"GET /a/b?c=d HTTP/1.1\r\nhost: pay.ext.mesh:8443\r\n")
    assert (probe.is_good(204), probe.is_good(404)) == (True, False)
    assert (Probe(url="http://a", expect=403).is_good(403), Probe(url="http://a", expect=403).is_good(200)) == (
        True,
        False,
    )
    assert Probe(url="http://a").request.startswith(b"GET / HTTP/1.1\r\nhost: a\r\n")


@pytest.mark.parametrize(
    ("endpoints", "reason"),
    [
        ({"a.example:443": "nowhere:443"}, "a.example:443=nowhere:443 is not host:port=ip:port"),
        ({"a.example": "192.0.2.1:443"}, "is not host:port=ip:port"),
        ({"a.example:443": "192.0.2.1:70000"}, "is not host:port=ip:port"),
        ({f"a{n}.example:443": "192.0.2.1:443" for n in range(101)}, "length <= 100"),
    ],
)
def test_an_endpoint_map_is_looked_at_before_anything_is_done(endpoints: dict[str, str], reason: str) -> None:
    """What is no address is told at once, and there is a limit."""
    order = {"do": "bisect", "good": "1", "proxy": "p", "probe": {"url": "http://a/"}, "endpoints": endpoints}
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert(order, Order)


def test_a_task_dials_nothing_that_an_endpoint_may_not_be() -> None:
    """Loopback, link-local and VIPs are refused where the zone's settings do not allow them (decision 13)."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()))
    zone.follow(hub)
    history = History.of(hub.events, {"east": zone.own.events})

    def asked(address: str) -> Bisect:
        probe = Probe(url="http://a/")
        return Bisect(good="1", proxy="p", probe=probe, endpoints={"a.example:443": f"{address}:8443"})

    for address in ("127.0.0.1", "169.254.169.254", "242.0.0.1"):
        with pytest.raises(CannotTry, match=f"{address}:8443: .* is refused"):
            endpoints(asked(address), history, "east")
    assert endpoints(asked("192.0.2.1"), history, "east") == {("a.example", 443): ("192.0.2.1", 8443)}
    zone.write(
        ZoneSettingsChanged(cidr="242.0.0.0/8", quarantine_seconds=1, compiler="1", allowed_addresses=("127.0.0.0/8",))
    )
    history = History.of(hub.events, {"east": zone.own.events})
    assert endpoints(asked("127.0.0.1"), history, "east")
