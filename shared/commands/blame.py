"""`zonal blame`: a resource in YAML, and beside each field the event that last set it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.resources import KindWord, Mesh, known_kind
from shared.commands.source import HERE, Moment, Source
from shared.history.blame import blame as blamed
from shared.model.merge import below, is_leaf
from shared.process.exit_code import ExitCode

_FIRST = ("type", "mesh", "name", "labels")


def blame(
    kind: KindWord,
    name: Annotated[str, Parameter(help="Name of the resource.")],
    *,
    mesh: Mesh = "default",
    zone: Annotated[str | None, Parameter(help="The zone it was written in; global's goes first.")] = None,
    at: Moment = None,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show which event last set each field of a resource, by whom and when, and what gave it its VIP and its names."""
    found = known_kind(kind)
    where = mesh if found.mesh_scoped else ""
    path = f"/meshes/{where}/{found.path}/{name}" if where else f"/{found.path}/{name}"
    told = source.asked(
        f"/history/blame{path}",
        lambda history: blamed(history, found.name, where, name, zone=zone, at=at),
        zone=zone,
        at=at,
    )
    if output != "table":
        printing.document(told, output)
        return ExitCode.OK
    fields = {one["path"]: one for one in told["fields"]}
    resource = {word: told["resource"][word] for word in _FIRST if word in told["resource"]} | told["resource"]
    lines = [(fields.get(path), text) for path, text in _yaml(resource, fields)]
    widths = [max((len(str(one[part])) for one in told["fields"]), default=0) for part in ("event", "by")]
    for one, text in lines:
        style = "" if one is None else "dim" if one["by"] == "system" else "yellow"
        printing.coloured(f"{_margin(one, widths)}│ {text}".rstrip(), style)
    for fact in told["facts"]:
        because = f", because of {fact['cause']}" if fact["cause"] else ""
        print(f"zone {fact['zone']}: {fact['what']} {fact['value']} ({fact['event']} of {fact['time']}{because})")
    return ExitCode.OK


def _margin(field: dict[str, Any] | None, widths: list[int]) -> str:
    if field is None:
        return " " * (widths[0] + widths[1] + 24)
    return f"{field['event']:<{widths[0]}}  {field['by']:<{widths[1]}}  {field['time'][:19]}Z"


def _yaml(
    value: Any, fields: dict[str, Any], path: str = "", indent: str = "", lead: str = ""
) -> Iterator[tuple[str, str]]:
    """Lines of YAML with the path of the field that each one begins."""
    if path in fields or is_leaf(value):
        first, *rest = printing.yaml_lines(value)
        inline = not rest and not isinstance(value, dict)
        yield path, f"{indent}{lead} {first}" if inline else f"{indent}{lead}"
        if not inline:
            yield from ((path, f"{indent}  {line}") for line in (first, *rest))
        return
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    if lead.endswith(":"):
        yield "", f"{indent}{lead}"
        indent, lead = f"{indent}  ", ""
    for number, (key, item) in enumerate(items):
        here = below(path, key) if isinstance(value, dict) else f"{path}[{key}]"
        start = "" if not lead else f"{lead} " if number == 0 else " " * (len(lead) + 1)
        word = f"{printing.yaml_lines(str(key))[0]}:" if isinstance(value, dict) else "-"
        yield from _yaml(item, fields, here, indent, start + word)
