"""`zonal inspect`: the proxies, and what one of them is served."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.connect import Api, OutputFlag, TokenFile, Zone
from shared.process.exit_code import ExitCode


def inspect(
    proxy: Annotated[str | None, Parameter(help="A proxy, as the list names it; the list when left out.")] = None,
    *,
    zone: Zone = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """List proxies, or show what one is served."""
    client = connect.client(api, token_file, zone)
    if proxy is not None:
        found = client.get(f"/proxies/{quote(proxy, safe='')}/inspect")
        # Configuration is a tree: as a table it would say less.
        printing.document(found, "yaml" if output == "table" else output)
        return ExitCode.OK
    rows = list(client.pages("/proxies"))
    if output == "table":
        printing.table(["ZONE", "PROXY", "KIND", "MESH", "ONLINE", "ACKED"], [_row(row) for row in rows])
    else:
        printing.document({"items": rows, "total": len(rows)}, output)
    return ExitCode.OK


def _row(row: dict[str, Any]) -> list[str]:
    online = "yes" if row.get("online") else "no"
    return [*(str(row.get(name, "")) for name in ("zone", "proxy", "kind", "mesh")), online, str(row.get("acked", ""))]
