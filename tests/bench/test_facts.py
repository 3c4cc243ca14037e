"""What is written of ACKs, with few proxies and changes."""

from __future__ import annotations

import asyncio

import pytest

from shared.bench import facts


def test_every_change_is_acked_and_told_of_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the zone's own parts, as they are put together now."""
    for name, number in (("PROXIES", 20), ("CHANGES", 50), ("TOUCHED", 10)):
        monkeypatch.setattr(facts, name, number)
    found = asyncio.run(facts._measured())
    assert found.pushes == 50 * 10
    assert 0 < found.messages < found.pushes
