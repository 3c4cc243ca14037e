"""Logs of every schema that was ever written are read, by this program too, as what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from shared.events.event import Change, Unreadable, decode_event, encode_event
from shared.events.upcast import SCHEMA
from shared.events.verify import LogVerifier
from shared.model.kinds import KINDS
from tests.golden_logs import written

each = pytest.mark.parametrize("version", written.versions(), ids=lambda path: path.name)


def test_every_schema_has_its_logs() -> None:
    """A new one needs `python -m tests.golden_logs.write`."""
    assert [path.name for path in written.versions()] == [f"v{v}" for v in range(1, SCHEMA + 1)]


@each
def test_a_log_amounts_to_what_it_did(version: Path) -> None:
    """Every event is read, the chain holds, and the state is the recorded one."""
    recorded = json.loads((version / "digests.json").read_text())
    logs = written.lines(version)
    assert sorted(logs) == sorted(recorded) == ["east", "global", "west"]
    for origin, log in logs.items():
        events = [decode_event(line) for line in log]
        assert [one for one in events if isinstance(one.change, Unreadable)] == []
        assert {event.v for event in events} == {int(version.name[1:])}
        verifier = LogVerifier(origin, {})
        for line in log:
            verifier.take(line)
        assert verifier.end().findings == ()
        assert written.digest(log) == recorded[origin]


def test_the_logs_hold_every_change_and_every_kind() -> None:
    """What can be written today is in today's logs, or they would not tell when its encoding changes."""
    events = [decode_event(line) for log in written.lines(written.versions()[-1]).values() for line in log]
    missing = set(get_args(Change)) - {type(event.change) for event in events} - {Unreadable}
    assert not missing, f"add them to tests/golden_logs/written.py, in a new append at the end: {missing}"
    kinds = {_kind(event.change) for event in events}
    assert {kind.name for kind in KINDS} <= kinds


def test_todays_encoding_is_that_of_the_logs() -> None:
    """An event that is read and written again is the same bytes: another encoding is another schema."""
    for log in written.lines(written.versions()[-1]).values():
        assert [encode_event(decode_event(line)) for line in log] == log


def test_todays_changes_are_written_as_in_the_logs() -> None:
    """The same changes give the same bytes as when the logs were written."""
    logs = written.lines(written.versions()[-1])
    now = {origin: [encode_event(event) for event in events] for origin, events in written.written().items()}
    assert now == logs, "a change is written otherwise: that is a new schema, or new changes stand not at the end"


def _kind(change: Any) -> str:
    return type(change.resource).__name__ if hasattr(change, "resource") else ""
