"""A scratch control plane: any moment of a zone's past, served to real Envoys beside the running system.

Everything of it listens on 127.0.0.1 at ports that the kernel gives, keeps its files in a directory of its own and is
gone when the context ends, however it ends. The ADS server is the production one and admits the run's own Envoys only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from shared.events.halving import Verdict
from shared.events.history import History, NoSuchMoment
from shared.events.state import Position
from shared.history.probe import Probe
from shared.keys import pki
from shared.keys.directory import KeysDirectory
from shared.keys.files import KeyFileError
from shared.keys.seal import Keyring
from zone_cp.ads.facts import Nacked
from zone_cp.ads.server import Admitted, AdsServer, NodeInfo, Refused, Status, TlsFiles
from zone_cp.agent.admin import AdminUnreachable
from zone_cp.agent.bootstrap import ControlPlane
from zone_cp.agent.dns_server import DnsServer
from zone_cp.agent.dns_table import NameTable
from zone_cp.agent.envoy import EnvoyNotFound, find_envoy
from zone_cp.agent.place import find_system_ca
from zone_cp.scratch import check, probe
from zone_cp.scratch.moved import HOST, EndpointMap, Moved, egress_at, moved, uses_egress
from zone_cp.scratch.proxy import ScratchProxy
from zone_cp.scratch.secrets import ScratchSecrets

PROXY, EGRESS = "proxy", "egress"
EGRESS_LISTENER = "egress"
STOP_SECONDS = 0.0
CA_DAYS = 2
NAMED = 3
"""Secrets that are named where stand-ins take their place."""


SCRATCH_FAULTS = (AdminUnreachable, EnvoyNotFound, KeyFileError, OSError, check.CheckFailed)
"""What a scratch plane may raise."""


class Asked(msgspec.Struct, frozen=True):
    """What is tried for one proxy of a zone: a command, or a request. keyring: opens sealed material, None: stand-ins.

    anew: a fresh Envoy for every moment.
    """

    zone: str
    proxy: str
    check: str | Probe
    timeout_seconds: float
    endpoints: EndpointMap
    keyring: Keyring | None = None
    anew: bool = False
    envoy: str | None = None


def keyring_of(directory: Path, zone: str) -> Keyring:
    """The key of the zone, else of global, in a keys directory. Raises KeyFileError."""
    own = KeysDirectory(directory, zone)
    return (own if (directory / f"{zone}.seal.key").exists() else KeysDirectory(directory, "global")).keyring()


class ScratchPlane:
    """Use it as an asynchronous context manager; `judge` tries one moment."""

    def __init__(self, history: History, asked: Asked, say: Callable[[str], None]) -> None:
        """say: takes remarks for people, each once."""
        self._history, self._asked = history, asked
        self._say, self._said = say, set[str]()
        self._told_of_stand_ins = False
        self._binary = find_envoy(asked.envoy)
        self._secrets = ScratchSecrets(asked.zone, asked.keyring, datetime.now(UTC))
        self._table = NameTable()
        self._dns = DnsServer(self._table)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start what all moments share."""
        async with AsyncExitStack() as stack:
            self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zonal-bisect-")))
            now = datetime.now(UTC)
            authority, authority_key = pki.create_authority(now, days=CA_DAYS)
            certificate, key = pki.issue(
                authority, authority_key, name="scratch", hosts=(HOST,), now=now, server=True, days=CA_DAYS
            )
            ca_file = self._directory / "ca.pem"
            ca_file.write_text(authority)
            self._ads = AdsServer(
                HOST,
                0,
                TlsFiles(certificate.encode(), key.encode()),
                admit=self._admit,
                on_connected=_ignored,
                on_disconnected=_ignored,
                on_ack=_ignored,
                on_nack=self._nacked,
                on_observation=_ignored,
            )
            port = await self._ads.start()
            stack.push_async_callback(self._ads.stop, STOP_SECONDS)
            plane = ControlPlane(HOST, port, str(ca_file))
            self._proxies = {
                name: ScratchProxy(name, self._binary, self._directory, plane, self._ads) for name in (PROXY, EGRESS)
            }
            for one in self._proxies.values():
                stack.push_async_callback(one.stop)
            await self._dns.start(HOST, 0)
            stack.push_async_callback(self._dns.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is left behind."""
        await self._stack.aclose()

    async def judge(self, position: Position) -> Verdict:
        """Serve a moment and run the check. A moment at which the proxy was not known is skipped.

        Raises CheckFailed, AdminUnreachable.
        """
        try:
            fault = await self._serve(position)
        except NoSuchMoment as missing:
            return Verdict("skip", str(missing))
        if fault:
            return Verdict("bad", fault)
        wanted, seconds = self._asked.check, self._asked.timeout_seconds
        if isinstance(wanted, Probe):
            listeners = await self._proxies[PROXY].listeners()
            return await probe.run(wanted, listeners, self._current.services, seconds)
        return await check.run(wanted, await self._variables(position), seconds)

    async def _serve(self, position: Position) -> str:
        """Have the Envoys use a moment; why they do not, "" when they do."""
        asked, found = self._asked, self._moved(position, self._asked.proxy, None)
        egress = egress_at(self._history, asked.zone, position)
        if uses_egress(found.snapshot) and egress is not None:
            shown = await self._proxies[EGRESS].show(self._moved(position, egress, None), anew=asked.anew)
            if shown.fault:
                return f"zone egress {egress}: {shown.fault}"
            port = (await self._proxies[EGRESS].listeners()).get(EGRESS_LISTENER)
            if port is not None:
                found = self._moved(position, asked.proxy, (HOST, port))
        shown = await self._proxies[PROXY].show(found, anew=asked.anew)
        if shown.slow:
            self._remark("not all of a moment was in use in time (a name that cannot be looked up?)")
        self._current = found
        self._table.replace(str(position), found.names)
        return f"{asked.proxy}: {shown.fault}" if shown.fault else ""

    def _moved(self, position: Position, proxy: str, egress: tuple[str, int] | None) -> Moved:
        found = moved(
            self._history,
            self._asked.zone,
            position,
            proxy,
            secrets=self._secrets,
            egress=egress,
            endpoints=self._asked.endpoints,
            system_ca=self._system_ca,
        )
        if self._secrets.stood_in and not self._told_of_stand_ins:
            self._told_of_stand_ins = True
            names = sorted(self._secrets.stood_in)
            told = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            self._say(f"no --keys, or no ciphertexts in this history: stand-ins take the place of {told}")
        return found

    async def _variables(self, position: Position) -> dict[str, str]:
        listeners, services = await self._proxies[PROXY].listeners(), self._current.services
        curl = self._directory / "curl"
        curl.write_text(check.curl_file(listeners, services))
        more = {
            "AT": str(position),
            "ZONE": self._asked.zone,
            "PROXY": self._asked.proxy,
            "ADMIN": self._proxies[PROXY].admin,
            "EGRESS_ADMIN": self._proxies[EGRESS].admin,
            "DNS": "{}:{}".format(*self._dns.address),
        }
        return check.environment(listeners, services, curl, more)

    def _system_ca(self, recorded: str) -> str:
        """The file that a proxy named, or this machine's where it is not here; none where the proxy had none."""
        if not recorded or os.access(recorded, os.R_OK):
            return recorded
        local = find_system_ca("")
        self._remark(f"{recorded}, the proxy's system CA, is not here: {local or 'none'} takes its place")
        return local

    def _remark(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    async def _admit(self, node: NodeInfo, token: str | None) -> Admitted | Refused:
        for one in self._proxies.values():
            if token == one.token:
                return Admitted(one.name, first=True)
        return Refused(Status.UNAUTHENTICATED, "this control plane serves its own proxies only")

    def _nacked(self, proxy: str, nack: Nacked) -> None:
        self._proxies[proxy].nacked(nack)


def _ignored(*_: object) -> None:
    """Nobody needs to know."""
