"""Batch: the resources of one response, and what every stream that carries them needs of them, worked out once.

Streams that are told the same are told it with the same bytes. What they are told is found again by the resources
themselves, not by whose they are: two proxies share it whenever their snapshots differ in the same ones.
"""

from __future__ import annotations

from functools import cached_property

from zone_cp.xds.snapshot import Encoded

MAX_CHUNK_BYTES = 384 * 1024
GROUPS_KEPT, GROUPS_BYTES = 16, 24 * 1024 * 1024
"""Groups of resources that are remembered with their responses, and what their responses may have together; a whole
first sync is one, and has 6 to 10 MB with 10,000 clusters. The newest one is kept whatever its size.
"""


class Batch(tuple[Encoded, ...]):  # noqa: SLOT001 - what is worked out is kept beside the members
    """Resources to hold, at least one, none twice."""

    _response: tuple[bytes, bytes, bytes] = (b"", b"", b"")

    @cached_property
    def versions(self) -> dict[str, str]:
        """Name to version. Not to be changed."""
        return {one.name: one.version for one in self}

    @cached_property
    def named(self) -> dict[str, Encoded]:
        """Name to resource. Not to be changed."""
        return {one.name: one for one in self}

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Name and version of each."""
        return tuple(self.versions.items())

    def response(self, head: bytes, tail: bytes) -> bytes:
        """A delta response: the resources between these fields. The last one is kept for who asks for it again."""
        known_head, known_tail, known = self._response
        if known_head == head and known_tail == tail:
            return known
        whole = b"".join((head, *(one.field for one in self), tail))
        self._response = (head, tail, whole)
        return whole


def batches(upserts: tuple[Encoded, ...]) -> tuple[Batch, ...]:
    """Split by size: one response stays near MAX_CHUNK_BYTES, or is a single resource."""
    return _groups.split(upserts) if upserts else ()


class _Same:
    """Resources as a key: equal when they are the same."""

    __slots__ = ("upserts",)

    def __init__(self, upserts: tuple[Encoded, ...]) -> None:
        self.upserts = upserts

    def __hash__(self) -> int:
        return hash((len(self.upserts), self.upserts[0].version, self.upserts[-1].version))

    def __eq__(self, other: object) -> bool:
        # Members that are the same objects, as they are when they were encoded once, are not looked into.
        return isinstance(other, _Same) and self.upserts == other.upserts


class _Groups:
    """Groups that were split lately, the latest used last."""

    def __init__(self) -> None:
        self._kept: dict[_Same, tuple[int, tuple[Batch, ...]]] = {}
        self._bytes = 0

    def split(self, upserts: tuple[Encoded, ...]) -> tuple[Batch, ...]:
        """As `batches`; at least one resource."""
        key = _Same(upserts)
        found = self._kept.pop(key, None)
        if found is None:
            found = _split(upserts)
            self._bytes += found[0]
        self._kept[key] = found
        while len(self._kept) > GROUPS_KEPT or (self._bytes > GROUPS_BYTES and len(self._kept) > 1):
            size, _ = self._kept.pop(next(iter(self._kept)))
            self._bytes -= size
        return found[1]


def _split(upserts: tuple[Encoded, ...]) -> tuple[int, tuple[Batch, ...]]:
    """Their octets together, and the batches."""
    out: list[Batch] = []
    chunk: list[Encoded] = []
    size = whole = 0
    for encoded in upserts:
        if chunk and size + len(encoded.field) > MAX_CHUNK_BYTES:
            out.append(Batch(chunk))
            whole += size
            chunk, size = [], 0
        chunk.append(encoded)
        size += len(encoded.field)
    return whole + size, (*out, Batch(chunk))


_groups = _Groups()
