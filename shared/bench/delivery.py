"""How long a change takes: from global's HTTP API to a real Envoy's ACK, and from there to the first answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from shared.bench import limits, services
from shared.bench.http import Api, version
from shared.bench.place import EGRESS, Place
from shared.demo import application

CHANGES = 200
WARM_UP = 20
SERVICES = 100
NEW_SERVICES = 40
ANSWER_SECONDS = 30.0
PAUSE_SECONDS = 0.002
"""An application asks again until it is answered; the path of the change itself knows no such pause."""

STEPS_TO_ACK = 3 * (WARM_UP + CHANGES)
STEPS_TO_ANSWER = NEW_SERVICES

Step = Callable[[int], None]


class Delays(msgspec.Struct, frozen=True):
    """Microseconds per change, and what bare parts take for the same bytes."""

    changes: tuple[float, ...]
    bare: tuple[float, ...]


async def measure_to_ack(step: Step) -> Delays:
    """Apply changes, each once the one before is ACKed; then as many again, by turns with the bytes of the first."""
    count = WARM_UP + CHANGES
    async with Place(log_level="debug") as place:
        async with place.api() as api:
            first = await _prepare(place, api)
            for turn in range(count):
                await _change(place, api, turn)
                step(1)
        async with limits.bare_changes(place, first) as bare, place.api() as api:
            changes, barely = await limits.take_turns(lambda turn: _change(place, api, count + turn), bare, count, step)
    return Delays(changes[WARM_UP:], barely[WARM_UP:])


async def _prepare(place: Place, api: Api) -> int:
    """Mesh, hostnames, services and an egress that holds them; returns global's sequence then."""
    await api.apply(services.batch([services.MESH, services.HOSTNAMES]))
    g = await api.apply(services.batch([services.service(number) for number in range(SERVICES)]))
    await place.start_egress()
    await place.holds(EGRESS, g)
    return g


async def _change(place: Place, api: Api, turn: int) -> float:
    number = turn % SERVICES
    path = f"/meshes/default/meshexternalservices/{services.name(number)}"
    request = api.request("PUT", path, services.body(services.service(number, turn + 1)))
    started = time.monotonic_ns()
    headers, _ = await api.send(request)
    held = await place.deliveries.held(version(headers))
    return (held - started) / 1000


async def measure_to_answer(step: Step) -> tuple[float, ...]:
    """Microseconds from applying a new service until an application gets its first 200 by name, each."""
    outside = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with outside, Place() as place:
        port = outside.sockets[0].getsockname()[1]
        async with place.api() as api:
            await _prepare(place, api)
        await place.start_sidecar()
        async with place.api() as api:  # the server does not wait for ever for the next request of a connection
            await _first_answer(place, api, SERVICES, port)
            found = []
            for number in range(SERVICES + 1, SERVICES + 1 + NEW_SERVICES):
                found.append(await _first_answer(place, api, number, port))
                step(1)
            return tuple(found)


async def _first_answer(place: Place, api: Api, number: int, port: int) -> float:
    path = f"/meshes/default/meshexternalservices/{services.name(number)}"
    request = api.request("PUT", path, services.body(services.service(number, address="127.0.0.1", port=port)))
    hostname = services.hostname(number)
    started = time.monotonic_ns()
    await api.send(request)
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            try:
                ip = await application.resolve(hostname, place.ports.dns)
                if (await application.get(ip, services.PORT, hostname)).status == HTTPStatus.OK:
                    return (time.monotonic_ns() - started) / 1000
            except (application.Unresolved, OSError):
                pass  # not yet
            await asyncio.sleep(PAUSE_SECONDS)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The outside world: 200 to whatever is asked."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
    writer.close()
