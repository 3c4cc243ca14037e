"""`zonal replay`, `explain`: any moment, from the log alone.

They work with everything stopped and never touch the original (`shared.commands.source`). The compiler is the
production one.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.commands.source import HERE, Moment, Source, ZoneName
from shared.history.tree import explained, tree_at, xds_then
from shared.model import codec
from shared.process.exit_code import ExitCode

ProxyName = Annotated[str | None, Parameter(help="A proxy of the zone; all resources instead when left out.")]
Kinds = Annotated[
    tuple[str, ...],
    Parameter(
        negative="",
        help="Only of this kind (mes, …; with --proxy Cluster, …); repeatable.",
    ),
]
ViewFlag = Annotated[bool, Parameter(negative="", help="The ZoneView: what the zone made of the resources.")]


def replay(
    *,
    at: Moment = None,
    zone: ZoneName = None,
    proxy: ProxyName = None,
    view: ViewFlag = False,
    kind: Kinds = (),
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show what a proxy was served at a moment, or the ZoneView or the resources of that moment."""
    with source.opened() as history:
        zone = history.meant(zone, at)
        position = history.position(zone, at)
        served: dict[str, Any] | None = None
        if proxy:
            found, served = xds_then(history, zone, position, proxy, kind)
        else:
            found = tree_at(history, zone, position, view=view, kinds=kind)
    if output != "table":
        told = {"zone": zone, "position": str(position), "proxy": proxy, "served": served, "found": found}
        printing.document(told, output)
        return ExitCode.OK
    printing.say(f"{zone} at {position}" + (f", {proxy}: {served['told']}" if served else ""))
    rows = [[kind, name, _brief(value)] for kind, names in found.items() for name, value in names.items()]
    printing.table(["TYPE", "NAME", "CONTENT"], rows)
    return ExitCode.OK


def explain(
    proxy: Annotated[str, Parameter(help="A proxy of the zone.")],
    wanted: Annotated[str, Parameter(help="An xDS resource, a hostname, a VIP or a resource's name.")],
    *,
    at: Moment = None,
    zone: ZoneName = None,
    absent: Annotated[bool, Parameter(negative="", help="Why it is not there, or does not work.")] = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Name the rules and events, their authors and times behind what a proxy is served, or not."""
    with source.opened() as history:
        found = explained(history, zone, at, proxy, wanted, absent=absent)
    if output != "table":
        printing.document(found, output)
    for reason in found["reasons"] if output == "table" else ():
        print(reason)
    for one in found["found"] if output == "table" else ():
        print(one["resource"])
        for user in one["used_by"]:
            print(f"  used by {user}")
        for cause in one["causes"]:
            _told(cause, "  ", cause["role"])
    if not found["found"] and not absent:
        hint = "--absent tells why"
        raise CommandFailed(f'nothing that {proxy} holds at {found["position"]} has to do with "{wanted}"; {hint}')
    return ExitCode.OK


def _told(cause: dict[str, Any], indent: str, role: str) -> None:
    head = f"{role}: " if role else ""
    print(f"{indent}{head}event {cause['event']} by {cause['actor']} at {cause['time']}: {cause['what']}")
    if cause["because"] is not None:
        _told(cause["because"], f"{indent}  ", "because of")


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else codec.encode(value).decode()
