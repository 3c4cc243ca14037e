"""`zonal init`: lay out a deployment, or add what is missing to one. See `deployment.py` for the layout.

Keys, tokens and settings that exist are never written again. Configurations of nats-server, the context and
the list of zones in global's settings follow from the plan and are brought up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import msgspec
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.events.event import GLOBAL
from shared.keys import ca, files, pki, tokens
from shared.keys.deployment import LOOPBACK, PLAN, Deployment, Plan, load
from shared.keys.directory import SEAL_PRIVATE, SEAL_PUBLIC, SIGN_PRIVATE, SIGN_PUBLIC
from shared.keys.ports import DEFAULT_BASE
from shared.nats import nkeys
from shared.nats.config import LEAF_NKEY_FILE, HubConfig, LeafConfig, TlsFiles, hub_text, leaf_nkey_text, leaf_text
from shared.process.exit_code import ExitCode
from shared.process.settings import GlobalSettings, ZoneSettings, to_yaml

__all__ = ["Deployment", "InitRefused", "init", "run"]

DEFAULT_DIRECTORY = Path(".zonal")
ADMIN_SUBJECT = "admin"
LEAF_SEED = "leaf.seed"

_ZONE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")


class InitRefused(Exception):
    """The deployment cannot be laid out as asked; nothing was written. The message says why."""


class _Layout:
    """Writes what is missing, and remembers what it wrote."""

    def __init__(self, deployment: Deployment, now: datetime) -> None:
        self.deployment = deployment
        self.now = now
        self.made: list[Path] = []

    def private(self, path: Path, make: Callable[[], str]) -> None:
        """Make a secret file unless it exists."""
        if not path.exists():
            files.write_private(path, make())
            self.made.append(path)

    def public(self, path: Path, text: str) -> None:
        """Bring a public file up to date."""
        if not path.exists() or path.read_text() != text:
            files.write_public(path, text)
            self.made.append(path)

    def folder(self, path: Path) -> None:
        """A directory that only its owner may enter."""
        path.mkdir(mode=files.PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)

    # --- keys ---

    def authority(self) -> None:
        certificate, key = self.deployment.ca_file, self.deployment.ca_key_file
        if not certificate.exists():
            pem, key_pem = pki.create_authority(self.now)
            files.write_private(key, key_pem)
            files.write_public(certificate, pem)
            self.made += [certificate, key]

    def seal_key(self, name: str) -> None:
        """The process's seal key. A lost one is never replaced: what was sealed for it would stay unreadable."""
        keys = self.deployment.keys(name).path
        private, public = keys / f"{name}{SEAL_PRIVATE}", keys / f"{name}{SEAL_PUBLIC}"
        if not private.exists():
            elsewhere = self.deployment.keys(GLOBAL).path / public.name
            if public.exists() or elsewhere.exists():
                raise InitRefused(f"{private} is gone, and secrets are sealed for it: put it back")
            files.write_private(private, files.private_pem(X25519PrivateKey.generate()))
            self.made.append(private)
        self.public(public, files.public_pem(files.read_seal_private(private).public_key()))

    def sign_key(self, name: str) -> None:
        """The key that signs the process's log. A new one in its place vouches for what was before as well."""
        keys = self.deployment.keys(name)
        files_of_it = [keys.path / f"{name}{kind}" for kind in (SIGN_PRIVATE, SIGN_PUBLIC)]
        self.made += [path for path in files_of_it if not path.exists()]
        keys.signing_key()

    def certificate(self, at: tuple[Path, Path], name: str, host: str, *, client: bool) -> None:
        """A server certificate for this host, `client` too where it also dials; renewed when it is due."""
        certificate, key = at
        if certificate.exists() and key.exists() and not ca.needs_renewal(certificate.read_text(), self.now):
            return
        if not self.deployment.ca_key_file.exists():
            raise InitRefused(f"{self.deployment.ca_key_file} is not here, and {certificate} has to be signed with it")
        pem, key_pem = pki.issue(
            files.read_public(self.deployment.ca_file).decode(),
            files.read_private(self.deployment.ca_key_file).decode(),
            name=name,
            hosts=tuple(dict.fromkeys((*pki.LOCAL_NAMES, name, host))),
            now=self.now,
            server=True,
            client=client,
        )
        files.write_private(key, key_pem)
        files.write_public(certificate, pem)
        self.made += [certificate, key]

    def tls_files(self, name: str) -> TlsFiles:
        certificate, key = self.deployment.keys(name).nats_files
        return TlsFiles(ca=str(self.deployment.keys(name).ca_file), cert=str(certificate), key=str(key))

    def nkey(self, path: Path) -> nkeys.UserKey:
        self.private(path, lambda: nkeys.generate().seed)
        return nkeys.from_seed(files.read_private(path).decode().strip())

    # --- parts ---

    def global_keys(self) -> None:
        keys = self.deployment.keys(GLOBAL)
        self.folder(keys.path)
        self.seal_key(GLOBAL)
        self.sign_key(GLOBAL)
        self.certificate(keys.nats_files, "hub", self.deployment.host(GLOBAL), client=False)
        self.private(self.deployment.token_signing_key, tokens.create_signing_key)
        self.private(
            self.deployment.admin_token,
            lambda: tokens.TokenIssuer.load(self.deployment.token_signing_key).user_token(
                ADMIN_SUBJECT, (tokens.ADMIN,)
            ),
        )

    def zone_keys(self, zone: str) -> None:
        keys = self.deployment.keys(zone)
        self.folder(keys.path)
        self.seal_key(zone)
        self.sign_key(zone)
        host = self.deployment.host(zone)
        self.certificate(keys.ads_files, f"ads.{zone}", host, client=False)
        self.certificate(keys.nats_files, f"nats.{zone}", host, client=True)

    def shared_keys(self) -> None:
        """What every process must hold: the authority, all public seal and signing keys, public token keys."""
        deployment = self.deployment
        names = (GLOBAL, *deployment.plan.zones)
        public = [deployment.keys(name).path / f"{name}{kind}" for name in names for kind in (SEAL_PUBLIC, SIGN_PUBLIC)]
        public_keys = {path.name: path.read_text() for path in public}
        signing = deployment.token_signing_key
        token_key = tokens.public_key_of(files.read_private(signing).decode())
        for name in names:
            keys = deployment.keys(name).path
            self.public(keys / "ca.pem", deployment.ca_file.read_text())
            self.public(keys / signing.with_suffix(".pub").name, token_key)
            for file, text in public_keys.items():
                self.public(keys / file, text)

    def nats(self) -> None:
        deployment, ports = self.deployment, self.deployment.ports
        leaves: dict[str, str] = {}
        for zone in deployment.plan.zones:
            leaves[zone] = self._leaf(zone)
        hub = HubConfig(
            host=deployment.host(GLOBAL),
            port=ports.nats,
            leaf_host=deployment.host(GLOBAL),
            leaf_port=ports.nats_leaf,
            store_dir=str(deployment.hub_store),
            global_nkey=self.nkey(deployment.keys(GLOBAL).nats_seed_file).public,
            zones=leaves,
            tls=self.tls_files(GLOBAL),
        )
        self.folder(deployment.hub_store)
        self.public(deployment.hub_config, hub_text(hub))

    def _leaf(self, zone: str) -> str:
        """Write the zone's server configuration; the public nkey of its leaf link."""
        deployment, ports = self.deployment, self.deployment.zone_ports(zone)
        client = self.nkey(deployment.keys(zone).nats_seed_file)
        link = self.nkey(deployment.keys(zone).path / LEAF_SEED)
        leaf = LeafConfig(
            zone=zone,
            host=deployment.host(zone),
            port=ports.nats,
            hub_leaf_host=LOOPBACK if deployment.plan.relay else deployment.host(GLOBAL),
            hub_leaf_port=ports.link if deployment.plan.relay else deployment.ports.nats_leaf,
            store_dir=str(deployment.leaf_store(zone)),
            client_nkey=client.public,
            tls=self.tls_files(zone),
        )
        self.folder(deployment.leaf_store(zone))
        self.private(deployment.home(zone) / LEAF_NKEY_FILE, lambda: leaf_nkey_text(link.seed))
        self.public(deployment.leaf_config(zone), leaf_text(leaf))
        return link.public

    # --- settings ---

    def global_settings(self) -> None:
        deployment, keys = self.deployment, self.deployment.keys(GLOBAL)
        path = deployment.global_settings
        if path.exists():
            values = yaml.safe_load(path.read_text()) or {}
            if tuple(values.get("zones", ())) == deployment.plan.zones:
                return
            text = yaml.safe_dump({**values, "zones": list(deployment.plan.zones)}, sort_keys=False)
        else:
            text = to_yaml(
                GlobalSettings(
                    api_host=deployment.host(GLOBAL),
                    api_port=deployment.ports.api,
                    nats_url=f"tls://{deployment.host(GLOBAL)}:{deployment.ports.nats}",
                    nats_credentials=str(keys.nats_seed_file),
                    nats_ca=str(keys.ca_file),
                    data_dir=str(deployment.home(GLOBAL) / "data"),
                    keys_dir=str(keys.path),
                    zones=deployment.plan.zones,
                )
            )
        self.folder(deployment.home(GLOBAL) / "data")
        self.public(path, text)

    def zone_settings(self, zone: str, cidr: str | None, allowed: Sequence[str]) -> None:
        deployment, keys, ports = self.deployment, self.deployment.keys(zone), self.deployment.zone_ports(zone)
        path = deployment.zone_settings(zone)
        if path.exists():
            return
        settings = ZoneSettings(
            name=zone,
            api_host=deployment.host(zone),
            api_port=ports.api,
            ads_host=deployment.host(zone),
            ads_port=ports.ads,
            nats_url=f"tls://{deployment.host(zone)}:{ports.nats}",
            nats_credentials=str(keys.nats_seed_file),
            nats_ca=str(keys.ca_file),
            data_dir=str(deployment.home(zone) / "data"),
            keys_dir=str(keys.path),
            allowed_addresses=tuple(allowed),
        )
        if cidr is not None:
            settings = settings.with_ranges(cidr)
        self.folder(deployment.home(zone) / "data")
        self.public(path, to_yaml(settings))

    def context(self) -> None:
        deployment = self.deployment

        def below(path: Path) -> str:
            # The command line resolves paths from where the context lies, so the directory may move.
            return str(path.relative_to(deployment.directory))

        zones = {
            zone: {
                "api": f"http://{deployment.host(zone)}:{deployment.zone_ports(zone).api}",
                "ads": f"https://{deployment.host(zone)}:{deployment.zone_ports(zone).ads}",
                "store": below(deployment.leaf_store(zone)),
            }
            for zone in deployment.plan.zones
        }
        context = {
            "api": f"http://{deployment.host(GLOBAL)}:{deployment.ports.api}",
            "token_file": below(deployment.admin_token),
            "ca_file": below(deployment.ca_file),
            "store": below(deployment.hub_store),
            "keys": below(deployment.keys(GLOBAL).path),
            "zones": zones,
        }
        self.public(deployment.context, yaml.safe_dump(context, sort_keys=False))


