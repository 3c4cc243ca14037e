"""What replaces a legacy ExternalService is valid, and says the same."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model import codec, manifest
from shared.model.external_service import ExternalService
from shared.model.resource import HostnameGenerator, MeshExternalService
from shared.model.successor import succession
from shared.model.validate import validate
from tests.builders import external

HOSTS = ("httpbin.org", "203.0.113.7", "A.Long-Name.example.com", "x" * 63 + ".example.com", "1und1.example")
members = st.builds(
    external,
    st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True),
    st.builds("{}:{}".format, st.sampled_from(HOSTS), st.integers(1, 65535)),
    service=st.sampled_from(["httpbin", "web_default_svc_80", "Über", "9lives", "s" * 80]),
    protocol=st.sampled_from(["http", "tcp", "grpc", "kafka"]),
    hidden=st.booleans(),
    tls=st.sampled_from(
        [
            None,
            {},
            {"enabled": False},
            {"serverName": "a.test", "skipHostnameVerification": True},
            {"clientCert": {"secret": "cert"}, "clientKey": {"inlineString": "k"}},
        ]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(members, min_size=1, max_size=4, unique_by=lambda one: one.name))
def test_what_is_printed_is_read_back_and_valid(found: list[ExternalService]) -> None:
    """Whatever the names and addresses: it parses, breaks no rule, has unique names, and is what was meant."""
    for service in sorted({one.service for one in found}):
        made = succession([one for one in found if one.service == service])
        meant: list[MeshExternalService | HostnameGenerator] = [*made.services, *made.generators]
        text = "---\n".join(yaml.safe_dump(codec.to_plain(one)) for one in meant)
        parsed = manifest.parse(text, "printed")
        assert parsed.faults == ()
        assert [one.resource for one in parsed.documents] == meant
        faults = [fault for one in parsed.documents for fault in validate(one.resource)]
        # A service whose name makes no DNS name had no `.mesh` name before either.
        assert [one for one in faults if one.path != "spec.template"] == []
        assert len({(type(one), one.name) for one in meant}) == len(meant)


def test_the_page_s_example() -> None:
    """httpbin of seed 002: one at port 80 of its `.mesh` name, one at its real name and port; TLS is verified."""
    made = succession([external(tls={})])
    assert [(one.name, one.spec.match.port) for one in made.services] == [("httpbin", 80), ("httpbin-org-443", 443)]
    assert [one.spec.template for one in made.generators] == ["httpbin.mesh", "httpbin.org"]
    (endpoint,) = made.services[0].spec.endpoints
    assert (endpoint.address, endpoint.port) == ("httpbin.org", 443)
    tls = made.services[0].spec.tls
    assert tls is not None
    assert (tls.enabled, tls.verification.mode) == (True, "Secured")
    assert any("no more at 443" in note for note in made.notes)
