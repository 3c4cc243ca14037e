"""Agents: the attached proxy agents, what their DNS should answer and what they have seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError

from shared.pb.agent_pb2 import (
    AgentMessage,
    CheckTls,
    ConfigDump,
    ConfigDumped,
    ControlMessage,
    DnsName,
    DnsUpdate,
    Drain,
    Hello,
    ListenerLost,
    Observation,
    ProbedInbounds,
    TlsChecked,
)
from zone_cp.ads.names import DnsChange, DnsTable, dns_change

AGENT_SERVICE = "zonal.agent.v1.Agent"


class NotAttached(Exception):
    """The proxy's agent has no stream here, or lost it before it answered."""


class Agent:
    """One attached agent: the table it was sent, the bell of its writer, whether it has to go."""

    def __init__(self, proxy: str, dns_version: str) -> None:
        """dns_version: what the agent says it already answers from."""
        self.proxy = proxy
        self.reported = dns_version
        self.sent: DnsTable | None = None
        self.acked = dns_version
        self.bell = asyncio.Event()
        self.draining = False
        self.replaced = False
        self.asked: list[ControlMessage] = []
        self.answers: dict[str, asyncio.Future[Any]] = {}

    def change(self, table: DnsTable) -> DnsChange | None:
        """What to tell the agent: nothing, a difference, or the whole table when its own is another."""
        if self.sent is None and self.reported == table.version:
            self.sent = table
            return None
        change = dns_change(self.sent, table)
        self.sent = table
        return change


