"""A bundle: everything but secrets, read with nothing else, and nothing taken from a file that is not sound."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from shared import cli
from shared.events.event import decode_envelope, decode_event
from shared.events.history import History
from shared.events.redaction import redacted_line
from shared.history import bundle
from shared.history.bundle import BundleFault, open_bundle, state_digest, write_bundle
from shared.history.cache import user_cache
from shared.history.generate import Size, generated
from zone_cp.replay import xds_at

SIZE = Size(events=2500, resources=120, proxies=8)
WHEN = "2026-03-01T00:00:00Z"


@pytest.fixture(scope="module")
def history() -> History:
    logs: dict[str, list[bytes]] = {}
    for piece in generated(SIZE):
        logs.setdefault(piece.origin, []).extend(piece.lines)
    events = {origin: [decode_event(line) for line in lines] for origin, lines in logs.items()}
    return History.of(events.pop("global"), events)


@pytest.fixture(scope="module")
def file(history: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle") / "past.bundle"
    write_bundle(history, place, time=WHEN)
    return place


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def test_a_bundle_is_the_past_without_its_secrets(history: History, file: Path) -> None:
    """Every event, with its hash; states as they were but for ciphertexts; the same xDS for a proxy."""
    found, contents = open_bundle(file)
    assert contents.header.time == WHEN
    for origin in ("global", "east", "west"):
        log, own = found.log(origin), history.log(origin)
        assert [log.raw(n) for n in log.numbers] == [redacted_line(own.raw(n)) for n in own.numbers]
        assert [log.head(n) for n in log.numbers] == [own.head(n) for n in own.numbers]
        assert state_digest(log) == state_digest(own) == contents.digests[origin]
    inflated = gzip.decompress(file.read_bytes())
    secret = next(event for event in history.hub.events() if "Secret" in event.subject)
    sealed = json.loads(msgspec.json.encode(secret.change.resource.sealed))  # type: ignore[union-attr]
    assert sealed["ciphertext"].encode() not in inflated
    assert not re.search(rb'"wrapped":"(?!redacted)', inflated)
    position = history.position("east", "east:600")
    proxy = max(history.state("east", position).own.proxies)
    assert xds_at(found, "east", position, proxy) == xds_at(history, "east", position, proxy)


def test_the_commands_work_on_a_bundle(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """replay, diff, explain and events; import says what is in it, export writes the same again."""

    def zonal(*words: str) -> str:
        code = cli.run(words)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    where = ("--bundle", str(file))
    told = json.loads(zonal("bundle", "import", str(file), "-o", "json"))
    assert {one["origin"]: one["same_state"] for one in told["origins"]} == dict.fromkeys(
        ("global", "east", "west"), True
    )
    assert "service-00001" in zonal("replay", "--zone", "east", "--kind", "mes", *where)
    assert "ExternalService" in zonal("replay", "--zone", "east", "--view", *where)
    assert "spec.endpoints[address=" in zonal("diff", "800", "1200", "--zone", "east", *where)
    assert "ResourceApplied" in zonal("explain", ".egress-east", "service-00001", "--zone", "east", *where)
    assert len(zonal("events", "--limit", "7", "--kind", "secret", *where).splitlines()) == 8
    assert "service-00001: " in zonal("events", "--name", "service-00001", "--all", *where)
    n = json.loads(zonal("events", "--name", "service-00001", "--kind", "mes", "-o", "json", *where))["items"][-1]["n"]
    shown = json.loads(zonal("show", str(n), "--proxies", "-o", "json", *where))
    assert shown["fields"]
    assert sum(len(group["proxies"]) for zone in shown["served"] for group in zone["groups"]) == 2
    assert f"{n} " in zonal("blame", "mes", "service-00001", *where)
    assert json.loads(zonal("undo", str(n), "--dry-run", "-o", "json", *where))["plan"]["steps"][0]["fields"]
    assert cli.run(["undo", str(n), "--yes", *where]) == 2
    assert "not written to" in capsys.readouterr().err
    again = file.with_name("again")
    zonal("bundle", "export", str(again), *where)
    assert gzip.decompress(again.read_bytes()).splitlines()[1:] == gzip.decompress(file.read_bytes()).splitlines()[1:]


def _lines(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines()


def _forge(lines: list[bytes], levels: int) -> None:
    """Give the last event of the first frame a change of so many levels, and a header that fits it."""
    change = b'{"type":"New","x":%s%s}' % (b"[" * levels, b"]" * levels)
    at = 1 + bundle.FRAME_EVENTS
    event = msgspec.json.decode(lines[at])
    event |= {"change": msgspec.Raw(change), "payloadHash": sha256(change).hexdigest()}
    lines[at] = msgspec.json.encode(event)


def _swap(lines: list[bytes]) -> None:
    lines[5], lines[6] = lines[6], lines[5]


def _edit(before: bytes, after: bytes) -> Callable[[list[bytes]], None]:
    def edit(lines: list[bytes]) -> None:
        at = next(number for number, line in enumerate(lines) if before in line)
        lines[at] = lines[at].replace(before, after, 1)

    return edit


def _hide(lines: list[bytes]) -> None:
    """Change a payload, and say nothing of it."""
    at = next(number for number, line in enumerate(lines) if b'"port":8080' in line)
    lines[at] = lines[at].replace(b'"port":8080', b'"port":8081')


SPOILT: dict[str, tuple[Callable[[list[bytes]], object], str]] = {
    "an event is missing": (lambda lines: lines.pop(7), "is event 7, expected 6"),
    "two are swapped": (_swap, "expected"),
    "a change was changed": (_hide, "payload_hash is not the hash of the change"),
    "a header was changed": (_edit(b'"actor":"alice"', b'"actor":"mallory"'), "prev is not the hash"),
    "a frame is short": (_edit(b'"count":1000', b'"count":999'), "line"),
    "a frame is huge": (_edit(b'"count":1000', b'"count":100000'), "do not come next"),
    "the end is another": (_edit(b'"events":', b'"events":9'), "ends at"),
    "a new format": (_edit(b'"format":1', b'"format":3'), "no bundle of format 1 or 2"),
    "a path for a name": (_edit(b'"origin":"east"', b'"origin":"../x"'), "names of origins"),
    "a name twice": (_edit(b'"origin":"east"', b'"origin":"west"'), "names of origins"),
    "another first line": (_edit(b'"bundle"', b'"bundled"'), "Invalid value"),
    "no last line": (lambda lines: lines.pop(), "ends too early"),
    "more after the end": (lambda lines: lines.append(b"more"), "something follows"),
    "nested": (lambda lines: _forge(lines, 70), "nests deeper than 64"),
    "nested much": (lambda lines: _forge(lines, 99_999), "nests deeper than 64"),
    "a long line": (lambda lines: lines.__setitem__(3, b"x" * (17 << 20)), "a line of more than"),
    "nothing": (list.clear, "ends too early"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_unsound_bundle_is_refused(file: Path, tmp_path: Path, how: str) -> None:
    """With the line and the reason; nothing of it is kept, and the sound one can be read in its place."""
    spoil, said = SPOILT[how]
    lines = _lines(file)
    spoil(lines)
    spoilt = tmp_path / "spoilt"
    spoilt.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    with pytest.raises(BundleFault, match=re.escape(said)):
        open_bundle(spoilt)
    assert not list(user_cache(f"bundle {spoilt.resolve()}").glob("origin-*"))
    spoilt.write_bytes(file.read_bytes())
    assert len(open_bundle(spoilt)[0].hub) > 1000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("replay", "--zone", "east", "--kind", "bogus"), "MeshExternalService"),
        (("replay", "--zone", "east", "--proxy", ".egress-east", "--kind", "mes"), "Cluster, "),
        (("replay", "--zone", "east", "--view", "--kind", "mes"), "ExternalService, Gateway"),
        (("diff", "1", "2", "--zone", "east", "--kind", "bogus"), "MeshExternalService"),
        (("diff", "1", "2", "--proxies", "--kind", "bogus"), "Cluster, "),
    ],
)
def test_a_kind_that_there_is_not_is_told(
    file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    """With those that there are; nothing found would look like nothing there."""
    assert cli.run([*words, "--bundle", str(file)]) == 3
    captured = capsys.readouterr()
    assert f'there is no kind "{words[-1]}" here; there are: ' in captured.err
    assert told in captured.err


def test_what_is_verified_has_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path is the caller's fault, not an unsound log."""
    for flag, what in (("--store", "directory"), ("--copy", "directory"), ("--bundle", "bundle")):
        assert cli.run(["verify", flag, str(tmp_path / "x")]) == 2
        assert f"is no {what}" in capsys.readouterr().err


