"""The names a sidecar answers: an incremental table of prebuilt DNS answers, kept on disk (decision 27).

Keys are names as they stand in a question (RFC 1035 §3.1 labels), in lower case, so that one lookup in the bytes
of a query finds its answer. The copy on disk lets names resolve while the control plane is down.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

FORMAT = 1
DEFAULT_TTL_SECONDS = 5
MAX_LABEL = 63
MAX_NAME = 255


class InvalidName(ValueError):
    """Not a name that can stand in a DNS question, or not an IPv4 address."""


class _Stored(msgspec.Struct, frozen=True):
    format: int
    version: str
    ttl_seconds: int
    names: dict[str, str]


def wire_name(name: str) -> bytes:
    """The question form of a name (lower case, with the root label). Raises InvalidName."""
    try:
        labels = name.rstrip(".").lower().encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise InvalidName(f"{name!r} is not ASCII") from None
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise InvalidName(f"{name!r} has an empty or over-long label")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > MAX_NAME:
        raise InvalidName(f"{name!r} is longer than {MAX_NAME} bytes")
    return wire


class NameTable:
    """Name → VIP. `answers` is what the responder looks into: question name → one whole A record."""

    def __init__(self) -> None:
        self.version = ""
        self.ttl_seconds = DEFAULT_TTL_SECONDS
        self.answers: dict[bytes, bytes] = {}
        self._names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Mapping[str, str]:
        """Name (lower case, no trailing dot) → IPv4 address."""
        return self._names

    def replace(self, version: str, names: Mapping[str, str], ttl_seconds: int = DEFAULT_TTL_SECONDS) -> list[str]:
        """Make `names` the whole table; see `update` for what is returned."""
        # Most of a whole table that comes anew is known, and queries wait while it is taken over.
        wanted = {name.rstrip(".").lower(): ip for name, ip in names.items()}
        changed = {name: ip for name, ip in wanted.items() if self._names.get(name) != ip}
        return self.update(version, changed, [name for name in self._names if name not in wanted], ttl_seconds)

    def update(
        self, version: str, upsert: Mapping[str, str], remove: Iterable[str], ttl_seconds: int = DEFAULT_TTL_SECONDS
    ) -> list[str]:
        """Apply a change: removals first, so that a name in both ends up present.

        Names that cannot be served are left out; the reasons are returned, one sentence each.
        """
        faults: list[str] = []
        if ttl_seconds != self.ttl_seconds:
            self.ttl_seconds = ttl_seconds
            self.answers = {wire_name(name): self._record(ip) for name, ip in self._names.items()}
        for name in remove:
            if self._names.pop(name.rstrip(".").lower(), None) is not None:
                del self.answers[wire_name(name)]
        for name, ip in upsert.items():
            try:
                self.answers[wire_name(name)] = self._record(ip)
            except ValueError as error:
                faults.append(str(error))
            else:
                self._names[name.rstrip(".").lower()] = ip
        self.version = version
        return faults

    def _record(self, ip: str) -> bytes:
        # Owner: a pointer to the question at offset 12; A, IN, TTL, four bytes (RFC 1035 §4.1.3, §4.1.4).
        return b"\xc0\x0c\0\x01\0\x01" + self.ttl_seconds.to_bytes(4, "big") + b"\0\x04" + IPv4Address(ip).packed

    def dump(self) -> bytes:
        """The table as it is kept on disk."""
        return msgspec.json.encode(_Stored(FORMAT, self.version, self.ttl_seconds, self._names))

    def load(self, data: bytes) -> None:
        """Take over a dumped table. Raises ValueError when it is not one; the table is then unchanged."""
        stored = msgspec.json.decode(data, type=_Stored)
        if stored.format != FORMAT:
            raise ValueError(f"DNS table of format {stored.format}; this agent reads {FORMAT}")
        self.replace(stored.version, stored.names, stored.ttl_seconds)


def store(path: Path, data: bytes) -> None:
    """Replace a file atomically: a reader, also one after a power cut, sees the old bytes or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
