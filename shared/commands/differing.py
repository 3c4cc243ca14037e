"""How a difference between two moments (`shared.history.between`) is told to people: red and green, like git."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared.commands import output as printing
from shared.model import codec

NAMES_SHOWN = 3
"""Names of a longer list that are written out."""
VALUE_MAX = 300
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"+": "green", "-": "red", "~": "yellow"}


def show(found: Mapping[str, Any], *, stat: bool = False) -> None:
    """Print one zone's difference; stat: only how many resources of each kind, for how many proxies."""
    coloured(_headline(found))
    groups = _counted(found["groups"]) if stat else found["groups"]
    for line in (*_came_and_left(found), *(line for group in groups for line in _group(group, stat=stat))):
        coloured(line)
    if not found["groups"] and not found["came"] and not found["left"]:
        print("nothing differs")


def coloured(line: str) -> None:
    """Print a line: its sign says what colour it has, and headings have none."""
    printing.coloured(line, _STYLES.get(line.lstrip()[:1], "") if line.startswith(" ") else "bold")


def _headline(found: Mapping[str, Any]) -> str:
    touched = f": {found['touched']} of {_count(found['proxies'], 'proxy')} touched" if found["proxies"] else ""
    return f"{found['zone']} {found['before']} → {found['after']}{touched}"


def _came_and_left(found: Mapping[str, Any]) -> Iterator[str]:
    for word in ("came", "left"):
        if who := found[word]:
            yield f"{_count(len(who), 'proxy')} {word}: {listed(who)}"
    for proxy, fault in found["faults"].items():
        yield f"{proxy} could not be compiled: {fault}"


def _counted(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups with equal counts as one, whatever the names."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        one = found.setdefault(" ".join(counts(group["changes"])), {**group, "proxies": []})
        one["proxies"] += group["proxies"]
    return sorted(found.values(), key=lambda group: -len(group["proxies"]))


def _group(group: Mapping[str, Any], *, stat: bool) -> Iterator[str]:
    who = group["proxies"]
    if stat or who:
        told = f"{_count(len(who), 'proxy')} ({listed(who)}): " if who else ""
        yield told + ", ".join(counts(group["changes"]))
    for change in () if stat else group["changes"]:
        yield from change_lines(change, "  " if who else "")


def counts(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines such as `3 Clusters changed`."""
    found: Counter[tuple[str, str]] = Counter()
    for change in changes:
        found[change["kind"], change["verb"]] += len(change["names"])
    return [f"{_count(count, kind)} {verb}" for (kind, verb), count in sorted(found.items())]


def change_lines(change: Mapping[str, Any], indent: str) -> Iterator[str]:
    """One change of one or several resources, and its fields."""
    names = change["names"]
    what = (
        f"{change['kind']} {names[0]}" if len(names) == 1 else f"{_count(len(names), change['kind'])}: {listed(names)}"
    )
    yield f" {indent}{_SIGNS[change['verb']]} {what}"
    yield from field_lines(change["fields"], f"   {indent}")


def field_lines(fields: Sequence[Mapping[str, Any]], indent: str) -> Iterator[str]:
    """What fields were and are, a line each."""
    for field in fields:
        place = f"{field['path']}: " if field["path"] else ""
        for side, sign in (("before", "-"), ("after", "+")):
            if side in field:
                yield f"{indent}{sign} {place}{_brief(field[side])}"


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside them."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith(("xy", "cy")) else f"{count} {word}s"


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else codec.encode(value).decode()
    return text if len(text) <= VALUE_MAX else f"{text[:VALUE_MAX]}…"
