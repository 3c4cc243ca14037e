"""`zonal apply`, `get`, `delete`: resources as a client of the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import connect, output
from shared.commands import wait as waiting
from shared.commands.client import ApiRefused, Client
from shared.commands.connect import Api, OutputFlag, TokenFile, Zone
from shared.commands.failure import CommandFailed
from shared.commands.inspect import inspect
from shared.commands.manifests import Files, posted, read
from shared.commands.source import BundleFile, Source, StoreDirectory
from shared.commands.wait import TIMEOUT_SECONDS, Timeout, Wait
from shared.commands.whatif import DIFF, DryRun, deleted_offline, dry_client, told
from shared.model import kinds
from shared.model.kinds import Kind
from shared.model.resource import DISPLAY_NAME_LABEL, ORIGIN_LABEL, ZONE_LABEL
from shared.process.exit_code import ExitCode

PROXY_WORDS = frozenset({"proxies", "proxy"})
"""Proxies are no resources: nobody declares that they are there."""
_WARNINGS = frozenset({"Degraded", "Held"})
"""Conditions that are bad news when true."""
_SERVICES, _PROXIES = ("MeshExternalService", "ExternalService", "MeshGateway"), ("Dataplane", "ZoneEgress")
_SERVERS_OWN = ("creationTime", "modificationTime", "version")

Mesh = Annotated[str, Parameter(name=["--mesh", "-m"], help="Mesh of the resource.")]
KindWord = Annotated[str, Parameter(help="A kind: mes, hg, dp, mesh, zone, secret, ze, or its full name.")]


def apply(
    *,
    file: Files,
    dry_run: DryRun = None,
    zone: Zone = None,
    api: Api = None,
    token_file: TokenFile = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    output: OutputFlag = "table",
) -> int:
    """Create or replace every resource of the given files, all or nothing.

    With --wait the exit code is 5 when not all of it has arrived in time, and 1 when no waiting helps; written it is.
    """
    documents = read(file)
    if dry_run:
        _refuse_waiting(wait)
        return told(posted(dry_client(api, token_file, zone), f"/apply?{DIFF}", documents), output)
    client = connect.client(api, token_file, zone)
    answer = posted(client, "/apply", documents)
    until = waiting.words(wait)
    if not until:
        _show_applied(answer, output)
    else:
        _show_arrived(client, answer, _sequence(answer), until=until, timeout_seconds=timeout, form=output)
    return ExitCode.OK


def _refuse_waiting(wait: bool | str) -> None:
    if wait:
        raise CommandFailed("--dry-run writes nothing that --wait could wait for", ExitCode.USAGE)


def _sequence(answer: dict[str, Any]) -> int:
    """The event up to which a change is there: where nothing changed, that of what stands there."""
    results = answer.get("results") or []
    if all(result.get("outcome") == "unchanged" for result in results):
        return max((int(result.get("version", 0)) for result in results), default=0)
    return int(answer.get("sequence", 0))


def _show_arrived(
    client: Client, answer: dict[str, Any], n: int, *, until: str, timeout_seconds: float, form: output.Output
) -> None:
    """Show what was written, then wait; as one document when it is no table."""
    if form == "table":
        _show_applied(answer, form)
    trace = waiting.arrived(client, waiting.own_origin(client), n, until=until, timeout_seconds=timeout_seconds)
    if form != "table":
        _show_applied({**answer, "trace": trace}, form)
    waiting.judged(trace)


def _show_applied(answer: dict[str, Any], form: output.Output) -> None:
    results = answer.get("results") or []
    for warning in answer.get("warnings") or ():
        output.say(f"warning: {warning}")
    if form == "table":
        for result in results:
            print(f"{_label(result)} {result.get('outcome', '')}".rstrip())
    else:
        output.document(answer, form)


def _label(item: dict[str, Any]) -> str:
    """`MeshExternalService default/payments`."""
    path = "/".join(part for part in (item.get("mesh"), item.get("name")) if part)
    return f"{item.get('type') or item.get('kind') or ''} {path}".strip()


def get(
    kind: KindWord,
    name: Annotated[str | None, Parameter(help="One resource; all of the kind when left out.")] = None,
    *,
    mesh: Mesh = "default",
    all_meshes: Annotated[bool, Parameter(name=["--all-meshes", "-A"], negative="", help="Of every mesh.")] = False,
    zone: Zone = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Show resources, and what became of them; `proxies` shows who is or was connected."""
    if kind in PROXY_WORDS:
        return inspect(name, zone=zone, api=api, token_file=token_file, output=output)
    found = known_kind(kind)
    client = connect.client(api, token_file, zone)
    if name is not None:
        item = client.get(_path(found, None if all_meshes else mesh, name))
        items, whole = [item], item
    else:
        items = list(client.pages(_path(found, None if all_meshes else mesh)))
        whole = {"items": items, "total": len(items)}
    status = _status(client, found, items)
    if output != "table":
        if status is not None and output == "json":
            whole = {**whole, "status": status}
        _print(_to_apply(whole) if output == "yaml" else whole, output)
    elif found.name == "Zone":
        _show_zones(items, _halted(client))
    elif found.name in _PROXIES:
        _show(found, items, status or ())
    elif status is not None and found.name == "MeshGateway":
        _show_gateways(items, status, _ready(client, found))
    elif status is not None:
        _show_status(items, status, _ready(client, found))
    else:
        _show(found, items)
    return ExitCode.OK


