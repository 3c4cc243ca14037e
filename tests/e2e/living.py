"""The demo's system under test: processes that are killed and started again, traffic that never stops meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from shared.demo import application
from shared.demo.looking import eventually
from shared.demo.narration import Narrator
from shared.demo.processes import Process
from shared.demo.story import Story
from shared.demo.system import System
from shared.events.event import GLOBAL

WITHIN_SECONDS = 30.0
STOP_SECONDS = 60.0


class Living(System):
    """A System whose processes can be killed, stopped and started again by name; leaving it, nothing of it is left."""

    def __init__(self, directory: Path, base_port: int) -> None:
        super().__init__(directory, base_port)
        self._starts: dict[str, Callable[[], Awaitable[Any]]] = {}
        self._proxies: set[str] = set()
        self._commands: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aexit__(self, *details: object) -> None:
        # Nobody uses the proxies any more: what a graceful stop drains is not waited for.
        await asyncio.gather(*(self.kill(name) for name in self._proxies & {*self._named}))
        await self._no_commands()
        await super().__aexit__(*details)
        await eventually(self._left, lambda found: found == [], "no process to be left", WITHIN_SECONDS)

    async def _left(self) -> list[str]:
        return left_behind(self.directory)

    async def begin(self, *, declare: bool = True) -> None:
        """Everything runs; with `declare` the demo's resources exist and are ready."""
        self.prepare()
        await self.start_control_planes()
        await self.start_services()
        await self.start_proxies()
        if declare:
            await Story(self, Narrator("json")).prologue()

    async def _zonal(self, name: str, *arguments: str, **placed: Any) -> Process:
        start = super()._zonal
        if arguments[0] == "proxy":
            self._proxies.add(name)
        self._starts[name] = lambda: start(name, *arguments, **placed)
        return await start(name, *arguments, **placed)

    async def _nats(self, name: str, *arguments: Any, **placed: Any) -> None:
        start = super()._nats
        self._starts[name] = lambda: start(name, *arguments, **placed)
        await start(name, *arguments, **placed)

    async def cli(self, *arguments: str, at: str = GLOBAL) -> tuple[int, str, str]:
        """As it is, but in a process that stays for the next command: half a second of processor each."""
        assert at == GLOBAL or not self.placement.hosts, "all is one host"
        async with self._turn:
            if self._commands is None:
                self._commands = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "tests.e2e.commands"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=self.deployment.environment(),
                    limit=1 << 26,
                )
            stdin, stdout = self._commands.stdin, self._commands.stdout
            assert stdin is not None
            assert stdout is not None
            try:
                stdin.write(msgspec.json.encode(arguments) + b"\n")
                return msgspec.json.decode(await stdout.readline(), type=tuple[int, str, str])
            except BaseException:  # the next command must not get the answer of this one
                await self._no_commands()
                raise

    async def _no_commands(self) -> None:
        if self._commands is not None:
            self._commands.kill()
            await self._commands.wait()
            self._commands = None

    def pid(self, name: str) -> int:
        """Process id of a running process."""
        return self._named[name].pid

    def log_of(self, name: str) -> str:
        """All that a process logged, over all its lives."""
        return (self.directory / "logs" / f"{name}.log").read_text(errors="replace")

    def alive(self, name: str) -> bool:
        """Whether it still runs."""
        return self._named[name].child.returncode is None

    async def kill(self, name: str) -> None:
        """kill -9."""
        process = self._named.pop(name)
        await process.kill()
        await self._processes.stop(process)

    async def terminate(self, name: str) -> int:
        """SIGTERM; the exit code. Raises TimeoutError after STOP_SECONDS, more than a process gives itself."""
        process = self._named.pop(name)
        process.child.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            code = await process.child.wait()
        await self._processes.stop(process)
        return code

    async def start(self, name: str) -> None:
        """Start again what was killed or stopped, as it was started first."""
        await self._starts[name]()

    # --- looking ---

    async def rows(self, zone: str, *, at: str | None = None) -> dict[str, dict[str, Any]]:
        """The status rows of a zone, by the name of the service; `at` the zone's own API, or global's."""
        listed = await self.api("GET", "/status/meshexternalservices", zone=at)
        return {row["name"]: row for row in listed["items"] if row["zone"] == zone}

    async def addresses(self, zone: str) -> dict[str, tuple[str, tuple[str, ...]]]:
        """VIP and hostnames of every service, as the zone itself says."""
        rows = await self.rows(zone, at=zone)
        return {name: (row["vip"], tuple(row["hostnames"])) for name, row in rows.items()}

    async def events(self, origin: str, *, zone: str | None = None) -> list[dict[str, Any]]:
        """The whole log of an origin, as global or a zone holds it."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.api("GET", f"/events?origin={origin}&after={len(found)}&limit=1000", zone=zone)
            found += page["items"]
            if not page["items"] or len(found) >= page["last"]:
                return found

    async def call(self, zone: str, hostname: str, port: int) -> application.Answer:
        """GET as the zone's application would."""
        ip = await application.resolve(hostname, self.dns_port(zone))
        return await application.get(ip, port, hostname)

    def client(self, zone: str | None = None) -> httpx.AsyncClient:
        """An HTTP client of global's API, or of a zone's."""
        port = self.ports.api if zone is None else self.zone_ports[zone].api
        token = self.deployment.admin_token.read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=WITHIN_SECONDS, trust_env=False
        )

    async def settled(self, zone: str, wanted: Callable[[Mapping[str, dict[str, Any]]], bool], expected: str) -> None:
        """Wait until global shows rows of the zone that are as wanted."""
        await eventually(lambda: self.rows(zone), wanted, expected, WITHIN_SECONDS)

    async def same_log(self, zone: str) -> list[str]:
        """Wait until hub and zone hold the same log of the zone; its event ids."""

        async def pair() -> tuple[list[str], list[str]]:
            there, here = await self.events(zone), await self.events(zone, zone=zone)
            return [one["id"] for one in there], [one["id"] for one in here]

        both = await eventually(pair, lambda two: two[0] == two[1], f"hub and {zone} hold the same log", WITHIN_SECONDS)
        return both[0]


class Traffic:
    """What an application saw: how many answers, and every failure with its moment."""

    def __init__(self) -> None:
        self.answers = 0
        self.failures: list[str] = []

    def saw(self, answer: application.Answer) -> None:
        """One answer."""
        if answer.status == 200:
            self.answers += 1
        else:
            self.failures.append(f"{time.monotonic():.3f}: {answer.status} {answer.text[:80]}")

    def failed(self, error: Exception) -> None:
        """No answer."""
        self.failures.append(f"{time.monotonic():.3f}: {error!r}")


@asynccontextmanager
async def traffic(system: Living, zone: str, hostname: str, port: int) -> AsyncIterator[Traffic]:
    """Call a service by name all the while, each time resolved anew and over a new connection."""
    seen = Traffic()
    stop = asyncio.Event()

    async def call() -> None:
        while not stop.is_set():
            try:
                seen.saw(await system.call(zone, hostname, port))
            except (OSError, TimeoutError, application.Unresolved, ValueError) as error:
                seen.failed(error)
            await asyncio.sleep(0.01)

    calling = asyncio.create_task(call())
    try:
        yield seen
    finally:
        stop.set()
        await calling


def left_behind(directory: Path) -> list[str]:
    """Processes that have the directory in their command line or environment."""
    word, found = str(directory).encode(), []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit() or int(place.name) == os.getpid():
            continue
        try:
            command = (place / "cmdline").read_bytes()
            if word in command or word in (place / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
