"""`zonal check tls`: the handshake from the egress's place, told step by step."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.connect import Api, OutputFlag, TokenFile
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode

_MARKS = {"ok": "✓", "failed": "✗", "skipped": "-", "told": "·"}
TIMEOUT_SECONDS = 90.0


def tls(
    name: Annotated[str, Parameter(help="A MeshExternalService.")],
    *,
    mesh: Annotated[str, Parameter(name=["--mesh", "-m"], help="Mesh of the resource.")] = "default",
    zone: Annotated[
        str | None, Parameter(help="Check in this zone; in every zone of the context when left out.")
    ] = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Try an external service's TLS with the resource's own settings; exit code 1 when a check fails.

    Prints what was offered, what the server presented, which check failed and which field would mend it. No
    request is sent to the service.
    """
    zones = [zone] if zone is not None or api is not None else sorted(connect.current().zones)
    if not zones:
        raise CommandFailed("the context has no zone; give --api with a zone's address", ExitCode.USAGE)
    path = f"/meshes/{quote(mesh, safe='')}/meshexternalservices/{quote(name, safe='')}/_check-tls"
    reports = [_client(api, token_file, one).post(path, b"{}") for one in zones]
    if output != "table":
        printing.document(reports[0] if len(reports) == 1 else {"items": reports, "total": len(reports)}, output)
    else:
        for report in reports:
            _tell(report)
    return ExitCode.OK if all(report["result"] == "ok" for report in reports) else ExitCode.FAILED


def _client(api: str | None, token_file: str | None, zone: str | None) -> Client:
    return connect.client(api, token_file, zone, timeout_seconds=TIMEOUT_SECONDS)


def _tell(report: dict[str, Any]) -> None:
    where = f"zone {report['zone']}, egress {report['egress']}, at {report['position']}"
    print(f"{report['mesh']}/{report['name']}: {report['result']} ({where})")
    for step in report.get("steps") or ():
        _tell_step(step, "  ")
    for endpoint in report.get("endpoints") or ():
        port = f":{endpoint['port']}" if endpoint.get("port") else ""
        print(f"  endpoint {endpoint['address']}{port}")
        for step in endpoint["steps"]:
            _tell_step(step, "    ")


def _tell_step(step: dict[str, Any], indent: str) -> None:
    print(f"{indent}{_MARKS.get(step['result'], '?')} {step['name']}: {step['message']}")
    for name, value in (step.get("facts") or {}).items():
        print(f"{indent}    {name}: {value}")
    if step["result"] == "failed":
        if step.get("field"):
            print(f"{indent}    → field {step['field']}")
        if step.get("advice"):
            print(f"{indent}    → {step['advice']}")
