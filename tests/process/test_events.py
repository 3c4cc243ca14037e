"""Events as the HTTP API pages through them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest

from shared.nats.log import JetStreamLog
from shared.nats.pull import RawEvent
from shared.process import events as pages

pytestmark = pytest.mark.anyio


class Raw:
    """The raw side of a JetStreamLog, over a list."""

    def __init__(self, length: int) -> None:
        self.all = [RawEvent(n, f"s.{n}", str(n).encode()) for n in range(1, length + 1)]

    async def last(self) -> int:
        return len(self.all)

    async def read_raw(self, after: int, until: int) -> AsyncIterator[RawEvent]:
        for raw in self.all[after:until]:
            yield raw

    async def follow_raw(self, after: int) -> AsyncIterator[list[RawEvent]]:
        yield self.all[after : after + 2]
        yield self.all[after + 2 :]


def log(length: int = 5) -> JetStreamLog:
    return cast(JetStreamLog, Raw(length))


@pytest.mark.parametrize(
    "after, until, limit, expected",
    [
        (0, None, 2, [b"1", b"2"]),
        (2, None, 2, [b"3", b"4"]),
        (4, None, 2, [b"5"]),
        (5, None, 2, []),
        (9, None, 2, []),
        (0, 3, 100, [b"1", b"2", b"3"]),
        (0, 99, 100, [b"1", b"2", b"3", b"4", b"5"]),
        (3, 2, 100, []),
        (0, None, 0, []),
    ],
)
async def test_pages(after: int, until: int | None, limit: int, expected: list[bytes]) -> None:
    """After, up to `until`, at most `limit`; and always where the log ends."""
    assert await pages.page(log(), after, until, limit) == (expected, 5)


async def test_following_gives_bytes_one_by_one() -> None:
    """As they stand in the log, whatever the batches."""
    found = [data async for data in pages.follow(log(), 1)]
    assert found == [b"2", b"3", b"4", b"5"]