def delete(
    kind: KindWord,
    name: Annotated[str, Parameter(help="Name of the resource.")],
    *,
    mesh: Mesh = "default",
    dry_run: DryRun = None,
    zone: Zone = None,
    bundle: BundleFile = None,
    store: StoreDirectory = None,
    api: Api = None,
    token_file: TokenFile = None,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    output: OutputFlag = "table",
) -> int:
    """Delete one resource. With --dry-run=diff, a bundle or a store can be asked instead of the running system.

    --wait as of `apply`.
    """
    found = known_kind(kind)
    source = Source(bundle=bundle, store=store)
    if dry_run is None and source.is_offline:
        raise CommandFailed("nothing is deleted from a bundle or a store: add --dry-run=diff", ExitCode.USAGE)
    if dry_run:
        _refuse_waiting(wait)
    if source.is_offline:
        return told(deleted_offline(source, zone, found.name, mesh if found.mesh_scoped else "", name), output)
    if dry_run:
        return told(dry_client(api, token_file, zone).delete(f"{_path(found, mesh, name)}?{DIFF}"), output)
    client = connect.client(api, token_file, zone)
    sequence, warnings = client.deleted(_path(found, mesh, name))
    deleted = {"type": found.name, **({"mesh": mesh} if found.mesh_scoped else {}), "name": name, "outcome": "deleted"}
    until = waiting.words(wait)
    if until and sequence is None:
        raise CommandFailed(f"{_label(deleted)} deleted, but {client.api} does not say which event that is")
    said = {"warnings": warnings} if warnings else {}
    whole = {"results": [deleted], **said}
    if until and sequence is not None:
        _show_arrived(client, whole, sequence, until=until, timeout_seconds=timeout, form=output)
    elif output == "table":
        _show_applied(whole, output)
    else:
        _print({**deleted, **said}, output)
    return ExitCode.OK


_print = output.document


def _to_apply(whole: dict[str, Any]) -> dict[str, Any]:
    """YAML is made to be edited and applied again: without what only the server may say."""
    if "items" in whole:
        return {"items": [_to_apply(item) for item in whole["items"]]}
    return {name: value for name, value in whole.items() if name not in _SERVERS_OWN}


def known_kind(word: str) -> Kind:
    found = kinds.lookup(word)
    if found is None:
        known = ", ".join(kind.name for kind in kinds.KINDS)
        raise CommandFailed(f'there is no kind "{word}"; known are {known}', ExitCode.USAGE)
    return found


def _path(kind: Kind, mesh: str | None, name: str | None = None) -> str:
    """Path of a list or of one resource; a mesh-scoped list without a mesh is that of every mesh."""
    start = f"/meshes/{quote(mesh, safe='')}" if kind.mesh_scoped and mesh is not None else ""
    return f"{start}/{kind.path}" + (f"/{quote(name, safe='')}" if name is not None else "")


