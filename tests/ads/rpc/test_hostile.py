"""What clients do to a server that they want to bring down, without a socket: the work, memory and calls it costs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ads.rpc.peer import FIELDS, PATH, Peer
from zone_cp.ads.rpc import connection, exchange, frames
from zone_cp.ads.rpc.connection import MAX_HEADER_BYTES, Connection
from zone_cp.ads.rpc.exchange import REASON_CHARACTERS, Exchange, Status
from zone_cp.ads.rpc.frames import PREFACE, ConnectionBroken, Fault, frame, prefixed


def block(peer: Peer, *more: tuple[str, str]) -> bytes:
    """A call's header fields as the client's encoder says them."""
    return peer.client.encoder.encode((*FIELDS, *more))


def headers(peer: Peer, stream: int, *more: tuple[str, str]) -> bytes:
    """The frame that begins a call."""
    return frame(frames.HEADERS, frames.END_HEADERS, stream, block(peer, *more))


def stalled() -> tuple[Peer, int, Exchange]:
    """A call that waits for its client to take the rest of a message."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 10})
    stream = peer.call()
    assert not peer.calls[0].send(b"0123456789")
    return peer, stream, peer.calls[0]


@pytest.mark.parametrize("said", [b"\1\0\0\0\1x", b"\0\xff\xff\xff\xff"], ids=["compressed", "too large"])
def test_a_message_that_ends_a_call_which_still_sends(said: bytes) -> None:
    """The server does not try for ever: the status follows what was sent, what comes after is not looked at, the
    method hears of it once.
    """
    peer, stream, call = stalled()
    lost: list[int] = []
    call.on_lost = lambda: lost.append(1)
    for _ in range(2):
        peer.server.receive(frame(frames.DATA, 0, stream, said))
    assert lost == [1]
    assert (call.is_over, peer.server.held) == (False, 0)
    peer.client.increment_flow_control_window(100, stream)
    peer.flush()
    assert peer.messages(stream) == [b"0123456789"]
    assert peer.trailers[stream]["grpc-status"] in {"8", "12"}
    peer.server.lose()
    assert lost == [1]


def test_a_method_hears_that_its_call_was_ended_for_it() -> None:
    """Else it would wait for ever, and a proxy would count as connected that is not."""
    peer = Peer()
    stream = peer.call()
    lost: list[int] = []
    peer.calls[0].on_lost = lambda: lost.append(1)
    peer.server.receive(frame(frames.DATA, 0, stream, b"\1\0\0\0\1x"))
    assert (lost, peer.server.exchanges) == ([1], {})


def test_an_end_that_nobody_takes_is_not_kept() -> None:
    """A call that has its status is reset at the second look at which its client has not taken what goes before it."""
    peer, stream, call = stalled()
    call.finish(Status.ABORTED, "superseded")
    peer.server.look()
    assert not call.is_over
    peer.server.look()
    peer.hear()
    assert (peer.resets, call.is_over, peer.server.exchanges) == ({stream: Fault.CANCEL}, True, {})


def test_an_empty_header_block_goes_on_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-27316: frames without an octet are counted, and do not cost more the more there are."""
    monkeypatch.setattr(connection, "TURN_WORK", 10**9)
    peer = Peer()
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, b"") * 100_000)
    assert broken.value.fault == Fault.ENHANCE_YOUR_CALM


def test_a_header_block_in_single_octets() -> None:
    """Odd, and allowed."""
    peer = Peer()
    first, *rest = (octet.to_bytes(1, "big") for octet in block(peer))
    said = frame(frames.HEADERS, 0, 1, first) + b"".join(frame(frames.CONTINUATION, 0, 1, one) for one in rest)
    peer.server.receive(said + frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""))
    assert [call.path for call in peer.calls] == [PATH]


@pytest.mark.parametrize("update", [b"\x20", b"\x3f\x80\x80\0"], ids=["short", "long"])
def test_a_table_is_not_resized_over_and_over(update: bytes) -> None:
    """Twice is what a block may need (RFC 7541, section 4.2)."""
    peer = Peer()
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 1, update * 2 + block(peer)))
    assert len(peer.calls) == 1
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 3, update * 3 + block(peer)))
    assert broken.value.fault == Fault.COMPRESSION_ERROR


PROVOKED: dict[str, Callable[[int], bytes]] = {
    "given up": lambda stream: frames.reset(stream, Fault.CANCEL),
    "a window of nothing": lambda stream: frame(frames.WINDOW_UPDATE, 0, stream, bytes(4)),
    "a window too large": lambda stream: frames.window_update(stream, frames.MOST_WINDOW),
    "an end within a message": lambda stream: frame(frames.DATA, frames.END_STREAM, stream, b"\0"),
    "headers amid": lambda stream: frame(frames.HEADERS, frames.END_HEADERS, stream, b"\x82"),
}


@pytest.mark.parametrize("end", PROVOKED.values(), ids=PROVOKED)
def test_calls_that_the_client_lets_the_server_break_off_count_as_given_up(
    end: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2023-44487 and CVE-2025-8671: calls that end as they should in between do not pay for them."""
    monkeypatch.setattr(connection, "MAX_CHATTER", 300)
    peer = Peer()
    peer.server.look()

    def ask(stream: int) -> None:
        peer.server.receive(headers(peer, stream) + end(stream) + headers(peer, stream + 2))
        peer.calls[-1].finish(Status.OK)

    for turn in range(connection.MAX_CHATTER):
        ask(4 * turn + 1)
    with pytest.raises(ConnectionBroken) as broken:
        ask(4 * connection.MAX_CHATTER + 1)
    assert broken.value.fault == Fault.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("fields", [(), (("connection", "close"),)], ids=["too many", "malformed"])
