"""What was read of a history, kept between processes: its events, the index over them, checkpoints.

One directory per history, one below it per origin. Everything here can be deleted at any time; it is made again from
the logs. It holds what the logs hold (ciphertexts, no secret in clear), so only its owner may read it.

An origin's `events` grows at its end only and `index` is replaced whole, last: after a crash the events behind the
index's end are cut off. One process at a time changes a directory; the others wait.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import FileIO
from pathlib import Path
from typing import Self

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.index import Image, Lines, LogIndex
from shared.events.past import PastLog
from shared.events.subject import escape, unescape
from shared.process.collector import collector_paused

CHECKPOINTS_LIMIT = 256
"""Per origin. They are spread over the log, so more of them would save little."""
WRITES_LIMIT = 8
"""Pieces of events that wait to be written, of about a MB each."""
_MAGIC = b"zonal index 1 "
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")

_image_decoder = msgspec.msgpack.Decoder(Image)
_image_encoder = msgspec.msgpack.Encoder()


class CheckpointFiles:
    """Checkpoints of one log, each in a file (`shared.events.past.Checkpoints`)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._places: set[int] | None = None

    def places(self) -> Sequence[int]:
        """See Checkpoints."""
        return sorted(self._known())

    def load(self, n: int) -> bytes | None:
        """See Checkpoints."""
        try:
            return self._file(n).read_bytes()
        except OSError:
            return None

    def save(self, n: int, data: bytes) -> None:
        """See Checkpoints. A full disk or a read-only one costs time later, nothing else."""
        if len(self._known()) < CHECKPOINTS_LIMIT:
            with suppress(OSError):
                _replace(self._file(n), data)
                self._known().add(n)

    def drop(self, n: int) -> None:
        """See Checkpoints."""
        self._known().discard(n)
        with suppress(OSError):
            self._file(n).unlink(missing_ok=True)

    def _known(self) -> set[int]:
        if self._places is None:
            names = [path.name for path in self._directory.glob("checkpoint-*")]
            self._places = {int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))}
        return self._places

    def _file(self, n: int) -> Path:
        return self._directory / f"checkpoint-{n}"


class _Appending:
    """Appends to a file in a thread of its own: others who sync the same disk hold writes up, and reading goes on."""

    def __init__(self, out: FileIO) -> None:
        self._out = out
        self._thread = ThreadPoolExecutor(1)
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def append(self, data: bytes) -> None:
        """Write it some time; waits where WRITES_LIMIT pieces do so already. Raises OSError of an earlier one."""
        if len(self._under_way) >= WRITES_LIMIT:
            self._under_way.popleft().result()
        self._under_way.append(self._thread.submit(self._write, data))

    def settle(self) -> None:
        """All of it is written. Raises OSError."""
        while self._under_way:
            self._under_way.popleft().result()

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._out.write(left) :]


class OriginCache:
    """What is kept of one origin's log. `past` is it, as far as it was read."""

    def __init__(self, directory: Path, origin: str) -> None:
        self._directory = directory
        self._events = directory / "events"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        index = _read_index(directory / "index", origin, self._events)
        if index is None:
            self._clear()
            index = LogIndex(origin)
        self.index = index
        self.kept = len(index)
        """So many events the next process will find."""
        self.past = PastLog(index, self._mapped(), CheckpointFiles(directory))

    @contextmanager
    def growing(self, *, keep: bool = True) -> Iterator[Callable[[Sequence[bytes]], None]]:
        """What is yielded takes the next events, encoded. What it has taken stays, however the block ends.

        keep: for the next process as well, which takes a moment. It raises DamagedLog for what does not come next.
        """
        with collector_paused(), self._events.open("ab", buffering=0) as out:
            out.truncate(self.index.starts[-1])
            out.seek(0, os.SEEK_END)
            with _Appending(out) as written:

                def extend(lines: Sequence[bytes]) -> None:
                    self.index.extend(lines)
                    written.append(b"\n".join(lines) + b"\n")

                try:
                    yield extend
                finally:
                    try:
                        written.settle()
                    except OSError:
                        self.forget()
                        raise
                    out.truncate(self.index.starts[-1])
                    self._grown(keep=keep)

    def forget(self) -> None:
        """Begin anew: it is another log's past."""
        self._clear()
        self.index = LogIndex(self.index.origin)
        self.kept = 0
        self.past = PastLog(self.index, b"", CheckpointFiles(self._directory))

    def _clear(self) -> None:
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)

    def _grown(self, *, keep: bool) -> None:
        if keep:
            image = _image_encoder.encode(self.index.image())
            _replace(self._directory / "index", b"%s%s\n%s" % (_MAGIC, sha256(image).hexdigest().encode(), image))
            self.kept = len(self.index)
        self.past.grown(self._mapped())

    def _mapped(self) -> Lines:
        if not len(self.index):
            return b""
        with self._events.open("rb") as file:
            return mmap.mmap(file.fileno(), self.index.starts[-1], access=mmap.ACCESS_READ)