def _planned(
    directory: Path, zones: Sequence[str], base_port: int | None, *, hosts: Mapping[str, str], relay: bool
) -> Plan:
    """The plan of a new deployment, or of an extended one. Raises InitRefused."""
    for zone in zones:
        if not _ZONE.match(zone) or zone == GLOBAL:
            raise InitRefused(f"{zone!r} cannot be a zone: a zone's name is an RFC 1035 label other than {GLOBAL!r}")
    try:
        known = load(directory)
    except ValueError as error:
        raise InitRefused(str(error)) from None
    if known is None:
        target = Deployment(directory, Plan(base_port=DEFAULT_BASE, zones=()))
        taken = [target.ca_file, target.ca_key_file, target.admin_token, target.home(GLOBAL), directory / "zones"]
        for path in taken:
            if path.exists():
                raise InitRefused(f"{path} exists, but {directory} is no deployment: nothing was overwritten")
        names = tuple(dict.fromkeys(zones))
        plan = Plan(base_port=base_port or DEFAULT_BASE, zones=names, relay=relay, hosts=dict(hosts))
    else:
        before = known.plan
        if base_port not in (None, before.base_port):
            raise InitRefused(f"{directory} was laid out from base port {before.base_port}, not from {base_port}")
        names = tuple(dict.fromkeys((*before.zones, *zones)))
        for name, host in hosts.items():
            if name in (GLOBAL, *before.zones) and host != known.host(name):
                raise InitRefused(f"{directory} was laid out with {name} at {known.host(name)}, not at {host}")
        extended = {**before.hosts, **hosts}
        plan = Plan(base_port=before.base_port, zones=names, relay=before.relay or relay, hosts=extended)
    if not plan.zones:
        raise InitRefused("a deployment needs at least one zone")
    try:
        Deployment(directory, plan).zone_ports(plan.zones[-1])
    except ValueError as error:
        raise InitRefused(str(error)) from None
    return plan


