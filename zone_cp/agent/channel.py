"""The agent's line to its control plane: one `zonal.agent.v1.Agent/Attach` stream, reopened for ever.

What goes up is state, not a queue: the newest outcome per destination and the newest DNS version. Whatever was not
sent when a stream broke is covered by the next stream's beginning (Hello, then all that fails now).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import structlog

from shared.pb import agent_pb2 as pb
from zone_cp.agent.bootstrap import ControlPlane
from zone_cp.agent.observe import Transition
from zone_cp.agent.place import InputRefused

METHOD = "/zonal.agent.v1.Agent/Attach"
BACKOFF_BASE_SECONDS, BACKOFF_MAX_SECONDS = 0.2, 5.0
HEALTHY_SECONDS = 10.0
"""A stream that lasted this long resets the backoff."""
MAX_MESSAGE_BYTES = 64 << 20
"""A full table of a million names fits."""

Control: TypeAlias = Callable[[pb.ControlMessage], None]

log = structlog.get_logger()
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC's own reconnecting would wait longer than ours, and add to it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)


class Channel:
    """Attach one proxy. `token` and what it says of itself are asked for at the beginning of every stream."""

    def __init__(
        self,
        plane: ControlPlane,
        *,
        proxy: str,
        token: Callable[[], str],
        dns_version: Callable[[], str],
        failing: Callable[[], Iterable[Transition]],
        probed: Callable[[], pb.ProbedInbounds],
        lost: Callable[[], Mapping[str, str]],
        on_control: Control,
    ) -> None:
        self._plane = plane
        self._proxy = proxy
        self._token = token
        self._dns_version = dns_version
        self._failing = failing
        self._probed = probed
        self._lost = lost
        self._on_control = on_control
        self._pending: dict[str, pb.AgentMessage] = {}
        self._wake = asyncio.Event()
        self.attached = asyncio.Event()

    def report(self, transition: Transition) -> None:
        """Tell a transition; on a broken line only the newest of each destination is kept."""
        self._send(transition.cluster, _observation(transition))

    def probed(self) -> None:
        """Tell what the service probes say now; on a broken line the next stream begins with it."""
        self._send("probed", pb.AgentMessage(probed=self._probed()))

    def lost(self, name: str, reason: str) -> None:
        """Tell that Envoy dropped a listener; on a broken line the next stream begins with it."""
        self._send(f"listener/{name}", _listener_lost(name, reason))

    def acknowledge(self, dns_version: str) -> None:
        """Tell that the table of this version answers queries."""
        self._send("", pb.AgentMessage(dns_ack=pb.DnsAck(version=dns_version)))

    def answer(self, checked: pb.TlsChecked) -> None:
        """Tell what a TLS check found; on a broken line whoever asked has given up, and so do we."""
        self._send(f"check/{checked.id}", pb.AgentMessage(tls_checked=checked))

    def dumped(self, dump: pb.ConfigDumped) -> None:
        """Tell what Envoy has; on a broken line whoever asked has given up, and so do we."""
        self._send(f"dump/{dump.id}", pb.AgentMessage(config_dumped=dump))

    async def run(self) -> None:
        """Stay attached until cancelled."""
        loop = asyncio.get_running_loop()
        attempt, told = 0, ""
        while True:
            began = loop.time()
            try:
                await self._attach()
            except (grpc.aio.AioRpcError, OSError, InputRefused) as error:
                reason = (
                    f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else str(error)
                )
                # An outage is one warning, however long it lasts.
                say = log.debug if told == reason else log.warning
                say("channel lost", control_plane=f"{self._plane.host}:{self._plane.port}", reason=reason)
                told = reason
            else:
                told = ""
            finally:
                self.attached.clear()
            attempt = 0 if loop.time() - began > HEALTHY_SECONDS else attempt + 1
            ceiling = min(BACKOFF_BASE_SECONDS * 2**attempt, BACKOFF_MAX_SECONDS)
            await asyncio.sleep(ceiling * random.uniform(0.5, 1.0))  # noqa: S311  (spreads agents, hides nothing)

    def _send(self, key: str, message: pb.AgentMessage) -> None:
        self._pending.pop(key, None)
        self._pending[key] = message
        self._wake.set()

    async def _attach(self) -> None:
        metadata = (("authorization", f"Bearer {self._token()}"),)
        host = f"[{self._plane.host}]" if ":" in self._plane.host else self._plane.host
        credentials = grpc.ssl_channel_credentials(await asyncio.to_thread(Path(self._plane.ca_file).read_bytes))
        async with grpc.aio.secure_channel(f"{host}:{self._plane.port}", credentials, _OPTIONS) as channel:
            attach: Any = channel.stream_stream(
                METHOD,
                request_serializer=pb.AgentMessage.SerializeToString,
                response_deserializer=pb.ControlMessage.FromString,
            )
            call = attach(metadata=metadata)
            # One task writes (two overlapping writes on a stream break it), one reads.
            reader, writer = asyncio.create_task(self._read(call)), asyncio.create_task(self._write(call))
            try:
                await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
                if writer.done() and not isinstance(
                    writer.exception(), grpc.aio.AioRpcError | asyncio.InvalidStateError
                ):
                    await writer  # a fault of ours; the two above say that the call is over, and reading says why
                await reader
            finally:
                call.cancel()
                reader.cancel()
                writer.cancel()
                await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        while True:
            message = await call.read()
            if message is grpc.aio.EOF:
                log.info("channel ended", code=str(await call.code()), details=await call.details())
                return
            if not self.attached.is_set():
                self.attached.set()
                log.info("channel attached", control_plane=f"{self._plane.host}:{self._plane.port}")
            if message.WhichOneof("message") == "drain":
                log.info("channel drained")
                return
            self._on_control(message)

    async def _write(self, call: Any) -> None:
        self._pending.clear()
        await call.write(pb.AgentMessage(hello=pb.Hello(proxy=self._proxy, dns_version=self._dns_version())))
        if (said := self._probed()).inbounds:
            await call.write(pb.AgentMessage(probed=said))
        for transition in self._failing():
            await call.write(_observation(transition))
        for name, reason in dict(self._lost()).items():
            await call.write(_listener_lost(name, reason))
        while True:
            while self._pending:
                await call.write(self._pending.pop(next(iter(self._pending))))
            self._wake.clear()
            await self._wake.wait()


def _listener_lost(name: str, reason: str) -> pb.AgentMessage:
    return pb.AgentMessage(listener_lost=pb.ListenerLost(name=name, reason=reason))


def _observation(transition: Transition) -> pb.AgentMessage:
    return pb.AgentMessage(
        observation=pb.Observation(
            cluster=transition.cluster,
            failing=transition.failing,
            reason=transition.reason,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
    )
