"""`zonal inspect`: the proxies, and what one of them is served."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.connect import Api, OutputFlag, TokenFile, Zone
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

XDS_SECONDS = 30.0


def inspect(
    proxy: Annotated[
        str | None, Parameter(help="A proxy, as the list names it, or xds and a proxy; the list when left out.")
    ] = None,
    of: Annotated[str | None, Parameter(help="After xds: the proxy.")] = None,
    *,
    actual: Annotated[bool, Parameter(negative="", help="With xds: ask its Envoy what it has, and compare.")] = False,
    zone: Zone = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """List proxies, show what one is served, or, as `inspect xds`, how far its resources have come.

    With `xds --actual` the exit code is 1 when its Envoy has something else than what it was sent.
    """
    if proxy == "xds" and of is not None:
        return _xds(of, connect.client(api, token_file, zone, timeout_seconds=XDS_SECONDS), output, actual=actual)
    if of is not None or actual:
        raise CommandFailed("only `inspect xds PROXY` takes a second word or --actual", ExitCode.USAGE)
    client = connect.client(api, token_file, zone)
    if proxy is not None:
        found = client.get(f"/proxies/{quote(proxy, safe='')}/inspect")
        for note in found.get("Notes", ()):
            # Beside the tree, where it would stand somewhere in the middle.
            printing.say(f"note: {note}")
        # Configuration is a tree: as a table it would say less.
        printing.document(found, "yaml" if output == "table" else output)
        return ExitCode.OK
    rows = list(client.pages("/proxies"))
    if output == "table":
        _list(rows)
    else:
        printing.document({"items": rows, "total": len(rows)}, output)
    return ExitCode.OK


def _list(rows: list[dict[str, Any]]) -> None:
    columns = ["zone", "proxy", "kind", "mesh", "online", "acked", "waits"]
    if rows and not any(row.get("acked") for row in rows):  # only its zone knows that of a proxy
        columns.remove("acked")
    told = [row | {"online": "yes" if row.get("online") else "no"} for row in rows]
    printing.table([one.upper() for one in columns], [[str(row.get(one, "")) for one in columns] for row in told])
    if "acked" not in columns:
        printing.say("--zone tells how far the proxies of a zone have come")


def _xds(proxy: str, client: Client, output: printing.Output, *, actual: bool) -> int:
    query = "?actual=true" if actual else ""
    report = client.get(f"/proxies/{quote(proxy, safe='')}/xds{query}")
    differences = report.get("differences") or []
    if output == "table":
        _tell_xds(report, differences if actual else None)
    else:
        printing.document(report, output)
    return ExitCode.FAILED if differences else ExitCode.OK


def _tell_xds(report: dict[str, Any], differences: list[dict[str, Any]] | None) -> None:
    print(f"{report['proxy']}: offered {report['offered'] or '-'}, delivered {report['delivered'] or '-'}")
    if report.get("waits"):
        print(f"keeps what it has, {report['waits']}")
    columns = ("type", "name", "version", "state", "refused")
    rows = [[str(one.get(name, "")) for name in columns] for one in report["resources"]]
    printing.table([name.upper() for name in columns], rows)
    if differences is None:
        return
    if not differences:
        print("Envoy has what is intended.")
    columns = ("type", "name", "path", "intended", "actual")
    rows = [["-" if one.get(name) is None else str(one[name]) for name in columns] for one in differences]
    if rows:
        printing.table([name.upper() for name in columns], rows)
