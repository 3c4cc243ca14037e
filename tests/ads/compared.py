"""A stream beside another of its kind that looks at everything each time: both must say the same at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zone_cp.ads.delta import DeltaStream, Fact
from zone_cp.ads.sotw import SotwStream
from zone_cp.xds.snapshot import Snapshot


def compared(kind: type[DeltaStream | SotwStream]) -> Any:
    """A stream of this kind that raises AssertionError where a shortcut of its own makes a difference."""
    base: Any = kind

    class Thorough(base):  # type: ignore[misc]
        def _is_through(self, target: Snapshot) -> bool:
            return False

    class Compared(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.thorough = Thorough()

        def offer(self, snapshot: Snapshot) -> None:
            super().offer(snapshot)
            self.thorough.offer(snapshot)

        def withhold(self) -> None:
            super().withhold()
            self.thorough.withhold()

        def drained(self, mark: int) -> None:
            super().drained(mark)
            self.thorough.drained(mark)

        def receive(self, request: Any) -> Sequence[Fact]:
            facts: Sequence[Fact] = super().receive(request)
            assert self.thorough.receive(request) == facts
            return facts

        def responses(self) -> list[bytes]:
            said: list[bytes] = super().responses()
            assert self.thorough.responses() == said
            assert self.thorough.delivered == self.delivered
            assert self.thorough.lingering.newest == self.lingering.newest
            return said

    return Compared()