def init(
    directory: Path,
    zones: Sequence[str],
    base_port: int | None = None,
    *,
    vip_cidrs: Mapping[str, str] | None = None,
    allowed_addresses: Sequence[str] = (),
    relay: bool = False,
    hosts: Mapping[str, str] = MappingProxyType({}),
    now: datetime | None = None,
) -> Deployment:
    """Lay out a deployment of `zones` in `directory`, or add what is missing to the one there.

    base_port: 5681 by default, fixed once laid out. vip_cidrs: the VIP range of a new zone, where it is not
    242.0.0.0/8, and behind a comma that of legacy ExternalServices. allowed_addresses: what new zones let endpoints
    use (decision 13). relay: zones dial a relay's port, so that the link can be cut. hosts: the address that "global"
    or a zone listens on and is dialled at, where it is not 127.0.0.1. Raises InitRefused and files.KeyFileError.
    """
    directory = directory.resolve()
    plan = _planned(directory, zones, base_port, hosts=hosts, relay=relay)
    layout = _Layout(Deployment(directory, plan), now or tokens.wall_clock())
    layout.folder(directory)
    # First, so that a run that was interrupted is taken up again and not refused.
    layout.public(directory / PLAN, yaml.safe_dump(msgspec.to_builtins(plan), sort_keys=False))
    layout.authority()
    layout.global_keys()
    for zone in plan.zones:
        layout.zone_keys(zone)
    layout.shared_keys()
    layout.nats()
    layout.global_settings()
    for zone in plan.zones:
        layout.zone_settings(zone, (vip_cidrs or {}).get(zone), allowed_addresses)
    layout.context()
    return msgspec.structs.replace(layout.deployment, made=tuple(layout.made))