def test_a_bundle_may_be_of_one_zone(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Global's log and this zone's, nothing of any other; a zone that is not there is refused."""
    part = tmp_path / "east.bundle"
    assert cli.run(["bundle", "export", str(part), "--zone", "east", "--bundle", str(file)]) == 0
    found, _ = open_bundle(part)
    assert list(found.zones) == ["east"]
    assert len(found.hub) == len(open_bundle(file)[0].hub)
    capsys.readouterr()
    assert cli.run(["bundle", "export", str(tmp_path / "x"), "--zone", "north", "--bundle", str(file)]) == 3
    assert "zones: east, west" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_zones_recorded_goes_with_a_bundle(history: History, file: Path, tmp_path: Path) -> None:
    """As it stands in their streams; a bundle without is what earlier versions read; what is no record is refused."""
    records = {"east": [b'{"rows":{}}', b"[" * 99 + b"]" * 99, b"no json", b'{\n"a":1}', b"{}"]}
    place = tmp_path / "recorded"
    write_bundle(History(history.hub, history.zones, records), place, time=WHEN)
    found, contents = open_bundle(place)
    assert found.deliveries == {"east": [b'{"rows":{}}', b"{}"]}
    assert (contents.header.format, open_bundle(file)[1].header.format) == (2, 1)
    lines = _lines(place)
    (at,) = [number for number, line in enumerate(lines) if line.startswith(b'{"line":"recorded"')]
    for head, record, said in (
        (b'{"line":"recorded","zone":"global","count":2}', b"{}", "records of global"),
        (b'{"line":"recorded","zone":"nowhere","count":2}', b"{}", "records of nowhere"),
        (b'{"line":"recorded","zone":"east","count":-1}', b"{}", "-1 records"),
        (lines[at], b"[" * 99 + b"]" * 99, "nests deeper"),
        (lines[at], b"nonsense", "is no JSON"),
    ):
        spoilt = tmp_path / "spoilt"
        spoilt.write_bytes(gzip.compress(b"\n".join([*lines[:at], head, record, *lines[at + 2 :]]) + b"\n"))
        with pytest.raises(BundleFault, match=said):
            open_bundle(spoilt)


def test_a_file_that_inflates_without_measure_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit follows from the file's own size."""
    monkeypatch.setattr(bundle, "INFLATED_FLOOR", 1000)
    monkeypatch.setattr(bundle, "INFLATED_FACTOR", 2)
    with pytest.raises(BundleFault, match="inflates to more than"):
        open_bundle(file)


def test_a_file_that_is_no_bundle_is_refused(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not gzip, cut off, or not there; the command says so and exits accordingly."""
    other = tmp_path / "other"
    other.write_bytes(b"hello")
    assert cli.run(["bundle", "import", str(other)]) == 3
    assert "no bundle" in capsys.readouterr().err
    other.write_bytes(file.read_bytes()[:-100])
    assert cli.run(["replay", "--bundle", str(other)]) == 3
    assert "not whole" in capsys.readouterr().err
    assert cli.run(["replay", "--bundle", str(tmp_path / "gone")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_what_was_left_out_is_told_from_what_was_forged(history: History) -> None:
    """Headers are those of the log: hashes are the same though payloads are not."""
    n = next(event.n for event in history.hub.events() if "DataKey" in event.subject)
    kept, left = decode_envelope(history.hub.raw(n)), decode_envelope(redacted_line(history.hub.raw(n)))
    assert (kept.payload_hash, kept.prev) == (left.payload_hash, left.prev)
    assert kept.change != left.change
