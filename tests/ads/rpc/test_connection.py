"""HTTP/2 as a gRPC server speaks it, against h2: calls, windows, limits, and what becomes of who breaks the rules."""

from __future__ import annotations

import pytest
from h2.exceptions import FlowControlError
from hypothesis import given
from hypothesis import strategies as st

from tests.ads.rpc.peer import FIELDS, PATH, Peer
from zone_cp.ads.rpc import connection, frames
from zone_cp.ads.rpc.connection import MAX_HEADER_BYTES, Connection
from zone_cp.ads.rpc.exchange import MAX_MESSAGE_BYTES, RECEIVE_WINDOW, Status
from zone_cp.ads.rpc.frames import PREFACE, ConnectionBroken, Fault, frame, prefixed

MESSAGES = st.lists(st.binary(max_size=40_000), max_size=4)


def test_a_call_from_its_beginning_to_its_end() -> None:
    """Path, metadata and messages come in, messages and a status go out; then nothing is left of it."""
    peer = Peer()
    stream = peer.call(("authorization", "Bearer t"))
    (call,) = peer.calls
    assert (call.path, dict(call.fields)[b"authorization"]) == (PATH, b"Bearer t")
    heard: list[bytes] = []
    call.take = heard.append
    peer.say(stream, b"one")
    peer.say(stream, b"", ends=True)
    assert (heard, call.ended) == ([b"one", b""], True)
    assert call.send(b"two")
    call.finish(Status.OK)
    peer.hear()
    assert peer.headers[stream] == {":status": "200", "content-type": "application/grpc"}
    assert (peer.messages(stream), peer.trailers[stream]) == ([b"two"], {"grpc-status": "0"})
    assert (peer.ended, peer.resets, peer.server.exchanges) == ({stream}, {}, {})
    assert call.send(b"three")
    assert call.is_over


def test_an_end_without_a_message_is_one_block_and_its_reason_is_escaped() -> None:
    """A client that has not said all it wanted is told that it need not."""
    peer = Peer()
    stream = peer.call()
    peer.calls[0].finish(Status.UNAUTHENTICATED, "no “token”: 100% refused\n")
    peer.hear()
    assert peer.headers[stream]["grpc-status"] == "16"
    assert peer.headers[stream]["grpc-message"] == "no %E2%80%9Ctoken%E2%80%9D: 100%25 refused%0A"
    assert stream in peer.ended
    peer.calls[0].finish(Status.OK)
    assert not peer.said


@given(MESSAGES, MESSAGES, st.integers(1, 20_000), st.integers(16_384, 40_000), st.integers(500, 100_000))
def test_messages_arrive_whole_however_they_are_cut(
    ours: list[bytes], theirs: list[bytes], chunk: int, max_frame: int, window: int
) -> None:
    """Both ways, in any pieces, with any window and frame size of the client."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: window, frames.MAX_FRAME_SIZE: max_frame})
    peer.generous = True
    stream = peer.call()
    (call,) = peer.calls
    heard: list[bytes] = []
    call.take = heard.append
    left = list(ours)

    def send() -> None:
        while left and call.send(left.pop(0)):
            pass

    call.on_ready = send
    data = b"".join(prefixed(one) for one in theirs)
    for start in range(0, len(data), chunk):
        peer.client.send_data(stream, data[start : start + min(chunk, 16_384)])
        peer.client.send_data(stream, data[start + min(chunk, 16_384) : start + chunk], pad_length=3)
        peer.flush(chunk)
    assert heard == theirs
    send()
    while peer.said:
        peer.hear()
        peer.flush()
    assert peer.messages(stream) == ours


def test_who_sends_waits_for_the_clients_window() -> None:
    """What fits goes out, the rest when the window grows; then the sender hears that it may go on."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 10})
    stream = peer.call()
    (call,) = peer.calls
    ready: list[int] = []
    call.on_ready = lambda: ready.append(1)
    assert not call.send(b"0123456789")
    peer.hear()
    assert (peer.messages(stream), ready) == ([], [])
    peer.client.increment_flow_control_window(4, stream)
    peer.flush()
    assert (peer.messages(stream), ready) == ([], [])
    peer.client.increment_flow_control_window(4, stream)
    peer.flush()
    assert (peer.messages(stream), ready) == ([b"0123456789"], [1])