class Agents:
    """Agents by proxy; the newest attachment of a proxy wins."""

    def __init__(
        self,
        on_observation: Callable[[str, Observation], None],
        on_probed: Callable[[str, ProbedInbounds | None], None],
        on_lost: Callable[[str, ListenerLost], None],
    ) -> None:
        """All run on the loop and must not block. on_probed is told None when an agent is gone."""
        self._on_observation = on_observation
        self._on_lost = on_lost
        self._on_probed = on_probed
        self._agents: dict[str, Agent] = {}
        self._tables: dict[str, DnsTable] = {}
        self._waiting: dict[str, list[tuple[str, asyncio.Future[None]]]] = {}

    def offer(self, proxy: str, table: DnsTable) -> None:
        """Let this be what the proxy's agent answers from; the newest table wins."""
        self._tables[proxy] = table
        if proxy in self._agents:
            self._agents[proxy].bell.set()

    def forget(self, proxy: str) -> None:
        """Drop the table of a proxy."""
        self._tables.pop(proxy, None)

    def drain(self) -> None:
        """Tell all agents that the control plane is about to stop."""
        for agent in self._agents.values():
            agent.draining = True
            agent.bell.set()

    def dns_versions(self) -> dict[str, str]:
        """The table version that each attached agent has said it answers from."""
        return {proxy: agent.acked for proxy, agent in self._agents.items()}

    async def dns_acked(self, proxy: str, version: str, timeout_seconds: float) -> None:
        """Wait until the proxy's agent answers from this version. Raises TimeoutError."""
        agent = self._agents.get(proxy)
        if agent is not None and agent.acked == version:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (version, future)
        self._waiting.setdefault(proxy, []).append(entry)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        finally:
            with suppress(KeyError, ValueError):
                self._waiting[proxy].remove(entry)
                if not self._waiting[proxy]:
                    del self._waiting[proxy]

    def attached(self, proxy: str) -> bool:
        """Whether the proxy's agent has a stream here."""
        return proxy in self._agents

    async def check_tls(self, proxy: str, check: CheckTls, timeout_seconds: float) -> TlsChecked:
        """Let the proxy's agent try a handshake. Raises NotAttached, TimeoutError."""
        checked: TlsChecked = await self._ask(proxy, check.id, ControlMessage(check_tls=check), timeout_seconds)
        return checked

    async def config_dump(self, proxy: str, request_id: str, timeout_seconds: float) -> ConfigDumped:
        """Let the proxy's agent ask Envoy what it has. Raises NotAttached, TimeoutError."""
        message = ControlMessage(config_dump=ConfigDump(id=request_id))
        dumped: ConfigDumped = await self._ask(proxy, request_id, message, timeout_seconds)
        return dumped

    async def _ask(self, proxy: str, request_id: str, message: ControlMessage, timeout_seconds: float) -> Any:
        agent = self._agents.get(proxy)
        if agent is None:
            raise NotAttached(proxy)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        agent.answers[request_id] = future
        agent.asked.append(message)
        agent.bell.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await future
        finally:
            agent.answers.pop(request_id, None)

    # -- one stream -------------------------------------------------------------------------------------------

    def hello(self, raw: bytes) -> Hello | None:
        """The first message, when it is what it has to be."""
        try:
            message = AgentMessage.FromString(raw)
        except DecodeError:
            return None
        return message.hello if message.WhichOneof("message") == "hello" and message.hello.proxy else None

    def attach(self, proxy: str, hello: Hello) -> Agent:
        """Take an agent in; an older one of the same proxy is sent away."""
        older = self._agents.get(proxy)
        if older is not None:
            older.replaced = True
            older.bell.set()
        agent = self._agents[proxy] = Agent(proxy, hello.dns_version)
        self._acked(agent, hello.dns_version)
        agent.bell.set()
        return agent

    def detach(self, agent: Agent) -> None:
        """Forget an agent whose stream has ended."""
        if self._agents.get(agent.proxy) is agent:
            del self._agents[agent.proxy]
            self._on_probed(agent.proxy, None)
        for future in agent.answers.values():
            if not future.done():
                future.set_exception(NotAttached(agent.proxy))

    async def read(self, agent: Agent, read: Callable[[], Awaitable[bytes | None]]) -> None:
        """Take what the agent says until it ends. Raises DecodeError on nonsense."""
        while (raw := await read()) is not None:
            message = AgentMessage.FromString(raw)
            match message.WhichOneof("message"):
                case "observation":
                    self._on_observation(agent.proxy, message.observation)
                case "probed" if self._agents.get(agent.proxy) is agent:
                    self._on_probed(agent.proxy, message.probed)
                case "listener_lost" if self._agents.get(agent.proxy) is agent:
                    self._on_lost(agent.proxy, message.listener_lost)
                case "dns_ack":
                    self._acked(agent, message.dns_ack.version)
                case "tls_checked":
                    _answered(agent, message.tls_checked)
                case "config_dumped":
                    _answered(agent, message.config_dumped)
                case _:
                    continue

    async def write(self, agent: Agent, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Tell the agent what changes, until it is sent away or drained; the only writer of its stream."""
        while True:
            await agent.bell.wait()
            agent.bell.clear()
            if agent.draining:
                await write(ControlMessage(drain=Drain()).SerializeToString())
            if agent.draining or agent.replaced:
                return
            table = self._tables.get(agent.proxy)
            change = None if table is None else agent.change(table)
            if change is not None:
                await write(_message(change))
            while agent.asked:
                await write(agent.asked.pop(0).SerializeToString())

    def _acked(self, agent: Agent, version: str) -> None:
        agent.acked = version
        for wanted, future in self._waiting.get(agent.proxy, ()):
            if wanted == version and not future.done():
                future.set_result(None)


def _answered(agent: Agent, answer: TlsChecked | ConfigDumped) -> None:
    future = agent.answers.get(answer.id)
    if future is not None and not future.done():
        future.set_result(answer)


def _message(change: DnsChange) -> bytes:
    update = DnsUpdate(
        version=change.version,
        full=change.full,
        upsert=[DnsName(name=name, ip=ip) for name, ip in change.upsert],
        remove=change.remove,
        ttl_seconds=change.ttl_seconds,
    )
    return ControlMessage(dns=update).SerializeToString()
