"""Settings of every process: one typed definition each; flags, environment and YAML keys are derived from it.

Sources, the later wins: defaults, a YAML file, the environment, flags. A field `api_port` is the YAML key
`api_port`, the variable `ZONAL_API_PORT` and the flag `--api-port`. Two variables keep Kuma's names. A key that
is not a field and a value that does not fit are refused, all at once, each with its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from shared.model.addresses import KUMA_VIP_RANGES
from shared.model.document import Fields, Malformed, plain, read
from shared.naming.vip import outside

ENVIRONMENT_PREFIX = "ZONAL_"
ENVIRONMENT_NAMES = {
    "mesh_external_service_cidr": "KUMA_IPAM_MESH_EXTERNAL_SERVICE_CIDR",
    "dns_server_cidr": "KUMA_DNS_SERVER_CIDR",
    "system_ca_path": "KUMA_DATAPLANE_RUNTIME_DYNAMIC_SYSTEM_CA_PATH",
}
"""Fields whose variable is Kuma's; the `ZONAL_…` name works as well and wins."""

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")


def _about(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"], _about("the least severe entry that is logged")
]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Host: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
DataDir: TypeAlias = Annotated[str, _about("directory for what the process keeps between runs")]
KeysDir: TypeAlias = Annotated[str, _about("directory of the keys that `zonal init` made")]
NatsUrl: TypeAlias = Annotated[str, _about("URL of the nats-server this process uses: the hub's or the zone's own")]
NatsCredentials: TypeAlias = Annotated[str, _about("file with the nkey seed for nats-server; empty: none")]
NatsCa: TypeAlias = Annotated[str, _about("file with the CA of nats-server's certificate; empty: no TLS")]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process has."""

    log_level: LogLevel = "info"


class GlobalSettings(Settings, frozen=True, kw_only=True):
    """Settings of `zonal global`."""

    api_host: Annotated[Host, _about("address the HTTP API listens on")] = "127.0.0.1"
    api_port: Annotated[Port, _about("port of the HTTP API")] = 5681
    nats_url: NatsUrl = "nats://127.0.0.1:4222"
    nats_credentials: NatsCredentials = ""
    nats_ca: NatsCa = ""
    data_dir: DataDir = ".zonal/global"
    keys_dir: KeysDir = ".zonal/global/keys"
    zones: Annotated[tuple[str, ...], _about("zones whose logs global follows")] = ()


class ZoneSettings(Settings, frozen=True, kw_only=True):
    """Settings of `zonal zone`."""

    name: Annotated[str, _about("name of the zone, an RFC 1035 label")]
    api_host: Annotated[Host, _about("address the HTTP API listens on")] = "127.0.0.1"
    api_port: Annotated[Port, _about("port of the HTTP API")] = 5682
    ads_host: Annotated[Host, _about("address xDS is served on")] = "127.0.0.1"
    ads_port: Annotated[Port, _about("port xDS is served on")] = 5678
    nats_url: NatsUrl = "nats://127.0.0.1:4223"
    nats_credentials: NatsCredentials = ""
    nats_ca: NatsCa = ""
    hub_domain: Annotated[str, _about("JetStream domain of the hub")] = "hub"
    data_dir: DataDir = ".zonal/zone"
    keys_dir: KeysDir = ".zonal/zone/keys"
    mesh_external_service_cidr: Annotated[str, _about("IPv4 range that VIPs of MeshExternalServices come from")] = (
        "242.0.0.0/8"
    )
    dns_server_cidr: Annotated[
        str, _about("IPv4 range that VIPs of legacy ExternalServices come from, outside those of the other kinds")
    ] = "240.0.0.0/4"
    vip_quarantine_seconds: Annotated[
        int, msgspec.Meta(ge=0), _about("how long the VIP and hostnames of a deleted resource are kept from others")
    ] = 600
    shrink_guard_percent: Annotated[
        int,
        msgspec.Meta(ge=1, le=100),
        _about(
            "share of a proxy's clusters that a push may remove before it is held; 100: all of them, nothing is held"
        ),
    ] = 50
    allowed_addresses: Annotated[
        tuple[str, ...], _about("ranges that endpoints may use although they are dangerous, such as 127.0.0.0/8")
    ] = ()
    compare_with_recomputed: Annotated[
        bool, _about("debugging: make everything from nothing after each change as well, and stop where it differs")
    ] = False

    egress_on_demand_above: Annotated[
        int,
        msgspec.Meta(ge=0),
        _about("MeshExternalServices beyond which zone egresses load a service when it is first used; 0: always"),
    ] = 2000

    def with_ranges(self, cidrs: str) -> ZoneSettings:
        """With other VIP ranges: of MeshExternalServices and, behind a comma, of legacy ones. Raises ValueError."""
        own, _, legacy = cidrs.partition(",")
        legacy = legacy or self.dns_server_cidr
        return msgspec.structs.replace(self, mesh_external_service_cidr=own, dns_server_cidr=legacy)

    @property
    def legacy_cidr(self) -> str:
        """The part of `dns_server_cidr` that no other kind has VIPs in, "" where there is none."""
        return outside(self.dns_server_cidr, (self.mesh_external_service_cidr, *KUMA_VIP_RANGES))

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not _NAME.match(self.name):
            raise ValueError(f'name: "{self.name}" is no RFC 1035 label')
        _check_network("mesh_external_service_cidr", self.mesh_external_service_cidr, only_v4=True)
        _check_network("dns_server_cidr", self.dns_server_cidr, only_v4=True)
        if not self.legacy_cidr:
            raise ValueError(f"dns_server_cidr: nothing of {self.dns_server_cidr} is outside the ranges of other kinds")
        for position, cidr in enumerate(self.allowed_addresses):
            _check_network(f"allowed_addresses[{position}]", cidr)


class ProxySettings(Settings, frozen=True, kw_only=True):
    """Settings of `zonal proxy sidecar`, `zonal proxy egress` and `zonal proxy gateway`."""

    kind: Annotated[Literal["sidecar", "egress", "gateway"], _about("what the proxy is")]
    cp_address: Annotated[str, _about("URL of the zone control plane's xDS port")] = "https://127.0.0.1:5678"
    ca_cert_file: Annotated[str, _about("file with the CA of the control plane's certificate")] = ""
    dataplane: Annotated[str, _about("the Dataplane (egress: the ZoneEgress) as YAML text")] = ""
    dataplane_file: Annotated[str, _about("a file with the same; `dataplane` wins")] = ""
    dataplane_token_file: Annotated[str, _about("file with the token the proxy shows to the control plane")] = ""
    workdir: Annotated[str, _about("directory for the bootstrap and the DNS table")] = ".zonal/proxy"
    admin_host: Annotated[Host, _about("address of Envoy's admin interface")] = "127.0.0.1"
    admin_port: Annotated[Port, _about("port of Envoy's admin interface")] = 9901
    dns_enabled: Annotated[bool, _about("answer DNS for the mesh's hostnames (sidecar only)")] = True
    dns_host: Annotated[Host, _about("address DNS is answered on")] = "127.0.0.1"
    dns_port: Annotated[Port, _about("port DNS is answered on")] = 15053
    dns_upstream: Annotated[
        str, _about("servers (address:port, by commas) for all other names; empty: those of resolv.conf")
    ] = ""
    system_ca_path: Annotated[str, _about("file with the operating system's trusted CAs; empty: look for it")] = ""
    envoy: Annotated[str, _about("the Envoy binary; empty: the one installed beside zonal")] = ""
    envoy_log_level: Annotated[str, _about("log level of Envoy")] = "warning"
    concurrency: Annotated[int, msgspec.Meta(ge=0), _about("Envoy's worker threads; 0: one per core")] = 0
    drain_seconds: Annotated[
        float, msgspec.Meta(ge=0), _about("how long connections may finish before a graceful stop ends Envoy")
    ] = 5.0


def _check_network(path: str, text: str, *, only_v4: bool = False) -> None:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if only_v4 and not isinstance(network, IPv4Network):
        raise ValueError(f"{path}: {text} is not an IPv4 range")


class SettingsRefused(Exception):
    """Every fault of the given settings, one per line: `place: path: reason`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


