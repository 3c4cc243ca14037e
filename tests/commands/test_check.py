"""`zonal check tls` as a user types it, against a tiny API."""

from __future__ import annotations

import json
from typing import Any

from tests.commands.api import Api

PATH = "POST /meshes/default/meshexternalservices/payments/_check-tls"
STEPS = [
    {"name": "offer", "result": "told", "message": "mode Secured", "facts": {"SNI": "payments.test"}},
    {
        "name": "names",
        "result": "failed",
        "message": "the certificate is for DNS:elsewhere.test, and payments.test is expected",
        "field": "spec.tls.verification.serverName",
        "advice": "expect one of DNS:elsewhere.test, if that is the right server",
        "facts": {},
    },
]
REPORT: dict[str, Any] = {
    "mesh": "default",
    "name": "payments",
    "zone": "east",
    "egress": ".egress",
    "result": "failed",
    "position": "g5.z2",
    "steps": [{"name": "configuration", "result": "ok", "message": "1 endpoint to dial", "facts": {}}],
    "endpoints": [{"address": "203.0.113.7", "port": 443, "steps": STEPS}],
}


def test_a_failed_check_is_told_step_by_step(api: Api, zonal: Any) -> None:
    """What was offered, which check failed, the field that mends it; exit code 1."""
    api.answers[PATH] = (200, REPORT)
    done = zonal("check", "tls", "payments", "--api", api.url)
    assert done.code == 1
    assert done.out.splitlines() == [
        "default/payments: failed (zone east, egress .egress, at g5.z2)",
        "  ✓ configuration: 1 endpoint to dial",
        "  endpoint 203.0.113.7:443",
        "    · offer: mode Secured",
        "        SNI: payments.test",
        "    ✗ names: the certificate is for DNS:elsewhere.test, and payments.test is expected",
        "        → field spec.tls.verification.serverName",
        "        → expect one of DNS:elsewhere.test, if that is the right server",
    ]


def test_json_is_the_report(api: Api, zonal: Any) -> None:
    """One document, as the zone answered; exit code 0 when everything holds."""
    api.answers[PATH] = (200, REPORT | {"result": "ok"})
    done = zonal("check", "tls", "payments", "--api", api.url, "-o", "json")
    assert (done.code, json.loads(done.out)) == (0, REPORT | {"result": "ok"})


def test_what_cannot_be_checked_is_said_on_standard_error(api: Api, zonal: Any) -> None:
    """The zone's reason reaches the user."""
    api.answers[PATH] = (409, {"title": "Cannot check now", "detail": "no zone egress of zone east is attached"})
    done = zonal("check", "tls", "payments", "--api", api.url)
    assert done.code != 0
    assert "no zone egress of zone east is attached" in done.err