class HistoryCache:
    """The directory of one history. Use it as a context manager: inside, no other process changes it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._lock = -1
        self._opened: dict[str, OriginCache] = {}

    def __enter__(self) -> Self:
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def origin(self, name: str) -> OriginCache:
        """What is kept of one origin, or the beginning of it."""
        if name not in self._opened:
            self._opened[name] = OriginCache(self.directory / f"origin-{escape(name)}", name)
        return self._opened[name]

    def origins(self) -> list[str]:
        """Names of the origins of which anything is kept."""
        found = self.directory.glob("origin-*")
        return sorted(unescape(path.name.removeprefix("origin-")) for path in found)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget the other origins."""
        for name in set(self.origins()) - set(names):
            self._opened.pop(name, None)
            shutil.rmtree(self.directory / f"origin-{escape(name)}", ignore_errors=True)

    def holds(self, source: str) -> bool:
        """Whether all of `source` is here, and nothing of it was lost since."""
        try:
            kept = msgspec.json.decode((self.directory / "source").read_bytes(), type=_Source)
        except (OSError, msgspec.DecodeError):
            return False
        return kept == _Source(source, self._counts())

    def complete(self, source: str) -> None:
        """Everything of `source` is here now."""
        _replace(self.directory / "source", msgspec.json.encode(_Source(source, self._counts())))

    def incomplete(self) -> None:
        """Something is about to change."""
        (self.directory / "source").unlink(missing_ok=True)

    def pasts(self) -> dict[str, PastLog]:
        """What is kept, by origin."""
        return {name: self.origin(name).past for name in self.origins()}

    def _counts(self) -> dict[str, int]:
        return {name: len(past) for name, past in self.pasts().items()}


class _Source(msgspec.Struct, frozen=True):
    """Of what everything is kept, and how many events that was by origin."""

    source: str
    counts: dict[str, int]


def history_of(pasts: Mapping[str, PastLog], deliveries: Mapping[str, Sequence[bytes]] | None = None) -> History:
    """Every origin's past; global's is empty where it is missing."""
    zones = {name: past for name, past in pasts.items() if name != GLOBAL}
    return History(pasts.get(GLOBAL, PastLog.of(GLOBAL, ())), zones, deliveries)


def user_cache(source: str) -> Path:
    """Where what is read of a source is kept below the user's own caches."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "zonal" / sha256(source.encode()).hexdigest()[:16]


def _read_index(path: Path, origin: str, events: Path) -> LogIndex | None:
    """The index as it was kept; None when there is none that can be used."""
    try:
        data = path.read_bytes()
        size = events.stat().st_size
    except OSError:
        return None
    head, _, image = data.partition(b"\n")
    if head != _MAGIC + sha256(image).hexdigest().encode():
        return None
    try:
        index = LogIndex.restored(_image_decoder.decode(image))
    except (msgspec.DecodeError, ValueError):
        return None
    if index.origin != origin or index.starts[-1] > size:
        return None
    return index


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(path)
