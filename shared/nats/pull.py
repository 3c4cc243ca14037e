"""A pull consumer read by our own code: overlapped pulls, heartbeats, and no gap that goes unseen.

A `PullSession` ends at the first doubt (a missed heartbeat, a gap, an unexpected status), and its owner opens another
one after the last message handed on. Where we may make consumers, each session makes one and deletes it.

Where a consumer was made for us, sessions reset it instead. Pulls of an earlier session stay armed on the server,
which does not notice across accounts and leaf nodes that their inbox is gone (measured on 2.15.1): they would swallow
what the next session waits for. Hence such a reader keeps one `Inbox` for all its sessions, so that no pull of its own
is ever lost, and its pulls expire soon, so that those of a process that died do no harm for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import deque
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.events.log import LogUnavailable
from shared.nats.connection import ApiError, Connection, MessageCallback
from shared.nats.stream import NANOSECONDS
from shared.process.lull import Pause, at_once

PULL_MESSAGES = 1000
OVERLAPPED_PULLS = 2
BUFFERED_MESSAGES = 4 * PULL_MESSAGES
PULL_EXPIRES_SECONDS = 30.0
SHARED_PULL_EXPIRES_SECONDS = 1.0
HEARTBEAT_SECONDS = 0.4
STALL_SECONDS = 0.9
API_TIMEOUT_SECONDS = 1.0
INACTIVE_SECONDS = 60
HOLD_SECONDS = 1.0
"""How long the beginning of a batch waits for more of it, which follows at once."""

_HEARTBEAT = "100"
_BATCH, _COMMIT = "Nats-Batch-Id", "Nats-Batch-Commit"
"""Headers of an atomic batch; the server keeps them with the messages."""
_ENDED_NORMALLY = frozenset({"404", "408"})


class RawEvent(msgspec.Struct, frozen=True):
    """A message as it stands in a stream: not decoded yet."""

    sequence: int
    subject: str
    data: bytes


class Interrupted(Exception):
    """The session is of no use any more; open another one."""


class Start(msgspec.Struct, frozen=True):
    """Where a session begins: after a sequence; or, with `latest`, at the last message of each subject of it.

    gapless: the stream has every sequence, so a missing one was lost on the way.
    """

    after: int = 0
    latest: str | None = None
    gapless: bool = True


class Inbox:
    """Where pulled messages arrive, for one session after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._subject = connection.new_inbox()
        self._subscription: Subscription | None = None
        self._count = 0
        self._receiver: MessageCallback | None = None

    async def open(self, receiver: MessageCallback) -> None:
        """Hand what arrives from now on to `receiver`. Raises LogUnavailable."""
        self._receiver = receiver
        if self._subscription is None:
            self._subscription = await self._connection.subscribe(f"{self._subject}.*", self._receive)

    def address(self) -> tuple[int, str]:
        """A number never given before, and the subject that carries it: replies name the pull they end."""
        self._count += 1
        return self._count, f"{self._subject}.{self._count}"

    async def close(self) -> None:
        """Receive nothing more."""
        self._receiver = None
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _receive(self, message: Msg) -> None:
        if self._receiver is not None:
            await self._receiver(message)