S = TypeVar("S", bound=Settings)


def load(
    wanted: type[S],
    *,
    text: str | None = None,
    file: str = "",
    environment: Mapping[str, str],
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Merge the sources into `wanted`. `text` is the content of the YAML `file`; flags that are None are not given.

    Raises SettingsRefused.
    """
    types = get_type_hints(wanted, include_extras=True)
    values: dict[str, Any] = {}
    faults: list[str] = []

    def take(place: str, name: str, value: Any, *, strict: bool) -> None:
        if name not in types:
            faults.append(f"{place}: {name}: no such setting; known are {', '.join(sorted(types))}")
            return
        try:
            values[name] = msgspec.convert(_listed(value, types[name]), types[name], strict=strict)
        except msgspec.ValidationError as error:
            faults.append(f"{place}: {_located(name, str(error))}")

    for line, column, name, value in _from_yaml(text or "", file, faults):
        take(f"{file}:{line}:{column}", name, value, strict=True)
    for name in types:
        for variable in environment_names(name):
            if environment.get(variable):
                take(variable, name, environment[variable], strict=False)
    for name, value in (flags or {}).items():
        if value is not None:
            take(flag_name(name), name, value, strict=False)
    missing = [name for name in _required(wanted) if name not in values]
    if not faults:
        faults += [
            f"required: {name}: give {flag_name(name)}, {environment_names(name)[-1]} or `{name}:` in the file"
            for name in missing
        ]
    if not faults:
        try:
            return wanted(**values)
        except ValueError as error:
            faults.append(str(error))
    raise SettingsRefused(faults)


def environment_names(name: str) -> tuple[str, ...]:
    """Variables that set the field `name`; the last one wins."""
    own = ENVIRONMENT_PREFIX + name.upper()
    return (ENVIRONMENT_NAMES[name], own) if name in ENVIRONMENT_NAMES else (own,)


def flag_name(name: str) -> str:
    """The flag that sets the field `name`."""
    return "--" + name.replace("_", "-")


def to_yaml(settings: Settings) -> str:
    """The settings as a YAML file that `load` reads back."""
    import yaml  # noqa: PLC0415 - only who writes a file needs it

    text: str = yaml.safe_dump(msgspec.to_builtins(settings), sort_keys=False)
    return text


def _required(wanted: type[Settings]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(wanted) if field.required]


def _from_yaml(text: str, file: str, faults: list[str]) -> list[tuple[int, int, str, Any]]:
    try:
        documents = list(read(text))
    except Malformed as error:
        faults.append(f"{file}:{error.line}:{error.column}: {error.reason}")
        return []
    if not documents:
        return []
    if len(documents) > 1 or not isinstance(documents[0], Fields):
        faults.append(f"{file}: settings are one YAML mapping")
        return []
    return [(field.line, field.column, field.key, plain(field.value)) for field in documents[0].fields]


def _listed(value: Any, wanted: Any) -> Any:
    """Lists from flags and the environment are written with commas."""
    base = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    if get_origin(base) is not tuple:
        return value
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return [word for part in parts for word in (piece.strip() for piece in part.split(",")) if word]


def _located(name: str, message: str) -> str:
    reason, _, place = message.partition(" - at `$")
    return f"{name}{place.removesuffix('`')}: {reason}"