def test_a_window_that_settings_enlarge_counts_from_their_acknowledgment_on() -> None:
    """Section 6.5.3: a strict client (grpcio) takes what comes before it for too much."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 10})
    peer.call()
    assert not peer.calls[0].send(b"x" * 100)
    peer.hear()
    peer.server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 1_000}))
    assert bytes(peer.said).startswith(frame(frames.SETTINGS, frames.ACK, 0, b""))
    assert peer.calls[0].is_ready


def test_an_end_waits_for_what_was_sent_before() -> None:
    """A status comes after the last message, also where the client was slow."""
    peer = Peer({frames.INITIAL_WINDOW_SIZE: 10})
    stream = peer.call()
    assert not peer.calls[0].send(b"0123456789")
    peer.calls[0].finish(Status.ABORTED, "over")
    peer.hear()
    assert stream not in peer.trailers
    peer.client.increment_flow_control_window(100, stream)
    peer.flush()
    assert peer.messages(stream) == [b"0123456789"]
    assert peer.trailers[stream] == {"grpc-status": "10", "grpc-message": "over"}


def test_a_window_that_shrinks_below_what_was_sent_is_paid_back_first() -> None:
    """Section 6.9.2."""
    peer = Peer()
    stream = peer.call()
    (call,) = peer.calls
    assert call.send(b"x" * 1_000)
    peer.server.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 500}))
    assert not call.send(b"y" * 100)
    assert call.window < 0
    peer.server.receive(frames.window_update(stream, 1_000))
    assert call.is_ready


def test_who_sends_waits_for_the_socket() -> None:
    """As long as it takes no more, every message but the first says no; all are told when it does again."""
    peer = Peer()
    streams = [peer.call(), peer.call()]
    ready: list[int] = []
    for call in peer.calls:
        call.on_ready = lambda call=call: ready.append(call.id)  # type: ignore[misc]
    peer.server.pause()
    assert [call.send(b"x") for call in peer.calls] == [False, False]
    assert not ready
    peer.server.resume()
    assert ready == streams


def test_a_client_that_is_not_listened_to_comes_to_a_halt() -> None:
    """What nobody takes is kept and not credited; the other calls of its connection go on."""
    peer = Peer()
    stream, other = peer.call(), peer.call()
    call = peer.calls[0]
    heard: list[bytes] = []
    part = b"x" * (RECEIVE_WINDOW // 4 - 5)
    for _ in range(4):
        peer.say(stream, part)
    with pytest.raises(FlowControlError):
        peer.say(stream, b"")
    peer.calls[1].take = heard.append
    peer.say(other, b"other")
    assert heard == [b"other"]
    assert [call.kept() for _ in range(5)] == [part] * 4 + [None]
    peer.hear()
    assert (stream, RECEIVE_WINDOW) in peer.credits
    peer.say(stream, b"more")
    assert call.kept() == b"more"


def test_a_message_larger_than_the_window_arrives() -> None:
    """Its parts are credited as they come."""
    peer = Peer()
    stream = peer.call()
    peer.say(stream, b"x" * (3 * RECEIVE_WINDOW))
    assert peer.calls[0].kept() == b"x" * (3 * RECEIVE_WINDOW)


@pytest.mark.parametrize(
    "data, status",
    [(b"\1\0\0\0\1x", "12"), (b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), "8")],
    ids=["compressed", "too large"],
)
def test_messages_that_are_not_taken_end_their_call(data: bytes, status: str) -> None:
    """With gRPC's status for it, and what may be tried instead; the connection goes on."""
    peer = Peer()
    stream = peer.call()
    peer.client.send_data(stream, data)
    peer.flush()
    peer.hear()
    assert peer.headers[stream]["grpc-status"] == status
    assert peer.headers[stream].get("grpc-accept-encoding") == ("identity" if status == "12" else None)
    peer.call()
    assert len(peer.calls) == 2


def test_a_client_that_gives_up_or_goes_ends_its_calls_once() -> None:
    """A reset ends one of them, the end of the connection the rest."""
    peer = Peer()
    lost: list[int] = []
    streams = [peer.call(), peer.call()]
    for call in peer.calls:
        call.on_lost = lambda call=call: lost.append(call.id)  # type: ignore[misc]
    peer.client.reset_stream(streams[0])
    peer.flush()
    assert lost == streams[:1]
    peer.server.lose()
    peer.server.lose()
    assert lost == streams
    assert peer.calls[0].send(b"x")
    assert not peer.said


