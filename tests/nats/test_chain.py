"""The chain of a log, checked on bytes."""

from __future__ import annotations

import msgspec
import pytest

from shared.events.event import Event, encode_event, event_hash
from shared.nats.chain import ChainFault, Link, link, verify
from shared.nats.pull import RawEvent
from tests.builders import LogBuilder, applied, mes


def raw(event: Event) -> RawEvent:
    return RawEvent(event.n, event.subject, encode_event(event))


def two() -> tuple[Event, ...]:
    return LogBuilder().append(applied(mes("a")), applied(mes("b")))


def test_a_log_verifies_from_its_beginning() -> None:
    """Each event continues the one before, and the chain stands at the hash that the next one must name."""
    first, second = two()
    at = verify(Link(), raw(first))
    assert at == Link(1, event_hash(first), first.id) == link(raw(first))
    assert verify(at, raw(second)) == Link(2, event_hash(second), second.id)


def test_an_unknown_change_still_verifies() -> None:
    """An event from a newer version is kept and chained, though nobody here can read its change."""
    (first, _) = two()
    data = encode_event(first)
    fields = msgspec.json.decode(data)
    change = b'{"type":"FromTheFuture","x":1}'
    from hashlib import sha256

    fields |= {"change": msgspec.Raw(change), "payloadHash": sha256(change).hexdigest()}
    assert verify(Link(), RawEvent(1, first.subject, msgspec.json.encode(fields))).n == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"n": 3},
        {"prev": "0" * 64},
        {"subject": "mesh.v1.other"},
        {"payload_hash": "0" * 64},
        {"change": applied(mes("z"))},
    ],
)
def test_damage_is_found(damage: dict[str, object]) -> None:
    """A gap, a rewritten predecessor, a moved event and a changed change are each refused with the event's number."""
    first, second = two()
    at = verify(Link(), raw(first))
    damaged = msgspec.structs.replace(second, **damage)
    with pytest.raises(ChainFault) as fault:
        verify(at, RawEvent(2, second.subject, encode_event(damaged)))
    assert fault.value.sequence == 2


def test_a_changed_header_is_found_at_the_next_event() -> None:
    """Who, when and why are covered by the hash that the successor holds."""
    first, second = two()
    at = verify(Link(), raw(msgspec.structs.replace(first, actor="mallory")))
    with pytest.raises(ChainFault, match="prev"):
        verify(at, raw(second))


def test_garbage_is_a_fault() -> None:
    """Bytes that are no event end the chain instead of the program."""
    with pytest.raises(ChainFault, match="not an event"):
        verify(Link(), RawEvent(1, "mesh.v1.x", b"{"))