def test_calls_that_cannot_be_begun_are_counted(
    fields: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the limit of calls, and malformed ones."""
    monkeypatch.setattr(connection, "MAX_CHATTER", 300)
    peer = Peer()
    peer.server.look()
    begun = 0 if fields else connection.MAX_STREAMS
    for turn in range(begun + connection.MAX_CHATTER):
        peer.server.receive(headers(peer, 2 * turn + 1, *fields))
    assert len(peer.server.exchanges) == begun
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(headers(peer, 2**20 + 1, *fields))
    assert broken.value.fault == Fault.ENHANCE_YOUR_CALM


def test_one_turn_has_so_much_work() -> None:
    """What came beyond it is kept and taken in the next turns, in its order."""
    peer = Peer()
    said = b"".join(headers(peer, stream) for stream in range(1, 401, 2))
    more, turns = peer.server.receive(said), 1
    assert len(peer.calls) < 50
    while more:
        more, turns = peer.server.receive(), turns + 1
    assert [call.id for call in peer.calls] == list(range(1, 401, 2))
    assert turns == -(-200 // (connection.TURN_WORK // connection.CALL_WORK))


def test_a_window_that_changes_over_and_over_is_worked_out_once() -> None:
    """In one frame the last one counts; a frame costs as much of a turn as it changes windows."""
    peer = Peer()
    for stream in range(1, 2 * connection.MAX_STREAMS, 2):
        peer.server.receive(headers(peer, stream))
    one = b"".join(b"\0\4" + size.to_bytes(4, "big") for size in range(2_730))
    assert peer.server.receive(frame(frames.SETTINGS, 0, 0, one) * 20)
    assert peer.calls[0].window == 2_729
    assert peer.said.count(frame(frames.SETTINGS, frames.ACK, 0, b"")) < 10


def test_windows_that_grow_by_an_octet_wake_all_once() -> None:
    """However many updates come at once."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 2**20})
    calls = [peer.call() for _ in range(3)]
    for call in peer.calls:
        call.send(b"x" * 65_535)
    said = len(peer.said)
    peer.server.receive(frames.window_update(0, 1) * 900)
    assert len(calls) == 3
    assert len(peer.said) - said == 900 + 2 * frames.HEAD_BYTES  # the rest of one message, and of another the beginning


def test_header_fields_that_a_table_remembers_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few octets name many: calls share them, and none has more than the limit."""
    peer = Peer()
    value = "v" * 3_000
    peer.server.receive(headers(peer, 1, ("x", value)))
    tracemalloc.start()
    try:
        for stream in range(3, 2_003, 2):
            peer.server.receive(headers(peer, stream, *[("x", value)] * 4))
        assert tracemalloc.get_traced_memory()[0] < 1_000 * len(value)
    finally:
        tracemalloc.stop()
    assert len(peer.calls[-1].fields) == 6
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(headers(peer, 2_003, *[("x", value)] * (MAX_HEADER_BYTES // len(value) + 1)))
    assert broken.value.fault == Fault.COMPRESSION_ERROR


def test_what_all_calls_of_a_connection_hold_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of messages and messages that nobody takes: the call that is one too many ends, the others go on."""
    monkeypatch.setattr(exchange, "MAX_HELD_BYTES", 100_000)
    peer = Peer()
    streams = [peer.call() for _ in range(4)]
    for stream in streams:
        peer.client.send_data(stream, prefixed(bytes(40_000))[: 10_000 if stream == streams[1] else 16_000])
        peer.client.send_data(stream, bytes(15_000))
        peer.flush()
    peer.hear()
    assert {stream: fields["grpc-status"] for stream, fields in peer.headers.items()} == {streams[3]: "8"}
    peer.say(peer.call(), b"small")
    assert peer.calls[-1].kept() == b"small"
    for call in peer.calls:
        call.finish(Status.OK)
    assert peer.server.held == 0


def test_small_messages_that_nobody_takes_count_for_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object each."""
    monkeypatch.setattr(exchange, "MAX_HELD_BYTES", 100_000)
    peer = Peer()
    stream = peer.call()
    peer.client.send_data(stream, prefixed(b"ab") * 2_000)
    peer.flush()
    peer.hear()
    assert peer.headers[stream]["grpc-status"] == "8"
    assert peer.server.held == 0


def test_who_was_not_admitted_sends_no_huge_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused by their length, before they came."""
    monkeypatch.setattr(exchange, "MAX_FIRST_BYTES", 1_000)
    peer = Peer()
    stream = peer.call()
    peer.server.receive(frame(frames.DATA, 0, stream, b"\0" + (1_001).to_bytes(4, "big")))
    peer.hear()
    assert peer.headers[stream]["grpc-status"] == "8"


def test_a_socket_that_takes_nothing_is_written_no_messages() -> None:
    """They wait for it, unlike what the protocol itself has to say: all calls together would be too much."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 2**20})
    for _ in range(5):
        peer.call()
    peer.server.pause()
    peer.said.clear()
    assert not any(call.send(b"m" * 1_000) for call in peer.calls)
    assert b"mm" not in peer.said
    peer.server.resume()
    peer.hear()
    assert [peer.messages(call.id) for call in peer.calls] == [[b"m" * 1_000]] * 5


@given(st.text(), st.booleans())
def test_reasons_fit_into_a_frame_and_can_be_read(reason: str, long: bool) -> None:
    """Whatever they say, and however long."""
    peer = Peer()
    stream = peer.call()
    reason = reason * 3_000 if long else reason
    peer.calls[0].finish(Status.INTERNAL, reason)
    assert len(peer.said) < frames.LEAST_MAX_FRAME
    peer.hear()
    said = peer.headers[stream].get("grpc-message", "")
    assert said.isascii()
    assert bool(said) == bool(reason[:REASON_CHARACTERS].strip(" "))


def test_a_reason_of_what_is_no_text() -> None:
    """Half a character does not keep a call from ending."""
    peer = Peer()
    stream = peer.call()
    peer.calls[0].finish(Status.INTERNAL, "half \udc80" + "ü" * REASON_CHARACTERS)
    peer.hear()
    assert peer.headers[stream]["grpc-message"].startswith("half ?%C3%BC")


def test_trailers_of_a_call_that_was_ended_meanwhile() -> None:
    """They were on their way: what follows can still be understood, since tables are in step."""
    peer = Peer()
    first = peer.call()
    peer.calls[0].finish(Status.OK)
    trailers = peer.client.encoder.encode([("x-last", "words")])
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, first, trailers))
    peer.server.receive(headers(peer, 3, ("x-last", "words")))
    assert dict(peer.calls[1].fields)[b"x-last"] == b"words"


@pytest.mark.parametrize("stream", [1, 3, 5], ids=["over", "never opened", "under way"])
def test_streams_are_opened_once_and_in_order(stream: int) -> None:
    """Section 5.1.1."""
    peer = Peer()
    peer.call(ends=True)
    peer.calls[0].finish(Status.OK)
    peer.server.receive(headers(peer, 5))
    said = frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block(peer))
    if stream == 5:
        peer.server.receive(said)  # trailers of that call that have no place there (section 8.1)
        assert bytes(peer.said).endswith(frames.reset(5, Fault.PROTOCOL_ERROR))
        assert len(peer.calls) == 2
        return
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(said)
    assert broken.value.fault == Fault.PROTOCOL_ERROR


MALFORMED = {
    "a name with a blank": ("a b", "c"),
    "a name without a letter": ("", "c"),
    "two lines": ("a", "b\r\nc: d"),
    "the end of a C string": ("a", "b\0"),
}


@pytest.mark.parametrize("field", MALFORMED.values(), ids=MALFORMED)
def test_fields_that_are_none(field: tuple[str, str]) -> None:
    """RFC 9113, section 8.2.1."""
    peer = Peer()
    peer.server.receive(headers(peer, 1, field))
    assert bytes(peer.said).endswith(frames.reset(1, Fault.PROTOCOL_ERROR))


@pytest.mark.parametrize("name", [":status", ":protocol", ":"])
def test_pseudo_fields_that_a_request_has_not(name: str) -> None:
    """Section 8.3."""
    peer = Peer()
    said = peer.client.encoder.encode(((name, "1"), *FIELDS))
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 1, said))
    assert bytes(peer.said).endswith(frames.reset(1, Fault.PROTOCOL_ERROR))


@pytest.mark.parametrize(
    "said, fault",
    [
        (frame(frames.PRIORITY, 0, 0, bytes(5)), Fault.PROTOCOL_ERROR),
        (frame(frames.PRIORITY, 0, 1, bytes(4)), Fault.FRAME_SIZE_ERROR),
        (frame(frames.DATA, 0, 0, b"x"), Fault.PROTOCOL_ERROR),
        (frame(frames.DATA, frames.PADDED, 1, b""), Fault.PROTOCOL_ERROR),
        (frame(frames.HEADERS, frames.END_HEADERS, 0, b""), Fault.PROTOCOL_ERROR),
        (frame(frames.CONTINUATION, 0, 0, b""), Fault.PROTOCOL_ERROR),
        (frames.reset(0, Fault.CANCEL), Fault.PROTOCOL_ERROR),
        (frame(frames.HEADERS, 0, 3, b"") + frame(frames.HEADERS, 0, 3, b""), Fault.PROTOCOL_ERROR),
        (frame(frames.HEADERS, 0, 3, b"") + frame(frames.CONTINUATION, 0, 1, b""), Fault.PROTOCOL_ERROR),
    ],
    ids=[
        "a priority of nothing", "a short priority", "data of nothing", "padding without its length",
        "headers of nothing", "continuation of nothing", "reset of nothing", "headers within headers",
        "another's continuation",
    ],
)  # fmt: skip
def test_what_else_breaks_a_connection(said: bytes, fault: Fault) -> None:
    """Section 6."""
    peer = Peer()
    peer.call()
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(said)
    assert broken.value.fault == fault


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from((0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D)),
    st.sampled_from((0, 1, 1, 1, 3, 3, 5, 2, 7)),
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from((
            bytes(4), b"\0\0\0\1", b"\x7f\xff\xff\xff", bytes(5), bytes(8), prefixed(b"abc"), prefixed(b"abc") * 3,
            b"\1\0\0\0\0", b"\0\4\0\0\0\0", b"\0\4\0\1\0\0", b"\0\4\x7f\xff\xff\xff", b"\0\1\0\0\0\0", b"\x82\x86\x84",
        )),
    ),
)  # fmt: skip
DEEDS = st.one_of(
    FRAMES,
    st.just("call"),
    st.tuples(st.sampled_from(("send", "finish", "kept")), st.integers(0, 5)),
    st.sampled_from(("pause", "resume", "look")),
)


@given(st.lists(DEEDS, max_size=60), st.booleans())
def test_any_frames_and_deeds_leave_a_connection_that_adds_up(deeds: list[object], takes: bool) -> None:
    """Frames that look right, between calls and what methods do: nothing but ConnectionBroken is raised, every call
    that is over is forgotten, is told once, and holds nothing.
    """
    lost: dict[int, int] = {}
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 20})
    numbers = iter(range(1, 1_000, 2))

    def begin(call: Exchange) -> None:
        call.on_lost = lambda: lost.__setitem__(call.id, lost.get(call.id, 0) + 1)
        call.take = (lambda _: None) if takes else None
        peer.calls.append(call)

    server = Connection(peer.said.extend, begin)
    try:
        server.receive(PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 20}))
        for deed in deeds:
            _do(deed, server, peer, numbers)
            _adds_up(server, peer.calls, lost)
    except ConnectionBroken:
        pass
    server.lose()
    assert (server.held, server.stalled, server.exchanges) == (0, {}, {})
    assert all(call.is_over for call in peer.calls)
    assert all(times == 1 for times in lost.values())


def _do(deed: object, server: Connection, peer: Peer, numbers: object) -> None:
    match deed:
        case bytes():
            server.receive(deed)
        case "call":
            server.receive(headers(peer, next(numbers)))  # type: ignore[call-overload]
        case (str(name), int(index)) if index < len(peer.calls):
            call = peer.calls[index]
            if name == "finish":
                call.finish(Status.OK, "done")
            elif name == "kept":
                call.kept()
            elif call.is_ready:
                call.send(b"twenty octets and more")
        case str(name):
            getattr(server, name)()
        case _:
            pass


def _adds_up(server: Connection, calls: list[Exchange], lost: dict[int, int]) -> None:
    open_calls = [call for call in calls if not call.is_over]
    assert all(server.exchanges[call.id] is call for call in open_calls)
    assert server.held == sum(call._held for call in open_calls)
    assert all(call._held >= 0 for call in calls)
    assert set(server.stalled) <= set(server.exchanges)
    assert all(times == 1 for times in lost.values())
