"""A bundle: a system's whole past in one file, without its secrets, to be read on another machine with nothing else.

The file is gzip over lines of JSON: one `Header`; per origin any number of `Frame`s, each followed by as many events as
it says, as they stand in the log but for what `redaction` leaves out; per zone whose records are known `Recorded` and
those, digests of what its proxies took; at the end `End`, which tells a whole file from a part of one. Its digests say
what the writer's fold made of each log, so that a reader whose fold differs notices.

A bundle comes from outside. Sizes, counts and depth are limited, what is inflated is limited by the file's own size,
every event must continue its chain, and nothing of a bundle that fails is kept.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec
from immutables import Map

from shared import VERSION
from shared.events.chain import ChainFault, Link, follow
from shared.events.checkpoint import checkpoint_text
from shared.events.event import GLOBAL, ZoneSettingsChanged
from shared.events.history import History
from shared.events.index import DamagedLog
from shared.events.past import PastLog
from shared.events.redaction import REDACTED, redacted_line
from shared.history.cache import HistoryCache, history_of, user_cache
from shared.history.progress import Progress, unwatched

FORMAT = 1
RECORDED_FORMAT = 2
"""Of a bundle with records, which earlier versions do not read."""
RECORDS_LIMIT = 1_000_000
"""Per zone."""
FRAME_EVENTS = 1000
FRAME_EVENTS_LIMIT = 10_000
FRAME_BYTES_LIMIT = 256 << 20
LINE_BYTES_LIMIT = 16 << 20
EVENTS_LIMIT = 100_000_000
ORIGINS_LIMIT = 1024
DEPTH_LIMIT = 64
"""Of nested arrays and objects in one event."""
INFLATED_FACTOR = 200
INFLATED_FLOOR = 64 << 20
"""A file may inflate to INFLATED_FLOOR bytes and INFLATED_FACTOR times its size; logs inflate to about five times."""
_READ_BYTES = 1 << 20
_LEVEL = 3  # twice as fast as the default, for a tenth more bytes
_ORIGIN = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")


class BundleFault(Exception):
    """The file is no bundle that can be read; the message says where and why."""


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One log in a bundle: its last event and that event's hash, and the zone's settings then."""

    origin: str
    events: int
    head: str
    incarnation: str = ""
    time: str = ""
    settings: ZoneSettingsChanged | None = None


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="bundle"):
    """The first line. zonal is the version that wrote it, time when (RFC 3339)."""

    format: int
    zonal: str
    time: str
    origins: list[Origin]


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="events"):
    """`count` events of `origin` follow, the first of them is event `first`."""

    origin: str
    first: int
    count: int


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="recorded"):
    """`count` messages of a zone's delivery stream follow (`History.deliveries`): what its proxies held, and when."""

    zone: str
    count: int


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="end"):
    """The last line. digests: by origin, what the writer's fold made of it (`state_digest`)."""

    digests: dict[str, str]


class Contents(msgspec.Struct, frozen=True):
    """What a bundle says of itself. All of it was checked but `digests`, for a reader to compare with its own, and
    `records`, by zone: they are as good as whoever handed the bundle on.
    """

    header: Header
    digests: dict[str, str]
    records: dict[str, list[bytes]] = {}


Line: TypeAlias = Header | Frame | Recorded | End

_decoder = msgspec.json.Decoder(Line)


# --- writing ------------------------------------------------------------------------------------------------------