def _status(client: Client, kind: Kind, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """What each zone made of the items; None for kinds without, and where the API has no such view."""
    if kind.name not in (*_SERVICES, *_PROXIES):
        return None
    try:
        rows = list(client.pages(f"/status/{kind.path}"))
    except ApiRefused as refused:
        if refused.status == 404:
            return None
        raise
    if kind.name in _PROXIES:
        rows = [row for row in rows if row.get("zone") in {(one.get("labels") or {}).get(ZONE_LABEL) for one in items}]
    without = "default" if kind.mesh_scoped else ""
    shown = {(item.get("mesh", without), item.get("name")) for item in items}
    return [row for row in rows if (row.get("mesh"), row.get("name")) in shown]


def _show(kind: Kind, items: Sequence[dict[str, Any]], status: Sequence[dict[str, Any]] | None = None) -> None:
    scope, last = ["MESH"] if kind.mesh_scoped else [], [] if status is None else ["CONDITIONS"]
    said = {(row.get("zone"), row.get("mesh"), row.get("name")): row for row in status or ()}
    rows = []
    for item in items:
        labels, name = item.get("labels") or {}, item.get("name", "")
        mesh = [item.get("mesh", "default")] if kind.mesh_scoped else []
        found = said.get((labels.get(ZONE_LABEL), mesh[0] if mesh else "", name), {}).get("conditions") or ()
        conditions = [] if status is None else ["\n".join(_condition(one) for one in found)]
        rows.append([*mesh, name, _origin(labels), item.get("modificationTime", ""), *conditions])
    output.table([*scope, "NAME", "ORIGIN", "CHANGED", *last], rows)


def _halted(client: Client) -> dict[str, list[dict[str, Any]]]:
    """What stands still, by zone; nothing where no API tells."""
    try:
        answer = client.get("/halted")
    except ApiRefused as refused:
        if refused.status == 404:
            return {}
        raise
    own = client.get("/").get("zone")
    return {**answer.get("zones", {}), **({own: answer["items"]} if own else {})}


def _show_zones(items: Sequence[dict[str, Any]], halted: dict[str, list[dict[str, Any]]]) -> None:
    rows = []
    for item in items:
        name, labels = item.get("name", ""), item.get("labels") or {}
        marks = "\n".join(one.get("what", "") for one in halted.get(name, ()))
        rows.append([name, _origin(labels), item.get("modificationTime", ""), marks])
    output.table(["NAME", "ORIGIN", "CHANGED", "HALTED"], rows)


def _origin(labels: dict[str, str]) -> str:
    origin = labels.get(ORIGIN_LABEL, "")
    return f"zone {labels[ZONE_LABEL]}" if origin == "zone" and ZONE_LABEL in labels else origin


def _ready(client: Client, kind: Kind) -> dict[tuple[str, str, str], str]:
    """`2/2` by mesh, name and origin: the zones that serve it, of those that should; {} where no API tells."""
    try:
        rows = list(client.pages(f"/status/{kind.path}/rollup"))
    except ApiRefused as refused:
        if refused.status == 404:
            return {}
        raise
    return {(row.get("mesh", ""), row.get("name", ""), row.get("origin", "")): row.get("ready", "") for row in rows}


def _show_status(
    items: Sequence[dict[str, Any]], status: Sequence[dict[str, Any]], ready: dict[tuple[str, str, str], str]
) -> None:
    rows = [
        [
            row.get("zone", ""),
            row.get("mesh", ""),
            row.get("name", ""),
            row.get("origin", ""),
            "\n".join(_hostname(one) for one in row.get("hostnames") or ()),
            row.get("vip") or "",
            ready.get(_rolled_key(row), ""),
            "\n".join(_condition(one) for one in row.get("conditions") or ()),
        ]
        for row in sorted(status, key=lambda row: (row.get("zone", ""), row.get("mesh", ""), row.get("name", "")))
    ]
    told = {(row.get("mesh"), row.get("name")) for row in status}
    # What no zone has heard of yet is shown all the same.
    for item in items:
        mesh, name, labels = item.get("mesh", "default"), item.get("name", ""), item.get("labels") or {}
        if (mesh, name) not in told:
            rows.append(["", mesh, labels.get(DISPLAY_NAME_LABEL, name), _origin(labels), "", "", "", ""])
    output.table(["ZONE", "MESH", "NAME", "ORIGIN", "HOSTNAMES", "VIP", "READY", "CONDITIONS"], rows)


def _show_gateways(
    items: Sequence[dict[str, Any]], status: Sequence[dict[str, Any]], ready: dict[tuple[str, str, str], str]
) -> None:
    """MeshGateways with what they listen for, in every zone."""
    said: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in status:
        said.setdefault(_rolled_key(row), []).append(row)
    rows = []
    for item in items:
        labels = item.get("labels") or {}
        mesh, name = item.get("mesh", "default"), labels.get(DISPLAY_NAME_LABEL, item.get("name", ""))
        origin = labels.get(ORIGIN_LABEL, "")
        place = (mesh, name, labels.get(ZONE_LABEL, "") if origin == "zone" else origin)
        listeners = "\n".join(_listener(one) for one in (item.get("conf") or {}).get("listeners") or ())
        # What no zone has heard of yet is shown all the same.
        for row in sorted(said.get(place, [{}]), key=lambda one: one.get("zone", "")):
            conditions = "\n".join(_condition(one) for one in row.get("conditions") or ())
            rows.append([row.get("zone", ""), mesh, name, _origin(labels), listeners, ready.get(place, ""), conditions])
    rows.sort(key=lambda row: row[:4])
    output.table(["ZONE", "MESH", "NAME", "ORIGIN", "LISTENERS", "READY", "CONDITIONS"], rows)


def _listener(one: dict[str, Any]) -> str:
    """`8080 HTTP *.example.com`."""
    words = (str(one.get("port", "")), one.get("protocol", ""), one.get("hostname") or "*")
    return " ".join((*words, "cross-mesh")) if one.get("crossMesh") else " ".join(words)


def _rolled_key(row: dict[str, Any]) -> tuple[str, str, str]:
    origin = row.get("zone", "") if row.get("origin") == "zone" else row.get("origin", "")
    return row.get("mesh", ""), row.get("name", ""), origin


def _hostname(one: Any) -> str:
    return str(one.get("hostname", "")) if isinstance(one, dict) else str(one)


def _condition(one: dict[str, Any]) -> str:
    reason, message = one.get("reason") or "", one.get("message") or ""
    told = ": ".join(part for part in (reason, message) if part)
    head = f"{one.get('type', '')}={one.get('status', '')}"
    bad = one.get("status") != ("False" if one.get("type") in _WARNINGS else "True")
    return f"{head} ({told})" if told and bad else head


__all__ = ["apply", "delete", "get"]
