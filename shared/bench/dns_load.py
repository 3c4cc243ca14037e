"""DNS queries at a fixed rate, whether or not answers come: how long each waits for its answer.

Run apart by `dns.py`, as `python -m shared.bench.dns_load NAMES PORT…`: one port after the other gets the same load,
ROUNDS times. The best round of each counts: what else a machine does only makes it slower.
A delay counts from the moment at which a query was due, so that a generator that was held up hides nothing.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from shared.bench.apart import finish, report
from shared.bench.result import percentile

QUERIES_PER_SECOND = 5_000
ROUNDS = 3
SECONDS = 5
WARM_UP_SECONDS = 1
QUERIES = QUERIES_PER_SECOND * SECONDS
LOST_SECONDS = 1.0
"""After the last query; what has no answer then is lost, and counts as if it had come at that moment."""
SHARE_OF_AAAA = 0.3
STEPS_PER_PORT = ROUNDS * SECONDS

RECEIVE_BUFFER_BYTES = 1 << 22
MAX_ANSWER = 4096

_A, _AAAA = b"\0\1\0\1", b"\0\x1c\0\1"
_IDENTIFIERS = 1 << 16
_SEED = 1


class Waited(msgspec.Struct, frozen=True):
    """Microseconds from due to answered, warm-up apart and lost ones in; how many queries were lost or wrong."""

    p50_us: float
    p99_us: float
    worst_us: float
    lost: int
    wrong: int


class Asked(msgspec.Struct, frozen=True):
    """One query without its id, and what its answer ends with: an address, or "" where there is none."""

    query: bytes
    ends_with: bytes


def questions(names: dict[str, str]) -> list[Asked]:
    """A and AAAA questions for all names, in an order and a case (0x20) that nobody expects, the same every time."""
    dice = random.Random(_SEED)  # noqa: S311 - it hides nothing
    found = []
    for name, ip in names.items():
        labels = b"".join(
            bytes((len(label),)) + bytes(dice.choice((one, one ^ 0x20)) if chr(one).isalpha() else one for one in label)
            for label in (part.encode() for part in name.split("."))
        )
        kind = _AAAA if dice.random() < SHARE_OF_AAAA else _A
        query = b"\1\0\0\1" + bytes(6) + labels + b"\0" + kind
        found.append(Asked(query, socket.inet_aton(ip) if kind == _A else b""))
    dice.shuffle(found)
    return found


class _Load:
    """One round of queries to one port. echo: whoever is there only sends back what it got."""

    def __init__(self, client: socket.socket, asked: Sequence[Asked], *, echo: bool) -> None:
        self._client = client
        self._asked = asked
        self._echo = echo
        self._sent: list[tuple[int, float]] = [(0, 0.0)] * _IDENTIFIERS
        self._delays: list[float] = []
        self._answered = self._wrong = 0

    def run(self) -> Waited:
        """Ask for SECONDS, then wait for the last answers."""
        began, number = time.perf_counter(), 0
        while self._answered < QUERIES:
            now = time.perf_counter()
            while number < QUERIES and (due := began + number / QUERIES_PER_SECOND) <= now:
                self._ask(number, due)
                number += 1
            wait = began + number / QUERIES_PER_SECOND - time.perf_counter() if number < QUERIES else LOST_SECONDS
            if select.select([self._client], [], [], max(wait, 0))[0]:
                self._take()
            elif number == QUERIES:
                break
        lost = QUERIES - self._answered
        delays = self._delays + [LOST_SECONDS * 1e6] * lost
        return Waited(percentile(delays, 50), percentile(delays, 99), max(delays), lost, self._wrong)

    def _ask(self, number: int, due: float) -> None:
        slot = number % _IDENTIFIERS
        self._sent[slot] = (number, due)
        self._client.send(slot.to_bytes(2, "big") + self._asked[number % len(self._asked)].query)
        if (number + 1) % QUERIES_PER_SECOND == 0:
            report(1)

    def _take(self) -> None:
        with suppress(BlockingIOError):
            while True:
                answer = self._client.recv(MAX_ANSWER)
                now = time.perf_counter()
                number, due = self._sent[int.from_bytes(answer[:2], "big")]
                self._answered += 1
                self._wrong += not self._echo and not _right(self._asked[number % len(self._asked)], answer)
                if number >= WARM_UP_SECONDS * QUERIES_PER_SECOND:
                    self._delays.append((now - due) * 1e6)


def load(port: int, asked: Sequence[Asked], *, echo: bool = False) -> Waited:
    """One round."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        return _Load(client, asked, echo=echo).run()


def best(rounds: Sequence[Waited]) -> Waited:
    """The quickest round; losses and wrong answers of all."""
    lost, wrong = sum(one.lost for one in rounds), sum(one.wrong for one in rounds)
    return msgspec.structs.replace(min(rounds, key=lambda one: one.p99_us), lost=lost, wrong=wrong)


def _right(one: Asked, answer: bytes) -> bool:
    question = answer[12 : len(one.query) + 2]
    if question != one.query[10:]:  # the case of the question comes back as it was
        return False
    counts = answer[6:8]
    return counts == b"\0\1" and answer.endswith(one.ends_with) if one.ends_with else counts == b"\0\0"


def main(names: Path, *ports: str) -> None:
    """Load each port; one with an `e` before it echoes."""
    asked = questions(json.loads(names.read_bytes()))
    # Turn by turn, so that what disturbs one disturbs the other as well.
    rounds = [
        [load(int(port.removeprefix("e")), asked, echo=port.startswith("e")) for port in ports] for _ in range(ROUNDS)
    ]
    finish([best(of_port) for of_port in zip(*rounds, strict=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
