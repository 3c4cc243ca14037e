"""`zonal global`, `zone`, `proxy …`, `init`, `demo`, `up`, `bench`, `version`: what runs a part of the system.

Flags of the processes are derived from their settings, so there is one definition of each. What they run is
imported by name when it is run: `shared` imports neither plane.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from cyclopts import Parameter

from shared import VERSION
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.process import logs, settings
from shared.process.exit_code import ExitCode
from shared.process.settings import GlobalSettings, ProxySettings, Settings, ZoneSettings

CONFIG_VARIABLE = "ZONAL_CONFIG"
DEFAULT_BASE_PORT = 5681

S = TypeVar("S", bound=Settings)

BasePort = Annotated[int | None, Parameter(help=f"First port of the system's plan ({DEFAULT_BASE_PORT}).")]
Directory = Annotated[Path | None, Parameter(help="Directory of the deployment.")]


def call(place: str, *arguments: Any, **options: Any) -> int:
    """Import `module:function` now and call it. Raises CommandFailed when this installation has no such part."""
    module_name, _, function_name = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise CommandFailed(f"not built yet: there is no {module_name}", ExitCode.USAGE) from None
    return int(getattr(module, function_name)(*arguments, **options) or 0)


def read_settings(wanted: type[S], config: Path | None, flags: dict[str, Any]) -> S:
    """Settings from all sources. Raises CommandFailed naming every fault."""
    file = config or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    try:
        text = file.read_text() if file else None
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}", ExitCode.USAGE) from None
    try:
        return settings.load(wanted, text=text, file=str(file or ""), environment=os.environ, flags=flags)
    except settings.SettingsRefused as refused:
        typed = all(fault.startswith(("--", "required")) for fault in refused.faults)
        raise CommandFailed(str(refused), ExitCode.USAGE if typed else ExitCode.REFUSED) from None


def _process(
    wanted: type[S], place: str, summary: str, *, component: str, fixed: dict[str, Any] | None = None
) -> Callable[..., int]:
    """A command whose flags are the fields of `wanted`; it sets up logs and calls `place` with the settings."""
    given = fixed or {}

    def command(*, config: Path | None = None, **flags: Any) -> int:
        found = read_settings(wanted, config, {**flags, **given})
        logs.configure(found.log_level, component=component)
        return call(place, _with_files(found))

    help_of_config = Parameter(help=f"YAML file of settings; {CONFIG_VARIABLE} names one too.")
    parameters = [_flag("config", Annotated[Path | None, help_of_config])]
    hints = get_type_hints(wanted, include_extras=True)
    parameters += [
        _flag(field.name, _annotation(hints[field.name], field.default))
        for field in msgspec.structs.fields(wanted)
        if field.name not in given
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = summary
    return command


def _flag(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _annotation(hint: Any, default: Any) -> Any:
    """The flag's type is text but for yes-or-no: `settings.load` alone judges values, whatever their source."""
    metas = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, msgspec.Meta)]
    about = next((one.description for one in metas if one.description), "") or ""
    shown = ",".join(default) if isinstance(default, tuple) else default
    if shown not in (msgspec.NODEFAULT, "", None):
        about = f"{about} ({str(shown).lower() if isinstance(shown, bool) else shown})"
    base = getattr(hint, "__origin__", hint)
    if base is bool:
        return Annotated[bool | None, Parameter(help=about)]
    if getattr(base, "__origin__", base) is tuple:
        return Annotated[tuple[str, ...] | None, Parameter(help=f"{about}; comma-separated or repeated", negative="")]
    return Annotated[str | None, Parameter(help=about)]


def _with_files(found: S) -> S:
    """`--dataplane` takes a path too: people mean the file they name."""
    if isinstance(found, ProxySettings) and found.dataplane and "\n" not in found.dataplane:
        path = Path(found.dataplane)
        if path.is_file():
            return msgspec.structs.replace(found, dataplane="", dataplane_file=str(path))
    return found


