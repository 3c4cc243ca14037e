"""What commands print: a table for people, YAML, or one JSON document. Progress goes to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

Output: TypeAlias = Literal["table", "yaml", "json"]

_COLOURS = {"True": "green", "created": "green", "configured": "yellow", "deleted": "yellow", "False": "red"}


def say(text: str) -> None:
    """Progress and remarks."""
    print(text, file=sys.stderr)


def document(value: Any, output: Output) -> None:
    """Print one document as JSON or YAML; a table is the caller's affair."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml

    # A list is a stream of documents, so that it can be applied again.
    several = value["items"] if isinstance(value, dict) and isinstance(value.get("items"), list) else [value]
    yaml.dump_all(several, sys.stdout, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


@cache
def _dumper() -> type[Any]:
    """libyaml's, in a fifth of the time: an egress has ten thousand clusters. Nothing stands for something alike."""
    import yaml

    return type("_Dumper", (yaml.CSafeDumper,), {"ignore_aliases": lambda *_: True})


def yaml_lines(value: Any) -> list[str]:
    """A value as lines of YAML."""
    import yaml

    text: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1000)
    return text.removesuffix("...\n").splitlines()


def line(value: Any) -> None:
    """Print one JSON object of a stream, at once."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":")), flush=True)


def item(value: Any, output: Output) -> None:
    """Print one document of a stream, at once: a line of JSON, or YAML with its marker before it."""
    if output == "json":
        line(value)
        return
    print("---")
    document(value, output)
    sys.stdout.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns, coloured on a terminal only. A cell may have several lines."""
    if sys.stdout.isatty():
        _colourful(headers, rows)
        return
    lines = [list(headers)]
    for row in rows:
        cells = [cell.split("\n") for cell in row]
        height = max(len(cell) for cell in cells)
        lines += [[cell[i] if i < len(cell) else "" for cell in cells] for i in range(height)]
    widths = [max(len(one[column]) for one in lines) for column in range(len(headers))]
    for one in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip())


def coloured(line: str, style: str) -> None:
    """Print one line, in a style of rich's on a terminal only."""
    if not sys.stdout.isatty():
        print(line)
        return
    from rich.console import Console
    from rich.text import Text

    Console(soft_wrap=True).print(Text(line, style=style))


def _colourful(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console().print(shown)


def row(cells: Sequence[str], widths: Sequence[int]) -> None:
    """Print one row of an endless table at once; the last cell has no width. Coloured on a terminal only."""
    *fixed, last = cells
    padded = [*(cell.ljust(width) for cell, width in zip(fixed, widths, strict=True)), last]
    if not sys.stdout.isatty():
        print("  ".join(padded), flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    texts = [Text(text, style=_style(cell)) for text, cell in zip(padded, cells, strict=True)]
    Console().print(Text("  ").join(texts), soft_wrap=True)


def _style(cell: str) -> str:
    if "=False" in cell or "Degraded" in cell or cell.endswith(": deleted"):
        return "red"
    if cell.startswith("system:"):
        return "dim"
    if cell.endswith(": created"):
        return "green"
    return "yellow" if "→" in cell else _COLOURS.get(cell, "")
