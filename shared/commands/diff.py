"""`zonal diff`: what differs between two moments of a zone."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.differing import show
from shared.commands.failure import CommandFailed
from shared.commands.history import Kinds, ProxyName
from shared.commands.source import HERE, Source, ZoneName
from shared.history.between import between, zones_meant
from shared.process.exit_code import ExitCode

EveryProxy = Annotated[bool, Parameter(negative="", help="What every proxy holds, equal changes together.")]
Views = Annotated[bool, Parameter(negative="", help="The ZoneViews: what the zone made of the resources.")]
Stat = Annotated[bool, Parameter(negative="", help="Counts only.")]


def diff(
    before: Annotated[str, Parameter(help="A moment: 1234, east:57 or a time.")],
    after: Annotated[str, Parameter(help="Another moment.")],
    *,
    zone: ZoneName = None,
    proxy: ProxyName = None,
    proxies: EveryProxy = False,
    views: Views = False,
    kind: Kinds = (),
    stat: Stat = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show, field by field, what differs between two moments: resources, or what the flags say.

    With --proxies and no zone, of every zone.
    """
    if bool(proxy) + proxies + views > 1:
        raise CommandFailed("one of --proxy, --proxies and --views at a time", ExitCode.USAGE)
    scope = "proxy" if proxy else "proxies" if proxies else "views" if views else "resources"
    with source.opened() as history:
        zones = zones_meant(history, zone, before, after, every=proxies)
        found = [
            between(history, one, before, after, scope=scope, proxy=proxy or "", kinds=kind).plain() for one in zones
        ]
    if output != "table":
        printing.document(found[0] if len(found) == 1 else {"items": found}, output)
        return ExitCode.OK
    for one in found:
        show(one, stat=stat)
    return ExitCode.OK
