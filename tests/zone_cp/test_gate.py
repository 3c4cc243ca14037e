"""The gate of hostnames, against a model that filters all names each time (decision 27)."""

from __future__ import annotations

from collections.abc import Iterable

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from immutables import Map

from shared.events.state import Position
from zone_cp.gate import NameGate, Tables
from zone_cp.view.names import NO_NAMES, changed, whole

EGRESSES = ("x", "y")
Plain = dict[str, dict[str, str]]


class Model:
    """What is answered, said in the plainest way: everything is looked at each time."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, Plain, set[str]]] = []
        self.wanted: Plain = {}
        self.answered: Plain = {}
        self.published: Plain = {}
        self.refused: frozenset[str] = frozenset()

    def want(self, position: int, tables: Plain, egresses: Iterable[str]) -> None:
        self.wanted = tables
        for _, _, waiting in self.pending:
            waiting &= set(egresses)
        self.pending.append((position, tables, set(egresses)))
        self.settle()

    def acked(self, proxy: str, position: int) -> None:
        for at, _, waiting in self.pending:
            if at <= position:
                waiting.discard(proxy)
        self.settle()

    def settle(self) -> None:
        while self.pending and not self.pending[0][2]:
            self.answered = self.pending.pop(0)[1]
        self.published = {
            mesh: {
                name: vip
                for name, vip in table.items()
                if self.wanted.get(mesh, {}).get(name) == vip
                and (vip not in self.refused or self.published.get(mesh, {}).get(name) == vip)
            }
            for mesh, table in self.answered.items()
        }


class Gate(RuleBasedStateMachine):
    """Names come, go and move, egresses answer late or leave, clusters are refused and accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.model = NameGate(), Model()
        self.tables: Tables = Map()
        self.position = 0
        self.told: Tables = Map()

    @rule(
        mesh=st.sampled_from(("a", "b")),
        updates=st.dictionaries(st.sampled_from(("p", "q", "r")), st.none() | st.sampled_from(("1", "2"))),
        egresses=st.sets(st.sampled_from(EGRESSES)),
        anew=st.booleans(),
    )
    def want(self, mesh: str, updates: dict[str, str | None], egresses: set[str], anew: bool) -> None:
        """anew: a table that does not know which it was made from."""
        self.position += 1
        names = changed(self.tables.get(mesh, NO_NAMES), updates)
        self.tables = self.tables.set(mesh, whole(names.table) if anew else names)
        self._want(egresses)

    @rule(mesh=st.sampled_from(("a", "b")), egresses=st.sets(st.sampled_from(EGRESSES)))
    def lose_a_mesh(self, mesh: str, egresses: set[str]) -> None:
        self.position += 1
        self.tables = self.tables.delete(mesh) if mesh in self.tables else self.tables
        self._want(egresses)

    def _want(self, egresses: set[str]) -> None:
        self.told = self.gate.want(Position(self.position, 0), self.tables, egresses)
        self.model.want(self.position, {mesh: dict(one.table) for mesh, one in self.tables.items()}, egresses)

    @rule(proxy=st.sampled_from(EGRESSES), late=st.integers(0, 3))
    def ack(self, proxy: str, late: int) -> None:
        self.told = self.gate.acked(proxy, Position(self.position - late, 0))
        self.model.acked(proxy, self.position - late)

    @rule(vips=st.frozensets(st.sampled_from(("1", "2"))))
    def refuse(self, vips: frozenset[str]) -> None:
        self.told = self.gate.refuse(vips)
        self.model.refused = vips
        self.model.settle()

    @invariant()
    def answers_what_the_model_answers(self) -> None:
        assert {mesh: dict(one.table) for mesh, one in self.told.items()} == self.model.published

    @invariant()
    def versions_follow_from_content_alone(self) -> None:
        for names in self.told.values():
            assert names.version == whole(names.table).version


TestGate = Gate.TestCase
TestGate.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, phases=tuple(set(Phase) - {Phase.explain})
)