def test_what_is_no_grpc_is_answered_as_http() -> None:
    """405 to another method, 415 to another content."""
    peer = Peer()
    get = [(":method", "GET"), *FIELDS[1:]]
    others = [
        [*FIELDS[:-1], ("content-type", one)] for one in ("text/html", "application/grpc-web", "application/grpc2")
    ]
    for fields, status in ((get, "405"), *((other, "415") for other in others)):
        stream = peer.call(fields=fields)
        peer.hear()
        assert peer.headers[stream] == {":status": status}
    assert peer.calls == []
    for one in ("application/grpc+proto", "application/grpc;charset=utf-8"):
        peer.call(fields=[*FIELDS[:-1], ("content-type", one)])
    assert len(peer.calls) == 2


def test_a_client_may_make_its_table_smaller() -> None:
    """The next header fields say that ours is empty, once; else a strict client would not take them."""
    peer = Peer()
    first, second = peer.call(), peer.call()
    peer.client.update_settings({frames.HEADER_TABLE_SIZE: 0})
    peer.flush()
    for call in peer.calls:
        call.finish(Status.OK)
    assert peer.said.count(b"\x20\x88") == 1
    peer.hear()
    assert {first, second} == peer.ended


def test_a_server_that_goes_takes_no_more_calls() -> None:
    """Those that it has go on; new ones are refused, which a client may repeat elsewhere."""
    peer = Peer()
    stream = peer.call()
    peer.server.go_away()
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 3, _block(peer)))
    peer.calls[0].send(b"still here")
    said = bytes(peer.said)
    assert frames.go_away(1, Fault.NO_ERROR) in said
    assert frames.reset(3, Fault.REFUSED_STREAM) in said
    assert frames.in_one_frame(b"still here", stream) in said


def test_calls_of_a_connection_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is refused, the others do not notice."""
    monkeypatch.setattr(connection, "MAX_STREAMS", 1)
    peer = Peer()
    peer.call()
    refused = peer.call()
    peer.hear()
    assert peer.resets == {refused: Fault.REFUSED_STREAM}
    peer.calls[0].finish(Status.OK)
    peer.hear()
    peer.call()
    assert len(peer.calls) == 2


def test_calls_begun_and_given_up_again_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2023-44487: beyond a limit the client loses its connection."""
    monkeypatch.setattr(connection, "MAX_CHATTER", 3)
    peer = Peer()
    peer.server.look()
    for _ in range(3):
        peer.client.reset_stream(peer.call())
        peer.flush()
    stream = peer.call()
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(frames.reset(stream, Fault.CANCEL))
    assert broken.value.fault == Fault.ENHANCE_YOUR_CALM


CHATTER = {
    "pings": frame(frames.PING, 0, 0, b"12345678"),
    "answers to no ping": frame(frames.PING, frames.ACK, 0, b"12345678"),
    "settings": frames.settings({frames.INITIAL_WINDOW_SIZE: 70_000}),
    "acknowledgments": frame(frames.SETTINGS, frames.ACK, 0, b""),
    "farewells": frames.go_away(0, Fault.NO_ERROR),
    "priorities": frame(frames.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": frame(0x42, 0xFF, 1, b"what?"),
    "empty data": frame(frames.DATA, 0, 1, b""),
    "data of a call that is over": frame(frames.DATA, 0, 1, b""),
    "resets of a call that is over": frames.reset(1, Fault.CANCEL),
}


@pytest.mark.parametrize("said", CHATTER.values(), ids=CHATTER)
def test_words_that_further_no_call_are_counted(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are borne between two looks, each answered where it has an answer; one more ends the connection."""
    monkeypatch.setattr(connection, "MAX_CHATTER", 10)
    peer = Peer()
    peer.call()
    peer.server.look()
    for _ in range(3):
        peer.server.receive(said * 10)
        peer.server.look()
    peer.server.receive(said * 10)
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(said)
    assert broken.value.fault == Fault.ENHANCE_YOUR_CALM


def test_pings_are_answered() -> None:
    """Each with its own octets."""
    peer = Peer()
    peer.server.receive(frame(frames.PING, 0, 0, b"12345678") * 10)
    assert peer.said.count(frame(frames.PING, frames.ACK, 0, b"12345678")) == 10


def _block(peer: Peer, fields: tuple[tuple[str, str], ...] = FIELDS) -> bytes:
    """Header fields as the client's encoder says them."""
    return peer.client.encoder.encode(fields)


STREAM_FAULTS = {
    "a field of HTTP/1": (*FIELDS, ("connection", "close")),
    "an upper case name": (*FIELDS, ("Token", "t")),
    "no path": (*FIELDS[:2], *FIELDS[3:]),
    "a pseudo field twice": (*FIELDS[:3], FIELDS[2], *FIELDS[3:]),
    "a pseudo field behind others": (*FIELDS[1:], FIELDS[0]),
    "other transfer codings": (*FIELDS, ("te", "trailers, gzip")),
    "a length that is none": (*FIELDS, ("content-length", "-1")),
    "two lengths": (*FIELDS, ("content-length", "1"), ("content-length", "2")),
    "an endless length": (*FIELDS, ("content-length", "9" * 5_000)),
}


@pytest.mark.parametrize("fields", STREAM_FAULTS.values(), ids=STREAM_FAULTS)
def test_malformed_requests_end_their_stream_alone(fields: tuple[tuple[str, str], ...]) -> None:
    """Section 8.1.1; the connection goes on."""
    peer = Peer()
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 1, _block(peer, fields)))
    assert bytes(peer.said).endswith(frames.reset(1, Fault.PROTOCOL_ERROR))
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 3, _block(peer)))
    assert [call.id for call in peer.calls] == [3]


