"""`zonal generate`: tokens that the API and the control planes of zones let people and proxies in by."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

if TYPE_CHECKING:
    from shared.keys.tokens import TokenIssuer

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SERVICE_TAG = "kuma.io/service"

ValidFor: TypeAlias = Annotated[str, Parameter(help="How long it counts: 30m, 24h, 7d.")]
Directory: TypeAlias = Annotated[Path, Parameter(help="What `zonal init` laid out; it holds the signing key.")]
LAID_OUT = Path(".zonal")


def user_token(
    *,
    name: Annotated[str, Parameter(help="Whom events of this token's writes name as their actor.")],
    role: Annotated[tuple[str, ...], Parameter(negative="", help="admin may write; without, it reads only.")] = (),
    mesh: Annotated[
        tuple[str, ...], Parameter(negative="", help="Reads this mesh only, now and in the past; repeatable.")
    ] = (),
    zone: Annotated[
        tuple[str, ...], Parameter(negative="", help="Reads this zone only, now and in the past; repeatable.")
    ] = (),
    valid_for: ValidFor = "24h",
    directory: Directory = LAID_OUT,
) -> int:
    """Print a token for the API. It can be limited to some meshes and zones: then nothing else is there for it."""
    return _print(directory, valid_for, lambda issuer, s: issuer.user_token(name, role, s, meshes=mesh, zones=zone))


def dataplane_token(
    *,
    mesh: Annotated[str, Parameter(help="The mesh of the Dataplane.")] = "default",
    name: Annotated[str, Parameter(help="Good for the Dataplane of this name only.")] = "",
    tag: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="kuma.io/service=web: good for Dataplanes with this tag only; repeatable."),
    ] = (),
    zone: Annotated[str, Parameter(help="Good in this zone only.")] = "",
    valid_for: ValidFor = "30d",
    directory: Directory = LAID_OUT,
) -> int:
    """Print a token for a sidecar or a builtin gateway (--dataplane-token-file), bound to a name or tags."""
    tags: dict[str, tuple[str, ...]] = {}
    for text in tag:
        key, sign, value = text.partition("=")
        if not (key and sign and value):
            raise CommandFailed(f'--tag "{text}" is not key=value', ExitCode.USAGE)
        tags[key] = (*tags.get(key, ()), value)
    if not name and _SERVICE_TAG not in tags:
        raise CommandFailed(
            f"whoever has it could be any workload of the mesh: give --name, or --tag {_SERVICE_TAG}=…", ExitCode.USAGE
        )
    return _print(
        directory, valid_for, lambda issuer, s: issuer.dataplane_token(mesh, s, name=name, zone=zone, tags=tags)
    )


def zone_egress_token(
    *,
    zone: Annotated[str, Parameter(help="The zone of the egress.")],
    name: Annotated[str, Parameter(help="Good for the ZoneEgress of this name only.")] = "",
    valid_for: ValidFor = "30d",
    directory: Directory = LAID_OUT,
) -> int:
    """Print a token for a zone egress (--dataplane-token-file)."""
    return _print(directory, valid_for, lambda issuer, seconds: issuer.egress_token(zone, seconds, name=name))


def _print(directory: Path, valid_for: str, made: Callable[[TokenIssuer, float], str]) -> int:
    from shared.events.event import GLOBAL
    from shared.keys.directory import KeysDirectory
    from shared.keys.files import KeyFileError

    found = _DURATION.fullmatch(valid_for)
    if found is None:
        raise CommandFailed(f'--valid-for "{valid_for}" is not a number and one of s, m, h, d', ExitCode.USAGE)
    try:
        issuer = KeysDirectory(directory / GLOBAL / "keys", GLOBAL).token_issuer()
        print(made(issuer, int(found[1]) * _SECONDS[found[2]]))
    except KeyFileError as error:
        raise CommandFailed(str(error)) from None
    except ValueError as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    return ExitCode.OK
