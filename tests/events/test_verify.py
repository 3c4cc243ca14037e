"""Verify: whatever is done to a log is found, at the event it was done to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.compose import compose
from shared.events.event import Change, Event, encode_event, event_hash, payload_hash
from shared.events.redaction import redacted_line
from shared.events.signing import signed
from shared.events.state import LogState
from shared.events.verify import Finding, LogVerifier, Report, compared, unseen
from shared.keys.signing import SigningKey, checker, kid_of
from tests.builders import applied, at, mes
from tests.events.changes import changes

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
CHECKS = {kid_of(KEY.public_key()): checker(KEY.public_key())}


few = settings(max_examples=40, deadline=None)


def appended(batches: Sequence[Sequence[Change]], origin: str = "east", key: Ed25519PrivateKey = KEY) -> list[Event]:
    """The log that these appends make."""
    signer, log = SigningKey(key), list[Event]()
    state = LogState(origin)
    for number, batch in enumerate(filter(None, batches)):
        ids = [f"{origin}-{number}-{i}" for i in range(len(batch))]
        events = compose(state, batch, ids=ids, time=at(number), actor="ann", kid=signer.kid)
        last = events[-1]
        state = msgspec.structs.replace(
            state, n=last.n, head=event_hash(last), incarnation=last.incarnation, time=last.time
        )
        log += signed(events, signer)
    return log


def verified(lines: Sequence[bytes], origin: str = "east", *, quick: bool = False) -> Report:
    verifier = LogVerifier(origin, CHECKS, quick=quick)
    for line in lines:
        verifier.take(line)
    return verifier.end()


def firsts(lines: Sequence[bytes]) -> tuple[int, str]:
    first = verified(lines).first
    assert first is not None
    return first.n, first.kind


batches = st.lists(st.lists(changes, min_size=1, max_size=3), min_size=2, max_size=10)
logs = batches.map(lambda made: [encode_event(event) for event in appended(made)])


def test_a_quick_look_checks_few_signatures_and_finds_the_same() -> None:
    """The last one vouches for all before it; whoever rewrote the log with hashes that fit is found."""
    lines = [encode_event(event) for event in appended([[applied(mes(f"s{number}"))] for number in range(50)])]
    asked: list[bytes] = []

    def counted(signature: bytes, message: bytes) -> bool:
        asked.append(message)
        return next(iter(CHECKS.values()))(signature, message)

    for quick, most in ((False, 50), (True, 1)):
        asked.clear()
        verifier = LogVerifier("east", dict.fromkeys(CHECKS, counted), quick=quick)
        for line in lines:
            verifier.take(line)
        assert verifier.end().findings == ()
        assert len(asked) == most
    whole = appended([[applied(mes(f"s{number}"))] for number in range(50)])
    for how in ("kept", "left out", "unsigned", "another key"):
        forged = [encode_event(event) for event in (*whole[:24], *_rewritten(whole, 25, how))]
        for quick in (False, True):
            first = verified(forged, quick=quick).first
            assert first is not None, how
            assert first.n <= 25, how


@few
@given(logs)
def test_a_whole_log_is_sound(log: list[bytes]) -> None:
    """Up to its last event, which is signed; also without its secrets, and at a quick look."""
    for quick in (False, True):
        report = verified(log, quick=quick)
        assert (report.findings, report.events, report.signed, report.sound) == ((), len(log), len(log), len(log))
    verifier = LogVerifier("east", CHECKS, redacted=True)
    for line in log:
        verifier.take(redacted_line(line))
    assert verifier.end().findings == ()


@few
@given(logs, st.data())
def test_any_flipped_bit_is_found_where_it_is(log: list[bytes], data: st.DataObject) -> None:
    """In any byte of any event. Of the last one the signature alone tells, which is of all that was written with it."""
    n = data.draw(st.integers(1, len(log)))
    line = bytearray(log[n - 1])
    line[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    report = verified([*log[: n - 1], bytes(line), *log[n:]])
    assert report.first is not None
    if n == len(log) and report.first.kind in ("forged", "truncated"):
        assert report.signed < report.first.n <= n
    else:
        assert report.first.n == n


@few
@given(logs, st.data())
def test_a_hole_is_named_event_by_event(log: list[bytes], data: st.DataObject) -> None:
    """Any events within the log may be gone."""
    gone = data.draw(st.sets(st.integers(1, len(log) - 1), min_size=1))
    report = verified([line for n, line in enumerate(log, start=1) if n not in gone])
    assert [(one.n, one.kind) for one in report.findings] == [(n, "missing") for n in sorted(gone)]


@few
@given(logs, st.data())
def test_events_that_changed_places_are_found(log: list[bytes], data: st.DataObject) -> None:
    """The first place where another event stands is named."""
    first = data.draw(st.integers(0, len(log) - 2))
    second = data.draw(st.integers(first + 1, len(log) - 1))
    log[first], log[second] = log[second], log[first]
    assert firsts(log)[0] == first + 1


@few
@given(batches, st.data())
def test_a_log_that_was_rewritten_with_new_hashes_is_found(made: list[list[Change]], data: st.DataObject) -> None:
    """Only signatures tell: kept, left out, or made with another key; the first event named is not behind the forgery,
    and all before it is vouched for.
    """
    log = appended(made)
    n = data.draw(st.integers(1, len(log)))
    how = data.draw(st.sampled_from(["kept", "left out", "unsigned", "another key"]))
    forged = [encode_event(event) for event in (*log[: n - 1], *_rewritten(log, n, how))]
    report = verified(forged)
    assert report.first is not None
    assert report.signed < report.first.n <= n
    assert report.signed == max((event.n for event in log[: n - 1] if event.sig), default=0)


def _rewritten(log: list[Event], n: int, how: str) -> list[Event]:
    """Event n says something else, and all from there on are chained anew."""
    forged: list[Event] = []
    prev = log[n - 1].prev
    for event in log[n - 1 :]:
        change = applied(mes("forged"), "east") if event.n == n else event.change
        fields = {"change": change, "payload_hash": payload_hash(change), "prev": prev}
        match how:
            case "left out":
                fields |= {"sig": ""}
            case "unsigned":
                fields |= {"sig": "", "kid": ""}
            case "another key":
                fields |= {"kid": SigningKey(OTHER).kid}
            case _:
                pass
        one = msgspec.structs.replace(event, **fields)
        if how == "another key":
            (one,) = signed([one], SigningKey(OTHER))
        prev = event_hash(one)
        forged.append(one)
    return forged


@few
@given(logs, st.data())
def test_a_cut_tail_is_told_by_whoever_has_seen_it(log: list[bytes], data: st.DataObject) -> None:
    """Within an append by the log itself; else by another copy, and by what zones saw."""
    kept = data.draw(st.integers(0, len(log) - 1))
    report, whole = verified(log[:kept]), verified(log)
    signatures = [n for n, line in enumerate(log[:kept], start=1) if msgspec.json.decode(line)["sig"]]
    if (last := max(signatures, default=0)) != kept:
        assert firsts(log[:kept]) == (last + 1, "truncated")
    else:
        assert report.findings == ()
    (found,) = compared(report, whole, "zone east")
    assert (found.n, found.kind) == (kept + 1, "truncated")
    assert f"events {kept + 1} to {len(log)}" in found.reason
    assert compared(whole, report, "the hub") == []


@few
@given(batches, st.data())
def test_two_copies_part_where_they_part(made: list[list[Change]], data: st.DataObject) -> None:
    """Both may be sound, of one origin that went on after it was restored."""
    log = appended(made)
    n = data.draw(st.integers(1, len(log)))
    other = [encode_event(event) for event in (*log[: n - 1], *_rewritten(log, n, "kept"))]
    mine = verified([encode_event(event) for event in log])
    (found,) = compared(mine, verified(other), "zone east")
    assert (found.n, found.kind) == (n, "diverged")


def test_what_a_zone_saw_is_missing() -> None:
    """A zone decided on events of global that its log does not hold; a LogRestored that names them is no fault."""
    hub = verified([encode_event(event) for event in appended([[applied(mes())]], "global")], "global")
    zone = msgspec.structs.replace(verified([]), seen=5, seen_by=12)
    assert [(one.origin, one.n, one.kind) for one in unseen(hub, [zone])] == [("global", 2, "truncated")]
    assert "east:12" in unseen(hub, [zone])[0].reason
    assert unseen(msgspec.structs.replace(hub, events=5), [zone]) == []


@pytest.mark.parametrize("quick", [False, True])
def test_a_log_from_before_signatures_is_vouched_for_by_the_first(quick: bool) -> None:
    """A log without any is told as such, where a key is known; one signature makes the older part good."""
    old = compose(LogState("east"), [applied(mes("a"), "east")] * 3, ids=["a", "b", "c"], time=at(), actor="ann")
    lines = [encode_event(event) for event in old]
    assert firsts(lines) == (1, "unsigned")
    unknown = LogVerifier("east", {})
    for line in lines:
        unknown.take(line)
    assert (unknown.end().findings, unknown.end().keys) == ((), False)
    state = LogState("east", 3, event_hash(old[-1]), old[-1].incarnation, at())
    signer = SigningKey(KEY)
    more = compose(state, [applied(mes("b"), "east")], ids=["d"], time=at(1), actor="ann", kid=signer.kid)
    report = verified([*lines, *map(encode_event, signed(more, signer))], quick=quick)
    assert (report.findings, report.signed) == ((), 4)
    assert Finding("east", 1, "changed", "x") < Finding("east", 2, "changed", "x")
