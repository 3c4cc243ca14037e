"""`zonal whatif`, `apply --dry-run=diff`, `delete --dry-run=diff`: what a write would lead to, and no write.

A running system is asked itself, as for the write. From a copy of a store or a bundle it is foretold here, for the
end of that past: then the settings of the zones' processes (ranges that are allowed or reserved) are not known, and a
Secret that is handed in counts as changed, since there is no key to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.connect import OutputFlag
from shared.commands.differing import change_lines, coloured, listed, show
from shared.commands.failure import CommandFailed
from shared.commands.manifests import Files, posted, read, refused_at_lines
from shared.commands.source import HERE, Source
from shared.process.exit_code import ExitCode

DRY_RUN_SECONDS = 120.0
"""How long to wait for a large system's answer."""

DryRun = Annotated[Literal["diff"] | None, Parameter(help="diff: say what it would lead to, and do nothing.")]


def whatif(
    *,
    file: Files,
    zone: Annotated[str | None, Parameter(help="As if applied in this zone instead of on global.")] = None,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show what applying files would change for every proxy in every zone. Nothing is written."""
    documents = read(file)
    if not source.is_offline:
        client = dry_client(source.api, source.token_file, zone)
        return told(posted(client, f"/apply?{DIFF}", documents), output)
    from shared.api.store import Put

    found = _offline(source, zone, [Put(document.resource) for document in documents])
    if isinstance(found, tuple):
        raise refused_at_lines(found, documents, ExitCode.REFUSED) or CommandFailed("refused", ExitCode.REFUSED)
    return told(found, output)


DIFF = "dry-run=diff"


def dry_client(api: str | None, token_file: str | None, zone: str | None) -> Client:
    """A client that has patience."""
    return connect.client(api, token_file, zone, timeout_seconds=DRY_RUN_SECONDS)


def _offline(source: Source, zone: str | None, commands: Sequence[Any]) -> Any:
    from shared.history.whatif import whatif_of

    with source.opened() as history:
        return whatif_of(history, zone or "", commands)


def told(found: Mapping[str, Any], output: printing.Output, *, written: str = "nothing was written") -> int:
    """Print a forecast (`shared.history.supposed.forecast`), and what comes of it now."""
    for warning in found["warnings"]:
        printing.say(f"warning: {warning}")
    if output != "table":
        printing.document(found, output)
        return ExitCode.OK
    for change in found["resources"]:
        for line in change_lines(change, ""):
            coloured(line)
    if not found["resources"]:
        print("nothing would change")
    for zone in found["zones"]:
        show(zone)
        for line in (*_decisions(zone), *_services(zone), *_held(zone)):
            coloured(line)
    for name in found["unknown"]:
        printing.say(f"zone {name} has never run: nothing can be told of it")
    printing.say(f"{found['touched']} of {found['proxies']} proxies touched; {written}")
    return ExitCode.OK


_SAYS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "VipLeased": lambda one: f"would lease {one['ip']} to {_key(one['key'])}",
    "VipQuarantined": lambda one: f"would keep {one['ip']} of {_key(one['key'])} from others until {one['until']}",
    "HostnameClaimed": lambda one: f"would claim {one['hostname']} for {_key(one['key'])}",
    "HostnameQuarantined": lambda one: (
        f"would keep {one['hostname']} of {_key(one['key'])} from others until {one['until']}"
    ),
}
_ENDS = ("VipReleased", "HostnameReleased")


def _decisions(zone: Mapping[str, Any]) -> Iterator[str]:
    """What a zone would record. That quarantines end is due to time, and told as a number."""
    kinds = Counter(one["type"] for one in zone["decisions"])
    for one in zone["decisions"]:
        if one["type"] not in _ENDS:
            says = _SAYS.get(one["type"])
            yield f" {zone['zone']} {says(one) if says else 'would record ' + one['type']}"
    if ended := sum(kinds[kind] for kind in _ENDS):
        yield f" {zone['zone']} would end {ended} quarantines that are over"


def _key(key: Mapping[str, Any]) -> str:
    return f"{key['mesh']}/{key['name']}" + (f"@{key['zone']}" if key["zone"] else "")


def _services(zone: Mapping[str, Any]) -> Iterator[str]:
    for service in zone["services"]:
        was, now = (_said(service[side]) for side in ("before", "after"))
        yield f" service {service['name']} in {zone['zone']}"
        for what in {**was, **now}:
            if was.get(what) != now.get(what):
                yield from (f"   - {what}: {was[what]}",) if what in was else ()
                yield from (f"   + {what}: {now[what]}",) if what in now else ()


def _said(said: Mapping[str, Any] | None) -> dict[str, str]:
    if said is None:
        return {}
    return {"vip": said["vip"], "hostnames": ", ".join(said["hostnames"]), **said["conditions"]}


def _held(zone: Mapping[str, Any]) -> Iterator[str]:
    if who := zone["held"]:
        yield f" held, so that they would not be told now: {listed(who)}"


def deleted_offline(source: Source, zone: str | None, kind: str, mesh: str, name: str) -> Mapping[str, Any]:
    """What deleting one resource would have led to at the end of a past. Raises CommandFailed."""
    from shared.api.store import Remove
    from shared.model.resource import ResourceKey

    found = _offline(source, zone, [Remove(ResourceKey(kind, mesh, name, zone or ""))])
    if isinstance(found, tuple):
        raise CommandFailed(f"{kind} {name}: {found[0]['reason']}", ExitCode.REFUSED)
    answer: Mapping[str, Any] = found
    return answer
