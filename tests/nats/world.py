"""Real nats-servers as production has them: a hub, zones as leaf nodes behind cuttable links, TLS, nkeys, accounts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

from shared.keys.pki import LOCAL_NAMES, create_authority, issue
from shared.nats import nkeys, topology
from shared.nats.config import HubConfig, LeafConfig, TlsFiles, hub_text, leaf_nkey_text, leaf_text, scratch_text
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.server import Server, free_port, start_server
from tests.nats.proxy import Link

WAIT_SECONDS = 60.0


async def until(condition: Callable[[], bool], what: str, timeout_seconds: float = WAIT_SECONDS) -> float:
    """Wait for a condition of the test's own state; how long it took, in seconds."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    while not condition():
        assert loop.time() - begin < timeout_seconds, f"waited {timeout_seconds} s for {what}"
        await asyncio.sleep(0.005)
    return loop.time() - begin


def write_private(path: Path, text: str) -> Path:
    """A file that only we read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


class Single:
    """One nats-server without auth whose acknowledgement means `fsync`ed, that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.store = directory / "store"
        self._config = directory / "nats.conf"
        text = scratch_text("127.0.0.1", self.port, str(self.store))
        self._config.write_text(text.replace("jetstream {", "jetstream { sync_interval: always,"))
        self.server: Server | None = None

    @property
    def settings(self) -> NatsSettings:
        return NatsSettings(url=f"nats://127.0.0.1:{self.port}")

    async def start(self) -> None:
        self.server = await start_server(self._config)

    async def kill(self) -> None:
        assert self.server is not None
        await self.server.kill()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()


class World:
    """See the module. `hub` and `zones` are connections of the control planes; `links` the ways between them."""

    def __init__(self, directory: Path, zones: tuple[str, ...]) -> None:
        self.directory = directory
        self.names = zones
        self.links: dict[str, Link] = {}
        self.servers: dict[str, Server] = {}
        self.hub: Connection
        self.zones: dict[str, Connection] = {}
        self.settings: dict[str, NatsSettings] = {}
        self.configs: dict[str, Path] = {}
        self._pki = create_authority(datetime.now(UTC))

    def tls(self, name: str) -> TlsFiles:
        """Files of a certificate for loopback, made by the deployment's authority."""
        authority, authority_key = self._pki
        cert, key = issue(
            authority, authority_key, name=name, hosts=LOCAL_NAMES, now=datetime.now(UTC), server=True, client=True
        )
        ca = self.directory / "ca.pem"
        ca.write_text(authority)
        (self.directory / f"{name}.pem").write_text(cert)
        path = write_private(self.directory / f"{name}.key", key)
        return TlsFiles(ca=str(ca), cert=str(self.directory / f"{name}.pem"), key=str(path))

    async def start(self) -> None:
        """Start everything, connect, and make the streams."""
        global_key = nkeys.generate()
        leaf_keys = {zone: nkeys.generate() for zone in self.names}
        leaf_port, port = free_port(), free_port()
        hub_config = HubConfig(
            host="127.0.0.1",
            port=port,
            leaf_host="127.0.0.1",
            leaf_port=leaf_port,
            store_dir=str(self.directory / "hub"),
            global_nkey=global_key.public,
            zones={zone: key.public for zone, key in leaf_keys.items()},
            tls=self.tls("hub-server"),
        )
        await self._run("hub", hub_text(hub_config))
        self.settings["hub"] = self._client("global", port, global_key)
        self.hub = await connect(self.settings["hub"])
        await topology.ensure_hub(self.hub)
        for zone in self.names:
            await topology.ensure_zone_on_hub(self.hub, zone)
            self.links[zone] = Link(leaf_port)
            await self.links[zone].start()
            await self._zone(zone, leaf_keys[zone])

    async def _zone(self, zone: str, leaf_key: nkeys.UserKey) -> None:
        client_key, port = nkeys.generate(), free_port()
        nkey_file = f"{zone}-leaf-nkey.conf"
        write_private(self.directory / nkey_file, leaf_nkey_text(leaf_key.seed))
        config = LeafConfig(
            zone=zone,
            host="127.0.0.1",
            port=port,
            hub_leaf_host="127.0.0.1",
            hub_leaf_port=self.links[zone].port,
            store_dir=str(self.directory / zone),
            client_nkey=client_key.public,
            tls=self.tls(f"{zone}-server"),
            leaf_nkey_file=nkey_file,
        )
        await self._run(zone, leaf_text(config))
        self.settings[zone] = self._client(zone, port, client_key)
        self.zones[zone] = await connect(self.settings[zone])
        await topology.ensure_zone(self.zones[zone], zone)

    async def _run(self, name: str, text: str) -> None:
        self.configs[name] = write_private(self.directory / f"{name}.conf", text)
        await self.restart(name)

    async def restart(self, name: str) -> None:
        """Start a server that is not running."""
        log = (self.directory / f"{name}.log").open("a")

        def keep(line: str) -> None:
            log.write(line + "\n")
            log.flush()

        self.servers[name] = await start_server(self.configs[name], on_line=keep)

    def _client(self, name: str, port: int, key: nkeys.UserKey) -> NatsSettings:
        seed = write_private(self.directory / f"{name}.nk", key.seed)
        return NatsSettings(
            url=f"tls://127.0.0.1:{port}",
            nkey_seed_file=str(seed),
            ca_file=str(self.directory / "ca.pem"),
            name=name,
        )

    async def stop(self) -> None:
        """End every process and connection of this world."""
        for connection in [*self.zones.values(), *([self.hub] if hasattr(self, "hub") else [])]:
            await connection.close()
        for link in self.links.values():
            await link.stop()
        for server in self.servers.values():
            await server.stop()


@contextlib.asynccontextmanager
async def running_world(directory: Path, *zones: str) -> AsyncIterator[World]:
    """A started World, ended whatever happens."""
    world = World(directory, zones)
    try:
        await world.start()
        yield world
    finally:
        await world.stop()


@contextlib.asynccontextmanager
async def running_single(directory: Path) -> AsyncIterator[Single]:
    """A started Single, ended whatever happens."""
    single = Single(directory)
    try:
        await single.start()
        yield single
    finally:
        await single.stop()
