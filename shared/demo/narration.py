"""The demo's voice: numbered steps with timings on a terminal, or one document per step: a line of JSON, or YAML."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.commands import output as printing
from shared.commands.output import Output


class StepFailed(Exception):
    """A check of the demo was false; carries what was expected and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; saw {seen}")
        self.expected = expected
        self.seen = seen


class Step:
    """One step while it runs; its checks end it at the first that is false."""

    def __init__(self, narrator: Narrator, title: str) -> None:
        self._narrator = narrator
        self.title = title
        self.expected: list[str] = []
        self.seen: list[str] = []

    def check(self, expected: str, seen: object, *, ok: bool) -> None:
        """Record a check. Raises StepFailed when it is false."""
        if not ok:
            raise StepFailed(expected, str(seen))
        self.expected.append(expected)
        self.seen.append(str(seen))
        self._narrator.line(f"[green]✓[/green] {escape(expected)}", detail=str(seen))

    def say(self, text: str) -> None:
        """Tell something that is no check."""
        self._narrator.line(f"[dim]·[/dim] {escape(text)}")

    def show(self, table: Table | str) -> None:
        """Show a table or verbatim text."""
        self._narrator.show(table)


class Narrator:
    """Prints steps: a story for people (table), or one document per step on stdout and nothing else."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told = output == "table"
        self._console = Console(highlight=False)
        # A terminal wraps at words; what is piped or shown verbatim keeps its lines.
        self._soft = not self._console.is_terminal
        self._count = 0
        self.failed = False

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run one step; a false check or an error is printed and raised on as StepFailed."""
        self._count += 1
        step = Step(self, title)
        if self._told:
            self._console.print(f"\n[bold]{self._count}. {escape(title)}[/bold]")
        started = time.perf_counter()
        try:
            yield step
        except StepFailed as failure:
            self._end(step, started, ok=False, expected=failure.expected, seen=failure.seen)
            raise
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
            self._end(step, started, ok=False, expected="no error", seen=seen)
            raise StepFailed("no error", seen) from error
        self._end(step, started, ok=True, expected="; ".join(step.expected), seen="; ".join(step.seen))

    def line(self, markup: str, detail: str = "") -> None:
        """One indented line."""
        if self._told:
            more = f"  [dim]{escape(detail)}[/dim]" if detail else ""
            self._console.print(f"   {markup}{more}", soft_wrap=self._soft)

    def show(self, what: Table | str) -> None:
        """A table or verbatim text, indented."""
        if self._told:
            if isinstance(what, str):
                self._console.print(escape(what), soft_wrap=True)
            else:
                self._console.print(what)

    def _end(self, step: Step, started: float, *, ok: bool, expected: str, seen: str) -> None:
        milliseconds = round((time.perf_counter() - started) * 1000)
        self.failed = self.failed or not ok
        if not self._told:
            said = {"step": step.title, "ok": ok, "ms": milliseconds, "expected": expected, "seen": seen}
            printing.item(said, self._output)
        elif ok:
            self._console.print(f"   [dim]{milliseconds} ms[/dim]")
        else:
            self._console.print(f"   [red]✗ expected {escape(expected)}[/red]\n   [red]  saw {escape(seen)}[/red]")
