"""Verify: whether a log is the one that its origin wrote, event by event, from the bytes alone. Pure.

Theory of operation. The chain finds whatever does not fit: a changed payload, a missing, moved or foreign event. Who
can rewrite the log can also compute its hashes anew; that is what signatures are for. A signature stands on the last
event of every append, so besides what follows a wrong one, an end without one is an end that was cut. A tail that is
missing as a whole leaves no trace in the log itself: it shows in other copies (`compared`) and in what zones have seen
(`unseen`).

Events are taken in the order in which they stand. After a fault the verifier goes on from what it met, so that one
fault is told once; nothing is kept per event but eight bytes of its hash, to compare copies by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Literal, TypeAlias

import msgspec

from shared.events.chain import ChainFault, Link, read
from shared.events.event import GLOBAL, NO_HASH, Envelope, LogRestored, event_hash
from shared.events.redaction import is_redacted
from shared.events.signing import SIGNED_WITHIN, Check, vouches
from shared.events.upcast import SCHEMA
from shared.model import codec

FINDINGS_LIMIT = 100
"""Findings that are told of one log; what follows the first one may follow from it."""
MISSING_LIMIT = 100_000
QUICK_STRIDE = 1000
"""A quick look checks one signature of so many, and the last, which vouches for all before it through the chain: it
finds the same, and says of a forgery only between which two signatures it is. To check one takes 75 us, all else 6.
"""
_SHORT = 8
_NONE = b"\0" * _SHORT

FindingKind: TypeAlias = Literal[
    "not an event", "changed", "missing", "moved", "forged", "unsigned", "truncated", "diverged", "unreadable"
]


class Finding(msgspec.Struct, frozen=True, order=True):
    """What is wrong with the log of `origin`, first visible at event n."""

    origin: str
    n: int
    kind: FindingKind
    reason: str


class Restored(msgspec.Struct, frozen=True):
    """An event that says which others may be lost: (lost_from, lost_to]. That is no fault of the log."""

    n: int
    lost_from: int
    lost_to: int


class Report(msgspec.Struct, frozen=True):
    """What was found of one log.

    known: up to which event whoever kept the log knows to have kept it. signed: up to which event its origin vouches
    for it, 0 when nobody could say; by is the key, `keys` whether any key of the origin was known. seen: the most that
    it saw of global's log, and seen_by the event.
    """

    origin: str
    events: int
    known: int
    head: str
    time: str
    signed: int
    by: str
    keys: bool
    seen: int
    seen_by: int
    restored: tuple[Restored, ...]
    findings: tuple[Finding, ...]
    prefix: bytes

    @property
    def first(self) -> Finding | None:
        """The first thing that is wrong."""
        return min(self.findings, key=lambda one: one.n, default=None)

    @property
    def sound(self) -> int:
        """Up to which event nothing is wrong."""
        return self.events if self.first is None else self.first.n - 1

    def with_(self, findings: Iterable[Finding]) -> Report:
        """The report with more findings."""
        return msgspec.structs.replace(self, findings=(*self.findings, *findings))


class LogVerifier:
    """Takes one log's events as they stand, from the first on, and says at the end what is wrong.

    checks: by kid, what verifies signatures of this origin; empty when no key is known. quick: look at few signatures.
    redacted: the events come without secrets.
    """

    def __init__(
        self, origin: str, checks: Mapping[str, Check], *, quick: bool = False, redacted: bool = False
    ) -> None:
        self._origin = origin
        self._redacted = redacted
        self._at = Link()
        self._before: Envelope | None = None
        self._doubt: int | None = None
        self._findings: dict[int, Finding] = {}
        self._missing: dict[int, None] = {}
        self._prefix = bytearray()
        self._restored: list[Restored] = []
        self._seen, self._seen_by = 0, 0
        self._signatures = _Signatures(origin, checks, stride=QUICK_STRIDE if quick else 1)

    @property
    def count(self) -> int:
        """So far the log has come."""
        return self._at.n

    def take(self, line: bytes) -> None:
        """The next event, encoded."""
        expected = self._at.n + 1
        try:
            envelope = read(expected, line)
        except ChainFault as fault:
            self._find(expected, "not an event", fault.reason.removeprefix("not an event: "))
            self._settle_doubt(fits=False)
            self._advance(Link(expected), None)
            return
        if envelope.origin != self._origin:
            self._find(expected, "forged", f"is an event of {envelope.origin}")
        if envelope.n != expected and envelope.prev == self._at.hash:
            self._find(expected, "changed", f"says that it is event {envelope.n}")
            self._settle_doubt(fits=False)
            self._advance(Link(expected), None)
            return
        if envelope.n < expected:
            self._moved(envelope.n, expected)
            return
        link = Link(envelope.n, event_hash(envelope), envelope.id)
        if envelope.n > expected:
            self._gap(expected, envelope.n)
        else:
            self._follows(envelope)
        self._own(envelope, line)
        self._advance(link, envelope)

    def end(self, known: int = 0) -> Report:
        """Nothing comes any more. known: up to which event whoever kept the log knows to have kept it."""
        before = self._before
        if self._doubt is not None:
            # The last event does not fit to the one before: one of them was changed, and a signature says which.
            last_is_good = before is not None and self._signatures.holds(before, self._at.hash)
            self._blame(self._doubt - 1 if last_is_good else self._doubt)
        for n in self._missing:
            self._find(n, "missing", "is not here: lost, or so damaged that its server does not give it")
        if known > self._at.n:
            reason = f"events {self._at.n + 1} to {known} are missing; the server that kept them knows that it did"
            self._find(self._at.n + 1, "truncated", reason)
        for finding in self._signatures.end(self._at.n):
            self._find(finding.n, finding.kind, finding.reason)
        return Report(
            self._origin,
            self._at.n,
            max(known, self._at.n),
            self._at.hash,
            before.time if before is not None else "",
            self._signatures.good,
            self._signatures.by,
            self._signatures.known,
            self._seen,
            self._seen_by,
            tuple(self._restored),
            tuple(self._findings[n] for n in sorted(self._findings)),
            bytes(self._prefix),
        )

    def _find(self, n: int, kind: FindingKind, reason: str) -> None:
        if n not in self._findings and len(self._findings) < FINDINGS_LIMIT:
            self._findings[n] = Finding(self._origin, n, kind, reason)

    def _advance(self, link: Link, envelope: Envelope | None) -> None:
        self._prefix += _NONE * (link.n - 1 - len(self._prefix) // _SHORT)
        self._prefix += bytes.fromhex(link.hash[: 2 * _SHORT]) if link.hash else _NONE
        self._at, self._before = link, envelope

    def _moved(self, n: int, expected: int) -> None:
        if n in self._missing:
            del self._missing[n]
            self._find(n, "moved", f"stands behind event {expected - 1}")
        else:
            self._find(expected, "moved", f"event {n} stands here a second time")

    def _gap(self, first: int, n: int) -> None:
        if n - first > MISSING_LIMIT:
            self._find(first, "missing", f"events {first} to {n - 1} are not here")
        else:
            self._missing.update(dict.fromkeys(range(first, n)))
        self._settle_doubt(fits=False)

    def _follows(self, envelope: Envelope) -> None:
        """What only a next event can say of the one before it, and whether it fits to it."""
        at = self._at
        fits = envelope.prev == (at.hash or NO_HASH) or (self._before is None and at.n > 0)
        self._settle_doubt(fits=fits)
        if not fits:
            self._doubt = envelope.n
        before = self._before
        if before is None:
            return
        if envelope.seen < before.seen or envelope.time < before.time:
            self._find(envelope.n, "forged", "was written before the event that stands before it")
        restores = _type(envelope) == LogRestored.__name__
        if (envelope.incarnation == before.incarnation) == restores:
            self._find(
                envelope.n, "forged", f"is of incarnation {envelope.incarnation}, before it {before.incarnation}"
            )

    def _settle_doubt(self, *, fits: bool) -> None:
        """Of two events that do not fit, that one was changed which does not fit to its other neighbour either."""
        if self._doubt is not None:
            self._blame(self._doubt - 1 if fits else self._doubt)
            self._doubt = None

    def _blame(self, n: int) -> None:
        self._find(max(n, 1), "changed", "its header is not the one that the next event was chained to")

    def _own(self, envelope: Envelope, line: bytes) -> None:
        held = sha256(bytes(envelope.change)).hexdigest() == envelope.payload_hash
        if not held and not (self._redacted and is_redacted(line)):
            self._find(envelope.n, "changed", "its payload is not the one that its header was made for")
        elif envelope.v <= SCHEMA and not self._redacted and codec.encode(envelope) != line:
            self._find(envelope.n, "changed", "its bytes are not those that are written for such an event")
        if _type(envelope) == LogRestored.__name__:
            with_range = msgspec.json.decode(envelope.change, type=_Range, strict=False)
            self._restored.append(Restored(envelope.n, with_range.lost_from, with_range.lost_to))
        if envelope.seen > self._seen:
            self._seen, self._seen_by = envelope.seen, envelope.n
        self._signatures.take(envelope)


class _Range(msgspec.Struct, rename="camel"):
    lost_from: int = 0
    lost_to: int = 0


class _Typed(msgspec.Struct):
    type: str = ""


def _type(envelope: Envelope) -> str:
    if b"LogRestored" not in bytes(envelope.change):
        return ""
    try:
        return msgspec.json.decode(envelope.change, type=_Typed).type
    except msgspec.DecodeError:
        return ""


class _Signatures:
    """The signatures of one log. The chain makes each vouch for all before it, so after a good one all was good."""

    def __init__(self, origin: str, checks: Mapping[str, Check], *, stride: int) -> None:
        self._origin = origin
        self._checks = checks
        self._stride = stride
        self._passed = 0
        self._kid = ""
        self._signed = 0
        self._last: Envelope | None = None
        self._failed: int | None = None
        self._ended = False
        self.findings: list[Finding] = []
        self.known = bool(checks)
        self.good = 0
        self.by = ""

    def holds(self, envelope: Envelope, digest: str) -> bool:
        """Whether the event carries a good signature."""
        check = self._checks.get(envelope.kid)
        return check is not None and bool(envelope.sig) and vouches(envelope, digest, check)

    def take(self, envelope: Envelope) -> None:
        """The next event."""
        if not self.known or self._ended:
            return
        if self._kid and not envelope.kid:
            self._find(envelope.n, "forged", "is not signed, as events before it are")
            return
        if envelope.kid and not self._kid:
            self._signed = envelope.n - 1
        self._kid = envelope.kid
        if envelope.sig:
            self._signed, self._last = envelope.n, envelope
            self._passed += 1
            if self._passed >= self._stride or self._failed is not None:
                self._look(envelope)
        elif envelope.kid and envelope.n - self._signed > SIGNED_WITHIN:
            self._find(self._signed + 1, "unsigned", f"no signature follows within {SIGNED_WITHIN} events")

    def end(self, n: int) -> list[Finding]:
        """What is wrong, with the last event n."""
        if not self.known or not n:
            return self.findings
        if self._last is not None and self._passed and not self._ended:
            self._look(self._last)
        if self._failed is not None and not self._ended:
            self._find(self.good + 1, "forged", f"up to {self._failed}: the signature there is not of what stands here")
        if not self._ended:
            self._end_of(n)
        return self.findings

    def _end_of(self, n: int) -> None:
        if not self._kid:
            self._find(1, "unsigned", "none of its events is signed: older than signatures, or they were taken away")
        elif self._kid not in self._checks:
            self._find(self.good + 1, "unsigned", f"signed with {self._kid}, a key that is not known here")
        elif self._signed < n:
            reason = (
                f"nothing vouches for the end, up to {n}: it was cut within a write, or its signature was taken away"
            )
            self._find(self._signed + 1, "truncated", reason)

    def _look(self, envelope: Envelope) -> None:
        self._passed = 0
        if envelope.kid not in self._checks:
            return
        if self.holds(envelope, event_hash(envelope)):
            if self._failed is not None:
                self.findings.append(
                    Finding(self._origin, self._failed, "changed", "its signature is not the one it was given")
                )
                self._failed = None
            self.good, self.by = envelope.n, envelope.kid
        elif self._failed is None:
            self._failed = envelope.n
        else:
            reason = f"up to {self._failed}: the signature there is not of what stands here"
            self._find(self.good + 1, "forged", reason)

    def _find(self, n: int, kind: FindingKind, reason: str) -> None:
        self.findings.append(Finding(self._origin, n, kind, reason))
        self._ended = True


# --- several logs -------------------------------------------------------------------------------------------------


def compared(mine: Report, other: Report, where: str) -> list[Finding]:
    """What another copy of the same log, kept at `where`, says about mine: where they part, and what mine lacks."""
    common = min(len(mine.prefix), len(other.prefix)) // _SHORT
    for n in _differing(mine.prefix, other.prefix, common):
        return [Finding(mine.origin, n, "diverged", f"{where} holds another event here")]
    if other.sound > mine.events:
        reason = f"events {mine.events + 1} to {other.sound} are missing; {where} holds them"
        return [Finding(mine.origin, mine.events + 1, "truncated", reason)]
    return []


def _differing(mine: bytes, other: bytes, common: int) -> Iterable[int]:
    """Where both have an event, and not the same; the first such place."""
    if mine[: common * _SHORT] == other[: common * _SHORT]:
        return
    for at in range(0, common * _SHORT, _SHORT):
        here, there = mine[at : at + _SHORT], other[at : at + _SHORT]
        if here != there and _NONE not in (here, there):
            yield at // _SHORT + 1
            return


def unseen(hub: Report, zones: Iterable[Report]) -> list[Finding]:
    """What zones saw of global's log that is not in it, and that no LogRestored names as lost."""
    told = max((one.lost_to for one in hub.restored), default=0)
    most = max(zones, key=lambda one: one.seen, default=None)
    if hub.origin != GLOBAL or most is None or most.seen <= max(hub.events, told):
        return []
    reason = f"events {hub.events + 1} to {most.seen} are missing; {most.origin}:{most.seen_by} was decided on them"
    return [Finding(GLOBAL, hub.events + 1, "truncated", reason)]