def _commands(deployment: Deployment) -> list[str]:
    """What to run, in this order, each in a terminal of its own."""
    return [
        f"nats-server -c {deployment.hub_config}",
        *(f"nats-server -c {deployment.leaf_config(zone)}" for zone in deployment.plan.zones),
        f"zonal global --config {deployment.global_settings}",
        *(f"zonal zone --config {deployment.zone_settings(zone)}" for zone in deployment.plan.zones),
        f"export ZONAL_CONTEXT={deployment.context}",
    ]


def run(
    zones: Sequence[str],
    directory: Path = DEFAULT_DIRECTORY,
    *,
    base_port: int | None = None,
    vip_cidrs: Mapping[str, str] | None = None,
    allowed_addresses: Sequence[str] = (),
    output: str = "table",
) -> int:
    """The command `zonal init`: lay out, print what was made and what to run next. Returns the exit code."""
    existed = (directory / PLAN).exists()
    try:
        deployment = init(directory, zones, base_port, vip_cidrs=vip_cidrs, allowed_addresses=allowed_addresses)
    except InitRefused as error:
        sys.stderr.write(f"zonal init: {error}\n")
        return ExitCode.REFUSED
    except (files.KeyFileError, OSError) as error:
        sys.stderr.write(f"zonal init: {error}\n")
        return ExitCode.FAILED
    made = [str(path.relative_to(deployment.directory)) for path in deployment.made]
    facts = {"directory": str(deployment.directory), "made": made, "run": _commands(deployment)}
    if output == "json":
        sys.stdout.write(json.dumps(facts) + "\n")
    elif output == "yaml":
        sys.stdout.write(yaml.safe_dump(facts, sort_keys=False))
    else:
        sys.stdout.write(_told(deployment, made, restart=existed and deployment.hub_config in deployment.made))
    return ExitCode.OK


def _told(deployment: Deployment, made: Sequence[str], *, restart: bool) -> str:
    lines = [f"{deployment.directory}: {f'{len(made)} files made' if made else 'nothing to do'}"]
    lines += [f"  {path}" for path in made]
    if restart:
        # Measured, nats-server 2.15.1: after a reload the new zone's link is up, but its imports never answer.
        lines += ["The hub's accounts changed: restart its nats-server (a reload is not enough), then `zonal global`."]
    return "\n".join([*lines, "Run, in this order:", *(f"  {command}" for command in _commands(deployment))]) + "\n"