LENGTHS: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "less": ("7", (b"\0\0\0\0\1x",)),
    "more": ("5", (b"\0\0\0\0\1x",)),
    "more in pieces": ("11", (b"\0\0\0\0\1x", b"\0\0\0\0\1x")),
    "none": ("6", ()),
}


@pytest.mark.parametrize("length, sent", LENGTHS.values(), ids=LENGTHS)
def test_content_has_the_length_that_was_announced(length: str, sent: tuple[bytes, ...]) -> None:
    """Section 8.1.1; gRPC clients announce none, what stands between may."""
    peer = Peer()
    begun = frames.END_HEADERS | (0 if sent else frames.END_STREAM)
    peer.server.receive(frame(frames.HEADERS, begun, 1, _block(peer, (*FIELDS, ("content-length", length)))))
    for number, data in enumerate(sent, 1):
        peer.server.receive(frame(frames.DATA, frames.END_STREAM if number == len(sent) else 0, 1, data))
    assert bytes(peer.said).endswith(frames.reset(1, Fault.PROTOCOL_ERROR))
    assert len(peer.calls) == bool(sent)


def test_content_that_is_as_long_as_was_announced() -> None:
    """Padding does not count."""
    peer = Peer()
    stream = peer.call(("content-length", "12"))
    for flags in (frames.PADDED, frames.PADDED | frames.END_STREAM):
        peer.server.receive(frame(frames.DATA, flags, stream, b"\2\0\0\0\0\1x\0\0"))
    (call,) = peer.calls
    assert (call.kept(), call.kept(), call.ended, call.is_over) == (b"x", b"x", True, False)