class PullSession:
    """See the module. `reader` names a consumer that exists already, `inbox` is the one of all its sessions."""

    def __init__(
        self, connection: Connection, api: str, stream: str, *, reader: str | None = None, inbox: Inbox | None = None
    ) -> None:
        self._connection = connection
        self._api = api
        self._stream = stream
        self._ephemeral = reader is None
        self._consumer = reader or f"r-{uuid.uuid4().hex[:16]}"
        self._inbox = inbox or Inbox(connection)
        self._own_inbox = inbox is None
        self._request = _pull_request(PULL_EXPIRES_SECONDS if inbox is None else SHARED_PULL_EXPIRES_SECONDS)
        self._buffer: list[RawEvent] = []
        self._complete = 0
        self._delivered = 0
        self._last = 0
        self._gapless = True
        self._pulls: deque[list[int]] = deque()
        self._failure: str | None = None
        self._wake = asyncio.Event()
        self._unlisten = connection.when_connected(self._reconnected)

    async def open(self, start: Start) -> None:
        """Position the consumer and begin to pull. Raises LogUnavailable, ApiError."""
        if self._ephemeral:
            config = _ephemeral_config(self._consumer, start)
            subject = f"{self._api}.CONSUMER.CREATE.{self._stream}.{self._consumer}"
            body: dict[str, Any] = {"stream_name": self._stream, "config": config}
            if start.latest:
                subject += f".{start.latest}"
        else:
            subject = f"{self._api}.CONSUMER.RESET.{self._stream}.{self._consumer}"
            body = {"seq": start.after + 1}
        await self._connection.api(subject, body, timeout_seconds=API_TIMEOUT_SECONDS)
        self._last, self._gapless = start.after, start.gapless
        await self._inbox.open(self._receive)
        await self._pull()

    async def batch(self, pause: Pause = at_once) -> list[RawEvent]:
        """The next messages, at least one, never a part of what was appended as one batch. Raises Interrupted,
        LogUnavailable.

        pause: once there is one, more are waited for until it is over.
        """
        held, held_since = 0, 0.0
        while not self._complete:
            now = asyncio.get_running_loop().time()
            if len(self._buffer) > held:
                held, held_since = len(self._buffer), now
            if held and now - held_since > HOLD_SECONDS:
                break  # a server died within the batch: what it kept of it is all there is
            if self._failure is not None:
                raise Interrupted(self._failure)
            self._wake.clear()
            try:
                # Not wait_for: in Python 3.11 it swallows a cancellation that meets the event.
                async with asyncio.timeout(STALL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                raise Interrupted("no heartbeat") from None
        await pause()
        end = self._complete or len(self._buffer)
        batch, self._buffer, self._complete = self._buffer[:end], self._buffer[end:], 0
        with contextlib.suppress(LogUnavailable):
            await self._pull()
        return batch

    async def close(self) -> None:
        """Take the inbox off, and the consumer where it was made here."""
        self._unlisten()
        if self._own_inbox:
            await self._inbox.close()
        if self._ephemeral:
            with contextlib.suppress(LogUnavailable):
                subject = f"{self._api}.CONSUMER.DELETE.{self._stream}.{self._consumer}"
                await self._connection.publish(subject, reply=self._connection.new_inbox())

    def _reconnected(self) -> None:
        self._fail("reconnected")

    def _fail(self, why: str) -> None:
        self._failure = why
        self._wake.set()

    async def _pull(self) -> None:
        while len(self._pulls) < OVERLAPPED_PULLS and len(self._buffer) < BUFFERED_MESSAGES:
            number, address = self._inbox.address()
            self._pulls.append([number, PULL_MESSAGES])
            await self._connection.publish(
                f"{self._api}.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                self._request,
                reply=address,
            )

    async def _receive(self, message: Msg) -> None:
        if self._failure is not None:
            return
        headers = message.headers
        status = headers.get("Status") if headers else None
        if status is not None:
            await self._on_status(status, message)
            return
        # $JS.ACK.….<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>: read from the end, since the
        # front differs between versions of the server.
        fields = message.reply.rsplit(".", 5)
        sequence, delivered = int(fields[2]), int(fields[3])
        follows = delivered == self._delivered + 1
        self._delivered = delivered
        if sequence > self._last:
            # A hole in the stream itself is not ours to judge: it shows as the next delivery of the consumer.
            if not follows and not (self._gapless and sequence == self._last + 1):
                self._fail("gap in the delivery")
                return
            self._last = sequence
            self._buffer.append(RawEvent(sequence, message.subject, message.data))
            # Events of one batch stand for one write: whoever follows must not see half of it.
            if headers is None or _BATCH not in headers or _COMMIT in headers:
                self._complete = len(self._buffer)
            self._wake.set()
        await self._count_down()

    async def _count_down(self) -> None:
        if self._pulls:
            self._pulls[0][1] -= 1
            if self._pulls[0][1] <= 0:
                self._pulls.popleft()
                await self._pull_again()

    async def _on_status(self, status: str, message: Msg) -> None:
        headers = message.headers or {}
        if status == _HEARTBEAT:
            name, seen = ("Nats-Last-Stream", self._last) if self._gapless else ("Nats-Last-Consumer", self._delivered)
            if int(headers.get(name, "0")) > seen:
                self._fail("heartbeat is ahead: messages were lost")
            self._wake.set()
            return
        description = str(headers.get("Description", ""))
        if status in _ENDED_NORMALLY:
            number = int(message.subject.rsplit(".", 1)[1])
            self._pulls = deque(pull for pull in self._pulls if pull[0] != number)
            self._wake.set()
            await self._pull_again()
            return
        self._fail(f"status {status} {description}")

    async def _pull_again(self) -> None:
        try:
            await self._pull()
        except LogUnavailable as error:
            self._fail(str(error))


def _pull_request(expires_seconds: float) -> bytes:
    # No max_bytes: with it the server delivers at less than a third of the speed (measured on 2.15.1).
    return json.dumps(
        {
            "batch": PULL_MESSAGES,
            "expires": int(expires_seconds * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * NANOSECONDS),
        }
    ).encode()


def _ephemeral_config(name: str, start: Start) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": INACTIVE_SECONDS * NANOSECONDS,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start.after + 1,
    }
    if start.latest:
        del config["opt_start_seq"]
        config |= {"deliver_policy": "last_per_subject", "filter_subject": start.latest}
    return config


TRANSIENT = (Interrupted, LogUnavailable, ApiError)
"""What ends a session without meaning that anything is wrong with the log."""