run_global = _process(
    GlobalSettings,
    "global_cp.app:run",
    "Run the global control plane: it publishes resource events.",
    component="global",
)
run_zone = _process(
    ZoneSettings, "zone_cp.app:run", "Run a zone control plane: it consumes events and serves xDS.", component="zone"
)
sidecar = _process(
    ProxySettings,
    "zone_cp.agent.app:run",
    "Run Envoy and DNS beside an application.",
    component="sidecar",
    fixed={"kind": "sidecar"},
)
egress = _process(
    ProxySettings,
    "zone_cp.agent.app:run",
    "Run Envoy as the zone's egress.",
    component="egress",
    fixed={"kind": "egress"},
)
gateway = _process(
    ProxySettings,
    "zone_cp.agent.app:run",
    "Run Envoy as a builtin gateway of a mesh.",
    component="gateway",
    fixed={"kind": "gateway"},
)


def init(
    *,
    zone: Annotated[
        list[str], Parameter(name=["--zone", "--zones"], negative="", help="A zone; repeatable, or with commas.")
    ],
    directory: Annotated[Path, Parameter(help="Where to lay it out.")] = Path(".zonal"),
    base_port: BasePort = None,
    vip_cidr: Annotated[
        list[str] | None,
        Parameter(
            help="zone=CIDR[,CIDR]: the ranges of a zone's VIPs, then of legacy ExternalServices'; repeatable.",
            negative="",
        ),
    ] = None,
    allow_addresses: Annotated[
        list[str] | None, Parameter(help="A range that endpoints may use although it is dangerous.", negative="")
    ] = None,
    output: OutputFlag = "table",
) -> int:
    """Lay out a deployment: keys, tokens, NATS configuration, settings; or add what is missing."""
    ranges = {}
    for one in vip_cidr or ():
        name, _, cidr = one.partition("=")
        if not cidr:
            raise CommandFailed(f'--vip-cidr is zone=CIDR, not "{one}"', ExitCode.USAGE)
        ranges[name] = cidr
    zones = tuple(name for one in zone for name in one.split(",") if name)
    return call(
        "shared.keys.init:run",
        zones,
        directory,
        base_port=base_port,
        vip_cidrs=ranges,
        allowed_addresses=tuple(allow_addresses or ()),
        output=output,
    )


def demo(
    *,
    base_port: BasePort = None,
    directory: Directory = None,
    netns: Annotated[
        bool, Parameter(negative="", help="In network namespaces, with the real VIP range (root).")
    ] = False,
    output: OutputFlag = "table",
) -> int:
    """Tell the story of two zones, every step checked for real."""
    return call("shared.demo.run:run", base_port=base_port, directory=directory, netns=netns, output=output)


def up(*, base_port: BasePort = None, directory: Directory = None) -> int:
    """Start the demo's system and keep it running for play."""
    return call("shared.demo.run:up", base_port=base_port, directory=directory)


def bench(
    *,
    only: Annotated[
        list[str] | None, Parameter(help="Names to measure, with commas; all when left out.", negative="")
    ] = None,
    output: OutputFlag = "table",
) -> int:
    """Measure, print a table and write bench.json."""
    names = tuple(name for one in only or () for name in one.split(",") if name)
    return call("shared.bench.run:run", only=names, output=output)


def redirect(
    action: Annotated[str, Parameter(help="install or remove.")],
    *,
    user: Annotated[str | None, Parameter(help="The proxy's own user, whose traffic is left alone.")] = None,
    port: Annotated[int, Parameter(help="Port of the sidecar's outbound listener.")] = 15001,
    dns_port: Annotated[int, Parameter(help="Port of the sidecar's DNS; 0 leaves DNS alone.")] = 15053,
    cidr: Annotated[str, Parameter(help="Ranges whose traffic is redirected, with commas.")] = "240.0.0.0/4",
) -> int:
    """Redirect traffic to VIPs into the sidecar of this network namespace (root)."""
    if action not in ("install", "remove"):
        raise CommandFailed(f'redirect is "install" or "remove", not "{action}"', ExitCode.USAGE)
    return call("zone_cp.agent.redirect:run", action, user=user, port=port, dns_port=dns_port, cidr=cidr)


def version(*, output: OutputFlag = "table") -> int:
    """Show the version."""
    from shared.commands import output as printing

    if output == "table":
        sys.stdout.write(f"zonal {VERSION}\n")
    else:
        printing.document({"name": "zonal", "version": VERSION}, output)
    return ExitCode.OK