@pytest.mark.parametrize(
    "sent, fault",
    [
        ((frame(frames.DATA, frames.END_STREAM, 1, b"\0\0\0"),), Fault.PROTOCOL_ERROR),
        ((frame(frames.DATA, frames.END_STREAM, 1, b""), frame(frames.DATA, 0, 1, b"x")), Fault.STREAM_CLOSED),
        ((frame(frames.HEADERS, frames.END_HEADERS, 1, b""),), Fault.PROTOCOL_ERROR),
        ((frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, b"\x83"),), Fault.PROTOCOL_ERROR),
        ((frame(frames.WINDOW_UPDATE, 0, 1, bytes(4)),), Fault.PROTOCOL_ERROR),
        ((frames.window_update(1, frames.MOST_WINDOW),), Fault.FLOW_CONTROL_ERROR),
        ((frame(frames.DATA, 0, 1, bytes(16_384)),) * (RECEIVE_WINDOW // 16_384 + 1), Fault.FLOW_CONTROL_ERROR),
    ],
    ids=[
        "ends within a message",
        "data after the end",
        "headers amid",
        "a method in the end",
        "no octets",
        "window too large",
        "too much",
    ],
)
def test_what_breaks_a_stream_leaves_its_connection(sent: tuple[bytes, ...], fault: Fault) -> None:
    """Section 5.4.2: the call is over for both, the next one is served."""
    peer = Peer()
    peer.call()
    lost: list[bool] = []
    peer.calls[0].on_lost = lambda: lost.append(True)
    for one in sent:
        peer.server.receive(one)
    assert frames.reset(1, fault) in bytes(peer.said)
    assert lost == [True]
    peer.server.receive(frame(frames.DATA, 0, 1, b"on its way"))
    peer.server.receive(frame(frames.HEADERS, frames.END_HEADERS, 3, _block(peer)))
    assert len(peer.calls) == 2


BREAKING = {
    "another length of a setting": (frame(frames.SETTINGS, 0, 0, b"12345"), Fault.FRAME_SIZE_ERROR),
    "settings of a stream": (frame(frames.SETTINGS, 0, 1, b""), Fault.PROTOCOL_ERROR),
    "an acknowledgment that says more": (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), Fault.FRAME_SIZE_ERROR),
    "pushes neither on nor off": (frames.settings({frames.ENABLE_PUSH: 2}), Fault.PROTOCOL_ERROR),
    "frames too small": (frames.settings({frames.MAX_FRAME_SIZE: 100}), Fault.PROTOCOL_ERROR),
    "a window too large": (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), Fault.FLOW_CONTROL_ERROR),
    "windows together too large": (frames.window_update(0, frames.MOST_WINDOW), Fault.FLOW_CONTROL_ERROR),
    "no octets": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), Fault.PROTOCOL_ERROR),
    "a short window": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), Fault.FRAME_SIZE_ERROR),
    "a short ping": (frame(frames.PING, 0, 0, b"1"), Fault.FRAME_SIZE_ERROR),
    "a short reset": (frame(frames.RST_STREAM, 0, 1, b"1"), Fault.FRAME_SIZE_ERROR),
    "a reset of nothing": (frames.reset(9, Fault.CANCEL), Fault.PROTOCOL_ERROR),
    "data of nothing": (frame(frames.DATA, 0, 9, b"x"), Fault.PROTOCOL_ERROR),
    "a window of nothing": (frames.window_update(9, 1), Fault.PROTOCOL_ERROR),
    "a push": (frame(frames.PUSH_PROMISE, 0, 1, b""), Fault.PROTOCOL_ERROR),
    "a stream of the server": (frame(frames.HEADERS, frames.END_HEADERS, 2, b""), Fault.PROTOCOL_ERROR),
    "more padding than payload": (frame(frames.HEADERS, frames.PADDED, 1, b"\7x"), Fault.PROTOCOL_ERROR),
    "a short priority": (frame(frames.HEADERS, frames.WITH_PRIORITY, 1, b"x"), Fault.FRAME_SIZE_ERROR),
    "a block that is interrupted": (
        frame(frames.HEADERS, 0, 1, b"") + frame(frames.PING, 0, 0, bytes(8)),
        Fault.PROTOCOL_ERROR,
    ),
    "the rest of nothing": (frame(frames.CONTINUATION, 0, 1, b""), Fault.PROTOCOL_ERROR),
    "fields that are none": (
        frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff"),
        Fault.COMPRESSION_ERROR,
    ),
    "endless fields": (
        frame(frames.HEADERS, 0, 1, b"") + frame(frames.CONTINUATION, 0, 1, bytes(16_000)) * 5,
        Fault.ENHANCE_YOUR_CALM,
    ),
    "a bomb of fields": (
        frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x40\1a\x7f\xa1\x1e" + b"x" * 4_000 + b"\xbe" * 100),
        Fault.COMPRESSION_ERROR,
    ),
    "a frame too large": (frame(frames.DATA, 0, 1, bytes(16_385)), Fault.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("sent, fault", BREAKING.values(), ids=BREAKING)
def test_what_breaks_a_connection(sent: bytes, fault: Fault) -> None:
    """Section 5.4.1: with the code that the specification gives it."""
    assert MAX_HEADER_BYTES < 5 * 16_000
    said = bytearray()
    server = Connection(said.extend, lambda _: None)
    server.receive(PREFACE + frames.settings({}))
    with pytest.raises(ConnectionBroken) as broken:
        server.receive(sent)
    assert broken.value.fault == fault


def test_all_of_a_connection_together_is_limited() -> None:
    """More than its window is credited by nobody."""
    peer = Peer()
    peer.server._room = 10
    with pytest.raises(ConnectionBroken) as broken:
        peer.server.receive(frame(frames.DATA, 0, 1, bytes(11)))
    assert broken.value.fault == Fault.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\2\0\1\0", PREFACE[:-1] + b"!"])
def test_another_protocol_is_told_apart_at_once(data: bytes) -> None:
    """Before anything was said."""
    said = bytearray()
    with pytest.raises(ConnectionBroken):
        Connection(said.extend, lambda _: None).receive(data)
    assert not said


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_breaks_nothing_but_its_connection(garbage: bytes, chunk: int) -> None:
    """Whatever comes, the only exception is ConnectionBroken."""
    server = Connection(bytearray().extend, lambda _: None)
    data = PREFACE + frames.settings({}) + garbage
    try:
        for start in range(0, len(data), chunk):
            server.receive(data[start : start + chunk])
    except ConnectionBroken:
        return
