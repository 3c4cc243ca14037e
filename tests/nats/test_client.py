"""The client's own half of NATS' protocol: what it writes by itself, and who is called when something arrives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nats import errors
from nats.aio.msg import Msg

from shared.events.log import LogUnavailable
from shared.nats import connection
from shared.nats.client import Client, published
from shared.nats.connection import NatsSettings, connect
from tests.conftest import take_port
from tests.nats.world import WAIT_SECONDS, running_single, running_world, until


def test_a_message_is_written_as_the_protocol_says() -> None:
    """Lengths count headers and payload; without headers it is a plain PUB."""
    assert published("a.b", "_IN.1", b"xyz", {}) == b"PUB a.b _IN.1 3\r\nxyz\r\n"
    head = b"NATS/1.0\r\nOne: 1\r\nTwo: \xc3\xbc\r\n\r\n"
    wanted = b"HPUB a.b _IN.1 %d %d\r\n" % (len(head), len(head) + 3) + head + b"xyz\r\n"
    assert published("a.b", "_IN.1", b"xyz", {"One": "1", "Two": "ü"}) == wanted


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB c 0", "a\tb", "a\0b"])
def test_a_subject_cannot_end_its_line(subject: str) -> None:
    """What would be read as something else is refused."""
    with pytest.raises(errors.BadSubjectError):
        published(subject, "_IN.1", b"", {})


@pytest.mark.parametrize("value", ["a\r\nNats-Expected-Stream: other", "a\nb", "a\rb"])
def test_a_header_cannot_bring_another(value: str) -> None:
    """A value with an end of line is refused: ids of events come from other sites."""
    with pytest.raises(errors.BadHeaderError):
        published("a", "_IN.1", b"", {"Nats-Msg-Id": value})


class Unending(Client):
    """A connection whose end never comes, as one whose TLS had only begun."""

    async def close(self) -> None:
        await asyncio.Event().wait()


@pytest.mark.anyio
async def test_an_attempt_that_does_not_end_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects is told in time that nobody is there, although the client would wait for ever."""
    monkeypatch.setattr(connection, "Client", Unending)
    monkeypatch.setattr(connection, "CLOSE_SECONDS", 0.05)
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(LogUnavailable):
            await connect(NatsSettings(url=f"nats://127.0.0.1:{take_port()}"), timeout_seconds=0.3)
        async with asyncio.timeout(WAIT_SECONDS / 2):
            await connection.Connection(Unending()).close()


@pytest.mark.anyio
@pytest.mark.e2e
async def test_requests_and_callbacks_share_one_connection(tmp_path: Path) -> None:
    """Many requests at once each get their own reply, in any order; a callback that fails ends nobody's reading."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        seen: list[bytes] = []

        async def fail_once(message: Msg) -> None:
            seen.append(message.data)
            if len(seen) == 1:
                raise ValueError("a callback's mistake")

        async def echo(message: Msg) -> None:
            if message.data == b"0":
                held.append(message)
            else:
                await connection.publish(message.reply, message.data)

        held: list[Msg] = []
        await connection.subscribe("heard", fail_once)
        await connection.subscribe("echo", echo)
        for number in range(3):
            await connection.publish("heard", str(number).encode())
        asked = [asyncio.create_task(connection.request("echo", str(n).encode())) for n in range(50)]
        await until(lambda: sum(one.done() for one in asked) == 49, "all replies but one")
        assert not asked[0].done()
        await connection.publish(held[0].reply, b"0")
        assert [(await one).data for one in asked] == [str(n).encode() for n in range(50)]
        assert seen == [b"0", b"1", b"2"]


@pytest.mark.anyio
@pytest.mark.e2e
async def test_the_end_of_a_connection_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """TLS is upgraded to, and asyncio's stream knows of it."""
    async with running_world(tmp_path) as world:
        for turn in (1, 2):  # the first connection, and a reconnected one
            await world.servers["hub"].kill()
            await until(lambda: not world.hub.is_connected, "the end of the connection")
            if turn == 1:
                await world.restart("hub")
                await until(lambda: world.hub.is_connected, "the connection again")
    assert "eof_received" not in caplog.text
