"""Deployment: where everything that `zonal init` made lies, and which ports it has.

<directory>/                     mode 0700
  deployment.yaml                base port, zones in order of creation, options
  ca.pem  ca.key                 the deployment's authority
  admin.token                    token of the role admin
  context.yaml                   for the command line (`ZONAL_CONTEXT`)
  global/                        all that global's host needs
    settings.yaml  nats.conf  keys/  data/  nats/
  zones/<zone>/                  all that a zone's host needs
    settings.yaml  nats.conf  leaf-nkey.conf  keys/  data/  nats/
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import yaml

from shared.events.event import GLOBAL
from shared.keys.directory import KeysDirectory
from shared.keys.ports import GlobalPorts, ZonePorts, global_ports, zone_ports
from shared.keys.tokens import DEFAULT_KID

CONTEXT_VARIABLE = "ZONAL_CONTEXT"
PLAN = "deployment.yaml"
LOOPBACK = "127.0.0.1"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a deployment was laid out from. `relay`: zones dial the relay's port instead of the hub's.

    hosts: addresses of "global" and of zones that are not on loopback.
    """

    base_port: int
    zones: tuple[str, ...]
    relay: bool = False
    hosts: dict[str, str] = {}


class Deployment(msgspec.Struct, frozen=True):
    """A deployment directory; `made` lists what the call that returned this wrote."""

    directory: Path
    plan: Plan
    made: tuple[Path, ...] = ()

    @property
    def ca_file(self) -> Path:
        """Certificate of the authority that NATS and ADS are verified with."""
        return self.directory / "ca.pem"

    @property
    def ca_key_file(self) -> Path:
        """Its key: needed only by `zonal init`."""
        return self.directory / "ca.key"

    @property
    def admin_token(self) -> Path:
        """File with the admin's token."""
        return self.directory / "admin.token"

    @property
    def context(self) -> Path:
        """The command line's context."""
        return self.directory / "context.yaml"

    @property
    def token_signing_key(self) -> Path:
        """File with the key that signs tokens."""
        return self.keys(GLOBAL).signing_key_file(DEFAULT_KID)

    @property
    def global_settings(self) -> Path:
        """Settings of `zonal global`."""
        return self.home(GLOBAL) / "settings.yaml"

    @property
    def hub_config(self) -> Path:
        """Configuration of the hub's nats-server."""
        return self.home(GLOBAL) / "nats.conf"

    @property
    def hub_store(self) -> Path:
        """JetStream store directory of the hub."""
        return self.home(GLOBAL) / "nats"

    @property
    def ports(self) -> GlobalPorts:
        """Ports of global and the hub."""
        return global_ports(self.plan.base_port)

    def zone_settings(self, zone: str) -> Path:
        """Settings of `zonal zone` for `zone`."""
        return self.home(zone) / "settings.yaml"

    def leaf_config(self, zone: str) -> Path:
        """Configuration of the zone's nats-server."""
        return self.home(zone) / "nats.conf"

    def leaf_store(self, zone: str) -> Path:
        """JetStream store directory of the zone's nats-server."""
        return self.home(zone) / "nats"

    def host(self, name: str) -> str:
        """Address that the processes of "global" or of a zone listen on, and that the others dial."""
        return self.plan.hosts.get(name, LOOPBACK)

    def zone_ports(self, zone: str) -> ZonePorts:
        """Ports of a zone. Raises ValueError for a zone that is not in the plan."""
        return zone_ports(self.plan.base_port, self.plan.zones.index(zone))

    def home(self, name: str) -> Path:
        """Directory of "global" or of a zone."""
        return self.directory / GLOBAL if name == GLOBAL else self.directory / "zones" / name

    def keys(self, name: str) -> KeysDirectory:
        """Keys of "global" or of a zone."""
        return KeysDirectory(self.home(name) / "keys", name)

    def environment(self) -> dict[str, str]:
        """The environment of this process with the command line pointed at this deployment."""
        return {**os.environ, CONTEXT_VARIABLE: str(self.context)}


def load(directory: Path) -> Deployment | None:
    """The deployment in `directory`, None when there is none. Raises ValueError when its plan is unreadable."""
    path = directory / PLAN
    if not path.exists():
        return None
    try:
        return Deployment(directory.resolve(), msgspec.convert(yaml.safe_load(path.read_text()), Plan))
    except (msgspec.ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None
