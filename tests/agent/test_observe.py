"""From access log lines to transitions."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from zone_cp.agent.observe import BURST, REFILL_SECONDS, Outcomes, Transition, outcome

NAME = "mes/http/default/v242.0.0.5.p80.default.mes"
REASON = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"


def line(flags: str = "-", reason: str | None = None, cluster: str = NAME, host: str | None = "1.2.3.4:443") -> bytes:
    said = {"cluster": cluster, "flags": flags, "reason": reason, "code": 200, "host": host}
    return json.dumps(said).encode()


BAD = line("UF", REASON)
GOOD = line()


def test_failure_carries_envoys_reason() -> None:
    """A transport failure is told in Envoy's own words, another failure by its flags."""
    assert outcome(BAD) == Transition(NAME, True, REASON)
    assert outcome(line("UF,URX")) == Transition(NAME, True, "UF,URX")


def test_lines_that_say_nothing() -> None:
    """Other clusters, denials before the destination was asked, client resets and garbage say nothing."""
    said = [line(cluster="egress"), line(host=None), line(host="-"), line("DC"), line("UAEX"), b"", b"nonsense", b"[1]"]
    assert [outcome(raw) for raw in said] == [None] * len(said)


def test_lines_without_a_host() -> None:
    """Where the log has no upstream host, a denial says nothing and anything else without flags is a success."""
    said = {"cluster": NAME, "flags": "-", "reason": None, "sni": "x"}
    assert outcome(json.dumps({**said, "code": 403}).encode()) is None
    assert outcome(json.dumps({**said, "code": 0}).encode()) == Transition(NAME, False, "")


def test_shorter_names_are_no_destinations() -> None:
    """A connection that went nowhere on purpose is not a failing service."""
    assert outcome(line("NC", cluster="mes/forbidden")) is None


def test_only_transitions_are_told() -> None:
    """A thousand failures are one report; the next success is one more."""
    told = Outcomes()
    assert told.feed([BAD] * 1000, 0.0) == [Transition(NAME, True, REASON)]
    assert told.feed([BAD] * 1000, 1.0) == []
    assert told.failing() == [Transition(NAME, True, REASON)]
    assert told.feed([GOOD], 2.0) == [Transition(NAME, False, "")]
    assert told.failing() == []


def test_first_success_is_told_once() -> None:
    """The first outcome is told even when good: the control plane may remember a failure from before."""
    told = Outcomes()
    assert told.feed([GOOD, GOOD], 0.0) == [Transition(NAME, False, "")]
    assert told.feed([GOOD], 1.0) == []


def test_changed_reason_is_a_transition() -> None:
    """Failing for another reason is news."""
    told = Outcomes()
    told.feed([BAD], 0.0)
    assert told.feed([line("UF", "other")], 1.0) == [Transition(NAME, True, "other")]


def test_last_line_of_a_batch_counts() -> None:
    """Within one read the last outcome stands, also when equal lines came before."""
    assert Outcomes().feed([BAD, GOOD, BAD, GOOD], 0.0) == [Transition(NAME, False, "")]
    assert Outcomes().feed([GOOD, BAD, GOOD, BAD], 0.0) == [Transition(NAME, True, REASON)]


def test_flapping_is_limited_but_the_last_state_is_told() -> None:
    """A flapping destination reports in bursts; what it ended with is told when the limit allows."""
    told = Outcomes()
    reports = [report for n in range(100) for report in told.feed([BAD if n % 2 else GOOD], n * 0.001)]
    assert len(reports) == BURST
    assert told.feed([BAD], 0.2) == []
    due = told.next_due()
    assert due is None or due <= 0.2 + REFILL_SECONDS
    rest = told.due(0.2 + REFILL_SECONDS)
    assert [*reports, *rest][-1] == Transition(NAME, True, REASON)
    assert told.next_due() is None


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([BAD, GOOD, line("UC")]), st.floats(0, 30)), max_size=40))
def test_reports_alternate_and_end_in_the_truth(steps: list[tuple[bytes, float]]) -> None:
    """No report repeats the one before, and once the limits allow it the last report is the last outcome."""
    told, reports, now = Outcomes(), list[Transition](), 0.0
    for raw, wait in steps:
        now += wait
        reports += told.feed([raw], now)
    reports += told.due(now + 2 * REFILL_SECONDS)
    assert all(before != after for before, after in pairwise(reports))
    if steps:
        assert reports[-1] == outcome(steps[-1][0])