def write_bundle(history: History, file: Path, *, time: str, progress: Progress = unwatched) -> None:
    """Write the whole of `history` to `file`, which appears only once it is whole. Raises OSError."""
    logs = {GLOBAL: history.hub, **history.zones}
    fresh = file.with_name(f"{file.name}.new")
    try:
        with fresh.open("wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as out:
            written = RECORDED_FORMAT if history.deliveries else FORMAT
            _put(out, Header(written, VERSION, time, [_origin(log) for log in logs.values()]))
            digests = {origin: _write_log(out, log, progress) for origin, log in logs.items()}
            for zone, messages in sorted(history.deliveries.items()):
                told = [message for message in messages if _is_line(message)]
                _put(out, Recorded(zone, len(told)))
                out.write(b"".join(message + b"\n" for message in told))
            _put(out, End(digests))
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def _is_line(message: bytes) -> bool:
    try:
        msgspec.json.decode(message, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return b"\n" not in message and not _is_deep(message)


def _put(out: gzip.GzipFile, line: Line) -> None:
    out.write(msgspec.json.encode(line) + b"\n")


def _origin(log: PastLog) -> Origin:
    n = len(log)
    state = log.state(n)
    return Origin(log.origin, n, state.head, state.incarnation, state.time, state.settings)


def _write_log(out: gzip.GzipFile, log: PastLog, progress: Progress) -> str:
    for after in range(0, len(log), FRAME_EVENTS):
        until = min(after + FRAME_EVENTS, len(log))
        lines = [redacted_line(log.raw(n)) for n in range(after + 1, until + 1)]
        _put(out, Frame(log.origin, after + 1, len(lines)))
        out.write(b"\n".join(lines) + b"\n")
        progress(f"write {log.origin}", until, len(log))
    return state_digest(log)


def state_digest(log: PastLog) -> str:
    """SHA-256 of what a log amounts to at its end: the same for the log and for a bundle of it."""
    state = log.state(len(log))
    wraps = {kid: Map(dict.fromkeys(known, REDACTED)) for kid, known in state.data_keys.items()}
    return sha256(redacted_line(checkpoint_text(msgspec.structs.replace(state, data_keys=Map(wraps))))).hexdigest()


# --- reading ------------------------------------------------------------------------------------------------------

Take: TypeAlias = Callable[[str, Sequence[bytes]], None]
"""Told the next events of an origin, encoded."""


def read_bundle(file: Path, take: Take, progress: Progress = unwatched, *, chained: bool = True) -> Contents:
    """Read a whole bundle and hand its events on, each after it was checked. Raises BundleFault, OSError.

    chained: expect of each event that it continues its chain; else the caller looks at that.
    """
    with file.open("rb") as raw:
        lines = _Lines(raw, file.stat().st_size)
        try:
            return _Reader(lines, take, progress, chained=chained).read()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BundleFault(f"{file} is no bundle, or not whole: {error}") from None
        except (BundleFault, ChainFault, DamagedLog, msgspec.DecodeError, RecursionError) as error:
            raise BundleFault(f"{file}, line {lines.number}: {error}") from None


class _Lines:
    """The lines of a bundle, inflated as they are asked for."""

    def __init__(self, raw: BinaryIO, size: int) -> None:
        self._inflated = gzip.GzipFile(fileobj=raw)
        self._limit = INFLATED_FLOOR + INFLATED_FACTOR * size
        self._left = self._limit
        self._lines: list[bytes] = []
        self._rest = b""
        self.number = 0

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines. Raises BundleFault."""
        held = 0
        while len(self._lines) < count:
            held += self._fill()
            if held > FRAME_BYTES_LIMIT:
                raise BundleFault(f"{count} events take more than {FRAME_BYTES_LIMIT} bytes")
        taken, self._lines = self._lines[:count], self._lines[count:]
        self.number += count
        return taken

    def _fill(self) -> int:
        data = self._inflated.read(_READ_BYTES)
        if not data:
            raise BundleFault("the file ends too early")
        self._left -= len(data)
        if self._left < 0:
            raise BundleFault(f"inflates to more than {self._limit} bytes")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(map(len, (*lines, self._rest))) > LINE_BYTES_LIMIT:
            raise BundleFault(f"a line of more than {LINE_BYTES_LIMIT} bytes")
        self._lines += lines
        return len(data)

    def expect_end(self) -> None:
        """Raises BundleFault when anything follows."""
        if self._lines or self._rest or self._inflated.read(1):
            raise BundleFault("something follows the end")


class _Reader:
    def __init__(self, lines: _Lines, take: Take, progress: Progress, *, chained: bool) -> None:
        self._chained = chained
        self._lines = lines
        self._take = take
        self._progress = progress
        self._chains: dict[str, Link] = {}
        self._counts: dict[str, int] = {}
        self._records: dict[str, list[bytes]] = {}

    def read(self) -> Contents:
        header = self._header()
        while isinstance(line := self._next(), Frame | Recorded):
            if isinstance(line, Frame):
                self._frame(line)
            else:
                self._recorded(line)
        if not isinstance(line, End):
            raise BundleFault("a second beginning")
        for origin in header.origins:
            at = self._chains[origin.origin]
            if at.n != origin.events or (self._chained and at.hash != origin.head):
                raise BundleFault(f"the log of {origin.origin} ends at {at.n}, not at {origin.events} as it says")
        self._lines.expect_end()
        return Contents(header, line.digests, self._records)

    def _next(self) -> Line:
        (line,) = self._lines.take(1)
        found: Line = _decoder.decode(line)
        return found

    def _header(self) -> Header:
        header = self._next()
        if not isinstance(header, Header) or header.format not in (FORMAT, RECORDED_FORMAT):
            raise BundleFault(f"no bundle of format {FORMAT} or {RECORDED_FORMAT}")
        names = [origin.origin for origin in header.origins]
        if len(names) > ORIGINS_LIMIT or len(set(names)) != len(names) or not all(map(_ORIGIN.match, names)):
            raise BundleFault(f"names of origins that are no zones, stand twice, or are more than {ORIGINS_LIMIT}")
        if sum(origin.events for origin in header.origins) > EVENTS_LIMIT:
            raise BundleFault(f"more than {EVENTS_LIMIT} events")
        self._chains = {name: Link() for name in names}
        self._counts = {origin.origin: origin.events for origin in header.origins}
        return header

    def _frame(self, frame: Frame) -> None:
        at = self._chains.get(frame.origin)
        if at is None or frame.first != at.n + 1 or not 0 < frame.count <= FRAME_EVENTS_LIMIT:
            raise BundleFault(f"{frame.count} events of {frame.origin} from {frame.first} do not come next")
        if at.n + frame.count > self._counts[frame.origin]:
            raise BundleFault(f"more events of {frame.origin} than it says")
        lines = self._lines.take(frame.count)
        for line in lines:
            if _is_deep(line):
                raise BundleFault(f"event {at.n + 1} of {frame.origin} nests deeper than {DEPTH_LIMIT}")
            at = follow(at, line, redacted=True) if self._chained else Link(at.n + 1)
        self._chains[frame.origin] = at
        self._take(frame.origin, lines)
        self._progress(f"read {frame.origin}", at.n, self._counts[frame.origin])

    def _recorded(self, recorded: Recorded) -> None:
        zone = recorded.zone
        if zone == GLOBAL or zone not in self._chains or zone in self._records:
            raise BundleFault(f"records of {zone}, which has no log here or has them already")
        if not 0 <= recorded.count <= RECORDS_LIMIT:
            raise BundleFault(f"{recorded.count} records of {zone} are not between 0 and {RECORDS_LIMIT}")
        self._records[zone] = self._lines.take(recorded.count)
        for line in self._records[zone]:
            if not _is_line(line):
                raise BundleFault(f"a record of {zone} is no JSON, or nests deeper than {DEPTH_LIMIT}")


def _is_deep(line: bytes) -> bool:
    return line.count(b"{") + line.count(b"[") > DEPTH_LIMIT and depth(line) > DEPTH_LIMIT


def depth(line: bytes) -> int:
    """How deep arrays and objects nest in a JSON text; strings may make it look deeper, never less deep."""
    deepest = now = 0
    for byte in line:
        if byte in b"{[":
            now += 1
            deepest = max(deepest, now)
        elif byte in b"}]":
            now = max(0, now - 1)
    return deepest


# --- opening ------------------------------------------------------------------------------------------------------


def open_bundle(file: Path, progress: Progress = unwatched, *, cache: Path | None = None) -> tuple[History, Contents]:
    """The history in a bundle, and what the bundle says of itself. Raises BundleFault, OSError.

    What was read is kept below the user's caches (or in `cache`), so that only the first time takes long.
    """
    known = file.stat()
    source = f"{known.st_ino} {known.st_size} {known.st_mtime_ns}"
    with HistoryCache(cache or user_cache(f"bundle {file.resolve()}")) as kept:
        note = kept.directory / "contents"
        if not kept.holds(source):
            kept.incomplete()
            kept.keep_only(())
            note.write_bytes(msgspec.json.encode(_fill(kept, file, progress)))
            kept.complete(source)
        contents = msgspec.json.decode(note.read_bytes(), type=Contents)
        return history_of(kept.pasts(), contents.records), contents


def _fill(kept: HistoryCache, file: Path, progress: Progress) -> Contents:
    try:
        with ExitStack() as stack:
            growing: dict[str, Callable[[Sequence[bytes]], None]] = {}

            def take(origin: str, lines: Sequence[bytes]) -> None:
                if origin not in growing:
                    growing[origin] = stack.enter_context(kept.origin(origin).growing())
                growing[origin](lines)

            return read_bundle(file, take, progress)
    except BaseException:
        kept.keep_only(())
        raise
