"""No ciphertext leaves the machine, whatever stands beside it."""

from __future__ import annotations

import pytest

from shared.events.event import encode_event
from shared.events.redaction import REDACTED, is_redacted, redacted_line, shown
from shared.model import codec
from shared.model.resource import Sealed, Secret
from tests.builders import LogBuilder, applied

EXPIRES = "2030-01-01T00:00:00Z"


@pytest.mark.parametrize("expires", ["", EXPIRES])
def test_a_sealed_value_is_left_out_whether_or_not_it_holds_certificates(expires: str) -> None:
    """When they expire is public and stays; ciphertext and nonce go."""
    sealed = Sealed(kid="k1", nonce="bm9uY2U=", ciphertext="Y2lwaGVydGV4dA==", digest="ZGlnZXN0", expires=expires)
    (event,) = LogBuilder().append(applied(Secret(name="tls", mesh="default", sealed=sealed)))
    line = redacted_line(encode_event(event))
    told = str(shown(codec.to_plain(event.change)))
    for hidden in (sealed.ciphertext, sealed.nonce):
        assert hidden in encode_event(event).decode()
        assert hidden not in line.decode()
        assert hidden not in told
    assert is_redacted(line)
    assert REDACTED.encode() in line
    assert (EXPIRES in line.decode(), EXPIRES in told) == (bool(expires), bool(expires))
